"""The one exception that subcommands raise for failures a user can act on.

`sitegrid.cli.main` prints it as one line. Held by ``tests/cli/test_main.py``.
"""

from __future__ import annotations


class CommandError(Exception):
    """A failure to report in one line; `exit_code` becomes the process's."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
