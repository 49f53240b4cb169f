"""The pods of a lost node, and no others, are deleted, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sitegrid.controller.queues import GridKey
from sitegrid.grid.eviction import PATIENCE
from sitegrid.kube.errors import ApiError

Make = Callable[..., Any]
KEY = GridKey("DeploymentGrid", "default", "web")


@pytest.fixture
async def controller(scene: Any, new_controller: Make) -> Any:
    """A controller at rest over a unit of two nodes with a pod each, for a long time."""
    controller = new_controller(scene)
    for name in ("node12", "node14"):
        scene.node(name, "one")
        scene.report(name, "True", controller.now())
        scene.pod(f"pod-{name}", name, "one", "web-one-5d9")
    scene.grids()
    controller.clock += 86_400
    await controller.until_rest()
    return controller


async def test_pods_of_a_lost_node_are_deleted_once(scene: Any, controller: Any) -> None:
    """After Kubernetes' patience the node's pods go, with an event; no further pass looks again."""
    scene.report("node12", "Unknown", controller.now())
    await controller.until_rest()
    again = await controller.evictions.reconcile(KEY)
    assert scene.api.of("pods").keys() == {"pod-node12", "pod-node14"}
    controller.clock += again
    await controller.until_rest()
    await controller.until_rest()
    assert scene.api.of("pods").keys() == {"pod-node14"}
    assert scene.api.lists == ["pods node12"]
    (note,) = [note for reason, note in controller.recorder.events if reason == "UnitNodeLost"]
    assert "node12" in note
    assert "pod-node12" in note


async def test_other_pods_of_the_node_are_left(scene: Any, controller: Any) -> None:
    """Pods of other workloads in the same unit, and pods that end already, are not the grid's to delete."""
    scene.pod("namesake", "node12", "one", "web-one-two-5d9")
    scene.pod("other-unit", "node12", "two", "web-one-5d9")
    scene.pod("ends", "node12", "one", "web-one-5d9")
    scene.api.of("pods")["ends"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    scene.report("node12", "Unknown", controller.now())
    controller.sync()
    controller.clock += PATIENCE.total_seconds()
    await controller.until_rest()
    assert scene.api.of("pods").keys() == {"pod-node14", "namesake", "other-unit", "ends"}


async def test_pods_of_a_child_that_was_taken_over(scene: Any, controller: Any) -> None:
    """They have no label of the unit; their owner tells whose they are, and others on the node are left."""
    child = scene.api.of("deployments")["web-one"]
    child["metadata"]["annotations"]["tkeedge.io/adopted"] = "mark"
    scene.api.put("deployments", child)
    scene.pod("namesake", "node12", "one", "web-one-two-5d9")
    for pod in scene.api.of("pods").values():
        del pod["metadata"]["labels"]["tkeedge.io/unit"]
    scene.report("node12", "Unknown", controller.now())
    controller.sync()
    controller.clock += PATIENCE.total_seconds()
    await controller.until_rest()
    assert scene.api.of("pods").keys() == {"pod-node14", "namesake"}


async def test_pods_of_a_unit_that_is_away_are_left(scene: Any, controller: Any) -> None:
    """A site without its WAN keeps its pods, also while its nodes come back one by one (I8)."""
    for name in ("node12", "node14"):
        scene.report(name, "Unknown", controller.now())
    controller.sync()
    controller.clock += 86_400
    await controller.until_rest()
    scene.report("node12", "True", controller.now())
    await controller.until_rest()
    assert scene.api.of("pods").keys() == {"pod-node12", "pod-node14"}
    assert scene.api.lists == []


async def test_refused_deletion_is_tried_again(scene: Any, controller: Any) -> None:
    """A pod that changed in between is deleted in the next pass."""
    scene.report("node12", "Unknown", controller.now())
    controller.sync()
    controller.clock += PATIENCE.total_seconds()
    delete = scene.api.delete

    async def refuse(*args: Any, **kwargs: Any) -> None:
        raise ApiError(409, "Conflict", "it changed")

    scene.api.delete = refuse
    with pytest.raises(ApiError):
        await controller.evictions.reconcile(KEY)
    scene.api.delete = delete
    await controller.evictions.reconcile(KEY)
    assert scene.api.of("pods").keys() == {"pod-node14"}


async def test_deleted_grid_evicts_nothing(scene: Any, controller: Any) -> None:
    """A grid that is gone leaves its pods to the garbage collector."""
    scene.report("node12", "Unknown", controller.now())
    controller.sync()
    controller.clock += PATIENCE.total_seconds()
    del scene.api.objects["deploymentgrids", "web"]
    controller.sync()
    assert await controller.evictions.reconcile(KEY) is None
    assert scene.api.lists == []


async def test_stateful_sets_pods_are_deleted_and_daemon_sets_are_not(scene: Any, controller: Any) -> None:
    """As Kubernetes would: the one is replaced when its node, or an administrator, says that the pod is gone."""
    scene.workload("StatefulSetGrid", "db")
    scene.workload("DaemonSetGrid", "log")
    scene.pod("db-one-0", "node12", "one", "db-one", "StatefulSet")
    scene.pod("log-one-x", "node12", "one", "log-one", "DaemonSet")
    await controller.until_rest()
    scene.report("node12", "Unknown", controller.now())
    controller.sync()
    controller.clock += PATIENCE.total_seconds()
    await controller.until_rest()
    assert scene.api.of("pods").keys() == {"pod-node14", "log-one-x"}


async def test_units_own_tolerations_count(scene: Any, controller: Any) -> None:
    """An override that says how long its unit's pods stay leaves them to Kubernetes."""
    tolerations = [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 5}]
    patch = {"template": {"spec": {"tolerations": tolerations}}}
    scene.workload("DeploymentGrid", overrides=[{"units": {"names": ["one"]}, "patch": patch}])
    await controller.until_rest()
    scene.report("node12", "Unknown", controller.now())
    controller.sync()
    controller.clock += PATIENCE.total_seconds()
    await controller.until_rest()
    assert scene.api.of("pods").keys() == {"pod-node12", "pod-node14"}
