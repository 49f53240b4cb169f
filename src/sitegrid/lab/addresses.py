"""Which addresses a lab uses; the same in every lab, since each lab has network namespaces of its own.

Used by everything in the lab that configures a link, a route, a certificate or a component. Invariant: two nodes
never share an address or a pod network. Held by ``tests/lab/test_addresses.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

API_SERVER: Final = "172.31.0.1"
"""The cloud's end of the WAN: the API server's only address that nodes can reach."""
API_SERVER_PORT: Final = 6443
API_SERVER_URL: Final = f"https://{API_SERVER}:{API_SERVER_PORT}"
API_SERVER_LOCAL_URL: Final = f"https://127.0.0.1:{API_SERVER_PORT}"
KUBERNETES_SERVICE: Final = "10.96.0.1"
SERVICE_CIDR: Final = "10.96.0.0/16"
POD_CIDR: Final = "10.244.0.0/14"
LAN_CIDR: Final = "172.30.0.0/16"
CLUSTER_DNS: Final = "169.254.20.10"
"""CoreDNS of the node, on the node's loopback link: the same address on every node."""
CLUSTER_DOMAIN: Final = "cluster.local"
AGENT: Final = "127.0.0.1:10351"
"""Where the agent tells about itself."""
AGENT_TLS: Final = "127.0.0.1:10353"
"""Where kubelet, kube-proxy and CoreDNS ask the agent: client-go sends no token to a server without TLS."""
AGENT_URL: Final = f"https://{AGENT_TLS}"
NODE_TOKENS: Final = "127.0.0.1:10354"
"""In the cloud's namespace: where the API server asks whose a kubelet's token is."""
KUBE_PROXY_HEALTH_PORT: Final = 10256
COREDNS_READY_PORT: Final = 8181
CONTROLLER_METRICS: Final = "127.0.0.1:10352"
"""In the cloud's namespace, where the agents' addresses do not exist."""

WAN_MAC: Final = "02:53:47:00:00:01"
"""The cloud's end of the WAN. Nodes know it without asking, so a cut WAN swallows packets and refuses nothing."""


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """Addresses of the node with the number `index` (1 for the first)."""

    index: int

    @property
    def lan(self) -> str:
        """Its address in the LAN and its Node's InternalIP."""
        return f"172.30.{1 + (self.index >> 8)}.{self.index & 255}"

    @property
    def wan(self) -> str:
        """Its address on the uplink to the cloud."""
        return f"172.31.{1 + (self.index >> 8)}.{self.index & 255}"

    @property
    def lan_mac(self) -> str:
        """The hardware address of its LAN link: a reboot keeps it, so neighbours need not ask anew."""
        return f"02:53:47:02:{self.index >> 8:02x}:{self.index & 255:02x}"

    @property
    def wan_mac(self) -> str:
        """The hardware address of its uplink."""
        return f"02:53:47:01:{self.index >> 8:02x}:{self.index & 255:02x}"

    @property
    def pod_cidr(self) -> str:
        """The network of its pods."""
        return f"10.{244 + (self.index >> 8)}.{self.index & 255}.0/24"

    @property
    def wan_port(self) -> str:
        """Name of the cloud's end of its uplink."""
        return f"w{self.index}"

    @property
    def slow_port(self) -> str:
        """Name of the bridge's port for its uplink while that is slow."""
        return f"s{self.index}"

    @property
    def relay_port(self) -> str:
        """Name of the other end of `slow_port`, where the relay is."""
        return f"r{self.index}"

    @property
    def lan_port(self) -> str:
        """Name of the LAN's end of its LAN link."""
        return f"l{self.index}"
