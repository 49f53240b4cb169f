"""Per-site Services, pass by pass: what is written for which unit, and which node ports can be had."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.controller.queues import GridKey, Queues, ServiceKey
from sitegrid.controller.triggers import Triggers
from sitegrid.grid.observed import AnyService, ServicePort, ServiceSpec
from tests.support.lives import crash_after_every_write

Make = Callable[..., Any]
GRID = GridKey("ServiceGrid", "default", "web")
SERVICE = ServiceKey("default", "web-svc")
TEMPLATE = {
    "type": "NodePort",
    "clusterIP": "10.96.0.1",
    "selector": {"app": "web"},
    "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}],
}


def _put(scene: Any, *overrides: dict[str, Any], name: str = "web", created: str = "2026-01-01T00:00:00Z") -> None:
    grid = scene.api.of("servicegrids").get(name, {"metadata": {"name": name, "creationTimestamp": created}})
    ports = [{**TEMPLATE["ports"][0], "nodePort": 30080 + len(name)}]  # type: ignore[index]
    spec = {"gridUniqKey": "zone", "template": {**TEMPLATE, "ports": ports}, "overrides": [*overrides]}
    scene.api.put("servicegrids", {**grid, "spec": spec})


def _for(*names: str, **patch: Any) -> dict[str, Any]:
    return {"units": {"names": [*names]}, "patch": patch}


def _sites(scene: Any) -> None:
    for name in ("one", "two", "three"):
        scene.node(f"n-{name}", name)


def _written(scene: Any, service: str = "web-svc") -> dict[str, Any]:
    """Return the patches by unit, and check that nothing else is in their slices."""
    found = {}
    for item in scene.api.of("endpointslices").values():
        labels = item["metadata"]["labels"]
        if "tkeedge.io/service-patch" in labels and labels["tkeedge.io/service-name"] == service:
            assert (item["endpoints"], item["ports"]) == ([], [])
            text = item["metadata"]["annotations"]["tkeedge.io/service-patch"]
            found[labels["tkeedge.io/unit"].removeprefix("zone.")] = json.loads(text)
    return found


def _degraded(scene: Any, name: str = "web") -> Any:
    conditions = scene.api.of("servicegrids")[name]["status"]["conditions"]
    return next(item for item in conditions if item["type"] == "Degraded")


def _overridden(controller: Any) -> list[str]:
    return [note for reason, note in controller.recorder.events if reason == "OverrideInvalid"]


async def test_each_unit_has_its_own_patch_and_the_others_none(scene: Any, new_controller: Make) -> None:
    """One slice for each unit that differs; a changed override is one write, and none any more is one deletion."""
    _sites(scene)
    _put(scene, _for("one", "two", externalIPs=["10.1.1.1"]), _for("two", annotations={"a": "$(unit.name)"}))
    controller = new_controller(scene)
    await controller.until_rest()
    assert _written(scene) == {
        "one": {"externalIPs": ["10.1.1.1"]},
        "two": {"externalIPs": ["10.1.1.1"], "annotations": {"a": "two"}},
    }
    writes = len(scene.api.writes)
    _put(scene, _for("one", "two", externalIPs=["10.1.1.1"]), _for("two", annotations={"a": "2"}))
    await controller.until_rest()
    slices = [write for write in scene.api.writes[writes:] if "endpointslices" in write]
    assert len(slices) == 1
    assert _written(scene)["two"]["annotations"] == {"a": "2"}
    writes = len(scene.api.writes)
    _put(scene, _for("one", externalIPs=["10.1.1.1"]))
    await controller.until_rest()
    assert [write.split()[0] for write in scene.api.writes[writes:] if "endpointslices" in write] == ["delete"]
    assert _written(scene).keys() == {"one"}


async def test_a_restart_leaves_what_is_written(scene: Any, new_controller: Make) -> None:
    """A pass over slices that comes before anything is known touches no patch."""
    _sites(scene)
    _put(scene, _for("one", externalIPs=["10.1.1.1"]))
    await new_controller(scene).until_rest()
    writes = [*scene.api.writes]
    restarted = new_controller(scene)
    restarted.sync()
    await restarted.slices.reconcile(SERVICE)
    await restarted.until_rest()
    assert scene.api.writes == writes


async def test_a_unit_that_loses_its_node_loses_its_patch(scene: Any, new_controller: Make) -> None:
    """Nobody is there to see it."""
    _sites(scene)
    _put(scene, _for("one", "two", externalIPs=["10.1.1.1"]))
    controller = new_controller(scene)
    await controller.until_rest()
    scene.node("n-two", "three")
    await controller.until_rest()
    assert _written(scene).keys() == {"one"}
    assert scene.api.of("servicegrids")["web"]["status"]["unknownUnits"] == ["two"]


async def test_a_node_port_of_another_service_is_refused_and_tried_again(scene: Any, new_controller: Make) -> None:
    """The condition names unit and field; the unit's Service stays without it, until the port is free."""
    _sites(scene)
    other = {**TEMPLATE, "ports": [{"port": 443, "nodePort": 31000}], "healthCheckNodePort": 31001}
    scene.api.put("services", {"metadata": {"name": "other", "labels": {}}, "spec": other})
    _put(
        scene, _for("one", nodePorts={"http": 31000}), _for("two", nodePorts={"http": 31001}),
        _for("three", nodePorts={"http": 31002}),
    )  # fmt: skip
    controller = new_controller(scene)
    await controller.until_rest()
    wanted = {"three": {"nodePorts": [{"port": 80, "protocol": "TCP", "nodePort": 31002}]}}
    assert _written(scene) == wanted
    assert _degraded(scene)["reason"] == "OverrideInvalid"
    assert _degraded(scene)["message"] == (
        "unit one: overrides[0]: patch.nodePorts.http: 31000 is taken by Service default/other: give another one "
        "(1 more unit has a problem)"
    )
    assert await controller.services.reconcile(GRID) is None
    del scene.api.objects["services", "other"]
    await controller.until_rest()
    assert _written(scene).keys() == {"one", "two", "three"}
    assert _degraded(scene)["status"] == "False"
    assert await controller.services.reconcile(GRID) is None


