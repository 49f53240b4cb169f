"""The exception that every part of the lab raises for failures a user can act on.

`cli/lab.py` turns it into one line on stderr; the demo and the tests see it as it is. Held by
``tests/lab/test_cli_lab.py``.
"""

from __future__ import annotations


class LabError(Exception):
    """A failure to report in one sentence that says what to do."""
