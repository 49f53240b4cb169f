"""Joins units and children into actions: what to write now for one workload grid.

Called by the controller with what it observed; the same input gives the same plan, and what is left to do after a
plan was carried out is nothing ("reaches the wanted state and stays"). One unit's problem is that unit's alone (I4).
Who owns a child is decided by its owner reference, never by labels (I3). Held by ``tests/grid/test_plan.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sitegrid.api.grids import DeploymentGrid
from sitegrid.api.meta import ObjectMeta
from sitegrid.grid.applied import Verdicts, annotated, applied_hash
from sitegrid.grid.kinds import WorkloadKind
from sitegrid.grid.names import child_name
from sitegrid.grid.observed import Deployment
from sitegrid.grid.problem import Problem, name_conflict
from sitegrid.grid.removal import UNIT_GONE_SINCE, Step, decide
from sitegrid.grid.units import Units
from sitegrid.grid.workload import wanted_child
from sitegrid.wire.labels import UNIT


@dataclass(frozen=True, slots=True)
class Create:
    """Make a child that is missing, if nobody else's object has its name."""

    unit: str
    manifest: dict[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class Update:
    """Apply a child of ours again: the template changed, or somebody changed the child."""

    unit: str
    manifest: dict[str, Any]
    digest: str
    uid: str


@dataclass(frozen=True, slots=True)
class Annotate:
    """Set the unit-gone-since annotation of a child of ours, or take it off (`gone_since` None)."""

    unit: str
    child: ObjectMeta
    gone_since: datetime | None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a child of ours, if it is still the one that was looked at."""

    unit: str
    child: ObjectMeta


Action = Create | Update | Annotate | Delete
Wanted = tuple[dict[str, Any], str]
"""A wanted child without its hash, and the hash."""


class WantedCache:
    """The wanted children of one spec of one grid, made once; status changes of children need none anew."""

    def __init__(self) -> None:
        self._spec: tuple[str, int] = ("", 0)
        self._wanted: dict[str, Wanted | Problem] = {}

    def get(self, kind: WorkloadKind, grid: DeploymentGrid, value: str) -> Wanted | Problem:
        """Return the wanted child (without its hash) and its hash, or the problem that there can be none."""
        spec = (grid.metadata.uid, grid.metadata.generation)
        if spec != self._spec:
            self._spec, self._wanted = spec, {}
        known = self._wanted.get(value)
        if known is None:
            wanted = wanted_child(kind, grid, value)
            known = wanted if isinstance(wanted, Problem) else (wanted, applied_hash(wanted))
            self._wanted[value] = known
        return known


@dataclass(slots=True)
class Plan:
    """What is to be written for one grid, and what is known of its units."""

    actions: list[Action] = field(default_factory=list)
    problems: dict[str, Problem] = field(default_factory=dict)
    """By unit: why its child is not even tried."""
    children: dict[str, Deployment | None] = field(default_factory=dict)
    """By wanted unit: the child, None where it is missing."""
    leaving: int = 0
    """Children of units that are gone."""
    wake_in: float | None = None
    """Seconds after which a grace period ends."""


def plan_workloads(
    kind: WorkloadKind,
    grid: DeploymentGrid,
    units: Units,
    children: Iterable[Deployment],
    taken: Callable[[str], Deployment | None],
    *,
    now: datetime,
    verdicts: Verdicts,
    cache: WantedCache,
) -> Plan:
    """Return the plan for `grid`: `children` are those it controls, `taken` finds any known child by its name."""
    plan = Plan()
    ours = {child.metadata.name: child for child in children}
    for value in units:
        name = child_name(grid.metadata.name, value, max_length=kind.max_name)
        child = plan.children[value] = ours.pop(name, None)
        known = cache.get(kind, grid, value)
        if isinstance(known, Problem):
            plan.problems[value] = known  # a child from before the problem is left as it is
        elif child is None:
            _missing(plan, kind, value, known, taken(name))
        elif not child.metadata.deletion_timestamp:
            _present(plan, value, known, child, verdicts)
    for child in ours.values():
        if not child.metadata.deletion_timestamp:
            _leaving(plan, grid, child, now)
    return plan


def _missing(plan: Plan, kind: WorkloadKind, value: str, wanted: Wanted, other: Deployment | None) -> None:
    manifest, digest = wanted
    if other is None:
        plan.actions.append(Create(value, annotated(manifest, digest), digest))
        return
    meta, owner = other.metadata, other.metadata.controller()
    plan.problems[value] = name_conflict(
        kind.kind, meta.namespace, meta.name, f"{owner.kind} {owner.name}" if owner else ""
    )


def _present(plan: Plan, value: str, wanted: Wanted, child: Deployment, verdicts: Verdicts) -> None:
    manifest, digest = wanted
    if UNIT_GONE_SINCE in child.metadata.annotations:
        plan.actions.append(Annotate(value, child.metadata, None))
    if not verdicts.in_sync(child.metadata, manifest, digest):
        plan.actions.append(Update(value, annotated(manifest, digest), digest, child.metadata.uid))


def _leaving(plan: Plan, grid: DeploymentGrid, child: Deployment, now: datetime) -> None:
    meta = child.metadata
    unit = meta.labels.get(UNIT, meta.name)
    decision = decide(grid.spec.removal, meta.annotations.get(UNIT_GONE_SINCE), now)
    plan.leaving += 1
    if decision.step is Step.MARK:
        plan.actions.append(Annotate(unit, meta, now))
    elif decision.step is Step.DELETE:
        plan.actions.append(Delete(unit, meta))
    elif decision.step is Step.WAIT:
        plan.wake_in = decision.seconds if plan.wake_in is None else min(plan.wake_in, decision.seconds)
