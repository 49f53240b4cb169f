"""`sitegrid connections`: ends a node's connections to units that it has left.

Held by ``tests/connections/test_command.py``.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sitegrid.cli.errors import CommandError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sitegrid.cli.parser import Parser


def add_parser(subparsers: _SubParsersAction[Parser]) -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "connections",
        help="end a node's open connections to units that it has left; needs CAP_NET_ADMIN",
        description="Follow the node's agent, and once the node has left a unit have the kernel forget the "
        "connections to that unit's endpoints that were made by a grid's Service. Needs CAP_NET_ADMIN in the node's "
        "network namespace, and no other right.",
    )
    parser.add_argument(
        "--agent",
        default="127.0.0.1:10351",
        metavar="HOST:PORT",
        help="the agent's plain listener (default: %(default)s)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="how long other nodes have time to change to the same unit (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Go on until the process is ended."""
    from sitegrid.connections.conntrack import ConntrackError
    from sitegrid.connections.run import run as run_until_ended
    from sitegrid.logs import log_to_stderr

    host, _, port = args.agent.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise CommandError(f"--agent {args.agent} is not HOST:PORT", 2)
    if not args.grace >= 0:
        raise CommandError("--grace is a number of seconds, 0 or more", 2)
    log_to_stderr(verbose=False)
    try:
        run_until_ended(host.strip("[]"), int(port), args.grace)
    except ConntrackError as error:
        raise CommandError(
            f"the kernel's table of connections cannot be used: {error.strerror}; it takes CAP_NET_ADMIN in the "
            "node's network namespace, and nf_conntrack_netlink"
        ) from error
    return 0