async def test_a_service_that_takes_a_node_port_is_told_at_once(scene: Any, new_controller: Make) -> None:
    """In the condition and one event; the unit's Service is without it, and gets it when it is free again."""
    _sites(scene)
    _put(scene, _for("one", nodePorts={"http": 31000}))
    controller = new_controller(scene)
    await controller.until_rest()
    assert _written(scene).keys() == {"one"}
    assert _overridden(controller) == []
    triggers = Triggers(controller.cluster)
    triggers.queues = queues = Queues()
    later = {
        "metadata": {"name": "later", "labels": {}},
        "spec": {**TEMPLATE, "ports": [{"port": 1, "nodePort": 31000}]},
    }
    scene.api.put("services", later)
    controller.sync("services")
    assert GRID in {await queues.grids.get() for _ in range(len(queues.grids))}
    await controller.until_rest()
    assert not _written(scene)
    note = "unit one: overrides[0]: patch.nodePorts.http: 31000 is taken by Service default/later: give another one"
    assert _degraded(scene)["message"] == note
    assert _overridden(controller) == [note]
    restarted = new_controller(scene, controller.clock)
    await restarted.until_rest()
    assert _overridden(restarted) == []
    del scene.api.objects["services", "later"]
    triggers = Triggers(restarted.cluster)
    triggers.queues = queues = Queues()
    restarted.sync("services")
    assert GRID in {await queues.grids.get() for _ in range(len(queues.grids))}
    await restarted.until_rest()
    assert _written(scene).keys() == {"one"}
    assert (_degraded(scene)["status"], _overridden(restarted)) == ("False", [])


@pytest.mark.parametrize("wanted", [False, True])
async def test_node_ports_are_work_where_they_change_and_are_wanted(
    scene: Any, new_controller: Make, wanted: bool
) -> None:
    """Whatever else changes of Services that have some is none."""
    _sites(scene)
    _put(scene, _for("one", **({"nodePorts": {"http": 31000}} if wanted else {"externalIPs": ["10.1.1.1"]})))
    controller = new_controller(scene)
    await controller.until_rest()
    triggers = Triggers(controller.cluster)
    triggers.queues = queues = Queues()
    store = controller.cluster.any_services
    for version, number, work in (("1", 31000, wanted), ("2", 31000, False), ("3", 31001, wanted)):
        spec = ServiceSpec(type="NodePort", ports=[ServicePort(node_port=number)])
        store.replace(
            [AnyService(ObjectMeta(name="other", namespace="default", uid="u", resource_version=version), spec)]
        )
        assert {await queues.grids.get() for _ in range(len(queues.grids))} == ({GRID} if work else set())
        queues.grids.done(GRID)


async def test_of_two_grids_that_want_a_port_in_one_unit_the_older_has_it(scene: Any, new_controller: Make) -> None:
    """Whichever is looked at first; in other units both have it, and what the older gives up the younger gets."""
    _sites(scene)
    _put(scene, _for("one", nodePorts={"http": 31000}), created="2026-01-02T00:00:00Z")
    _put(scene, _for("one", "two", nodePorts={"http": 31000}), name="older")
    controller = new_controller(scene)
    await controller.until_rest()
    assert not _written(scene)
    assert _written(scene, "older-svc").keys() == {"one", "two"}
    assert "an override of ServiceGrid default/older" in _degraded(scene)["message"]
    triggers = Triggers(controller.cluster)
    triggers.queues = queues = Queues()
    _put(scene, _for("two", nodePorts={"http": 31000}), name="older")
    controller.sync("servicegrids")
    assert {await queues.grids.get() for _ in range(len(queues.grids))} == {GRID, GRID._replace(name="older")}
    await controller.until_rest()
    assert _written(scene).keys() == {"one"}
    assert _written(scene, "older-svc").keys() == {"two"}
    assert _degraded(scene)["status"] == "False"


async def test_what_is_found_gives_the_slices_as_work(scene: Any, new_controller: Make) -> None:
    """The pass over the grid knows, the pass over slices writes; a unit's values give both."""
    _sites(scene)
    _put(scene)
    controller = new_controller(scene)
    await controller.until_rest()
    _put(scene, _for("one", externalIPs=["10.1.1.1"]))
    controller.sync()
    triggers = Triggers(controller.cluster)
    triggers.queues = queues = Queues()
    controller.patches.listener = triggers.slices
    await controller.services.reconcile(GRID)
    assert await queues.slices.get() == SERVICE


async def test_crash_after_every_write(new_scene: Make, new_controller: Make) -> None:
    """Killed after any write of a changed override and started again, it comes to the same patches, and stays."""

    async def changed(scene: Any) -> None:
        _sites(scene)
        _put(scene, _for("one", externalIPs=["10.1.1.1"]), _for("two", nodePorts={"http": 31000}))
        await new_controller(scene).until_rest()
        _put(scene, _for("two", externalIPs=["10.1.1.2"]), _for("three", nodePorts={"http": 31000}))

    await crash_after_every_write(new_scene, new_controller, changed, result=_written)
