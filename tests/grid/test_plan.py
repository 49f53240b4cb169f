"""Plans: what is missing is made, what differs is applied, and then there is nothing left to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import OwnerReference, timestamp
from sitegrid.api.workloads import DaemonSetGrid, DeploymentGrid, StatefulSetGrid, WorkloadGrid
from sitegrid.grid.applied import Verdicts
from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.kinds import DEPLOYMENT, WORKLOAD_KINDS
from sitegrid.grid.observed import Workload
from sitegrid.grid.overrides import Unit
from sitegrid.grid.plan import LEFT_OUT, Annotate, Create, Delete, Observed, Plan, Update, plan_workloads
from sitegrid.grid.removal import UNIT_GONE_SINCE
from sitegrid.grid.units import UnitInfo
from sitegrid.wire.labels import UNIT, unit_id

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
_values = st.sets(st.sampled_from(["one", "two", "NodeUnit1", "nodeunit1", "a_b", "A.B", "x" * 63]), max_size=5)
Observe = Callable[..., Workload]


def _units(values: set[str], suspended: set[str]) -> dict[str, UnitInfo]:
    return {
        value: UnitInfo(Unit("zone", value, {"zone": value}), frozenset({"node"}), value in suspended)
        for value in sorted(values)
    }


def _plan(
    grid: Any,
    units: set[str],
    children: list[Workload],
    *others: Workload,
    now: datetime = NOW,
    suspended: frozenset[str] = frozenset(),
) -> Plan:
    known = {child.metadata.name: child for child in (*children, *others)}
    return plan_workloads(
        Blueprint(WORKLOAD_KINDS[grid.KIND], grid),
        grid,
        _units(units, {*suspended}),
        Observed(children, lambda kind, name: known.get(name), lambda kind, uid: []),
        now=now,
        verdicts=Verdicts(),
    )


def _carried_out(grid: Any, units: set[str], observe: Observe) -> list[Workload]:
    """Return the children after the first plan was carried out."""
    return [observe(action.manifest) for action in _plan(grid, units, []).actions if isinstance(action, Create)]


@given(_values)
def test_every_unit_gets_one_child(make_grid: Any, units: set[str]) -> None:
    """One Create per unit, and nothing else."""
    plan = _plan(make_grid(), units, [])
    assert {action.unit for action in plan.actions} == units
    assert all(isinstance(action, Create) for action in plan.actions)
    assert plan.children == dict.fromkeys(units)


@given(_values)
def test_carried_out_plan_leaves_nothing(make_grid: Any, observe: Observe, units: set[str]) -> None:
    """A second pass plans nothing (reaches the wanted state and stays)."""
    grid = make_grid()
    assert _plan(grid, units, _carried_out(grid, units, observe)).actions == []


@given(_values, _values)
def test_other_units_coming_and_going_change_no_child(
    make_grid: Any, observe: Observe, units: set[str], others: set[str]
) -> None:
    """The children of units that stay are not written when other units come or go (I4)."""
    grid = make_grid()
    plan = _plan(grid, others, _carried_out(grid, units, observe))
    touched = {action.unit for action in plan.actions if isinstance(action, Create | Update | Delete)}
    assert touched == others - units


@given(_values)
def test_children_select_disjoint_units(make_grid: Any, units: set[str]) -> None:
    """Every child selects exactly its own unit's pods."""
    selected = [
        action.manifest["spec"]["selector"]["matchLabels"]["tkeedge.io/unit"]
        for action in _plan(make_grid(), units, []).actions
        if isinstance(action, Create)
    ]
    assert len(set(selected)) == len(units)


_patches = st.fixed_dictionaries(
    {},
    optional={
        "minReadySeconds": st.integers(0, 3),
        "template": st.fixed_dictionaries(
            {},
            optional={
                "metadata": st.just({"labels": {"x": "y", "app": None}}),
                "spec": st.sampled_from([{"nodeSelector": {"disk": "ssd"}}, {"nodeSelector": None}, {"volumes": []}]),
            },
        ),
    },
)


