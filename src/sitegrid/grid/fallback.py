"""The one exception to closure: a unit without a ready endpoint uses those of a neighbour that its ServiceGrid names.

`fallbacks_of` reads ``spec.fallback`` once per generation; `Falling.apply` is a step of the projection
(`sitegrid.grid.slices`): the unit slices of a unit in need also carry the ready endpoints of the first named unit
that has some. The neighbour's own slices stay as they are, and with the first own endpoint that is ready the foreign
ones are gone. While the cloud does not see a unit (`sitegrid.grid.reachability`), what it uses stays too.

Invariant I1 with its exception: no endpoint goes anywhere but to its own unit and to units for which a user's
fallback names that unit; whatever cannot be understood names nobody. Held by ``tests/grid/test_fallback.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.grid.groups import Endpoints, Group, add_endpoint, sorted_ports
from sitegrid.grid.observed import Endpoint, EndpointSlice
from sitegrid.grid.overrides import MatcherError
from sitegrid.grid.problem import UNITS_INVALID, Problem
from sitegrid.grid.substitution import SubstitutionError, substitute, unit_names
from sitegrid.grid.unitrules import UnitRules
from sitegrid.grid.units import UnitInfo, Units
from sitegrid.wire.labels import ALIASES, UNIT, unit_id

FALLBACK_INVALID: Final = "FallbackInvalid"
"""A fallback of the unit names the unit itself, or a value that the unit does not have."""

Ways = Mapping[str, tuple[str, ...]]
"""By unit: the units whose endpoints it may use, in order."""


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """What a ServiceGrid says about fallback."""

    ways: Ways = field(default_factory=dict)
    problems: Mapping[str, Problem] = field(default_factory=dict)
    """By unit; the empty one stands for all."""
    unknown: frozenset[str] = frozenset()
    """Names that no unit has."""


def fallbacks_of(grid: ServiceGrid, units: Units) -> Fallbacks:
    """Return which of `units` may use which, and what is wrong; of several entries for a unit the last counts."""
    entries, rules = grid.spec.fallback, UnitRules([item.units for item in grid.spec.fallback])
    ways: dict[str, tuple[str, ...]] = {}
    problems: dict[str, Problem] = {}
    named = set(rules.names)
    for value, info in units.items() if entries else ():
        try:
            matching = rules.of(info.unit) if info.nodes else []
        except MatcherError as error:
            message = f"spec.fallback: {error}; no unit falls back until it is repaired"
            return Fallbacks(problems={"": Problem(UNITS_INVALID, message)})
        if matching:
            entry = entries[matching[-1]]
            itself = entry.units is not None and value in entry.units.names
            to, problem = _resolved(f"spec.fallback[{matching[-1]}]", entry.to, info, itself=itself)
            named.update(to)
            if to:
                ways[value] = to
            if problem is not None:
                problems[value] = problem
    unknown = frozenset(name for name in named if name not in units or not units[name].nodes)
    return Fallbacks(ways, problems, unknown)


def _resolved(where: str, to: list[str], info: UnitInfo, *, itself: bool) -> tuple[tuple[str, ...], Problem | None]:
    """Return the units to use, without the unit itself, and what is wrong with them."""
    unit = info.unit
    try:
        names = substitute(to, unit_names(unit.value, unit.key, unit.values))
    except SubstitutionError as error:
        return (), Problem(FALLBACK_INVALID, f"{where}.to{error}")
    problem = None
    if itself and unit.value in names:
        message = f"{where} lets the unit fall back to itself; take it out of `to`, or out of `units`"
        problem = Problem(FALLBACK_INVALID, message)
    return tuple(name for name in dict.fromkeys(names) if name != unit.value), problem


@dataclass(frozen=True, slots=True)
class Falling:
    """How units fall back in one projection."""

    ways: Ways = field(default_factory=dict)
    away: Collection[str] = ()
    """The units that the cloud does not see: what they use stays as it is."""
    unit_slices: Iterable[EndpointSlice] = ()
    """The Service's unit slices as they are now."""

    def apply(self, key: str, groups: dict[Group, Endpoints], unit_of_node: Mapping[str, str]) -> dict[str, str]:
        """Add to `groups` what units use of others; return by unit whose it is."""
        if not self.ways:
            return {}
        # In this order: what a unit uses of another is never passed on to a third.
        used = self._fall(groups)
        used.update(self._keep(key, groups, unit_of_node))
        return used

    def _fall(self, groups: dict[Group, Endpoints]) -> dict[str, str]:
        own: dict[str, list[tuple[Group, Endpoints]]] = {}
        for group, endpoints in groups.items():
            ready = {addresses: item for addresses, item in endpoints.items() if item.ready}
            if ready:
                own.setdefault(group.unit, []).append((group, ready))
        used = {}
        for value, to in self.ways.items():
            source = next((name for name in to if name in own), None)
            if source is None or value in own or value in self.away:
                continue
            used[value] = source
            for group, ready in own[source]:
                _add_all(groups, group._replace(unit=value), ready.values())
        return used

    def _keep(self, key: str, groups: dict[Group, Endpoints], unit_of_node: Mapping[str, str]) -> dict[str, str]:
        ids = {unit_id(key, value): value for value in self.away if value in self.ways}
        used: dict[str, str] = {}
        for item in self.unit_slices if ids else ():
            value = ids.get(item.metadata.labels.get(UNIT, ""))
            if value is None:
                continue
            group = Group(value, item.address_type, sorted_ports(item), ALIASES in item.metadata.labels)
            for endpoint in item.endpoints or ():
                source = unit_of_node.get(endpoint.node_name or "")
                if source in self.ways[value]:
                    used[value] = source
                    _add_all(groups, group, [endpoint])
        return used


CLOSED: Final = Falling()


def _add_all(groups: dict[Group, Endpoints], group: Group, endpoints: Iterable[Endpoint]) -> None:
    into = groups.setdefault(group, {})
    for endpoint in endpoints:
        add_endpoint(into, endpoint)
