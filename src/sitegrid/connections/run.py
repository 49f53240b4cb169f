"""Ends connections to a former unit's endpoints after the node was relabelled.

Called by `sitegrid connections`. Hears from the agent what is shown, has the `Ledger` decide, and has the kernel
forget the flows in question. While nothing is former it sleeps: neither agent nor kernel are asked anything. Whatever
cannot be had (the agent is away, its units are not known) ends no connection. Held by
``tests/connections/test_closer.py`` and, behind real kube-proxies, ``tests/e2e/test_connections.py``.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from sitegrid.connections.conntrack import Address, Conntrack, ConntrackError, Flow
from sitegrid.connections.follow import AgentError, Follower, Heard, Hidden, NodeUnits, Synced, ask_units
from sitegrid.connections.ledger import Due, Endpoint, Frontends, Ledger
from sitegrid.wire.codec import Item
from sitegrid.wire.endpoints import read_slice
from sitegrid.wire.labels import GRID_UNIQ_KEY, SERVICE_NAME
from sitegrid.wire.protobuf import ProtobufError
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES
from sitegrid.wire.serviceaddresses import read_service_addresses

_log = logging.getLogger(__name__)

_INTERVAL: Final = 1.0
"""Seconds between two looks at the kernel's table; a table that takes long is looked at less often."""
_SHARE: Final = 10
"""The table is read for at most one part in so many of the time."""
_PROTOCOLS: Final = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}


class Table(Protocol):
    """The kernel's table of connections."""

    def flows(self) -> Iterable[Flow]:
        """Return all."""
        ...

    def delete(self, flow: Flow) -> bool:
        """Forget one; return whether it was there."""
        ...


def packed(ip: str) -> bytes:
    """Return an address in network byte order. Raises OSError for what is none."""
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)


def frontends_of(service: Item) -> Frontends:
    """Return what clients of a Service (protobuf) connect to. Raises `ProtobufError`, OSError."""
    found = read_service_addresses(service.raw)
    ports = [(_PROTOCOLS[port.protocol], port) for port in found.ports if port.protocol in _PROTOCOLS]
    ips = [packed(ip) for ip in found.ips]
    addresses = frozenset(Address(protocol, ip, port.number) for protocol, port in ports for ip in ips)
    return Frontends(addresses, frozenset((protocol, port.node) for protocol, port in ports if port.node))


def endpoints_of(endpoint_slice: Item) -> list[Endpoint]:
    """Return the endpoints of an EndpointSlice (protobuf). Raises `ProtobufError`, OSError."""
    found = read_slice(endpoint_slice.raw)
    ports = [(_PROTOCOLS[port.protocol], port.number) for port in found.ports if port.protocol in _PROTOCOLS]
    places = [(packed(address.ip), address.node or "") for address in found.addresses]
    return [Endpoint(Address(protocol, ip, port), node) for ip, node in places for protocol, port in ports]


class Closer:
    """One node's: told what the agent shows, it ends what goes to a former unit."""

    def __init__(
        self, ledger: Ledger, table: Table, units: Callable[[], NodeUnits], clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._table = table
        self._units = units
        self._clock = clock
        self._told = ""
        self._unheard = {SERVICES, ENDPOINTSLICES}
        self._ready = False

    def hear(self, event: Heard) -> None:
        """Take what the agent shows."""
        try:
            self._hear(event)
        except (ProtobufError, OSError) as error:
            _log.warning("something of a grid is not understood, so left alone: %s", error)

    def _hear(self, event: Heard) -> None:
        if isinstance(event, Synced):
            self._unheard.discard(event.resource)
            return
        if isinstance(event, Hidden):
            if event.resource is ENDPOINTSLICES:
                self._ledger.hide_slice(event.key)
            return
        item = event.item
        labels = PROTOBUF.labels(item)
        if event.resource is SERVICES:
            self._ledger.show_service(item.key, labels.get(GRID_UNIQ_KEY, ""), frontends_of(item))
        else:
            service = f"{item.key.partition('/')[0]}/{labels.get(SERVICE_NAME, '')}"
            self._ledger.show_slice(item.key, service, endpoints_of(item))

    def step(self) -> float | None:
        """Do what is to be done now; return in how many seconds there may be more, None where not by itself."""
        pause = self._settle() if self._ledger.unsettled else None
        if pause is None and not self._unheard and not self._ready:
            self._ready = True
            _log.info("ready: knows what the agent shows of grids")
        return pause

    def _settle(self) -> float | None:
        try:
            node, units = self._units()
        except AgentError as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.warning("the agent tells no units, so no connection is ended: %s", error)
            return _INTERVAL
        self._told = ""
        now = self._clock()
        self._ledger.tell_units(node, units, now)
        self._sweep(self._ledger.due(now))
        return max(_INTERVAL, _SHARE * (self._clock() - now)) if self._ledger.unsettled else None

    def _sweep(self, due: Due) -> None:
        """End what is due, as far as the kernel does it: what it does not is tried again with the next step."""
        if not due.frontends:
            return
        ended = 0
        try:
            # The whole table first: it changes with each deletion.
            for flow in [flow for flow in self._table.flows() if due.includes(flow)]:
                ended += self._table.delete(flow)
        except ConntrackError as error:
            _log.warning("the kernel's table of connections: %s", error.strerror)
        if ended:
            _log.info("ended %d connections to endpoints of units that the node has left", ended)


def run(host: str, port: int, grace: float) -> None:
    """Go on until SIGTERM. Raises `ConntrackError` where the kernel does not let it."""
    # A container's first process is ended by no signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    table = Conntrack()
    for _ in table.flows():
        break  # A missing right is told now, and not when it is needed.
    heard: SimpleQueue[Heard] = SimpleQueue()
    closer = Closer(Ledger(grace), table, lambda: ask_units(host, port), time.monotonic)
    for resource in (SERVICES, ENDPOINTSLICES):
        Follower(host, port, resource, heard).start()
    _log.info("following the agent on %s:%d", host, port)
    pause: float | None = None
    while True:
        try:
            closer.hear(heard.get(timeout=pause))
            while not heard.empty():
                closer.hear(heard.get())
        except Empty:
            pass
        pause = closer.step()
