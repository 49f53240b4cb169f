"""Makes a grid's conditions: Ready, Progressing and Degraded, each with the reason of the worst unit.

Called by the controller after each pass. A condition's lastTransitionTime moves only when its status does, and a
status that says the same is equal to the former, so that nothing is written (invariant I7). Held by
``tests/grid/test_status.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple

from sitegrid.api.meta import timestamp
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.status import (
    MAX_FALLBACK_STATES,
    MAX_UNKNOWN_UNITS,
    Condition,
    FallbackState,
    GridStatus,
    ServiceGridStatus,
    UnitEndpoints,
)
from sitegrid.api.superedge import StatedGridStatus
from sitegrid.api.workloads import WorkloadGrid
from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.endpointcounts import EndpointCount
from sitegrid.grid.plan import Plan
from sitegrid.grid.problem import Problem
from sitegrid.grid.service import has_endpoints
from sitegrid.grid.superedge import with_states
from sitegrid.grid.templates import unused_templates
from sitegrid.grid.units import Units
from sitegrid.grid.unitstates import GridUnits, bounded_states, shortened

MAX_MESSAGE: Final = 1024
"""Longest message in the status, in characters; the API server's may quote a whole template."""

READY: Final = "Ready"
PROGRESSING: Final = "Progressing"
DEGRADED: Final = "Degraded"

_State = tuple[Literal["True", "False", "Unknown"], str, str]
"""A condition's status, reason and message."""


class Report(NamedTuple):
    """What there is to tell of a workload grid."""

    status: GridStatus
    moving: bool
    """Whether some unit's pods are on their way to what is wanted, so that it will soon be another status."""


class ServiceReport(NamedTuple):
    """What there is to tell of a ServiceGrid."""

    status: ServiceGridStatus
    moving: bool
    """Whether some unit's endpoints are not all ready, so that it may soon be another status."""


def workload_status(
    blueprint: Blueprint,
    grid: WorkloadGrid,
    units: Units,
    plan: Plan,
    failures: Mapping[str, Problem],
    *,
    now: datetime,
) -> Report:
    """Return the status of a workload grid after `plan` was carried out; `failures` by unit, also of leaving ones."""
    found = GridUnits(blueprint.kind, grid, plan, failures)
    unknown = blueprint.unknown(units)
    degraded = _degraded(found.problems, unknown)
    states = {READY: _ready(grid, found), PROGRESSING: _progressing(found), DEGRADED: degraded}
    shown, omitted = bounded_states(found.states())
    status = GridStatus(
        observed_generation=grid.metadata.generation,
        units=len(plan.children),
        updated_units=len(found.updated),
        ready_units=len(found.ready),
        unavailable_units=len(found.unavailable),
        conditions=_conditions(states, grid.status.conditions, grid.metadata.generation, now),
        unit_states=shown,
        unit_states_omitted=omitted,
        unused_templates=unused_templates(grid.spec),
        unknown_units=unknown,
    )
    if isinstance(grid.status, StatedGridStatus):
        status = with_states(status, plan.children)
    settled = (found.updated & found.ready) | found.suspended | found.problems.keys()
    return Report(status, bool(found.children.keys() - settled))


def service_status(
    grid: ServiceGrid,
    units: Units,
    problems: Mapping[str, Problem],
    *,
    sites: str = "",
    endpoints: Mapping[str, EndpointCount] | None = None,
    used: Mapping[str, str],
    unknown: Collection[str],
    now: datetime,
) -> ServiceReport:
    """Return the status of a ServiceGrid whose Services are as wanted but for `problems`, by unit, the worst first.

    The empty unit stands for the Services. `sites` is the one with the selector, `endpoints` says what each unit has
    (None: not known yet, what was told stays), `used` by unit whose endpoints it uses, `unknown` which names in the
    spec no unit has.
    """
    name, former = grid.wanted_service_name(), grid.status
    if not problems and (lack := _lacks_endpoints(grid)) is not None:
        problems = {"": lack}
    if problems:
        _, reason, message = _degraded(problems)
        ready: _State = ("False", reason, message)
    else:
        ready = ("True", "ServiceApplied", f"Service {name} is applied; {_whose_endpoints(grid)}")
    states = {READY: ready, DEGRADED: _degraded(problems, sorted(unknown))}
    fallbacks = [FallbackState(unit, to) for unit, to in sorted(used.items())]
    values = [value for value, info in units.items() if info.nodes]
    counts = {value: (endpoints or {}).get(value, _NONE) for value in values}
    shown, omitted = bounded_states(_unit_endpoints(counts))
    if endpoints is None:
        shown, omitted = former.unit_endpoints, former.unit_endpoints_omitted
    status = ServiceGridStatus(
        observed_generation=grid.metadata.generation,
        service_name=name,
        sites_service=sites,
        units=len(values),
        served_units=sum(1 for count in counts.values() if count.ready)
        if endpoints is not None
        else former.served_units,
        conditions=_conditions(states, former.conditions, grid.metadata.generation, now),
        unit_endpoints=shown,
        unit_endpoints_omitted=omitted,
        fallback_units=len(fallbacks),
        fallbacks=fallbacks[:MAX_FALLBACK_STATES],
        unknown_units=sorted(unknown)[:MAX_UNKNOWN_UNITS],
    )
    moving = any(not count.ready or count.ready < count.total for count in counts.values())
    return ServiceReport(status, moving and has_endpoints(grid))


