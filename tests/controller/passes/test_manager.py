"""The work as a whole: nothing before everything is observed, and again everything after the lead was lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import msgspec

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.workloads import DeploymentGrid
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.manager import Manager
from sitegrid.controller.metrics import Metrics
from sitegrid.grid.observed import Node
from sitegrid.kube.client import Client


class _NoEvents:
    def event(self, *args: Any, **kwargs: Any) -> None:
        """Drop it."""


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - plain state without an event of its own
        await asyncio.sleep(0.005)


def _observed(scene: Any) -> Cluster:
    """Return a cluster whose stores have what the scene's API has."""
    cluster = Cluster()
    for store, kind, plural in (
        (cluster.nodes, Node, "nodes"),
        (cluster.workloads["DeploymentGrid"].grids.store, DeploymentGrid, "deploymentgrids"),
        (cluster.service_grids.store, ServiceGrid, "servicegrids"),
    ):
        objects = [msgspec.json.encode(obj) for obj in scene.api.of(plural).values()]
        cast(Any, store).replace([msgspec.json.decode(data, type=kind) for data in objects])
    return cluster


async def test_nothing_is_written_before_every_store_is_complete(scene: Any) -> None:
    """A half-filled node store would look like vanished units: until all stores are complete nothing happens."""
    scene.node("n", "one")
    scene.grids()
    cluster = _observed(scene)
    reflectors = cluster.reflect(cast(Client, object()))
    lead = asyncio.create_task(Manager(cluster, scene.api, _NoEvents(), Metrics()).lead())
    for reflector in reflectors[1:]:
        reflector.synced.set()
    for _ in range(50):
        await asyncio.sleep(0)
    assert scene.api.writes == []
    assert cluster.unsynced() == ["nodes: not synced"]
    reflectors[0].synced.set()
    await _until(lambda: "apply deployments web-one" in scene.api.writes)
    lead.cancel()
    await asyncio.gather(lead, return_exceptions=True)


async def test_who_leads_again_looks_at_everything(scene: Any) -> None:
    """What changed while another replica led is done without any event."""
    scene.node("n", "one")
    cluster = _observed(scene)
    manager = Manager(cluster, scene.api, _NoEvents(), Metrics())
    first = asyncio.create_task(manager.lead())
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    scene.grids()
    for obj in scene.api.of("deploymentgrids").values():
        cluster.workloads["DeploymentGrid"].grids.store.set(
            msgspec.json.decode(msgspec.json.encode(obj), type=DeploymentGrid)
        )
    second = asyncio.create_task(manager.lead())
    await _until(lambda: "apply deployments web-one" in scene.api.writes)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_node_ports_are_those_of_the_cluster(scene: Any) -> None:
    """An override's node port is given where the API server's range has it, whatever the default range is."""
    scene.node("n", "one")
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 2080}]
    override = {"units": {"names": ["one"]}, "patch": {"nodePorts": {"http": 2081}}}
    template = {"type": "NodePort", "selector": {"app": "web"}, "ports": ports}
    spec = {"gridUniqKey": "zone", "template": template, "overrides": [override]}
    scene.api.put("servicegrids", {"metadata": {"name": "web"}, "spec": spec})
    manager = Manager(_observed(scene), scene.api, _NoEvents(), Metrics(), node_ports=range(2000, 3000))
    lead = asyncio.create_task(manager.lead())
    await _until(lambda: "2081" in json.dumps(scene.api.of("endpointslices")))
    lead.cancel()
    await asyncio.gather(lead, return_exceptions=True)
