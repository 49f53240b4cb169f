"""What users read of a grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sitegrid.api.meta import ManagedMeta, ObjectMeta
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.status import Condition, GridStatus, ServiceGridStatus, UnitEndpoints
from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.endpointcounts import EndpointCount
from sitegrid.grid.kinds import DEPLOYMENT
from sitegrid.grid.observed import Workload, WorkloadCondition, WorkloadSpec, WorkloadStatus
from sitegrid.grid.plan import Plan
from sitegrid.grid.problem import Problem
from sitegrid.grid.status import MAX_MESSAGE, Report, ServiceReport, service_status, workload_status
from sitegrid.grid.units import units_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _child(replicas: int = 2, generation: int = 1, **status: Any) -> Workload:
    found = {"observed_generation": 1, "replicas": 2, "updated_replicas": 2, "ready_replicas": 2, **status}
    return Workload(
        metadata=ManagedMeta(name="child", generation=generation),
        spec=WorkloadSpec(replicas=replicas),
        status=WorkloadStatus(**found),
    )


def _status(
    grid: Any,
    children: dict[str, Workload | None],
    problems: dict[str, Problem] | None = None,
    *,
    now: datetime = NOW,
    failures: dict[str, Problem] | None = None,
    **plan: Any,
) -> GridStatus:
    """Return the status after a plan that found `children` and `problems`."""
    found = Plan(children=children, problems=problems or {}, **plan)
    return _report(grid, found, failures=failures or {}, now=now).status


def _report(grid: Any, plan: Plan, *, failures: dict[str, Problem] | None = None, now: datetime = NOW) -> Report:
    units = units_of("zone", [(f"node-{value}", {"zone": value}) for value in plan.children])
    return workload_status(Blueprint(DEPLOYMENT, grid), grid, units, plan, failures or {}, now=now)


def _condition(status: GridStatus, type: str) -> Condition:
    return next(condition for condition in status.conditions if condition.type == type)


def test_all_units_ready(make_grid: Any) -> None:
    """Every count and condition of a healthy grid."""
    status = _status(make_grid(), {"one": _child(), "two": _child()})
    assert (status.observed_generation, status.units, status.updated_units, status.ready_units) == (1, 2, 2, 2)
    assert [(c.type, c.status, c.reason) for c in status.conditions] == [
        ("Ready", "True", "UnitsReady"),
        ("Progressing", "False", "UnitsUpdated"),
        ("Degraded", "False", "AsExpected"),
    ]
    assert [(unit.name, unit.state, unit.ready_replicas) for unit in status.unit_states] == [
        ("one", "Ready", 2),
        ("two", "Ready", 2),
    ]
    assert (status.unavailable_units, status.unit_states_omitted) == (0, 0)


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
def test_units_state(make_grid: Any, child: Workload, updated: bool, ready: bool) -> None:
    """When a unit counts as updated and as ready; a status of an older generation says neither."""
    status = _status(make_grid(), {"one": child})
    assert (status.updated_units, status.ready_units) == (updated, ready)


def test_missing_and_waiting_units_are_named(make_grid: Any) -> None:
    """Ready and Progressing say which units are behind."""
    status = _status(make_grid(), {"one": None, "two": _child()})
    assert _condition(status, "Ready").reason == "UnitsNotReady"
    assert _condition(status, "Ready").message == "1 of 2 units are ready; not ready: one"
    assert _condition(status, "Progressing").status == "True"
    assert [(unit.name, unit.state) for unit in status.unit_states] == [("one", "Progressing"), ("two", "Ready")]
    assert status.unavailable_units == 1


def test_key_without_units_is_told(make_grid: Any) -> None:
    """A mistyped key has no units, and the user is told what to do."""
    ready = _condition(_status(make_grid(), {}), "Ready")
    assert (ready.status, ready.reason) == ("False", "NoUnits")
    assert ready.message.endswith("kubectl label node NODE zone=UNIT")
    assert _condition(_status(make_grid(), {}), "Progressing").message == "there is no unit"


def test_problem_is_named_with_its_unit(make_grid: Any) -> None:
    """Degraded and Ready carry the reason of the worst unit with a problem, and count the rest."""
    problems = {f"u{n:02}": Problem("Invalid", "no selector") for n in range(30)}
    status = _status(make_grid(), dict.fromkeys(problems), problems)
    degraded = _condition(status, "Degraded")
    assert (degraded.status, degraded.reason) == ("True", "Invalid")
    assert degraded.message == "unit u00: no selector (29 more units have a problem)"
    assert _condition(status, "Ready").reason == "Invalid"
    assert [(unit.name, unit.state, unit.message) for unit in status.unit_states][:2] == [
        ("u00", "Degraded", "no selector"),
        ("u01", "Degraded", "no selector"),
    ]
    assert len(status.unit_states) == 30


def test_worst_unit_is_told_first(make_grid: Any) -> None:
    """A unit that serves nothing is worse than one that keeps running what it had."""
    problems = {"a": Problem("OverrideInvalid", "a"), "b": Problem("Forbidden", "quota")}
    status = _status(make_grid(), {"a": _child(), "b": None}, failures=problems)
    assert _condition(status, "Degraded").reason == "Forbidden"


def test_suspended_units_are_told(make_grid: Any) -> None:
    """A unit in maintenance is no progress to wait for, and is named."""
    status = _status(make_grid(), {"a": _child(), "b": _child()}, suspended={"b"}, outdated={"b"})
    progressing = _condition(status, "Progressing")
    assert (progressing.status, progressing.reason) == ("False", "UnitsSuspended")
    assert progressing.message == "1 of 2 units run the current template; suspended: b"
    assert [(unit.name, unit.state) for unit in status.unit_states] == [("b", "Suspended"), ("a", "Ready")]


@pytest.mark.parametrize(
    ("plan", "moving"),
    [
        (Plan(children={"a": _child()}), False),
        (Plan(children={}), False),
        (Plan(children={"a": _child(), "b": _child(ready_replicas=1)}), True),
        (Plan(children={"a": _child(generation=2)}), True),
        (Plan(children={"a": None}), True),
        (Plan(children={"a": _child()}, outdated={"a"}), True),
        (Plan(children={"a": _child()}, outdated={"a"}, suspended={"a"}), False),
        (Plan(children={"a": None}, outdated={"a"}, problems={"a": Problem("Bad", "it is")}), False),
    ],
)
def test_motion_is_told_from_rest(make_grid: Any, plan: Plan, moving: bool) -> None:
    """A unit that will be ready by itself is in motion; one with a problem, or suspended, is not."""
    assert _report(make_grid(), plan).moving is moving


def test_names_that_no_unit_has_are_told(make_grid: Any) -> None:
    """An override for a site that is yet to come is no error, and visible."""
    override = {"units": {"names": ["one", "later"]}, "replicas": 1}
    status = _status(make_grid(overrides=[override]), {"one": _child()})
    assert status.unknown_units == ["later"]
    assert _condition(status, "Degraded").status == "False"
    degraded = _condition(status, "Degraded")
    assert (degraded.status, degraded.reason) == ("False", "AsExpected")
    assert degraded.message == "no unit has a problem; the spec names units that there are not: later"


def test_unused_templates_are_told(make_grid: Any) -> None:
    """Entries of templatePool that nothing names, whether or not their units exist."""
    pool = {name: {"replicas": 1} for name in ("canary", "default-one", "left", "default")}
    grid = make_grid(templatePool=pool, templates={"later": "canary"}, defaultTemplateName="default-one")
    assert _status(grid, {"one": _child()}).unused_templates == ["default", "left"]


def test_five_thousand_units_stay_a_small_object(make_grid: Any) -> None:
    """With the longest names and messages the status stays far below 256 KB, and says how many are left out."""
    children: dict[str, Workload | None] = {f"{n:05}".rjust(63, "u"): _child() for n in range(5000)}
    failures = {value: Problem("Forbidden", "x" * 5000) for value in [*children][4000:]}
    status = _status(make_grid(), children, failures=failures)
    assert len(msgspec.json.encode(status)) < 128 * 1024
    assert {unit.state for unit in status.unit_states} == {"Degraded"}
    assert len(status.unit_states) + status.unit_states_omitted == 5000
    assert (status.units, status.ready_units) == (5000, 5000)


def test_hundreds_of_units_are_all_told(make_grid: Any) -> None:
    """A grid of 500 units leaves none out."""
    status = _status(make_grid(), {f"site-{n}": _child() for n in range(500)})
    assert (len(status.unit_states), status.unit_states_omitted) == (500, 0)


def test_messages_are_bounded(make_grid: Any) -> None:
    """An API server that quotes a template does not fill the status."""
    problems = {"one": Problem("Invalid", "x" * 100_000), "two": Problem("Invalid", "y" * 100_000)}
    status = _status(make_grid(), dict.fromkeys(problems), problems)
    assert len(msgspec.json.encode(status)) < 6 * MAX_MESSAGE


@pytest.mark.parametrize(
    "condition",
    [
        WorkloadCondition(type="ReplicaFailure", status="True", reason="FailedCreate", message="exceeded quota"),
        WorkloadCondition(type="Progressing", status="False", reason="FailedCreate", message="exceeded quota"),
    ],
)
def test_childs_own_complaint_is_the_units_problem(make_grid: Any, condition: WorkloadCondition) -> None:
    """Pods refused by a quota are seen on the grid."""
    status = _status(make_grid(), {"one": _child(conditions=[condition])})
    assert _condition(status, "Degraded").message == "unit one: exceeded quota"


def test_transition_time_moves_only_with_the_status(make_grid: Any) -> None:
    """The same state later is the same status, which is then not written (I7); another one has its own time."""
    grid = make_grid()
    grid.status = _status(grid, {"one": _child()})
    later = NOW + timedelta(hours=1)
    assert _status(grid, {"one": _child()}, now=later) == grid.status
    changed = _status(grid, {"one": None}, now=later)
    assert _condition(changed, "Ready").last_transition_time == "2026-01-01T01:00:00Z"
    assert _condition(changed, "Degraded").last_transition_time == "2026-01-01T00:00:00Z"


def test_status_survives_the_wire(make_grid: Any) -> None:
    """What is written and read back is equal, or it would be written again."""
    status = _status(make_grid(), {"one": None}, {"one": Problem("R", "m")})
    assert msgspec.json.decode(msgspec.json.encode(status), type=GridStatus) == status


def _service_grid(**template: Any) -> ServiceGrid:
    grid = msgspec.convert({"metadata": {}, "spec": {"gridUniqKey": "zone", "template": template}}, ServiceGrid)
    grid.metadata = ObjectMeta(name="demo", generation=3)
    return grid


UNITS = units_of("zone", [("a", {"zone": "one"}), ("b", {"zone": "two"})])


def _service_status(
    problems: Mapping[str, Problem], used: Mapping[str, str], unknown: Collection[str] = ()
) -> ServiceGridStatus:
    grid = _service_grid(selector={"a": "b"})
    return service_status(grid, UNITS, problems, used=used, unknown=unknown, now=NOW).status


def test_service_status() -> None:
    """A ServiceGrid names its Service and counts its units."""
    status = _service_status({}, {})
    assert (status.service_name, status.units, status.observed_generation) == ("demo-svc", 2, 3)
    assert [(c.type, c.status) for c in status.conditions] == [("Ready", "True"), ("Degraded", "False")]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"selector": {"a": "b"}}, "each unit sees its own endpoints"),
        ({"type": "ExternalName"}, "it is an external name, the same for all units"),
    ],
)
def test_a_service_says_whose_endpoints_it_has(template: dict[str, Any], said: str) -> None:
    """It is said where one looks."""
    status = service_status(_service_grid(**template), UNITS, {}, used={}, unknown=(), now=NOW).status
    assert status.conditions[0].message == f"Service demo-svc is applied; {said}"


@pytest.mark.parametrize("template", [{}, {"selector": {}}, {"selector": None, "type": "NodePort"}])
def test_a_service_without_a_selector_is_not_ready(template: dict[str, Any]) -> None:
    """Nobody could ever be reached by it."""
    status = service_status(_service_grid(**template), UNITS, {}, used={}, unknown=(), now=NOW).status
    assert {(c.type, c.status, c.reason) for c in status.conditions} == {
        ("Ready", "False", "NoSelector"),
        ("Degraded", "True", "NoSelector"),
    }


def _with_endpoints(endpoints: Mapping[str, EndpointCount] | None, **former: Any) -> ServiceReport:
    grid = _service_grid(selector={"a": "b"})
    grid.status = ServiceGridStatus(**former)
    return service_status(grid, UNITS, {}, sites="s", endpoints=endpoints, used={}, unknown=(), now=NOW)


def test_endpoints_of_each_unit_are_told() -> None:
    """Units without a ready one first, also those without any; others' units do not count."""
    report = _with_endpoints({"one": EndpointCount(1, 2), "gone": EndpointCount(3, 3)})
    assert report.status.unit_endpoints == [UnitEndpoints("two", 0, 0), UnitEndpoints("one", 1, 2)]
    assert (report.status.served_units, report.status.sites_service, report.moving) == (1, "s", True)
    assert not _with_endpoints({"one": EndpointCount(1, 1), "two": EndpointCount(2, 2)}).moving