_NONE: Final = EndpointCount(0, 0)


def _unit_endpoints(counts: Mapping[str, EndpointCount]) -> list[UnitEndpoints]:
    """Return the counts as they are told: units without a ready endpoint first."""
    order = sorted(counts.items(), key=lambda item: (item[1].ready > 0, item[0]))
    return [UnitEndpoints(value, count.ready, count.total) for value, count in order]


def _lacks_endpoints(grid: ServiceGrid) -> Problem | None:
    """Return the problem that nobody can be reached by the grid's Service."""
    if has_endpoints(grid) or grid.spec.template.get("type") == "ExternalName":
        return None
    return Problem(
        "NoSelector",
        "the template has no selector, and endpoints written by hand are of no unit, so no node has any: give the "
        "template a selector, or make a plain Service",
    )


def _whose_endpoints(grid: ServiceGrid) -> str:
    if not has_endpoints(grid):
        return "it is an external name, the same for all units"
    return "each unit sees its own endpoints"


def _ready(grid: WorkloadGrid, found: GridUnits) -> _State:
    if found.problems:
        _, reason, message = _degraded(found.problems)
        return ("False", reason, message)
    total, key = len(found.children), grid.spec.grid_uniq_key
    if not total and grid.spec.units is not None:
        return ("False", "NoUnits", f"no unit of {key} is chosen by spec.units, or no node carries that label")
    if not total:
        how = f"kubectl label node NODE {key}=UNIT"
        return ("False", "NoUnits", f"no node carries the label {key}: label the nodes of each unit, {how}")
    waiting = [value for value in found.children if value not in found.ready]
    if waiting:
        return (
            "False",
            "UnitsNotReady",
            f"{len(found.ready)} of {total} units are ready; not ready: {listed(waiting)}",
        )
    return ("True", "UnitsReady", f"all {total} units are ready")


def _progressing(found: GridUnits) -> _State:
    total, updated = len(found.children), len(found.updated)
    behind = [value for value in found.children if value not in found.updated]
    suspended = [value for value in behind if value in found.suspended]
    blocked = [value for value in behind if value in found.problems and value not in found.suspended]
    moving = [value for value in behind if value not in found.suspended and value not in found.problems]
    parts = [("not yet", moving), ("prevented", blocked), ("suspended", suspended)]
    told = "".join(f"; {what}: {listed(values)}" for what, values in parts if values)
    message = f"{updated} of {total} units run the current template{told}"
    if moving:
        return ("True", "UnitsUpdating", message)
    if blocked or suspended:
        return ("False", "UnitsPrevented" if blocked else "UnitsSuspended", message)
    if not total:
        return ("False", "UnitsUpdated", "there is no unit")
    return ("False", "UnitsUpdated", f"all {total} units run the current template")


def _degraded(problems: Mapping[str, Problem], unknown: Sequence[str] = ()) -> _State:
    """Return the state for problems by unit, the worst first; the empty unit stands for the grid.

    Names of the spec that no unit has are told: they may be of units to come, or slips.
    """
    if not problems:
        named = f"; the spec names units that there are not: {listed(unknown)}" if unknown else ""
        return ("False", "AsExpected", f"no unit has a problem{named}")
    value, problem = next(iter(problems.items()))
    where = f"unit {value}: " if value else ""
    others = len(problems) - 1
    units = "unit has" if others == 1 else "units have"
    more = f" ({others} more {units} a problem)" if others else ""
    return ("True", problem.reason, shortened(f"{where}{problem.message}", MAX_MESSAGE - len(more)) + more)


def listed(values: Sequence[str]) -> str:
    """Return the first few of `values` in words, and how many more there are."""
    shown = ", ".join(values[:3])
    return shown if len(values) <= 3 else f"{shown} and {len(values) - 3} more"


def _conditions(
    states: Mapping[str, _State], former: Iterable[Condition], generation: int, now: datetime
) -> list[Condition]:
    known = {condition.type: condition for condition in former}
    return [
        Condition(
            type=name,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=(
                known[name].last_transition_time if name in known and known[name].status == status else timestamp(now)
            ),
            observed_generation=generation,
        )
        for name, (status, reason, message) in states.items()
    ]
