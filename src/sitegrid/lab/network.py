"""The lab's links: network namespaces, the LAN and WAN fabrics, and the WAN switch.

Runs inside the supervisor's namespaces only. The supervisor's own network namespace is the cloud and holds the two
bridges: ``wan`` carries the API server's address, its ports are isolated from each other, so a node reaches the cloud
and nothing else over it; ``lan`` carries no address and joins all nodes. Calls block for the few milliseconds that
`ip` takes. Invariant: the LAN stays when a WAN is cut. Held by ``tests/lab/test_wan.py``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from sitegrid.lab.addresses import API_SERVER, CLUSTER_DNS, LAN_CIDR, POD_CIDR, WAN_MAC, NodeAddresses
from sitegrid.lab.errors import LabError

NETNS_DIRECTORY: Final = Path("/run/netns")

_LAN_PREFIX: Final = LAN_CIDR.partition("/")[2]

_SYSCTLS: Final = {
    "net/ipv4/ip_forward": "1",
    # Packets of one connection may come by the LAN and leave by a pod's link; strict filtering would drop them.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}

_WIRE, _VETH = "gso_max_segs 1", "gso_max_segs 65535"
"""Whether the kernel may hand over many packets at once as one, as it does between two ends of a veth."""

# Pods reach the cloud (the `kubernetes` Service) as their node: the cloud has no way back to pod networks.
_MASQUERADE: Final = f"""
table ip sitegrid-lab {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname "wan0" ip saddr {POD_CIDR} masquerade
  }}
}}
"""


def netns_path(node: str) -> Path:
    """Return the path of the node's network namespace in the lab's mount namespace."""
    return NETNS_DIRECTORY / node


def in_netns(node: str, argv: Sequence[str]) -> list[str]:
    """Return the argv that runs `argv` in the node's network namespace, with the same process id."""
    return ["nsenter", f"--net={netns_path(node)}", "--", *argv]


def create_cloud() -> None:
    """Give the supervisor's namespaces a private /run, the two fabrics and the API server's address."""
    _run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])
    NETNS_DIRECTORY.mkdir()
    _ip(
        [
            "link set lo up",
            "link add lan type bridge mcast_snooping 0",
            "link set lan addrgenmode none up",
            f"link add wan address {WAN_MAC} type bridge mcast_snooping 0",
            "link set wan addrgenmode none up",
            f"address add {API_SERVER}/16 dev wan",
        ]
    )


def create_node(node: str, addresses: NodeAddresses, others: Iterable[tuple[str, NodeAddresses]]) -> None:
    """Make the node's namespace with its two links, and routes from and to the pods of the `others` that exist."""
    others = list(others)
    lan, wan = addresses.lan_port, addresses.wan_port
    _ip(
        [
            f"netns add {node}",
            f"link add {lan} type veth peer name lan0 address {addresses.lan_mac} netns {node}",
            f"link set {lan} master lan addrgenmode none up",
            f"link add {wan} type veth peer name wan0 address {addresses.wan_mac} netns {node}",
            f"link set {wan} addrgenmode none up",
            *_join_wan(wan),
            f"neighbour replace {addresses.wan} lladdr {addresses.wan_mac} dev wan nud permanent",
            # The API server finds the kubelet at the node's LAN address, and only over the WAN.
            f"route replace {addresses.lan}/32 via {addresses.wan} dev wan",
        ]
    )
    _ip(
        [
            "link set lo up",
            f"address add {CLUSTER_DNS}/32 dev lo",
            "link set lan0 addrgenmode none up",
            f"address add {addresses.lan}/{_LAN_PREFIX} dev lan0",
            "link set wan0 addrgenmode none up",
            f"address add {addresses.wan}/16 dev wan0",
            f"neighbour add {API_SERVER} lladdr {WAN_MAC} dev wan0 nud permanent",
            # Pods that are gone are refused at once; without this their address would match no route.
            f"route add unreachable {addresses.pod_cidr} metric 4096",
            *(f"route add {other.pod_cidr} via {other.lan} dev lan0" for _, other in others),
        ],
        node=node,
    )
    writes = "; ".join(f"echo {value} > /proc/sys/{key}" for key, value in _SYSCTLS.items())
    _run(in_netns(node, ["sh", "-ec", writes]))
    _run(in_netns(node, ["nft", "-f", "-"]), _MASQUERADE)
    for other, _ in others:
        _ip([f"route replace {addresses.pod_cidr} via {addresses.lan} dev lan0"], node=other)


def remove_node(node: str, addresses: NodeAddresses) -> None:
    """Take the node's namespace and links away, with all rules, routes and connections; nothing may run in it."""
    _ip([f"link delete {addresses.lan_port}", f"link delete {addresses.wan_port}"])
    delete_netns(node)


def delete_netns(name: str) -> None:
    """Take the network namespace `name` away; the kernel drops it with its last user."""
    _ip([f"netns delete {name}"])


def cut_wan(addresses: NodeAddresses) -> None:
    """Take the node's uplink out of the WAN: both ends stay up, packets vanish."""
    _ip([f"link set {addresses.wan_port} nomaster"])


def restore_wan(addresses: NodeAddresses) -> None:
    """Put the node's uplink back into the WAN."""
    _ip(_join_wan(addresses.wan_port))


def slow_wan(node: str, addresses: NodeAddresses) -> None:
    """Put a relay's port into the WAN for the node, whose uplink is cut: all its packets are the relay's to carry."""
    _ip(
        [
            f"link add {addresses.slow_port} type veth peer name {addresses.relay_port}",
            f"link set {addresses.slow_port} {_WIRE} addrgenmode none up",
            f"link set {addresses.relay_port} addrgenmode none up",
            *_join_wan(addresses.slow_port),
        ]
    )
    _ip([f"link set wan0 {_WIRE}"], node=node)


def unslow_wan(node: str, addresses: NodeAddresses) -> None:
    """Undo `slow_wan`: the uplink is cut."""
    _ip([f"link delete {addresses.slow_port}"])
    _ip([f"link set wan0 {_VETH}"], node=node)


def _join_wan(port: str) -> list[str]:
    # The kernel forgets a port's settings with its master.
    return [f"link set {port} master wan", f"link set {port} type bridge_slave isolated on"]


def _ip(lines: Sequence[str], *, node: str | None = None) -> None:
    """Run `ip` commands in one process, in the node's namespace or the cloud's."""
    where = ["-n", node] if node is not None else []
    _run(["ip", *where, "-batch", "-"], "\n".join(lines) + "\n")


def _run(argv: Sequence[str], stdin: str = "") -> None:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.returncode}")
