"""``python -m sitegrid.lab.kubelet``: the process that the lab's supervisor runs in each node's network namespace.

It ends at SIGTERM or SIGINT and leaves the pods running for the next one.
Held by ``tests/lab/test_kubelet_cluster.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sitegrid.kube.client import Client
from sitegrid.kube.config import ConfigError, load_config
from sitegrid.lab.kubelet import network
from sitegrid.lab.kubelet.addresses import AddressPool
from sitegrid.lab.kubelet.listener import Listener, server_context
from sitegrid.lab.kubelet.manager import PodManager
from sitegrid.lab.kubelet.node import KUBELET_VERSION, NodeAgent
from sitegrid.lab.kubelet.sandbox import DnsSettings
from sitegrid.lab.kubelet.worker import Host

LABELS_FILE: Final = ".node-labels.json"
"""In the pods' directory: the node's labels for the responders."""
REQUEST_TIMEOUT: Final = 10.0
"""Seconds: when the WAN comes back, no request of before may hold things up for longer."""
USER_AGENT: Final = f"kubelet/{KUBELET_VERSION}"
"""By this the node's agent knows whose reads to keep."""


def _labels(text: str) -> dict[str, str]:
    labels = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise argparse.ArgumentTypeError(f"{pair!r} is not KEY=VALUE")
        labels[key] = value
    return labels


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the kubelet's command line."""
    parser = argparse.ArgumentParser(prog="python -m sitegrid.lab.kubelet", description=__doc__)
    parser.add_argument("--node-name", required=True)
    parser.add_argument("--labels", type=_labels, default={}, help="KEY=VALUE,… for a Node that does not exist yet")
    parser.add_argument("--node-ip", required=True)
    parser.add_argument("--pod-cidr", required=True)
    parser.add_argument("--cluster-dns", required=True)
    parser.add_argument("--cluster-domain", default="cluster.local")
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--pods-dir", required=True, type=Path)
    parser.add_argument("--tls-cert-file", required=True, type=Path, help="what the kubelet shows to the API server")
    parser.add_argument("--tls-private-key-file", required=True, type=Path)
    parser.add_argument("--client-ca-file", required=True, type=Path, help="who signs what the API server shows")
    parser.add_argument("-v", "--verbose", action="store_true")
    return parser


async def run(args: argparse.Namespace) -> None:
    """Run the kubelet until SIGTERM or SIGINT."""
    network.prepare_node()
    args.pods_dir.mkdir(parents=True, exist_ok=True)
    labels_file = args.pods_dir / LABELS_FILE
    listener = Listener(
        args.pods_dir, server_context(args.tls_cert_file, args.tls_private_key_file, args.client_ca_file)
    )
    async with Client(load_config(args.kubeconfig), timeout=REQUEST_TIMEOUT, user_agent=USER_AGENT) as client:
        host = Host(
            node_name=args.node_name,
            node_ip=args.node_ip,
            dns=DnsSettings(args.cluster_dns, args.cluster_domain),
            pods_dir=args.pods_dir,
            labels_file=labels_file,
            addresses=AddressPool(args.pod_cidr),
            client=client,
        )
        node = NodeAgent(
            client,
            name=args.node_name,
            labels=args.labels,
            node_ip=args.node_ip,
            pod_cidr=args.pod_cidr,
            labels_file=labels_file,
        )
        gc.freeze()  # what is loaded by now stays: the collector need not walk it again and again
        parts = (node.run(), PodManager(host).run(), listener.run(args.node_ip))
        tasks = [asyncio.create_task(part) for part in parts]
        stop = asyncio.create_task(_signalled())
        try:
            done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)


async def _signalled() -> None:
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    await signalled.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run; the exit code is 0 after a signal."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    try:
        asyncio.run(run(args))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
