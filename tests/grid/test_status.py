"""What users read of a grid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sitegrid.api.grids import ServiceGrid
from sitegrid.api.meta import ManagedMeta, ObjectMeta
from sitegrid.api.status import MAX_PROBLEM_UNITS, Condition, GridStatus
from sitegrid.grid.observed import Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus
from sitegrid.grid.problem import Problem
from sitegrid.grid.status import MAX_MESSAGE, is_ready, is_updated, service_status, workload_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _child(replicas: int = 2, generation: int = 1, **status: Any) -> Deployment:
    found = {"observed_generation": 1, "replicas": 2, "updated_replicas": 2, "ready_replicas": 2, **status}
    return Deployment(
        metadata=ManagedMeta(name="child", generation=generation),
        spec=DeploymentSpec(replicas=replicas),
        status=DeploymentStatus(**found),
    )


def _condition(status: GridStatus, type: str) -> Condition:
    return next(condition for condition in status.conditions if condition.type == type)


def test_all_units_ready(make_grid: Any) -> None:
    """Every count and condition of a healthy grid."""
    status = workload_status(make_grid(), {"one": _child(), "two": _child()}, {}, now=NOW)
    assert (status.observed_generation, status.units, status.updated_units, status.ready_units) == (1, 2, 2, 2)
    assert [(c.type, c.status, c.reason) for c in status.conditions] == [
        ("Ready", "True", "UnitsReady"),
        ("Progressing", "False", "UnitsUpdated"),
        ("Degraded", "False", "AsExpected"),
    ]
    assert status.problem_units == []


@pytest.mark.parametrize(
    ("child", "updated", "ready"),
    [
        (_child(), True, True),
        (_child(ready_replicas=1), True, False),
        (_child(generation=2), False, False),
        (_child(updated_replicas=1), False, True),
        (_child(replicas=3), False, False),
    ],
)
def test_units_state(child: Deployment, updated: bool, ready: bool) -> None:
    """When a unit counts as updated and as ready; a status of an older generation says neither."""
    assert (is_updated(child), is_ready(child)) == (updated, ready)


def test_missing_and_waiting_units_are_named(make_grid: Any) -> None:
    """Ready and Progressing say which units are behind."""
    status = workload_status(make_grid(), {"one": None, "two": _child()}, {}, now=NOW)
    assert _condition(status, "Ready").reason == "UnitsNotReady"
    assert _condition(status, "Ready").message == "1 of 2 units are ready; not ready: one"
    assert _condition(status, "Progressing").status == "True"


def test_key_without_units_is_told(make_grid: Any) -> None:
    """A mistyped key has no units, and the user is told what to do."""
    ready = _condition(workload_status(make_grid(), {}, {}, now=NOW), "Ready")
    assert (ready.status, ready.reason) == ("False", "NoUnits")
    assert "label zone" in ready.message


def test_problem_is_named_with_its_unit(make_grid: Any) -> None:
    """Degraded and Ready carry the reason of the first unit with a problem, and count the rest."""
    problems = {f"u{n:02}": Problem("Invalid", "no selector") for n in range(30)}
    status = workload_status(make_grid(), dict.fromkeys(problems), problems, now=NOW)
    degraded = _condition(status, "Degraded")
    assert (degraded.status, degraded.reason) == ("True", "Invalid")
    assert degraded.message == "unit u00: no selector (29 more units have a problem)"
    assert _condition(status, "Ready").reason == "Invalid"
    assert [unit.name for unit in status.problem_units] == [f"u{n:02}" for n in range(MAX_PROBLEM_UNITS)]


def test_messages_are_bounded(make_grid: Any) -> None:
    """An API server that quotes a template does not fill the status."""
    problems = {"one": Problem("Invalid", "x" * 100_000), "two": Problem("Invalid", "y" * 100_000)}
    status = workload_status(make_grid(), dict.fromkeys(problems), problems, now=NOW)
    assert len(msgspec.json.encode(status)) < 6 * MAX_MESSAGE


@pytest.mark.parametrize(
    "condition",
    [
        DeploymentCondition(type="ReplicaFailure", status="True", reason="FailedCreate", message="exceeded quota"),
        DeploymentCondition(type="Progressing", status="False", reason="FailedCreate", message="exceeded quota"),
    ],
)
def test_childs_own_complaint_is_the_units_problem(make_grid: Any, condition: DeploymentCondition) -> None:
    """Pods refused by a quota are seen on the grid."""
    status = workload_status(make_grid(), {"one": _child(conditions=[condition])}, {}, now=NOW)
    assert _condition(status, "Degraded").message == "unit one: exceeded quota"


def test_transition_time_moves_only_with_the_status(make_grid: Any) -> None:
    """The same state later is the same status, which is then not written (I7); another one has its own time."""
    grid = make_grid()
    grid.status = workload_status(grid, {"one": _child()}, {}, now=NOW)
    later = NOW + timedelta(hours=1)
    assert workload_status(grid, {"one": _child()}, {}, now=later) == grid.status
    changed = workload_status(grid, {"one": None}, {}, now=later)
    assert _condition(changed, "Ready").last_transition_time == "2026-01-01T01:00:00Z"
    assert _condition(changed, "Degraded").last_transition_time == "2026-01-01T00:00:00Z"


def test_status_survives_the_wire(make_grid: Any) -> None:
    """What is written and read back is equal, or it would be written again."""
    status = workload_status(make_grid(), {"one": None}, {"one": Problem("R", "m")}, now=NOW)
    assert msgspec.json.decode(msgspec.json.encode(status), type=GridStatus) == status


def _service_grid() -> ServiceGrid:
    grid = msgspec.convert({"metadata": {}, "spec": {"gridUniqKey": "zone", "template": {}}}, ServiceGrid)
    grid.metadata = ObjectMeta(name="demo", generation=3)
    return grid


def test_service_status() -> None:
    """A ServiceGrid names its Service and counts its units."""
    status = service_status(_service_grid(), 2, None, now=NOW)
    assert (status.service_name, status.units, status.observed_generation) == ("demo-svc", 2, 3)
    assert [(c.type, c.status) for c in status.conditions] == [("Ready", "True"), ("Degraded", "False")]


def test_service_problem_is_told() -> None:
    """A Service that could not be made is the grid's condition, without a unit's name."""
    status = service_status(_service_grid(), 2, Problem("NameConflict", "taken"), now=NOW)
    assert [(c.status, c.reason, c.message) for c in status.conditions] == [
        ("False", "NameConflict", "taken"),
        ("True", "NameConflict", "taken"),
    ]
