"""Makes and removes pod networks with iproute2: one namespace and one routed veth pair per pod.

The worker calls it in a thread; the calling process is in the node's network namespace. Pods are routed, not bridged:
the node has a /32 route to each pod and the pod a default route to the node, so traffic between two pods of one node
passes that node's netfilter rules like any other.

Invariant: `create` works from any half-made state, and after `remove` the node has neither link nor route of the pod.
Held by ``tests/lab/test_kubelet_network.py``.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

NETNS_DIR: Final = Path("/run/netns")
"""Where iproute2 keeps named namespaces."""
GATEWAY: Final = "169.254.1.1"
"""The pods' next hop. No interface has it: the neighbour entry below is all that it takes."""
GATEWAY_MAC: Final = "ee:ee:ee:ee:ee:ee"
"""Of the node's end of every pair. Fixed and entered by hand in the pod, because the node, which has no default
route, would not answer for `GATEWAY` even with proxy_arp."""


class NetworkError(Exception):
    """An iproute2 command failed; the message is its own."""


def netns_path(uid: str) -> Path:
    """Return the path of the namespace of the pod with `uid`."""
    return NETNS_DIR / f"pod-{uid}"


def link_name(uid: str) -> str:
    """Return the name of the node's end of the pod's veth pair (interface names have at most 15 characters)."""
    return "pod" + hashlib.sha256(uid.encode()).hexdigest()[:12]


def exists(uid: str) -> bool:
    """Tell whether the pod's namespace and link are there."""
    names = {name for _, name in socket.if_nameindex()}
    return netns_path(uid).exists() and link_name(uid) in names


def create(uid: str, address: str, node_ip: str) -> None:
    """Make the pod's network from nothing or from whatever is left of it; raise `NetworkError`."""
    remove(uid)
    name, link = netns_path(uid).name, link_name(uid)
    _ip(["netns", "add", name])
    _ip(
        ["-batch", "-"],
        f"link add name {link} address {GATEWAY_MAC} type veth peer name eth0 netns {name}\n"
        f"link set {link} up\n"
        f"route replace {address}/32 dev {link} src {node_ip}\n",
    )
    _ip(
        ["-netns", name, "-batch", "-"],
        "link set lo up\n"
        "link set eth0 up\n"
        f"address add {address}/32 dev eth0\n"
        f"neighbour replace {GATEWAY} lladdr {GATEWAY_MAC} dev eth0 nud permanent\n"
        f"route add default via {GATEWAY} dev eth0 onlink\n",
    )


def remove(uid: str) -> None:
    """Remove the pod's link and namespace where they exist; raise `NetworkError`.

    The link goes first: the kernel drops a namespace some time later, and the address may be given out before that.
    """
    if _has_link(uid):
        try:
            _ip(["link", "delete", link_name(uid)])
        except NetworkError:
            # The namespace at its other end may have ended just now and taken it along.
            if _has_link(uid):
                raise
    if netns_path(uid).exists():
        _ip(["netns", "delete", netns_path(uid).name])


def _has_link(uid: str) -> bool:
    return any(name == link_name(uid) for _, name in socket.if_nameindex())


def prepare_node() -> None:
    """Let the node forward between its pods and its links, without redirects to pods (they have one way only)."""
    for setting, value in (
        ("ip_forward", "1"),
        ("conf/all/send_redirects", "0"),
        ("conf/default/send_redirects", "0"),
    ):
        path = Path("/proc/sys/net/ipv4") / setting
        if path.read_text().strip() != value:
            path.write_text(value)


def _ip(args: Sequence[str], batch: str = "") -> None:
    done = subprocess.run(["ip", *args], input=batch, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkError(f"ip {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
