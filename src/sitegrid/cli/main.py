"""The `sitegrid` command (also `kubectl grid`): builds the parser and hands over to one subcommand.

Each subcommand is a module here with `add_parser(subparsers)`; it imports its implementation only when it runs, so
that `sitegrid --help` stays fast. Expected failures are raised as `CommandError`: one line on stderr, an exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sitegrid import __version__
from sitegrid.cli import agent, controller, crds, demo, explain, lab, migrate
from sitegrid.cli.errors import CommandError

_SUBCOMMANDS = (lab, demo, explain, controller, agent, crds, migrate)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="sitegrid",
        description="Run a service in every edge site from two YAML files; keep each site's traffic inside the site.",
    )
    parser.add_argument("--version", action="version", version=f"sitegrid {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for subcommand in _SUBCOMMANDS:
        subcommand.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit code."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return code
