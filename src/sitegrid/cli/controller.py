"""`sitegrid controller`: runs the central controller.

Options have kube-controller-manager's or kube-apiserver's names where those have such an option. Held by
``tests/cli/test_controller.py`` and, as a process, ``tests/controller/test_faults.py``.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
from typing import TYPE_CHECKING

from sitegrid.cli.cluster import add_cluster_options, cluster_config
from sitegrid.cli.errors import CommandError
from sitegrid.logs import log_to_stderr

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sitegrid.cli.parser import Parser

DEFAULT_METRICS_ADDRESS = "127.0.0.1:10352"


def add_parser(subparsers: _SubParsersAction[Parser]) -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "controller",
        help="run the central controller",
        description="Turn grids and units into Deployments, Services and unit slices, and report on them.",
    )
    add_cluster_options(parser)
    parser.add_argument(
        "--leader-elect",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="work only while holding the Lease, so that several replicas can run",
    )
    parser.add_argument(
        "--leader-elect-namespace", metavar="NAMESPACE", default="kube-system", help="where the Lease is"
    )
    parser.add_argument(
        "--identity", metavar="NAME", help="name in the Lease, unique among replicas (default: host name and PID)"
    )
    parser.add_argument(
        "--metrics-address",
        metavar="HOST:PORT",
        default=DEFAULT_METRICS_ADDRESS,
        help="where to serve /metrics, /healthz and /readyz; empty for nowhere (default: %(default)s)",
    )
    parser.add_argument(
        "--service-node-port-range",
        metavar="LOW-HIGH",
        default="30000-32767",
        help="kube-apiserver's option of the same name, for node ports in a ServiceGrid's overrides "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--allowed-node-keys",
        metavar="KEYS",
        default="",
        help="keys of kubernetes.io and k8s.io, separated by commas, that NodeUnits and NodeGroups may put on nodes; "
        "one that ends in * stands for all that begin so (default: none)",
    )
    parser.add_argument(
        "--allow-no-execute-taints",
        action="store_true",
        help="let NodeUnits put taints on nodes that evict pods",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the controller until SIGTERM or SIGINT.

    Raises:
        CommandError: The configuration cannot be used.
        OSError: The address cannot be listened on.
    """
    import asyncio

    from sitegrid.controller import process
    from sitegrid.grid.nodelimits import NodeLimits

    log_to_stderr(verbose=args.verbose)
    settings = process.Settings(
        identity=args.identity or f"{socket.gethostname()}_{os.getpid()}",
        leader_elect=args.leader_elect,
        leader_elect_namespace=args.leader_elect_namespace,
        metrics_address=_address(args.metrics_address),
        node_ports=_port_range(args.service_node_port_range),
        node_limits=NodeLimits(_keys(args.allowed_node_keys), args.allow_no_execute_taints),
    )
    config = cluster_config(args)
    asyncio.run(process.run(config, settings))
    return 0


def _keys(text: str) -> tuple[str, ...]:
    """Return the keys in `text`, each with a prefix, the last character of which may be ``*``."""
    keys = tuple(filter(None, (part.strip() for part in text.split(","))))
    for key in keys:
        if re.fullmatch(r"[a-z0-9.-]+/([A-Za-z0-9_.-]*\*|[A-Za-z0-9_.-]+)", key) is None:
            raise CommandError(f"--allowed-node-keys {key}: not a key such as topology.kubernetes.io/zone", 2)
    return keys


def _port_range(text: str) -> range:
    """Return the ports that `text` means, as apimachinery's PortRange: LOW-HIGH, LOW+COUNT or PORT."""
    found = re.fullmatch(r"(\d+)(?:-(\d+)|\+(\d+))?", text.strip(), re.ASCII)
    if found is not None:
        low = int(found[1])
        high = int(found[2]) if found[2] else low + int(found[3] or 0)
        if 1 <= low <= high <= 65535:
            return range(low, high + 1)
    raise CommandError(f"--service-node-port-range {text}: not a range of ports such as 30000-32767", 2)


def _address(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise CommandError(f"--metrics-address {text}: not HOST:PORT", 2)
    return host.strip("[]") or "0.0.0.0", int(port)
