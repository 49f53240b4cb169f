"""`sitegrid agent`: reads the options of a node agent, and becomes it (`sitegrid.agent.__main__`).

Nothing but the options is read before, so that the agent's process carries no other part. Held by
``tests/agent/test_run.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from sitegrid.cli.errors import CommandError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sitegrid.cli.parser import Parser


def add_parser(subparsers: _SubParsersAction[Parser]) -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "agent",
        help="run the node agent: the API server that kube-proxy and CoreDNS of one node are pointed at",
        description="Serve kube-proxy, CoreDNS and other endpoint consumers of one node with the endpoints of the "
        "node's own units only; pass every other request through with the client's own credentials. SIGTERM ends it, "
        "SIGHUP has it begin anew without refusing a connection.",
    )
    parser.add_argument(
        "--node-name",
        default=os.environ.get("NODE_NAME", ""),
        metavar="NAME",
        help="the node's name (default: $NODE_NAME)",
    )
    parser.add_argument(
        "--kubeconfig", metavar="FILE", help="kubeconfig written as JSON (default: the Pod's service account)"
    )
    parser.add_argument(
        "--server", default="", metavar="URL", help="API server's https:// address, in place of the Pod's environment"
    )
    parser.add_argument(
        "--token-file",
        default="",
        metavar="FILE",
        help="file with the agent's bearer token, read again when it changes",
    )
    parser.add_argument("--ca-file", default="", metavar="FILE", help="certificate authority of the API server")
    parser.add_argument(
        "--listen",
        default="127.0.0.1:10351",
        metavar="HOST:PORT",
        help="listen here, without TLS (default: %(default)s)",
    )
    parser.add_argument(
        "--tls-listen",
        default="",
        metavar="HOST:PORT",
        help="listen with TLS as well; kube-proxy and CoreDNS need it, since client-go sends no token to http://",
    )
    parser.add_argument(
        "--tls-cert-file",
        default="",
        dest="tls_certificate",
        metavar="FILE",
        help="certificate for --tls-listen, read again when it changes",
    )
    parser.add_argument("--tls-private-key-file", default="", dest="tls_key", metavar="FILE", help="its private key")
    parser.add_argument(
        "--data-dir",
        default="",
        metavar="DIR",
        help="keep what is known here, so that the node can start while the API server cannot be reached; an agent "
        "that is started on the directory of a running one takes over from it",
    )
    parser.add_argument(
        "--cache",
        default="kube-proxy,coredns",
        metavar="LIST",
        help="whose other reads are answered while the API server cannot be reached: kube-proxy, coredns, kubelet, "
        "or CLIENT:RESOURCE+RESOURCE with CLIENT as its User-Agent begins (default: %(default)s)",
    )
    parser.add_argument(
        "--cache-secrets",
        action="store_true",
        help="keep the Secrets that the kubelet reads as well, also on the disk",
    )
    parser.add_argument(
        "--allow-non-loopback",
        action="store_true",
        help="listen where other machines may reach it; they could read this node's endpoints without credentials",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log every try to reach the API server as well")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> NoReturn:
    """Become the agent's own process."""
    options = {name: value for name, value in vars(args).items() if name not in ("command", "run")}
    if not args.node_name:
        raise CommandError("the node's name is missing: give --node-name or set NODE_NAME", 2)
    if args.tls_listen and not (args.tls_certificate and args.tls_key):
        raise CommandError("--tls-listen needs --tls-cert-file and --tls-private-key-file", 2)
    # As this process was started, and never with a module that happens to lie in the working directory.
    flags = ["-I" if sys.flags.isolated else "-P", *["-O"] * sys.flags.optimize]
    os.execv(sys.executable, [sys.executable, *flags, "-m", "sitegrid.agent", json.dumps(options)])
