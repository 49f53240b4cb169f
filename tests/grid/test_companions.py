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
from sitegrid.grid.workload import WantedChild, wanted_child

PRESENT = ObjectMeta(name="grid-one", namespace="default", uid="child")


def _companions(kind: WorkloadKind, grid: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    child = wanted_child(kind, grid, Unit("zone", "one"))
    assert isinstance(child, WantedChild)
    made = wanted_companions(grid, child.manifest, PRESENT)
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
