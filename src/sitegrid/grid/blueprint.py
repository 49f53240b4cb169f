"""What one generation of a workload grid wants of its units: parsed once, and each child made once.

Held by the controller for each grid and thrown away when the spec changes; status changes of children need nothing
anew. A unit whose labels or values change gets its child made again, and no other does. Held by
``tests/grid/test_blueprint.py``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sitegrid.api import matchers, workloads
from sitegrid.api.meta import ObjectMeta
from sitegrid.api.status import MAX_UNKNOWN_UNITS
from sitegrid.api.workloads import ReplicatedGridSpec, WorkloadGrid
from sitegrid.grid.applied import applied_hash
from sitegrid.grid.companions import wanted_companions
from sitegrid.grid.kinds import ObjectKind, WorkloadKind
from sitegrid.grid.overrides import MatcherError, Override, Unit, UnitMatcher
from sitegrid.grid.problem import UNITS_INVALID, Problem
from sitegrid.grid.tolerations import users_own
from sitegrid.grid.units import UnitInfo, Units
from sitegrid.grid.workload import name_of_child, wanted_child

Wanted = tuple[dict[str, Any], str]
"""A wanted object without its hash, and the hash."""


class Blueprint:
    """One spec of one grid, ready for planning."""

    def __init__(self, kind: WorkloadKind, grid: WorkloadGrid) -> None:
        self.kind = kind
        self._grid = grid
        spec = grid.spec
        self._overrides = tuple(override_of(item) for item in spec.overrides)
        chosen = spec.units or workloads.UnitSelection()
        self._include = None if chosen.include is None else matcher_of(chosen.include)
        self._exclude = None if chosen.exclude is None else matcher_of(chosen.exclude)
        self._names: dict[str, str] = {}
        self._children: dict[str, tuple[Unit, str, Wanted | Problem]] = {}
        self._companions: dict[str, tuple[Unit, str, str, dict[ObjectKind, Wanted | Problem]]] = {}
        self._unknown: tuple[Units, list[str]] | None = None

    def is_for(self, grid: WorkloadGrid) -> bool:
        """Tell whether this is the blueprint of `grid` as it is now."""
        mine, other = self._grid.metadata, grid.metadata
        return (mine.uid, mine.generation, mine.labels) == (other.uid, other.generation, other.labels)

    def choose(self, units: Units) -> dict[str, UnitInfo] | Problem:
        """Return the units of `units` that the grid is for, or the problem that nobody can tell."""
        try:
            return {value: info for value, info in units.items() if info.nodes and self._chosen(info.unit)}
        except MatcherError as error:
            return Problem(UNITS_INVALID, f"spec.units: {error}; nothing is changed until it is repaired")

    def child_name(self, value: str) -> str:
        """Return the name of the child of the unit `value`."""
        name = self._names.get(value)
        if name is None:
            name = self._names[value] = name_of_child(self.kind, self._grid, value)
        return name

    def child(self, unit: Unit, adopted: str = "") -> Wanted | Problem:
        """Return the wanted child of `unit`, or the problem that there can be none.

        `adopted` is the mark of a child that was taken over from SuperEdge.
        """
        known = self._children.get(unit.value)
        if known is None or (known[0] is not unit and known[0] != unit) or known[1] != adopted:
            made = wanted_child(self.kind, self._grid, unit, self._overrides, adopted)
            wanted = made if isinstance(made, Problem) else (made.manifest, applied_hash(made.manifest))
            known = self._children[unit.value] = (unit, adopted, wanted)
        return known[2]

    def companions(self, unit: Unit, wanted: Wanted, present: ObjectMeta) -> dict[ObjectKind, Wanted | Problem]:
        """Return what is wanted beside the `wanted` child of `unit`, which exists as `present`, by kind."""
        if self._grid.spec.pod_disruption_budget is None and not self._autoscaled:
            return {}
        known = self._companions.get(unit.value)
        if known is None or known[:3] != (unit, wanted[1], present.uid):
            made = wanted_companions(self._grid, unit, wanted[0], present)
            hashed = {
                kind: item if isinstance(item, Problem) else (item, applied_hash(item)) for kind, item in made.items()
            }
            known = self._companions[unit.value] = (unit, wanted[1], present.uid, hashed)
        return known[3]

    def unknown(self, units: Units) -> list[str]:
        """Return the names in the spec that no unit has, at most `MAX_UNKNOWN_UNITS`."""
        if self._unknown is None or self._unknown[0] is not units:
            names = {name for override in self._overrides for name in override.units.names}
            names |= {name for matcher in (self._include, self._exclude) if matcher for name in matcher.names}
            if isinstance(self._grid.spec, ReplicatedGridSpec):
                names |= self._grid.spec.templates.keys()
            missing = sorted(name for name in names if name not in units or not units[name].nodes)
            self._unknown = (units, missing[:MAX_UNKNOWN_UNITS])
        return self._unknown[1]

    def tolerated(self, unit: Unit) -> frozenset[str]:
        """Return the taints of lost nodes that the user's own tolerations for `unit` say something about."""
        made = wanted_child(self.kind, self._grid, unit, self._overrides)
        # What cannot be made now was made of something before; the template is the best guess at it.
        spec = self._grid.spec.template if isinstance(made, Problem) else made.effective
        pod = spec.get("template")
        pod_spec = pod.get("spec") if isinstance(pod, dict) else None
        return users_own(pod_spec) if isinstance(pod_spec, dict) else frozenset()

    @property
    def _autoscaled(self) -> bool:
        return isinstance(self._grid.spec, ReplicatedGridSpec) and self._grid.spec.autoscaling is not None

    def _chosen(self, unit: Unit) -> bool:
        included = self._include is None or self._include.matches(unit)
        return not (self._exclude is not None and self._exclude.matches(unit)) and included


def matcher_of(matcher: matchers.UnitMatcher) -> UnitMatcher:
    """Return the API's matcher as planning uses it."""
    selector = None if matcher.selector is None else msgspec.to_builtins(matcher.selector)
    return UnitMatcher(tuple(matcher.names), selector)


def override_of(override: workloads.Override) -> Override:
    """Return the API's override as planning uses it."""
    return Override(matcher_of(override.units), override.patch, override.replicas, override.name)
