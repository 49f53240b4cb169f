"""The `sitegrid` command (also `kubectl grid`): builds the parser and hands over to one subcommand.

Each subcommand is a module here with `add_parser(subparsers)`; it imports its implementation only when it runs, so
that `sitegrid --help` stays fast. Expected failures are raised as `CommandError`: one line on stderr, an exit code.
Exit codes: 0 done, 1 failed, 2 a mistake on the command line, 130 interrupted, 141 the reader of the output has gone.
Held by ``tests/cli/test_main.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sitegrid import __version__
from sitegrid.cli.errors import CommandError
from sitegrid.cli.parser import Parser

_SUBCOMMANDS = ("lab", "demo", "explain", "crds", "migrate", "controller", "agent", "connections")


def build_parser(subcommands: Sequence[str] = _SUBCOMMANDS) -> Parser:
    """Return the parser of the whole command, or of some of its subcommands."""
    parser = Parser(
        # kubectl runs the plug-in `kubectl-grid`; people type it as two words.
        prog="kubectl grid" if sys.argv[0].endswith("/kubectl-grid") else "sitegrid",
        description="Run a service in every edge site from two YAML files; keep each site's traffic inside the site.",
        epilog="Begin with `sitegrid demo`, then try your own YAML in `sitegrid lab up`.",
    )
    parser.add_argument("--version", action="version", version=f"sitegrid {__version__}")
    subparsers = parser.add_commands("COMMAND")
    for name in subcommands:
        import_module(f"sitegrid.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # A node that starts its agent need not wait for the parsers of all others.
    args = build_parser([name for name in argv[:1] if name in _SUBCOMMANDS] or _SUBCOMMANDS).parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _forget_output()
        return 141  # as if SIGPIPE had ended it, which shells pass over: `sitegrid crds | head`
    except OSError as error:
        # The machine is to blame (a full disk, a missing right), and its words say more than a trace.
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        _forget_output()
        return 1
    return code


def _forget_output() -> None:
    """Let the interpreter's end not stumble over output that could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
