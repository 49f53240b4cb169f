"""Joins units and children into actions: what to write now for one workload grid.

Called by the controller with what it observed; the same input gives the same plan, and what is left to do after a
plan was carried out is nothing ("reaches the wanted state and stays"). One unit's problem is that unit's alone (I4).
Who owns a child is decided by its owner reference, never by labels (I3). Held by ``tests/grid/test_plan.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import msgspec

from sitegrid.api.meta import ManagedMeta, ObjectMeta
from sitegrid.api.workloads import WorkloadGrid
from sitegrid.grid.adoption import ADOPTED
from sitegrid.grid.applied import APPLIED_HASH, Verdicts, annotated
from sitegrid.grid.blueprint import Blueprint, Wanted
from sitegrid.grid.kinds import COMPANION_KINDS, ObjectKind
from sitegrid.grid.observed import Workload
from sitegrid.grid.problem import Problem, name_conflict
from sitegrid.grid.removal import UNIT_GONE_SINCE, Step, decide
from sitegrid.grid.units import UnitInfo, Units
from sitegrid.wire.labels import UNIT, unit_id


class Managed(Protocol):
    """An observed object that grids make."""

    @property
    def metadata(self) -> ManagedMeta:
        """Its metadata."""


@dataclass(frozen=True, slots=True)
class Create:
    """Make an object that is missing, if nobody else's has its name."""

    unit: str
    kind: ObjectKind
    manifest: dict[str, Any]
    digest: str
    owner_uid: str
    """The uid of what is to control it."""


@dataclass(frozen=True, slots=True)
class Update:
    """Apply an object of ours again: the grid changed, or somebody changed the object."""

    unit: str
    kind: ObjectKind
    manifest: dict[str, Any]
    digest: str
    uid: str
    repair: bool = False
    """Whether the grid wants what it wanted before, so that it was somebody else's change."""
    released_replicas: int | None = None
    """Where `replicas` are no longer ours: how many there are, and are to stay."""


@dataclass(frozen=True, slots=True)
class Annotate:
    """Set the unit-gone-since annotation of a child of ours, or take it off (`gone_since` None)."""

    unit: str
    kind: ObjectKind
    child: ObjectMeta
    gone_since: datetime | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object of ours, if it is still the one that was looked at."""

    unit: str
    kind: ObjectKind
    child: ObjectMeta
    why: str


Action = Create | Update | Annotate | Delete

LEFT_OUT = "spec.units leaves its unit out"
NO_NODES = "its unit has no nodes"
NOT_ASKED = "the grid does not ask for it any more"


@dataclass(slots=True)
class Plan:
    """What is to be written for one grid, and what is known of its units."""

    actions: list[Action] = field(default_factory=list)
    problems: dict[str, Problem] = field(default_factory=dict)
    """By unit: why its child is not even tried. The empty unit stands for the whole grid."""
    children: dict[str, Workload | None] = field(default_factory=dict)
    """By wanted unit: the child, None where it is missing."""
    outdated: set[str] = field(default_factory=set)
    """Units whose child is not as wanted yet."""
    suspended: set[str] = field(default_factory=set)
    """Units in which nothing may be changed."""
    leaving: int = 0
    """Children of units that are gone or left out."""
    wake_in: float | None = None
    """Seconds after which a grace period ends."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What there is of one grid's objects."""

    children: Iterable[Workload]
    """Those that the grid controls."""
    find: Callable[[ObjectKind, str], Managed | None]
    """Any known object by kind and name, whoever controls it."""
    companions: Callable[[ObjectKind, str], Iterable[Managed]]
    """The companions of a kind that the child with this uid controls."""
    companion_kinds: Collection[ObjectKind] = COMPANION_KINDS
    """The kinds of which there is any companion at all."""


def plan_workloads(
    blueprint: Blueprint,
    grid: WorkloadGrid,
    units: Units,
    observed: Observed,
    *,
    now: datetime,
    verdicts: Verdicts,
) -> Plan:
    """Return the plan for `grid`, whose `blueprint` it is."""
    chosen = blueprint.choose(units)
    if isinstance(chosen, Problem):
        return Plan(problems={"": chosen})
    planning = _Planning(blueprint, grid, observed, now, verdicts)
    ours = {child.metadata.name: child for child in observed.children}
    for value, info in chosen.items():
        planning.unit(value, info, ours.pop(blueprint.child_name(value), None))
    suspended = {unit_id(grid.spec.grid_uniq_key, value) for value, info in units.items() if info.suspended}
    left_out = (
        {unit_id(grid.spec.grid_uniq_key, value) for value, info in units.items() if info.nodes} if ours else ()
    )
    for child in ours.values():
        unit = child.metadata.labels.get(UNIT, child.metadata.name)
        if not child.metadata.deletion_timestamp and unit not in suspended:
            planning.leaving(unit, child.metadata, LEFT_OUT if unit in left_out else NO_NODES)
    return planning.plan