def test_endpoints_that_are_not_known_yet_stay_as_they_were_told() -> None:
    """A controller that has just begun to lead writes no status that says there are none."""
    told = [UnitEndpoints("one", 2, 2), UnitEndpoints("two", 2, 2)]
    status = _with_endpoints(None, unit_endpoints=told, served_units=2).status
    assert (status.unit_endpoints, status.served_units) == (told, 2)


def test_service_problem_is_told() -> None:
    """A Service that could not be made is the grid's condition, without a unit's name."""
    status = _service_status({"": Problem("NameConflict", "taken"), "one": Problem("FallbackInvalid", "odd")}, {})
    more = " (1 more unit has a problem)"
    assert [(c.status, c.reason, c.message) for c in status.conditions] == [
        ("False", "NameConflict", f"taken{more}"),
        ("True", "NameConflict", f"taken{more}"),
    ]


def test_a_units_problem_with_a_service_names_the_unit() -> None:
    """The same condition, with the unit."""
    status = _service_status({"one": Problem("FallbackInvalid", "odd")}, {})
    assert [c.message for c in status.conditions] == ["unit one: odd"] * 2


def test_units_in_fallback_are_listed_and_counted() -> None:
    """In order, at most a hundred, and all of them counted; names that no unit has likewise."""
    used = {f"u{number:03d}": "hub" for number in range(150)}
    status = _service_status({}, used, {f"x{number:03d}" for number in range(150)})
    assert status.fallback_units == 150
    assert [(item.unit, item.to) for item in status.fallbacks] == [(f"u{n:03d}", "hub") for n in range(100)]
    assert status.unknown_units == [f"x{n:03d}" for n in range(100)]
