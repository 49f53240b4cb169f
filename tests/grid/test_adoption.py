"""Children that were taken over from SuperEdge keep their pod template for as long as the grid's is what it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.superedge import SuperEdgeDeploymentGrid
from sitegrid.grid.adoption import ADOPTED, template_mark
from sitegrid.grid.applied import Verdicts
from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.kinds import SUPEREDGE_DEPLOYMENT
from sitegrid.grid.observed import Workload
from sitegrid.grid.overrides import Unit
from sitegrid.grid.plan import Observed, Update, plan_workloads
from sitegrid.grid.units import UnitInfo
from sitegrid.grid.workload import WantedChild, wanted_child

UNIT = Unit("zone", "hz")
TEMPLATE: dict[str, Any] = {
    "replicas": 2,
    "selector": {"matchLabels": {"appGrid": "echo"}},
    "strategy": {},
    "template": {
        "metadata": {"creationTimestamp": None, "labels": {"appGrid": "echo", "superedge.io/template-hash-key": "1"}},
        "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "echo", "image": "echo:1"}]},
    },
}


def _wanted(grid: Any, adopted: str) -> dict[str, Any]:
    made = wanted_child(SUPEREDGE_DEPLOYMENT, grid, UNIT, (), adopted)
    assert isinstance(made, WantedChild)
    return made.manifest


@pytest.fixture
def grid(make_grid: Any) -> Any:
    """A grid of SuperEdge's."""
    return make_grid(kind=SuperEdgeDeploymentGrid, template=TEMPLATE)


def test_pod_template_is_superedges(grid: Any) -> None:
    """The template and the unit's node selector, and nothing of ours: no label, no toleration."""
    spec = _wanted(grid, template_mark(TEMPLATE))["spec"]
    assert spec["selector"] == TEMPLATE["selector"]
    assert spec["template"]["metadata"] == TEMPLATE["template"]["metadata"]
    assert spec["template"]["spec"] == {
        **TEMPLATE["template"]["spec"],
        "nodeSelector": {"disk": "ssd", "zone": "hz"},
    }


def test_mark_is_of_the_pod_template_alone() -> None:
    """Replicas and strategy are not in it: changing them restarts no pod, and brings nothing into the pods."""
    assert template_mark(TEMPLATE) == template_mark({**TEMPLATE, "replicas": 5, "strategy": {"type": "Recreate"}})
    other = {**TEMPLATE["template"], "metadata": {}}
    assert template_mark(TEMPLATE) != template_mark({**TEMPLATE, "template": other})


def test_next_template_brings_tolerations_and_never_the_label(grid: Any) -> None:
    """With another template the pods restart anyway, and then stay in a site that is cut off; the selector stays."""
    spec = _wanted(grid, template_mark({}))["spec"]
    assert [item["key"] for item in spec["template"]["spec"]["tolerations"]] == [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ]
    assert spec["selector"] == TEMPLATE["selector"]
    assert spec["template"]["metadata"]["labels"] == TEMPLATE["template"]["metadata"]["labels"]


@pytest.mark.parametrize("mark", [template_mark(TEMPLATE), ""], ids=["taken-over", "made"])
def test_plan_goes_by_the_mark_on_the_child(grid: Any, observe: Callable[..., Workload], mark: str) -> None:
    """The planner gives the shape to the child that has the mark, and to no other."""
    wanted = _wanted(grid, mark)
    notes = {ADOPTED: mark} if mark else {}
    child = observe({**wanted, "metadata": {**wanted["metadata"], "annotations": notes}})
    plan = plan_workloads(
        Blueprint(SUPEREDGE_DEPLOYMENT, grid),
        grid,
        {"hz": UnitInfo(UNIT, frozenset({"node"}))},
        Observed([child], lambda kind, name: child, lambda kind, uid: []),
        now=datetime(2026, 1, 1, tzinfo=UTC),
        verdicts=Verdicts(),
    )
    (action,) = plan.actions
    assert isinstance(action, Update)
    assert action.manifest["spec"] == wanted["spec"]


def test_budget_and_autoscaler_are_told_apart(make_grid: Any) -> None:
    """Of a child that selects all units' pods nothing is said beside it; the user reads why."""
    grid = make_grid(kind=SuperEdgeDeploymentGrid, template=TEMPLATE, podDisruptionBudget={"minAvailable": 1})
    blueprint = Blueprint(SUPEREDGE_DEPLOYMENT, grid)
    wanted = blueprint.child(UNIT, template_mark(TEMPLATE))
    present = ObjectMeta(name="grid-hz", namespace="default", uid="u", annotations={ADOPTED: "mark"})
    assert isinstance(wanted, tuple)
    (problem,) = blueprint.companions(UNIT, wanted, present).values()
    assert getattr(problem, "reason", "") == "SharedSelector"
