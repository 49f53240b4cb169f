"""The one exception that subcommands raise for failures a user can act on.

`sitegrid.cli.main` prints it as one line. Held by ``tests/cli/test_main.py``.
"""

from __future__ import annotations

from collections.abc import Iterable


class CommandError(Exception):
    """A failure to report in one line; `exit_code` becomes the process's."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the question whether the nearest word that is `known` was meant, empty where none is near."""
    import difflib  # not before there is a mistake: the command is to start fast

    found = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {found[0]!r}?" if found else ""
