"""`sitegrid agent`: run the node agent. Imports nothing but the agent, so that the process stays small."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from sitegrid.cli.errors import CommandError
from sitegrid.cli.logs import log_to_stderr

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sitegrid.cli.parser import Parser


def add_parser(subparsers: _SubParsersAction[Parser]) -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "agent",
        help="run the node agent: the API server that kube-proxy and CoreDNS of one node are pointed at",
        description="Serve kube-proxy, CoreDNS and other endpoint consumers of one node with the endpoints of the "
        "node's own units only; pass every other request through with the client's own credentials.",
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
        "--tls-cert-file", default="", metavar="FILE", help="certificate for --tls-listen, read again when it changes"
    )
    parser.add_argument("--tls-private-key-file", default="", metavar="FILE", help="its private key")
    parser.add_argument(
        "--data-dir",
        default="",
        metavar="DIR",
        help="keep what is known here, so that the node can start while the API server cannot be reached",
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


def run(args: argparse.Namespace) -> int:
    """Run it until it is told to stop."""
    import asyncio

    from sitegrid.agent.credentials import CredentialsError, from_kubeconfig, in_cluster
    from sitegrid.agent.reads import ReadsError
    from sitegrid.agent.run import AgentBroken, ListenError, Settings, serve_until_signalled

    log_to_stderr(verbose=args.verbose)
    if not args.node_name:
        raise CommandError("the node's name is missing: give --node-name or set NODE_NAME", 2)
    if args.tls_listen and not (args.tls_cert_file and args.tls_private_key_file):
        raise CommandError("--tls-listen needs --tls-cert-file and --tls-private-key-file", 2)
    try:
        if args.kubeconfig:
            credentials = from_kubeconfig(args.kubeconfig)
        else:
            credentials = in_cluster(args.server, args.token_file, args.ca_file)
        settings = Settings(
            node_name=args.node_name,
            credentials=credentials,
            listen=args.listen,
            allow_non_loopback=args.allow_non_loopback,
            tls_listen=args.tls_listen,
            tls_certificate=args.tls_cert_file,
            tls_key=args.tls_private_key_file,
            data_dir=args.data_dir,
            cache=args.cache,
            cache_secrets=args.cache_secrets,
        )
        asyncio.run(serve_until_signalled(settings))
    except ReadsError as error:
        raise CommandError(f"--cache {error}", 2) from error
    except (AgentBroken, CredentialsError, ListenError) as error:
        raise CommandError(str(error)) from error
    return 0
