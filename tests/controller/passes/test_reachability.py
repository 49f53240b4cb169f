"""A site's slices through a lost WAN, pass by pass, with restarts and crashes of the controller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sitegrid.controller.queues import GridKey, Queues, ServiceKey
from sitegrid.controller.triggers import Triggers
from sitegrid.grid.reachability import RETURN, STAGGER
from sitegrid.kube.errors import ApiError
from tests.support.lives import crash_after_every_write

Make = Callable[..., Any]
SERVICE = ServiceKey("default", "web-svc")
SITE = ("node12", "node14")


async def _article(scene: Any, controller: Any) -> None:
    """The article's nodes and grids, all ready for a long time, and everything written."""
    for name, value in (("node12", "NodeUnit1"), ("node14", "NodeUnit1"), ("node21", "NodeUnit2")):
        scene.node(name, value)
        scene.report(name, "True", controller.now())
    scene.grids()
    controller.clock += 86_400
    await controller.until_rest()


def _ready(scene: Any) -> set[str]:
    """Return the nodes of the ready endpoints in the unit slices."""
    return {
        endpoint["nodeName"]
        for item in scene.api.of("endpointslices").values()
        if item["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "sitegrid"
        for endpoint in item["endpoints"]
        if endpoint["conditions"]["ready"]
    }


@pytest.mark.parametrize("restarted", [False, True])
async def test_lost_wan_writes_nothing(scene: Any, new_controller: Make, restarted: bool) -> None:
    """From the first node that goes to the last that is back, nothing of a site is touched, restarts or not."""
    controller = new_controller(scene)
    await _article(scene, controller)
    writes = [*scene.api.writes]
    for ready, pause in (("Unknown", 5), ("True", 30)):
        for node in SITE:
            if restarted:
                clock = controller.clock
                controller = new_controller(scene)
                controller.clock = clock
            scene.report(node, ready, controller.now())
            await controller.until_rest()
            controller.clock += pause
        controller.clock += 4_000 if ready == "Unknown" else 0
    assert scene.api.writes == writes


async def test_site_that_comes_back_is_held_until_its_pods_are_reported(scene: Any, new_controller: Make) -> None:
    """Nodes are Ready some time before their pods are; what is not reported in time is not ready then."""
    controller = new_controller(scene)
    await _article(scene, controller)
    for node in SITE:
        scene.report(node, "Unknown", controller.now())
    await controller.until_rest()
    source = {**scene.api.of("endpointslices")["web-svc-sites-abcde"]}
    for node in SITE:
        scene.report(node, "True", controller.now())
    # The kubelets are back, the endpointslice controller has heard nothing yet.
    scene.api.put("endpointslices", source)
    controller.sync()
    again = await controller.slices.reconcile(SERVICE)
    assert again == RETURN.total_seconds()
    assert _ready(scene) == {"node12", "node14", "node21"}
    controller.clock += again
    assert await controller.slices.reconcile(SERVICE) is None
    assert _ready(scene) == {"node21"}


async def test_crashed_node_goes_after_the_stagger(scene: Any, new_controller: Make) -> None:
    """A node that is away alone keeps its endpoints until the other nodes of its site would have followed."""
    controller = new_controller(scene)
    await _article(scene, controller)
    scene.report("node12", "Unknown", controller.now())
    await controller.until_rest()
    assert _ready(scene) == {"node12", "node14", "node21"}
    again = await controller.slices.reconcile(SERVICE)
    assert 0 < again <= STAGGER.total_seconds()
    controller.clock += again
    await controller.until_rest()
    assert _ready(scene) == {"node14", "node21"}


async def test_slices_that_are_seen_before_their_nodes_take_nothing_out(
    scene: Any, new_controller: Make, endpoints: Make
) -> None:
    """Watches may be apart; before an endpoint goes, its node is asked for."""
    controller = new_controller(scene)
    await _article(scene, controller)
    writes = [*scene.api.writes]
    for node in SITE:
        scene.report(node, "Unknown", controller.now())
    endpoints(scene.api)
    controller.sync("endpointslices")
    await controller.slices.reconcile(SERVICE)
    assert scene.api.writes == writes


async def test_node_that_is_deleted_while_it_is_asked_for_stays_so(
    scene: Any, new_controller: Make, endpoints: Make
) -> None:
    """An answer that is older than the watch's word brings no node back, for nobody would take it away again."""
    controller = new_controller(scene)
    await _article(scene, controller)
    scene.report("node21", "False", controller.now())
    endpoints(scene.api)
    controller.sync("endpointslices")
    get = scene.api.get

    async def late(*args: Any) -> Any:
        answer = await get(*args)
        controller.cluster.nodes.delete(controller.cluster.nodes.get(None, "node21"))
        return answer

    scene.api.get = late
    await controller.slices.reconcile(SERVICE)
    assert controller.cluster.nodes.get(None, "node21") is None
    assert "node21" not in _ready(scene)


@pytest.mark.parametrize("status", [403, 500])
async def test_node_that_cannot_be_asked_for(scene: Any, new_controller: Make, endpoints: Make, status: int) -> None:
    """Without the right to ask, the slices' word counts; another failure is tried again, with nothing taken out."""
    controller = new_controller(scene)
    await _article(scene, controller)
    scene.report("node21", "False", controller.now())
    endpoints(scene.api)
    controller.sync("endpointslices")

    async def refuse(*args: Any) -> Any:
        raise ApiError(status, "Refused", "no")

    scene.api.get = refuse
    if status == 403:
        await controller.slices.reconcile(SERVICE)
        assert "node21" not in _ready(scene)
    else:
        with pytest.raises(ApiError):
            await controller.slices.reconcile(SERVICE)
        assert "node21" in _ready(scene)


async def test_deleted_grid_takes_the_slices_of_a_site_that_is_away(scene: Any, new_controller: Make) -> None:
    """What is held is Kubernetes' reading, not the user's word: without the ServiceGrid there are no slices (I1)."""
    controller = new_controller(scene)
    await _article(scene, controller)
    for node in SITE:
        scene.report(node, "Unknown", controller.now())
    await controller.until_rest()
    del scene.api.objects["servicegrids", "web"]
    await controller.until_rest()
    assert _ready(scene) == set()


async def test_crash_after_every_write_of_an_outage(new_scene: Make, new_controller: Make) -> None:
    """Killed after any write of a crashed node's outage and started again, it comes to the same slices."""

    async def outage(scene: Any) -> Any:
        controller = new_controller(scene)
        await _article(scene, controller)
        scene.report("node12", "Unknown", controller.now())
        controller.sync()
        controller.clock += STAGGER.total_seconds()
        return controller

    await crash_after_every_write(new_scene, new_controller, outage)


async def test_only_news_of_a_node_gives_work(scene: Any, new_controller: Make) -> None:
    """A node that goes or comes back gives its grids and Services; a heartbeat gives nothing (I7)."""
    controller = new_controller(scene)
    await _article(scene, controller)
    triggers = Triggers(controller.cluster)
    triggers.queues = queues = Queues()
    scene.api.put("nodes", scene.api.of("nodes")["node12"])  # a new resourceVersion, as a heartbeat makes
    controller.sync("nodes")
    assert (len(queues.grids), len(queues.slices)) == (0, 0)
    scene.report("node12", "Unknown", controller.now())
    controller.sync("nodes")
    assert await queues.grids.get() == GridKey("DeploymentGrid", "default", "web")
    assert await queues.slices.get() == SERVICE
    assert (len(queues.grids), len(queues.slices)) == (0, 0)
