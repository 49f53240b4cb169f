"""All kinds of workload grid, with overrides, templates, budgets and autoscalers: crashes after every write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sitegrid.controller.queues import Queues, ServiceKey
from sitegrid.controller.triggers import Triggers
from sitegrid.kube.errors import ApiError
from tests.support.lives import crash_after_every_write

Make = Callable[..., Any]
BIG = {"units": {"names": ["one"]}, "name": "big", "replicas": 5}


def _all_kinds(scene: Any) -> None:
    for name, value in (("a", "one"), ("b", "two")):
        scene.node(name, value)
    asked = {"podDisruptionBudget": {"maxUnavailable": 1}}
    scene.workload("StatefulSetGrid", "db", overrides=[BIG], **asked)
    scene.workload("DaemonSetGrid", "log", **asked)
    pool = {"canary": {"selector": {"matchLabels": {"app": "web"}}, "template": {}}, "old": {}}
    scene.workload(
        "DeploymentGrid",
        templatePool=pool,
        templates={"one": "canary"},
        autoDeleteUnusedTemplate=True,
        autoscaling={"maxReplicas": 3},
    )


def _change(scene: Any) -> None:
    """Change the grids: an override, what is beside the children, who is chosen, and which template."""
    scene.workload("StatefulSetGrid", "db", overrides=[{**BIG, "replicas": 1}])
    scene.workload("DaemonSetGrid", "log", units={"exclude": {"names": ["two"]}}, removal={"gracePeriodSeconds": 0})
    scene.workload("DeploymentGrid", podDisruptionBudget={"minAvailable": 1})


async def test_crash_after_every_write(new_scene: Make, new_controller: Make) -> None:
    """Killed after any single write and started again, it reaches the same state, and stays."""

    async def prepare(scene: Any) -> None:
        _all_kinds(scene)

    whole = await crash_after_every_write(new_scene, new_controller, prepare)
    replicas = {name: child["spec"]["replicas"] for name, child in whole.api.of("statefulsets").items()}
    assert replicas == {"db-one": 5, "db-two": 2}
    assert whole.api.of("daemonsets").keys() == {"log-one", "log-two"}
    assert len(whole.api.of("poddisruptionbudgets")) == 4
    assert whole.api.of("horizontalpodautoscalers").keys() == {"web-one-deployment", "web-two-deployment"}
    assert whole.api.of("deploymentgrids")["web"]["spec"]["templatePool"].keys() == {"canary"}


async def test_crash_after_every_write_of_a_change(new_scene: Make, new_controller: Make) -> None:
    """The same for changed overrides, templates, units, budgets and autoscalers."""

    async def prepare(scene: Any) -> None:
        _all_kinds(scene)
        await new_controller(scene).until_rest()
        _change(scene)

    whole = await crash_after_every_write(new_scene, new_controller, prepare)
    assert whole.api.of("daemonsets").keys() == {"log-one"}
    assert whole.api.of("poddisruptionbudgets").keys() == {"web-one-deployment", "web-two-deployment"}
    assert whole.api.of("horizontalpodautoscalers") == {}


async def test_one_override_is_one_write(scene: Any, new_controller: Make) -> None:
    """Among 200 units a changed override writes the child of its unit, and the status."""
    for number in range(200):
        scene.node(f"n{number}", f"u{number}")
    scene.workload("DeploymentGrid")
    controller = new_controller(scene)
    await controller.until_rest()
    writes = len(scene.api.writes)
    scene.workload("DeploymentGrid", overrides=[{"units": {"names": ["u7"]}, "replicas": 3}])
    await controller.until_rest()
    assert scene.api.writes[writes:] == ["apply deployments web-u7", "status deploymentgrids web"]


async def test_new_unit_with_twenty_grids(scene: Any, new_controller: Make) -> None:
    """A new site gets one child and one status per grid."""
    scene.node("a", "one")
    for number in range(20):
        scene.workload("DeploymentGrid", f"g{number}")
    controller = new_controller(scene)
    await controller.until_rest()
    writes = len(scene.api.writes)
    scene.node("b", "two")
    await controller.until_rest()
    made = [write for write in scene.api.writes[writes:] if not write.startswith("status")]
    assert sorted(made) == sorted(f"apply deployments g{number}-two" for number in range(20))
    assert len(scene.api.writes) - writes == 40


async def test_refused_budget_stops_nothing_else(scene: Any, new_controller: Make) -> None:
    """What a unit's budget meets is that unit's problem; its child and all other units are done."""
    scene.node("a", "one")
    scene.node("b", "two")
    scene.workload("DeploymentGrid", podDisruptionBudget={"maxUnavailable": "many"})
    scene.api.refuse = lambda verb, name: (
        ApiError(422, "Invalid", "no number") if name == "web-one-deployment" else None
    )
    await new_controller(scene).until_rest()
    assert scene.api.of("deployments").keys() == {"web-one", "web-two"}
    assert scene.api.of("poddisruptionbudgets").keys() == {"web-two-deployment"}
    states = scene.api.of("deploymentgrids")["web"]["status"]["unitStates"]
    assert [(unit["name"], unit.get("reason")) for unit in states if unit["state"] == "Degraded"] == [
        ("one", "Invalid")
    ]


async def test_budget_that_cannot_be_made_is_its_units_problem(scene: Any, new_controller: Make) -> None:
    """A value that the unit does not have is told; what was made before that stays, and so does the rest."""
    scene.node("a", "one")
    scene.workload("DeploymentGrid", podDisruptionBudget={"minAvailable": 1})
    controller = new_controller(scene)
    await controller.until_rest()
    scene.workload(
        "DeploymentGrid", podDisruptionBudget={"minAvailable": "$(unit.values.x)"}, autoscaling={"maxReplicas": 2}
    )
    await controller.until_rest()
    (unit,) = scene.api.of("deploymentgrids")["web"]["status"]["unitStates"]
    assert (unit["state"], unit["reason"]) == ("Degraded", "TemplateInvalid")
    assert scene.api.of("poddisruptionbudgets")["web-one-deployment"]["spec"]["minAvailable"] == 1
    assert scene.api.of("horizontalpodautoscalers").keys() == {"web-one-deployment"}


async def test_replicas_are_released_before_they_are_given_up(scene: Any, new_controller: Make) -> None:
    """A grid that begins to autoscale keeps as many pods as there are."""
    scene.node("a", "one")
    scene.workload("DeploymentGrid")
    controller = new_controller(scene)
    await controller.until_rest()
    writes = len(scene.api.writes)
    scene.workload("DeploymentGrid", autoscaling={"maxReplicas": 3})
    await controller.until_rest()
    assert scene.api.writes[writes : writes + 2] == ["release deployments web-one", "apply deployments web-one"]


async def test_templates_that_cannot_be_deleted_stop_nothing(scene: Any, new_controller: Make) -> None:
    """Where the right to change grids is missing, unused templates stay, and every unit is done."""
    scene.node("a", "one")
    scene.workload("DeploymentGrid", templatePool={"old": {}}, autoDeleteUnusedTemplate=True)
    scene.api.refuse = lambda verb, name: ApiError(403, "Forbidden", "no") if verb == "patch" else None
    await new_controller(scene).until_rest()
    assert scene.api.of("deployments").keys() == {"web-one"}
    assert scene.api.of("deploymentgrids")["web"]["status"]["unusedTemplates"] == ["old"]


def _pod_of(child: str, ordinal: int, node: str) -> dict[str, Any]:
    """Return the endpoint of a StatefulSet's pod."""
    name = f"{child}-{ordinal}"
    return {
        "addresses": [f"10.0.{len(child)}.{ordinal}"],
        "conditions": {"ready": True},
        "hostname": name,
        "nodeName": node,
        "targetRef": {"kind": "Pod", "namespace": "default", "name": name},
    }


