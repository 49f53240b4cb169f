"""The argument parser of every command: a mistake is one line that says what to type, and exit code 2.

`sitegrid.cli.main` makes the first one; argparse makes those of subcommands from the same class. Options cannot be
abbreviated, so that a new option never changes what a script's command means. Held by ``tests/cli/test_parser.py``.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sitegrid.cli.errors import nearest

if TYPE_CHECKING:
    from argparse import _SubParsersAction


_WORDS: Final = {
    "ignored explicit argument": "takes no value, but was given",
    "expected one argument": "needs a value",
}
"""What argparse says that is not for users."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers mistakes as kubectl does, with the nearest word that it knows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def add_commands(self, metavar: str) -> _SubParsersAction[Parser]:
        """Add a place for subcommands; where none is typed, the help tells which there are."""
        self.set_defaults(run=self._help)
        return self.add_subparsers(metavar=metavar)

    def _help(self, _: argparse.Namespace) -> int:
        self.print_help(sys.stderr)
        return 2

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse; what this parser does not know is a mistake here, where the right `--help` is known."""
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            options = [word for word in rest if word.startswith("-")]
            if options:
                self.error(f"unknown option {options[0]!r}{nearest(options[0], self._option_string_actions)}")
            self.error(f"unexpected argument {rest[0]!r}")
        return parsed, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse calls this for words and subcommands with `choices`; its own message lists them in Python's syntax.
        if action.choices is not None and value not in action.choices:
            name = action.metavar if action.dest == argparse.SUPPRESS else action.dest
            what = "/".join(action.option_strings) or str(name).lower()
            # `version` is meant to find `--version`.
            hint = nearest(value, [*action.choices, *self._option_string_actions])
            known = hint or f": use {', '.join(action.choices)}"
            self.error(f"unknown {what} {value!r}{known}")

    def error(self, message: str) -> NoReturn:
        """End the process with one line."""
        for theirs, ours in _WORDS.items():
            message = message.replace(theirs, ours)
        end = " See" if message.endswith("?") else "; see"
        self.exit(2, f"error: {message}{end} `{self.prog} --help`\n")
