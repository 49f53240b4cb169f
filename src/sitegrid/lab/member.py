"""A node of a running lab: what was asked for, where it is, and how it is connected now.

Made by `sitegrid.lab.cluster`, one for each node. Held by ``tests/lab/test_lab.py``.
"""

from __future__ import annotations

import asyncio

from sitegrid.lab.addresses import NodeAddresses
from sitegrid.lab.sites import Node
from sitegrid.lab.slowness import Slowness


class Member:
    """The node with the number `index` of a lab."""

    def __init__(self, node: Node, index: int) -> None:
        self.node = node
        self.addresses = NodeAddresses(index)
        self.wan = True
        """Whether its uplink is connected."""
        self.slow: Slowness | None = None
        """How slow a connected uplink is, None where it is as fast as the machine."""
        self.linking = asyncio.Lock()
        """Held while its uplink is changed."""
        self.agent = node.agent
        """Whether kubelet, kube-proxy and CoreDNS ask its agent; else they ask the API server."""

    @property
    def name(self) -> str:
        """The Node's name."""
        return self.node.name