def _aliases(scene: Any) -> dict[str, list[str]]:
    """Return the host names in slices of aliases, by unit."""
    return {
        item["metadata"]["labels"]["tkeedge.io/unit"]: [endpoint["hostname"] for endpoint in item["endpoints"]]
        for item in scene.api.of("endpointslices").values()
        if "tkeedge.io/aliases" in item["metadata"]["labels"]
    }


async def test_pods_of_a_stateful_set_grid_get_common_names(scene: Any, new_controller: Any) -> None:
    """Behind a headless ServiceGrid each unit's pods are also called after the grid, as long as it owns their set."""
    for node, unit in (("n1", "one"), ("n2", "two")):
        scene.node(node, unit)
    scene.workload("StatefulSetGrid", "db")
    template = {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 80}]}
    scene.api.put("servicegrids", {"metadata": {"name": "db"}, "spec": {"gridUniqKey": "zone", "template": template}})
    controller = new_controller(scene)
    await controller.until_rest()
    source = scene.api.of("endpointslices")["db-svc-sites-abcde"]
    endpoints = [_pod_of("db-one", 0, "n1"), _pod_of("db-one", 1, "n1"), _pod_of("db-two", 0, "n2")]
    scene.api.put("endpointslices", {**source, "endpoints": endpoints})
    controller.sync()
    await controller.slices.reconcile(ServiceKey("default", "db-svc"))
    assert _aliases(scene) == {"zone.one": ["db-0", "db-1"], "zone.two": ["db-0"]}
    triggers = Triggers(controller.cluster)
    triggers.queues = queues = Queues()
    child = scene.api.of("statefulsets")["db-two"]
    scene.api.put("statefulsets", {**child, "metadata": {**child["metadata"], "ownerReferences": []}})
    controller.sync()
    assert await queues.slices.get() == ServiceKey("default", "db-svc")
    await controller.slices.reconcile(ServiceKey("default", "db-svc"))
    assert _aliases(scene) == {"zone.one": ["db-0", "db-1"]}
