"""Hands out pod addresses from the node's pod CIDR. The worker calls it; records on disk refill it after a restart.

Invariant: an address in use is never given again, and one that was freed is given again as late as possible, so that
a stale rule somewhere cannot lead to the next pod at once. Held by ``tests/lab/test_kubelet_addresses.py``.
"""

from __future__ import annotations

import ipaddress


class NoAddressLeft(Exception):
    """Every address of the pod CIDR is in use."""


class AddressPool:
    """The addresses of one IPv4 pod CIDR without its first two (network, gateway by custom) and its last."""

    def __init__(self, cidr: str) -> None:
        network = ipaddress.IPv4Network(cidr)
        self._first = int(network.network_address) + 2
        self._count = max(0, network.num_addresses - 3)
        self._next = 0
        self._used: set[int] = set()

    def allocate(self) -> str:
        """Return a free address, the longest unused first; raise `NoAddressLeft` where there is none."""
        for step in range(self._count):
            offset = (self._next + step) % self._count
            if offset not in self._used:
                self._used.add(offset)
                self._next = offset + 1
                return str(ipaddress.IPv4Address(self._first + offset))
        raise NoAddressLeft

    def reserve(self, address: str) -> bool:
        """Mark `address` as used (a pod taken over). False where it is not of this CIDR or in use already."""
        offset = int(ipaddress.IPv4Address(address)) - self._first
        if not 0 <= offset < self._count or offset in self._used:
            return False
        self._used.add(offset)
        self._next = max(self._next, offset + 1)
        return True

    def release(self, address: str) -> None:
        """Give `address` back; unknown ones are ignored."""
        self._used.discard(int(ipaddress.IPv4Address(address)) - self._first)
