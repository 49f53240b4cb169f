from __future__ import annotations

import ipaddress

from sitegrid.lab.addresses import LAN_CIDR, POD_CIDR, SERVICE_CIDR, NodeAddresses
from sitegrid.lab.sites import MAX_NODES


def test_no_two_nodes_share_anything() -> None:
    """Up to the highest node, every address, network and link name is its own."""
    places = [NodeAddresses(index) for index in range(1, MAX_NODES + 1)]
    ports = ("wan_port", "slow_port", "relay_port", "lan_port")
    for attribute in ("lan", "wan", "lan_mac", "wan_mac", "pod_cidr", *ports):
        assert len({getattr(place, attribute) for place in places}) == MAX_NODES


def test_every_address_is_in_its_network() -> None:
    """Nodes are in the LAN's network, pods in the cluster's, and neither overlaps Services."""
    for index in (1, 255, 256, MAX_NODES):
        place = NodeAddresses(index)
        assert ipaddress.ip_address(place.lan) in ipaddress.ip_network(LAN_CIDR)
        assert ipaddress.ip_address(place.wan) in ipaddress.ip_network("172.31.0.0/16")
        assert ipaddress.ip_network(place.pod_cidr).subnet_of(ipaddress.ip_network(POD_CIDR))  # type: ignore[arg-type]
    assert not ipaddress.ip_network(POD_CIDR).overlaps(ipaddress.ip_network(SERVICE_CIDR))
