"""Events are asked for where pods are lacking, seldom, and what they say is the unit's problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sitegrid.kube.errors import ApiError

Make = Callable[..., Any]


def _status(scene: Any, name: str, replicas: int) -> None:
    child = scene.api.of("statefulsets")[name]
    status = {"observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas}
    scene.api.put("statefulsets", {**child, "status": status})


def _refuse(scene: Any, name: str) -> None:
    uid = scene.api.of("statefulsets")[name]["metadata"]["uid"]
    event = {
        "metadata": {"name": f"{name}.1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "regarding": {"kind": "StatefulSet", "uid": uid},
        "reason": "FailedCreate",
        "note": "exceeded quota",
    }
    scene.api.put("events", event)


def _states(scene: Any) -> dict[str, tuple[str, str]]:
    found = scene.api.of("statefulsetgrids")["web"]["status"]["unitStates"]
    return {unit["name"]: (unit["state"], unit.get("message", "")) for unit in found}


@pytest.fixture
async def controller(scene: Any, new_controller: Make) -> Any:
    """A controller whose StatefulSetGrid has its pods in two units."""
    scene.node("a", "one")
    scene.node("b", "two")
    scene.workload("StatefulSetGrid")
    controller = new_controller(scene)
    controller.sync()
    await controller.one_pass()
    for name in ("web-one", "web-two"):
        _status(scene, name, 2)
    await controller.until_rest()
    assert _states(scene) == {"one": ("Ready", ""), "two": ("Ready", "")}
    scene.api.lists.clear()
    return controller


async def test_refused_pods_are_their_units_problem(scene: Any, controller: Any) -> None:
    """The unit says why its pods are not made; when they are, all is well again."""
    _status(scene, "web-one", 1)
    _refuse(scene, "web-one")
    await controller.until_rest()
    assert _states(scene) == {"one": ("Degraded", "exceeded quota"), "two": ("Ready", "")}
    _status(scene, "web-one", 2)
    await controller.until_rest()
    assert _states(scene) == {"one": ("Ready", ""), "two": ("Ready", "")}


async def test_questions_become_rare(scene: Any, controller: Any) -> None:
    """One LIST for all units, at growing intervals, and none while nothing is lacking."""
    for name in ("web-one", "web-two"):
        _status(scene, name, 1)
    controller.sync()
    for _ in range(3600):
        await controller.one_pass()  # one a second
    assert 12 <= len(scene.api.lists) <= 20
    assert set(scene.api.lists) == {"events StatefulSet"}
    for name in ("web-one", "web-two"):
        _status(scene, name, 2)
    controller.sync()
    scene.api.lists.clear()
    for _ in range(600):
        await controller.one_pass()
    assert scene.api.lists == []


async def test_another_unit_does_not_wait(scene: Any, controller: Any) -> None:
    """Where one unit has lacked pods for an hour, the next one's cause is known as soon as ever."""
    _status(scene, "web-one", 1)
    controller.sync()
    for _ in range(3600):
        await controller.one_pass()
    _status(scene, "web-two", 1)
    _refuse(scene, "web-two")
    controller.sync()
    for _ in range(10):
        await controller.one_pass()
    assert _states(scene)["two"] == ("Degraded", "exceeded quota")


async def test_events_that_cannot_be_read_stop_nothing(scene: Any, controller: Any) -> None:
    """Without the right to read them the unit is not ready, and that is all that is known."""
    scene.api.refuse = lambda verb, name: ApiError(403, "Forbidden", "no") if verb == "list" else None
    _status(scene, "web-one", 1)
    await controller.until_rest()
    assert _states(scene)["one"][0] == "Progressing"