@given(
    st.sampled_from([DeploymentGrid, StatefulSetGrid, DaemonSetGrid]),
    _values,
    st.lists(st.tuples(_values, _patches), max_size=3),
)
def test_whatever_is_overridden_a_child_has_its_units_pods_only(
    make_grid: Any, observe: Observe, grid_type: type[WorkloadGrid], units: set[str], rules: list[Any]
) -> None:
    """Selector, pod labels and pinning of every kind name the unit and nothing else; a second pass plans nothing."""
    overrides = [{"units": {"names": sorted(names)}, "patch": patch} for names, patch in rules if names]
    grid = make_grid(kind=grid_type, overrides=overrides)
    plan = _plan(grid, units, [])
    made = [action for action in plan.actions if isinstance(action, Create)]
    assert {action.unit for action in made} == units
    for action in made:
        spec, unit = action.manifest["spec"], unit_id("zone", action.unit)
        assert spec["selector"]["matchLabels"] == {"app": "web", UNIT: unit}
        assert spec["template"]["metadata"]["labels"][UNIT] == unit
        assert spec["template"]["spec"]["nodeSelector"]["zone"] == action.unit
    assert _plan(grid, units, [observe(action.manifest) for action in made]).actions == []


def test_changed_template_is_applied_to_every_unit(make_grid: Any, observe: Observe) -> None:
    """A new generation differs by its hash."""
    grid = make_grid()
    children = _carried_out(grid, {"one", "two"}, observe)
    grid.metadata.generation = 2
    grid.spec.template["replicas"] = 3
    plan = _plan(grid, {"one", "two"}, children)
    assert [type(action) for action in plan.actions] == [Update, Update]


def test_one_units_problem_is_its_own(make_grid: Any) -> None:
    """A unit that can have no child does not stop the others (I4)."""
    grid = make_grid()
    grid.spec.template["template"]["spec"]["nodeSelector"] = {"zone": "one"}
    plan = _plan(grid, {"one", "two"}, [])
    assert [action.unit for action in plan.actions] == ["one"]
    assert plan.problems["two"].reason == "NodeSelectorConflict"


def test_name_taken_by_another_grid_is_a_problem(make_grid: Any, observe: Observe) -> None:
    """A child of somebody else is told, and not touched (I3)."""
    grid = make_grid()
    (foreign,) = _carried_out(grid, {"one"}, observe)
    foreign.metadata.owner_references = [
        OwnerReference(kind="DeploymentGrid", name="other", uid="x", controller=True)
    ]
    plan = _plan(grid, {"one"}, [], foreign)
    assert plan.actions == []
    assert plan.problems["one"].reason == "NameConflict"
    assert "DeploymentGrid other" in plan.problems["one"].message


def test_child_of_a_gone_unit_is_marked_first(make_grid: Any, observe: Observe) -> None:
    """A relabelled node cannot wipe a site at once (I5)."""
    grid = make_grid()
    children = _carried_out(grid, {"one", "two"}, observe)
    plan = _plan(grid, {"two"}, children)
    (action,) = plan.actions
    assert isinstance(action, Annotate)
    assert (action.child.name, action.gone_since) == ("grid-one", NOW)
    assert plan.leaving == 1


def test_marked_child_waits_then_goes(make_grid: Any, observe: Observe) -> None:
    """The plan says when to come again, and deletes after the grace period."""
    grid = make_grid(removal={"gracePeriodSeconds": 60})
    children = _carried_out(grid, {"one"}, observe)
    children[0].metadata.annotations[UNIT_GONE_SINCE] = timestamp(NOW)
    waiting = _plan(grid, set(), children, now=NOW + timedelta(seconds=20))
    assert (waiting.actions, waiting.wake_in) == ([], 40)
    (action,) = _plan(grid, set(), children, now=NOW + timedelta(seconds=60)).actions
    assert isinstance(action, Delete)
    assert action.child.uid == children[0].metadata.uid


def test_unit_that_comes_back_keeps_its_child(make_grid: Any, observe: Observe) -> None:
    """The mark is taken off, and the child is not even applied again."""
    grid = make_grid()
    children = _carried_out(grid, {"one"}, observe)
    children[0].metadata.annotations[UNIT_GONE_SINCE] = timestamp(NOW - timedelta(days=1))
    (action,) = _plan(grid, {"one"}, children).actions
    assert action == Annotate("one", DEPLOYMENT.child, children[0].metadata, None)


