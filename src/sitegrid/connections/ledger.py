"""Which endpoints are a former unit's: what may be cut, and nothing else.

Pure. `run.py` tells what the agent shows (a grid's slices and Services), and afterwards the node's units as the agent
knows them. An agent that hears of a relabelling takes the former unit's slices away at once, and says so after its
units have changed. So a slice that went while the node was still in the slice's unit (its pods are gone, or what they
fell back to has an end) makes nothing former: Kubernetes lets such connections go on, and so does this. A slice that
went since the node left the unit makes its endpoints former, for `grace` seconds a candidate, then to be cut for
`SWEEPS` seconds: kube-proxy may write its rules later than this hears of them.

Invariants: an endpoint that is shown for the Service is never to be cut, and none on the own node, which is in the
node's unit whatever that is. What nobody has said never makes anything former. Held by
``tests/connections/test_ledger.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from sitegrid.connections.conntrack import Address, Flow

SWEEPS: Final = 60.0
"""Seconds for which connections to a former unit are looked for, after the time of grace."""


class Frontends(NamedTuple):
    """What a Service's clients connect to: addresses with ports, and (protocol, port) of node ports."""

    addresses: frozenset[Address]
    node_ports: frozenset[tuple[int, int]]

    def include(self, asked: Address) -> bool:
        """Tell whether `asked` is one of them."""
        return asked in self.addresses or (asked.protocol, asked.port) in self.node_ports


class Endpoint(NamedTuple):
    """Who answers, and the name of its node."""

    address: Address
    node: str


class _Service(NamedTuple):
    key: str
    """The unique key, as it stands in labels."""
    frontends: Frontends


class _Slice(NamedTuple):
    service: str
    endpoints: frozenset[Endpoint]
    unit: tuple[str, str] | None = None
    """Unique key and id, as of when the slice was first shown; None until they are known."""


class _Former(NamedTuple):
    unit: tuple[str, str] | None
    frontends: Frontends
    since: float


class Ledger:
    """What is known of one node. Times are seconds of one monotonic clock."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._services: dict[str, _Service] = {}
        self._slices: dict[str, _Slice] = {}
        self._gone: list[_Slice] = []
        self._former: dict[tuple[str, Address], _Former] = {}

    def show_service(self, name: str, key: str, frontends: Frontends) -> None:
        """A grid's Service is shown like this; where it is no longer shown, it is known as it was."""
        self._services[name] = _Service(key, frontends)

    def show_slice(self, name: str, service: str, endpoints: Iterable[Endpoint]) -> None:
        """A slice of a grid's Service is shown like this."""
        old = self._slices.get(name)
        self._slices[name] = _Slice(service, frozenset(endpoints), old.unit if old is not None else None)

    def hide_slice(self, name: str) -> None:
        """A slice is not shown any more."""
        gone = self._slices.pop(name, None)
        if gone is not None and gone.unit is not None:
            self._gone.append(gone)

    def tell_units(self, node: str, units: Mapping[str, str], now: float) -> None:
        """`node` is in these units (ids by unique key), asked after all that was told before."""
        own = set(units.items())
        for gone in self._gone:
            former = _Former(gone.unit, self._services[gone.service].frontends, now)
            for endpoint in gone.endpoints:
                if endpoint.node != node:
                    self._former.setdefault((gone.service, endpoint.address), former)
        self._gone.clear()
        for name, item in self._pending():
            key = self._services[item.service].key
            if key in units:
                self._slices[name] = item._replace(unit=(key, units[key]))
        shown = {(item.service, endpoint.address) for item in self._slices.values() for endpoint in item.endpoints}
        self._former = {
            place: former
            for place, former in self._former.items()
            # Those that went while the node was still in their unit are dropped here, with those shown again.
            if place not in shown and former.unit not in own and now < former.since + self._grace + SWEEPS
        }

    def _pending(self) -> list[tuple[str, _Slice]]:
        """Return the slices of known Services whose unit is not known yet."""
        found = self._slices.items()
        return [(name, item) for name, item in found if item.unit is None and item.service in self._services]

    @property
    def unsettled(self) -> bool:
        """Tell whether it has to be told the node's units again."""
        return bool(self._gone or self._former or self._pending())

    def due(self, now: float) -> Due:
        """Return what is to be cut now."""
        due: dict[Address, list[Frontends]] = {}
        for (_, address), former in self._former.items():
            if former.since + self._grace <= now:
                due.setdefault(address, []).append(former.frontends)
        return Due(due)


class Due(NamedTuple):
    """What is to be cut: by endpoint, the frontends by which it must not be reached any more."""

    frontends: Mapping[Address, Iterable[Frontends]]

    def includes(self, flow: Flow) -> bool:
        """Tell whether a connection was made to one of the frontends, and has one of the endpoints behind it."""
        behind = self.frontends.get(flow.answering, ()) if flow.asked != flow.answering else ()
        return any(frontends.include(flow.asked) for frontends in behind)
