"""Units that use a neighbour's endpoints: what is written, told and counted, pass by pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sitegrid.api.nodeunits import NodeUnit
from sitegrid.controller.metrics import Metrics
from sitegrid.controller.queues import GridKey, Queues, ServiceKey
from sitegrid.controller.triggers import Triggers

Make = Callable[..., Any]
GRID = GridKey("ServiceGrid", "default", "web")


async def _three_sites(scene: Any, controller: Any) -> None:
    """Three units of one node each, the first of which falls back to the others; all ready."""
    for name in ("one", "two", "three"):
        scene.node(f"n-{name}", name)
        scene.report(f"n-{name}", "True", controller.now())
    scene.grids()
    grid = scene.api.of("servicegrids")["web"]
    grid["spec"]["fallback"] = [{"units": {"names": ["one"]}, "to": ["two", "three"]}]
    controller.clock += 86_400
    await controller.until_rest()


def _nodes(scene: Any, unit: str) -> set[str]:
    """Return the nodes of the ready endpoints in a unit's slices."""
    return {
        endpoint["nodeName"]
        for item in scene.api.of("endpointslices").values()
        if item["metadata"]["labels"].get("tkeedge.io/unit") == f"zone.{unit}"
        for endpoint in item["endpoints"]
        if endpoint["conditions"]["ready"]
    }


def _status(scene: Any) -> Any:
    return scene.api.of("servicegrids")["web"]["status"]


async def _fail(scene: Any, controller: Any, node: str, ready: str = "False") -> None:
    """Let a node report, and what is held after a return go by."""
    scene.report(node, ready, controller.now())
    await controller.until_rest()
    controller.clock += 300
    await controller.until_rest()


async def test_a_unit_in_need_is_helped_told_and_counted(scene: Any, new_controller: Make) -> None:
    """From need to neighbour to the next neighbour and back: slices, status, events and the gauge agree."""
    controller = new_controller(scene)
    await _three_sites(scene, controller)
    assert _nodes(scene, "one") == {"n-one"}
    assert _status(scene).get("fallbackUnits") == 0
    await _fail(scene, controller, "n-one")
    assert _nodes(scene, "one") == {"n-two"}
    assert (_status(scene)["fallbacks"], controller.outcomes.total()) == ([{"unit": "one", "to": "two"}], 1)
    await _fail(scene, controller, "n-two")
    assert _nodes(scene, "one") == {"n-three"}
    assert _nodes(scene, "two") == set()
    await _fail(scene, controller, "n-one", "True")
    assert _nodes(scene, "one") == {"n-one"}
    assert (_status(scene)["fallbackUnits"], controller.outcomes.total()) == (0, 0)
    assert [event for event in controller.recorder.events if "Fallback" in event[0]] == [
        ("FallbackBegan", "Units without a ready endpoint: one uses two"),
        ("FallbackBegan", "Units without a ready endpoint: one uses three"),
        ("FallbackEnded", "Units that use their own endpoints again: one"),
    ]


async def test_a_restart_in_the_middle_tells_and_writes_nothing(scene: Any, new_controller: Make) -> None:
    """What the status says was told; a status that is written before the slices were looked at keeps it."""
    controller = new_controller(scene)
    await _three_sites(scene, controller)
    await _fail(scene, controller, "n-one")
    writes = [*scene.api.writes]
    restarted = new_controller(scene)
    restarted.clock = controller.clock
    restarted.sync()
    await restarted.services.reconcile(GRID)
    await restarted.until_rest()
    assert scene.api.writes == writes
    assert not [event for event in restarted.recorder.events if "Fallback" in event[0]]


async def test_a_lost_wan_leaves_what_is_used(scene: Any, new_controller: Make) -> None:
    """While the unit is away nothing of it is written, though the neighbour fails; then it is as it should be."""
    controller = new_controller(scene)
    await _three_sites(scene, controller)
    await _fail(scene, controller, "n-one")
    await _fail(scene, controller, "n-one", "Unknown")
    await _fail(scene, controller, "n-two")
    assert _nodes(scene, "one") == {"n-two"}
    await _fail(scene, controller, "n-one", "False")
    assert _nodes(scene, "one") == {"n-three"}


async def test_a_change_gives_the_grid_as_work(scene: Any, new_controller: Make) -> None:
    """Found by a pass over slices, it adds the ServiceGrid; so does a NodeUnit whose values the fallback may use."""
    controller = new_controller(scene)
    await _three_sites(scene, controller)
    triggers = Triggers(controller.cluster)
    triggers.queues = queues = Queues()
    controller.outcomes.listener = triggers.grid
    source = scene.api.of("endpointslices")["web-svc-sites-abcde"]
    endpoints = [dict(item) for item in source["endpoints"]]
    for endpoint in endpoints:
        endpoint["conditions"] = {"ready": endpoint["nodeName"] != "n-one"}
    scene.api.put("endpointslices", {**source, "endpoints": endpoints})
    controller.sync("endpointslices")
    await controller.slices.reconcile(ServiceKey("default", "web-svc"))
    assert await queues.grids.get() == GRID
    queues.grids.done(GRID)
    spec = {"gridUniqKey": "zone", "values": {"next": "two"}}
    controller.cluster.node_units.store.set(msgspec.convert({"metadata": {"name": "one"}, "spec": spec}, NodeUnit))
    found = {await queues.grids.get() for _ in range(len(queues.grids))}
    assert GRID in found


async def test_a_deleted_grid_is_counted_no_more(scene: Any, new_controller: Make) -> None:
    """The gauge is of what there is."""
    controller = new_controller(scene)
    await _three_sites(scene, controller)
    await _fail(scene, controller, "n-one")
    metrics = Metrics()
    metrics.watch_fallbacks(controller.outcomes.total)
    assert metrics.registry.get_sample_value("sitegrid_fallback_units") == 1
    del scene.api.objects["servicegrids", "web"]
    await controller.until_rest()
    assert metrics.registry.get_sample_value("sitegrid_fallback_units") == 0


async def test_mistakes_in_fallback_are_a_condition(scene: Any, new_controller: Make) -> None:
    """The unit is named, and all others fall back as they are told."""
    controller = new_controller(scene)
    await _three_sites(scene, controller)
    grid = scene.api.of("servicegrids")["web"]
    entry = {"units": {"names": ["one", "two", "gone"]}, "to": ["one", "three"]}
    scene.api.put("servicegrids", {**grid, "spec": {**grid["spec"], "fallback": [entry]}})
    await _fail(scene, controller, "n-two")
    degraded = next(item for item in _status(scene)["conditions"] if item["type"] == "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "FallbackInvalid")
    assert degraded["message"].startswith("unit one: spec.fallback[0] lets the unit fall back to itself")
    assert _status(scene)["unknownUnits"] == ["gone"]
    assert _nodes(scene, "two") == {"n-one"}