def test_child_on_its_way_out_is_left_alone(make_grid: Any, observe: Observe) -> None:
    """A child that is being deleted is made again only when it is gone."""
    grid = make_grid()
    children = _carried_out(grid, {"one", "two"}, observe)
    for child in children:
        child.metadata.deletion_timestamp = timestamp(NOW)
    assert _plan(grid, {"one"}, children).actions == []


def test_left_out_unit_leaves_by_the_same_grace(make_grid: Any, observe: Observe) -> None:
    """A unit that spec.units leaves out is marked, and said to be left out and not to be without nodes."""
    children = _carried_out(make_grid(), {"one", "two"}, observe)
    grid = make_grid(units={"exclude": {"names": ["one"]}})
    (action,) = _plan(grid, {"one", "two"}, children).actions
    assert isinstance(action, Annotate)
    assert (action.child.name, action.gone_since, action.why) == ("grid-one", NOW, LEFT_OUT)


def test_units_that_cannot_be_told_change_nothing(make_grid: Any, observe: Observe) -> None:
    """With a selector that nobody understands no child is made, changed or deleted (I5)."""
    children = _carried_out(make_grid(), {"one", "two"}, observe)
    grid = make_grid(units={"include": {"selector": {"matchLabels": {"-bad-": "x"}}}})
    plan = _plan(grid, {"one", "three"}, children)
    assert plan.actions == []
    assert plan.problems[""].reason == "UnitsInvalid"


def test_suspended_unit_is_left_alone(make_grid: Any, observe: Observe) -> None:
    """Maintenance: no child is made, changed or deleted in the unit; the plan says that it is behind."""
    children = _carried_out(make_grid(), {"one", "two"}, observe)
    grid = make_grid()
    grid.spec.template["replicas"] = 5
    suspended = frozenset({"one", "three"})
    plan = _plan(grid, {"one", "two", "three"}, children, suspended=suspended)
    assert {action.unit for action in plan.actions} == {"two"}
    assert plan.suspended == {"one", "three"}
    assert {"one", "three"} <= plan.outdated
    excluded = make_grid(units={"exclude": {"names": ["one"]}}, removal={"gracePeriodSeconds": 0})
    assert _plan(excluded, {"one", "two"}, children, suspended=suspended).actions == []


@given(_values, st.sampled_from(["one", "a_b"]))
def test_override_of_one_unit_changes_no_other(
    make_grid: Any, observe: Observe, units: set[str], chosen: str
) -> None:
    """After an override is added, at most the child of its unit is written (I4)."""
    children = _carried_out(make_grid(), units, observe)
    patch = {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}
    grid = make_grid(overrides=[{"units": {"names": [chosen]}, "patch": patch}])
    assert {action.unit for action in _plan(grid, units, children).actions} == units & {chosen}


def test_bad_override_is_its_units_problem(make_grid: Any, observe: Observe) -> None:
    """An override that cannot be applied leaves its unit's child as it is, and all other units go on (I4)."""
    children = _carried_out(make_grid(), {"one", "two"}, observe)
    grid = make_grid(overrides=[{"units": {"names": ["one"]}, "patch": {"selector": {"matchLabels": {"a": "b"}}}}])
    grid.spec.template["replicas"] = 5
    plan = _plan(grid, {"one", "two"}, children)
    assert [action.unit for action in plan.actions] == ["two"]
    assert plan.problems["one"].reason == "OverrideInvalid"


def test_hand_made_change_is_a_repair(make_grid: Any, observe: Observe) -> None:
    """An update that the grid did not cause is told as one."""
    grid = make_grid()
    (child,) = _carried_out(grid, {"one"}, observe)
    child.metadata.managed_fields[0].fields_v1 = msgspec.Raw(b'{"f:metadata":{}}')
    (action,) = _plan(grid, {"one"}, [child]).actions
    assert isinstance(action, Update)
    assert action.repair


def test_replicas_that_are_given_up_are_released(make_grid: Any, observe: Observe) -> None:
    """A template that no longer says replicas leaves as many as there are, instead of Kubernetes' default of 1."""
    grid = make_grid()
    children = _carried_out(grid, {"one"}, observe)
    del grid.spec.template["replicas"]
    (action,) = _plan(grid, {"one"}, children).actions
    assert isinstance(action, Update)
    assert action.released_replicas == 2
