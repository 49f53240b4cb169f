"""`sitegrid demo`: shows the main job on a real local cluster and proves that it holds.

The lab ends with the command unless ``--keep`` is given. Held by ``tests/e2e/test_demo.py`` and
``tests/lab/test_ended_run.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
from typing import TYPE_CHECKING

from sitegrid.cli.errors import CommandError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sitegrid.cli.parser import Parser


def add_parser(subparsers: _SubParsersAction[Parser]) -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "demo",
        help="show the main job on a real local cluster",
        description="Boot a lab, run a service in every site from two YAML files, and prove that no request leaves "
        "its site. Exit code 0 only if every claim held.",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the lab running afterwards (end it with `lab down`)"
    )
    parser.add_argument("--name", default="demo", metavar="N", help="name of the lab (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    from sitegrid.lab.clients import ClientsError
    from sitegrid.lab.demo import Demo, DemoError
    from sitegrid.lab.interruption import interrupt_on
    from sitegrid.lab.lab import Lab, LabError

    def say(line: str) -> None:
        print(line, flush=True)

    interrupt_on(signal.SIGTERM)
    try:
        lab = Lab(args.name)
    except LabError as error:
        raise CommandError(str(error)) from error
    try:
        with contextlib.nullcontext() if args.keep else lab:
            held = Demo(lab, say).run()
    except (ClientsError, DemoError, LabError) as error:
        raise CommandError(str(error)) from error
    finally:
        if args.keep and lab.running:
            say(f"\nThe lab goes on. export KUBECONFIG=$(sitegrid lab kubeconfig --name {args.name})")
            say(f"End it with: sitegrid lab down --name {args.name}")
    if held and not args.keep:
        say("\nNow your own YAML: `sitegrid lab up`, see docs/lab.md")
    return 0 if held else 1
