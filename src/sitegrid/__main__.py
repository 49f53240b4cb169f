"""`python -m sitegrid`: the same command as `sitegrid`, for where the script is not on the PATH.

Held by ``tests/cli/test_main.py``.
"""

from sitegrid.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
