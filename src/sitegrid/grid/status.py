"""Makes a grid's status from its units and children: counts, conditions, and the units that have a problem.

Called by the controller after each pass. A condition's lastTransitionTime moves only when its status does, and a
status that says the same is equal to the former, so that nothing is written (invariant I7). Held by
``tests/grid/test_status.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, Literal

from sitegrid.api.grids import DeploymentGrid, ServiceGrid
from sitegrid.api.meta import timestamp
from sitegrid.api.status import MAX_PROBLEM_UNITS, Condition, GridStatus, ProblemUnit, ServiceGridStatus
from sitegrid.grid.observed import Deployment
from sitegrid.grid.problem import Problem

MAX_MESSAGE: Final = 1024
"""Longest message in the status, in characters; the API server's may quote a whole template."""

READY: Final = "Ready"
PROGRESSING: Final = "Progressing"
DEGRADED: Final = "Degraded"

_State = tuple[Literal["True", "False", "Unknown"], str, str]
"""A condition's status, reason and message."""


def workload_status(
    grid: DeploymentGrid,
    children: Mapping[str, Deployment | None],
    problems: Mapping[str, Problem],
    *,
    now: datetime,
) -> GridStatus:
    """Return the status of a workload grid: `children` by unit, and `problems` by unit (also of leaving children)."""
    found = dict(problems)
    for value, child in children.items():
        if child is not None and value not in found and (problem := _own_problem(child)) is not None:
            found[value] = problem
    updated = {value for value, child in children.items() if child is not None and is_updated(child)}
    ready = {value for value, child in children.items() if child is not None and is_ready(child)}
    states = {
        READY: _ready(grid, children, ready, found),
        PROGRESSING: _progressing(children, updated),
        DEGRADED: _degraded(found),
    }
    return GridStatus(
        observed_generation=grid.metadata.generation,
        units=len(children),
        updated_units=len(updated),
        ready_units=len(ready),
        conditions=_conditions(states, grid.status.conditions, grid.metadata.generation, now),
        problem_units=[
            ProblemUnit(name=value, reason=problem.reason, message=_bounded(problem.message))
            for value, problem in sorted(found.items())[:MAX_PROBLEM_UNITS]
        ],
    )


def service_status(grid: ServiceGrid, units: int, problem: Problem | None, *, now: datetime) -> ServiceGridStatus:
    """Return the status of a ServiceGrid with `units` units, whose Service is as wanted but for `problem`."""
    name = grid.wanted_service_name()
    if problem is None:
        ready: _State = ("True", "ServiceApplied", f"Service {name} is applied; each unit sees its own endpoints.")
    else:
        ready = ("False", problem.reason, _bounded(problem.message))
    states = {READY: ready, DEGRADED: _degraded({} if problem is None else {"": problem})}
    return ServiceGridStatus(
        observed_generation=grid.metadata.generation,
        service_name=name,
        units=units,
        conditions=_conditions(states, grid.status.conditions, grid.metadata.generation, now),
    )


def is_updated(child: Deployment) -> bool:
    """Tell whether the Deployment runs nothing but its current template (as `kubectl rollout status` does)."""
    status = child.status
    return (
        status.observed_generation >= child.metadata.generation
        and status.updated_replicas >= child.spec.replicas
        and status.replicas <= status.updated_replicas
    )


def is_ready(child: Deployment) -> bool:
    """Tell whether all pods that the Deployment is to have are ready."""
    status = child.status
    return status.observed_generation >= child.metadata.generation and status.ready_replicas >= child.spec.replicas


def _own_problem(child: Deployment) -> Problem | None:
    """Return what the Deployment's own conditions complain of: pods refused (quota), or no progress."""
    for condition in child.status.conditions:
        failed = (condition.type == "ReplicaFailure" and condition.status == "True") or (
            condition.type == "Progressing" and condition.status == "False"
        )
        if failed:
            return Problem(condition.reason or condition.type, condition.message)
    return None


def _ready(grid: DeploymentGrid, units: Iterable[str], ready: set[str], problems: Mapping[str, Problem]) -> _State:
    waiting = [value for value in units if value not in ready]
    total = len(ready) + len(waiting)
    if problems:
        _, reason, message = _degraded(problems)
        return ("False", reason, message)
    if not total:
        return (
            "False",
            "NoUnits",
            f"no node carries the label {grid.spec.grid_uniq_key}: label the nodes of each unit",
        )
    if waiting:
        return ("False", "UnitsNotReady", f"{len(ready)} of {total} units are ready; not ready: {_names(waiting)}")
    return ("True", "UnitsReady", f"all {total} units are ready")


def _progressing(units: Mapping[str, Deployment | None], updated: set[str]) -> _State:
    behind = [value for value in units if value not in updated]
    if behind:
        return (
            "True",
            "UnitsUpdating",
            f"{len(updated)} of {len(units)} units run the current template; not yet: {_names(behind)}",
        )
    return ("False", "UnitsUpdated", f"all {len(units)} units run the current template")


def _degraded(problems: Mapping[str, Problem]) -> _State:
    if not problems:
        return ("False", "AsExpected", "no unit has a problem")
    value, problem = min(problems.items())
    where = f"unit {value}: " if value else ""
    more = f" ({len(problems) - 1} more units have a problem)" if len(problems) > 1 else ""
    return ("True", problem.reason, _bounded(f"{where}{problem.message}", MAX_MESSAGE - len(more)) + more)


def _names(values: list[str]) -> str:
    shown = ", ".join(values[:3])
    return shown if len(values) <= 3 else f"{shown} and {len(values) - 3} more"


def _bounded(text: str, limit: int = MAX_MESSAGE) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


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
