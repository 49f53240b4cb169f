"""What units' Services have different is put to the API server's admission: what, when, and what becomes of a no."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sitegrid.controller.dryruns import ASK_AGAIN
from sitegrid.controller.queues import GridKey
from sitegrid.kube.errors import ApiError, Unreachable

Make = Callable[..., Any]
GRID = GridKey("ServiceGrid", "default", "web")
IPS = {"externalIPs": ["10.1.1.1"]}
PORT = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 30080}
TEMPLATE = {"type": "NodePort", "clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ports": [PORT]}


def _put(scene: Any, **patches: dict[str, Any]) -> None:
    """Have the units differ so."""
    for name in ("one", "two", "three"):
        scene.node(f"n-{name}", name)
    grid = scene.api.of("servicegrids").get("web", {"metadata": {"name": "web"}})
    overrides = [{"units": {"names": [name]}, "patch": patch} for name, patch in patches.items()]
    spec = {"gridUniqKey": "zone", "template": TEMPLATE, "overrides": overrides}
    scene.api.put("servicegrids", {**grid, "spec": spec})


def _written(scene: Any) -> dict[str, Any]:
    """Return the patches by unit."""
    return {
        item["metadata"]["labels"]["tkeedge.io/unit"].removeprefix("zone."): json.loads(
            item["metadata"]["annotations"]["tkeedge.io/service-patch"]
        )
        for item in scene.api.of("endpointslices").values()
        if "tkeedge.io/service-patch" in item["metadata"]["labels"]
    }


def _refuse(scene: Any, field: str) -> None:
    """Have a policy refuse a field of the Service's spec, or an annotation, in any unit."""

    def admit(service: dict[str, Any]) -> ApiError | None:
        annotations = service["metadata"].get("annotations", {})
        ports = {port["nodePort"] for port in service["spec"]["ports"]}
        found = service["spec"].get(field) or annotations.get(field) or field in {str(port) for port in ports}
        return ApiError(403, "Forbidden", f"no {field} here") if found else None

    scene.api.admit = admit


async def test_a_patch_is_asked_for_once(scene: Any, new_controller: Make) -> None:
    """As the Service that agents show; units that differ alike are one question, and at rest there is none."""
    _put(scene, one={**IPS, "nodePorts": {"http": 31000}, "annotations": {"a": "b"}}, two=IPS, three=IPS)
    controller = new_controller(scene)
    await controller.until_rest()
    uid = scene.api.of("services")["web-svc"]["metadata"]["uid"]
    whole = {
        "uid": uid,
        "annotations": {"a": "b"},
        "spec": {"externalIPs": ["10.1.1.1"], "ports": [{**PORT, "nodePort": 31000}]},
    }
    assert scene.api.dry_runs == [whole, {"uid": uid, "spec": {"externalIPs": ["10.1.1.1"]}}]
    controller.clock += 10 * ASK_AGAIN
    await controller.until_rest()
    assert len(scene.api.dry_runs) == 2
    _put(scene, one=IPS, two=IPS, three={"externalIPs": ["10.1.1.2"]})
    await controller.until_rest()
    assert [asked["spec"]["externalIPs"] for asked in scene.api.dry_runs[2:]] == [["10.1.1.2"]]
    assert not any("dry" in write for write in scene.api.writes)


async def test_nothing_different_is_nothing_to_ask(scene: Any, new_controller: Make) -> None:
    """Without overrides the API server sees all that there is."""
    _put(scene)
    await new_controller(scene).until_rest()
    assert scene.api.dry_runs == []


@pytest.mark.parametrize(
    ("field", "name", "left"),
    [
        ("externalIPs", "externalIPs", {"annotations", "nodePorts"}),
        ("a", "annotations", {"externalIPs", "nodePorts"}),
        ("31000", "nodePorts", {"externalIPs", "annotations"}),
    ],
)
async def test_what_is_refused_is_left_out_of_its_unit(
    scene: Any, new_controller: Make, field: str, name: str, left: set[str]
) -> None:
    """The rest of it, and other units, go on; the condition and an event say what the API server said."""
    _refuse(scene, field)
    _put(scene, one={**IPS, "nodePorts": {"http": 31000}, "annotations": {"a": "b"}}, two={"annotations": {"x": "y"}})
    controller = new_controller(scene)
    await controller.until_rest()
    written = _written(scene)
    assert written["one"].keys() == left
    assert written["two"] == {"annotations": {"x": "y"}}
    conditions = scene.api.of("servicegrids")["web"]["status"]["conditions"]
    (message,) = (item["message"] for item in conditions if item["type"] == "Degraded")
    assert message == f"unit one: patch.{name}: the API server refuses it: no {field} here"
    assert ("OverrideInvalid", message) in controller.recorder.events


async def test_an_address_that_is_refused_later_is_taken_back(scene: Any, new_controller: Make) -> None:
    """By the next controller, which asks anew; a refusal is asked again, and ends with its policy."""
    _put(scene, one=IPS)
    first = new_controller(scene)
    await first.until_rest()
    assert _written(scene) == {"one": IPS}
    _refuse(scene, "externalIPs")
    second = new_controller(scene, first.clock)
    await second.until_rest()
    assert _written(scene) == {}
    asked = len(scene.api.dry_runs)
    await second.until_rest()
    assert len(scene.api.dry_runs) == asked
    scene.api.admit = lambda service: None
    second.clock += ASK_AGAIN
    await second.until_rest()
    assert _written(scene) == {"one": IPS}


@pytest.mark.parametrize(
    "error", [ApiError(500, "InternalError", "webhook"), ApiError(429, "TooManyRequests", ""), Unreachable("gone")]
)
async def test_no_answer_changes_nothing(scene: Any, new_controller: Make, error: Exception) -> None:
    """What is written stays, what is new waits, and the pass is tried again."""
    _put(scene, one=IPS)
    first = new_controller(scene)
    await first.until_rest()
    _put(scene, one=IPS, two=IPS | {"annotations": {"a": "b"}})

    def away(verb: str, name: str) -> ApiError | None:
        if verb == "dry-run":
            raise error
        return None

    scene.api.refuse = away
    first.sync()
    with pytest.raises(type(error)):
        await first.services.reconcile(GRID)
    assert _written(scene) == {"one": IPS}
    scene.api.refuse = lambda verb, name: None
    await first.until_rest()
    assert _written(scene).keys() == {"one", "two"}
