"""Budgets and autoscalers beside a child."""

from __future__ import annotations

from typing import Any

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.workloads import DaemonSetGrid
from sitegrid.grid.companions import wanted_companions
from sitegrid.grid.kinds import (
    DAEMON_SET,
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    POD_DISRUPTION_BUDGET,
    WorkloadKind,
)
from sitegrid.grid.overrides import Unit
from sitegrid.grid.problem import Problem
from sitegrid.grid.workload import WantedChild, wanted_child

PRESENT = ObjectMeta(name="grid-one", namespace="default", uid="child")


def _companions(kind: WorkloadKind, grid: Any, **values: str) -> tuple[dict[str, Any], dict[str, Any]]:
    unit = Unit("zone", "one", values=values)
    child = wanted_child(kind, grid, unit)
    assert isinstance(child, WantedChild)
    made = wanted_companions(grid, unit, child.manifest, PRESENT)
    return child.manifest, {item.kind: manifest for item, manifest in made.items()}


def test_nothing_is_made_unasked(make_grid: Any) -> None:
    """A grid that does not ask has neither."""
    assert _companions(DEPLOYMENT, make_grid())[1] == {}


def test_budget_selects_what_the_child_selects(make_grid: Any) -> None:
    """The unit's pods and no others, of a DaemonSet too; it is the child's and goes with it."""
    template = {"selector": {"matchLabels": {"app": "log"}}, "template": {}}
    grid = make_grid(kind=DaemonSetGrid, template=template, podDisruptionBudget={"maxUnavailable": "10%"})
    child, made = _companions(DAEMON_SET, grid)
    budget = made[POD_DISRUPTION_BUDGET.kind]
    assert budget["spec"] == {"maxUnavailable": "10%", "selector": child["spec"]["selector"]}
    assert budget["metadata"]["name"] == "grid-one-daemonset"
    assert budget["metadata"]["labels"] == child["metadata"]["labels"]
    (owner,) = budget["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("DaemonSet", "child", True)


def test_autoscaler_scales_the_child(make_grid: Any) -> None:
    """Its target is the unit's child, whose replicas are then left out, unless nothing is to run."""
    grid = make_grid(autoscaling={"maxReplicas": 3})
    child, made = _companions(DEPLOYMENT, grid)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "grid-one"}
    assert made[HORIZONTAL_POD_AUTOSCALER.kind]["spec"] == {"maxReplicas": 3, "scaleTargetRef": target}
    assert "replicas" not in child["spec"]
    grid.spec.template["replicas"] = 0
    assert _companions(DEPLOYMENT, grid)[0]["spec"]["replicas"] == 0


def test_values_of_the_unit(make_grid: Any) -> None:
    """A value is put in as in templates, and as a number where it is one and stands alone."""
    grid = make_grid(
        podDisruptionBudget={"minAvailable": "$(unit.values.part)%"},
        autoscaling={"maxReplicas": "$(unit.values.max)", "minReplicas": 1},
    )
    _, made = _companions(DEPLOYMENT, grid, part="40", max="12")
    assert made[POD_DISRUPTION_BUDGET.kind]["spec"]["minAvailable"] == "40%"
    assert made[HORIZONTAL_POD_AUTOSCALER.kind]["spec"]["maxReplicas"] == 12


def test_value_that_the_unit_does_not_have(make_grid: Any) -> None:
    """The budget has a problem that names the field; the autoscaler is made."""
    grid = make_grid(podDisruptionBudget={"minAvailable": "$(unit.values.min)"}, autoscaling={"maxReplicas": 3})
    _, made = _companions(DEPLOYMENT, grid)
    problem = made[POD_DISRUPTION_BUDGET.kind]
    assert isinstance(problem, Problem)
    assert problem.reason == "TemplateInvalid"
    assert problem.message.startswith("spec.podDisruptionBudget: minAvailable: '$(unit.values.min)' is not known")
    assert made[HORIZONTAL_POD_AUTOSCALER.kind]["spec"]["maxReplicas"] == 3