class _Planning:
    """The plan while it is being made."""

    def __init__(
        self, blueprint: Blueprint, grid: WorkloadGrid, observed: Observed, now: datetime, verdicts: Verdicts
    ) -> None:
        self.plan = Plan()
        self._blueprint = blueprint
        self._kind = blueprint.kind.child
        self._grid = grid
        self._observed = observed
        self._now = now
        self._verdicts = verdicts

    def unit(self, value: str, info: UnitInfo, child: Workload | None) -> None:
        """Plan for one wanted unit and its child."""
        plan = self.plan
        plan.children[value] = child
        wanted = self._blueprint.child(
            info.unit, child.metadata.annotations.get(ADOPTED, "") if child is not None else ""
        )
        if isinstance(wanted, Problem):
            plan.problems[value] = wanted  # a child from before the problem is left as it is
            plan.outdated.add(value)
        elif child is None or not self._verdicts.in_sync(child.metadata, *wanted):
            plan.outdated.add(value)
        if info.suspended:
            plan.suspended.add(value)
            return
        if child is None:
            if not isinstance(wanted, Problem):
                self._create(value, self._kind, wanted, self._grid.metadata.uid)
            return
        if child.metadata.deletion_timestamp:
            return
        if UNIT_GONE_SINCE in child.metadata.annotations:
            plan.actions.append(Annotate(value, self._kind, child.metadata, None))
        if isinstance(wanted, Problem):
            return
        if value in plan.outdated:
            released = None if "replicas" in wanted[0]["spec"] else _our_replicas(child)
            self._update(value, self._kind, wanted, child.metadata, released)
        self._companions(value, info, wanted, child.metadata)

    def leaving(self, unit: str, child: ObjectMeta, why: str) -> None:
        """Plan for a child whose unit is gone or left out; its companions go when it goes."""
        plan = self.plan
        decision = decide(self._grid.spec.removal, child.annotations.get(UNIT_GONE_SINCE), self._now)
        plan.leaving += 1
        if decision.step is Step.MARK:
            plan.actions.append(Annotate(unit, self._kind, child, self._now, why))
        elif decision.step is Step.DELETE:
            plan.actions.append(Delete(unit, self._kind, child, f"{why}, for longer than the grace period"))
        elif decision.step is Step.WAIT:
            plan.wake_in = decision.seconds if plan.wake_in is None else min(plan.wake_in, decision.seconds)

    def _companions(self, value: str, info: UnitInfo, child: Wanted, present: ObjectMeta) -> None:
        wanted = self._blueprint.companions(info.unit, child, present)
        for kind in self._observed.companion_kinds if not wanted else COMPANION_KINDS:
            found = {item.metadata.name: item.metadata for item in self._observed.companions(kind, present.uid)}
            item = wanted.get(kind)
            if isinstance(item, Problem):
                self.plan.problems[value] = item  # one from before the problem is left as it is
                continue
            if item is not None:
                known = found.pop(item[0]["metadata"]["name"], None)
                if known is None:
                    self._create(value, kind, item, present.uid)
                elif not known.deletion_timestamp and not self._verdicts.in_sync(known, *item):
                    self._update(value, kind, item, known)
            for other in found.values():
                if not other.deletion_timestamp:
                    self.plan.actions.append(Delete(value, kind, other, NOT_ASKED))

    def _create(self, value: str, kind: ObjectKind, wanted: Wanted, owner_uid: str) -> None:
        manifest, digest = wanted
        other = self._observed.find(kind, manifest["metadata"]["name"])
        if other is None:
            self.plan.actions.append(Create(value, kind, annotated(manifest, digest), digest, owner_uid))
            return
        meta, owner = other.metadata, other.metadata.controller()
        whose = f"{owner.kind} {owner.name}" if owner else ""
        self.plan.problems[value] = name_conflict(kind.kind, meta.namespace, meta.name, whose)

    def _update(
        self, value: str, kind: ObjectKind, wanted: Wanted, present: ManagedMeta, released: int | None = None
    ) -> None:
        manifest, digest = wanted
        repair = present.annotations.get(APPLIED_HASH) == digest
        update = Update(value, kind, annotated(manifest, digest), digest, present.uid, repair, released)
        self.plan.actions.append(update)


def _our_replicas(child: Workload) -> int | None:
    """Return the child's replicas where our apply owns them, so that giving them up would reset them to 1."""
    fields = child.metadata.applied_fields()
    if not fields:
        return None
    owned: dict[str, Any] = msgspec.json.decode(fields)
    return child.spec.replicas if "f:replicas" in owned.get("f:spec", {}) else None
