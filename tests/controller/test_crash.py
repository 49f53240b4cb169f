"""The controller killed after each single write, on a real API server, and started again: grids, units, nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sitegrid.controller.cluster import Cluster
from sitegrid.controller.manager import Manager
from sitegrid.controller.metrics import Metrics
from sitegrid.controller.statuses import HOLD as STATUS_HELD
from sitegrid.kube.client import Client
from sitegrid.kube.config import load_config

pytestmark = pytest.mark.cluster


class _Crash(BaseException):
    """The process is dead."""


class _Mortal:
    """The client, until a number of writes took effect; then every call is death."""

    def __init__(self, client: Client, writes_left: int) -> None:
        self._client = client
        self._left = writes_left
        self._one_at_a_time = asyncio.Lock()
        self.dead = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        """Read, while alive."""
        self._alive()
        return getattr(self._client, name)

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        """Write, and perhaps die of it."""
        return await self._write(self._client.create, *args, **kwargs)

    async def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Write, and perhaps die of it."""
        return await self._write(self._client.apply, *args, **kwargs)

    async def patch(self, *args: Any, **kwargs: Any) -> Any:
        """Write, and perhaps die of it."""
        return await self._write(self._client.patch, *args, **kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> Any:
        """Write, and perhaps die of it."""
        return await self._write(self._client.delete, *args, **kwargs)

    async def _write(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        async with self._one_at_a_time:  # or several would be under way when the first one kills
            self._alive()
            answer = await method(*args, **kwargs)
            self._left -= 1
            if self._left == 0:
                self.dead.set()
            self._alive()
            return answer

    def _alive(self) -> None:
        if self.dead.is_set():
            raise _Crash


class _NoEvents:
    """Drops events."""

    def event(self, *args: Any, **kwargs: Any) -> None:
        """Drop it."""


async def _live(plane: Any, writes: int, at_rest: Any) -> bool:
    """Run one life of a controller; True if `writes` writes killed it, False where it came to rest before."""
    async with Client(load_config(str(plane.kubeconfig("admin")))) as client:
        cluster = Cluster()
        api: Any = _Mortal(client, writes)
        metrics = Metrics()
        tasks = [asyncio.create_task(reflector.run()) for reflector in cluster.reflect(client)]
        tasks.append(asyncio.create_task(cluster.optional.run(client)))
        lead = asyncio.create_task(Manager(cluster, api, _NoEvents(), metrics).lead())
        rest = asyncio.create_task(at_rest(metrics, api.dead))
        await asyncio.wait([lead, rest, asyncio.create_task(api.dead.wait())], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, lead, rest):
            task.cancel()
        await asyncio.gather(*tasks, lead, rest, return_exceptions=True)
        return bool(api.dead.is_set())


async def _lives(world: Any, wait_for: Any, complete: Any) -> int:
    """Let controllers live until one writes nothing any more; return how many died of their first write."""

    async def stays_complete(metrics: Metrics, dead: asyncio.Event) -> None:
        def looked_and_complete() -> bool:
            looked = any(sample.value for metric in metrics.passes.collect() for sample in metric.samples)
            return dead.is_set() or (looked and bool(complete()))

        await asyncio.to_thread(wait_for, looked_and_complete, "the wanted state", dump=world.dump)
        await asyncio.sleep(STATUS_HELD + 1)  # a life that writes within this time is not at rest

    lives = 0
    while await _live(world.plane, 1, stays_complete):
        lives += 1
        assert lives < 60, world.dump()
    assert complete()
    return lives


@pytest.fixture
def alone(world: Any, wait_for: Any) -> Iterator[None]:
    """Stop the shared controller for a test."""
    controller = world.running.controller
    assert controller.stop() == 0
    yield
    controller.start()
    wait_for(lambda: controller.http("/readyz")[0] == 200, "the shared controller to be ready again")


async def test_killed_after_each_single_write(world: Any, wait_for: Any, alone: None) -> None:
    """Each life ends with its first write; together they reach the wanted state, and then nothing is written."""
    one, two = world.node("a", "NodeUnit1"), world.node("b", "two")
    await asyncio.to_thread(world.plane.apply, world.deployment_grid(), world.service_grid())
    world.pod("p1", one, "10.244.1.1")
    world.pod("p2", two, "10.244.2.1")
    selector = "endpointslice.kubernetes.io/managed-by=sitegrid,tkeedge.io/unit"

    def complete() -> bool:
        conditions = (world.condition(), world.condition(kind="sg"))
        slices = world.plane.objects("endpointslices", world.namespace, selector)
        return len(world.children()) == 2 and all(conditions) and len(slices) == 2

    lives = await _lives(world, wait_for, complete)
    # Two children, a Service, two slices, and a status of each grid at the least.
    assert lives >= 7


async def test_units_and_nodes_killed_after_each_single_write(world: Any, wait_for: Any, alone: None) -> None:
    """Members join and leave, are labelled, annotated and tainted, and units come and go, by one write a life."""
    plane, namespace = world.plane, world.namespace
    one, two, found = world.node("a"), world.node("b"), world.node("c", region=namespace)
    sites, name = f"sites-{namespace}", f"hz-{namespace}"

    def declare(node: str, tier: str) -> None:
        spec = {
            "gridUniqKey": world.key,
            "unit": "hz",
            "nodes": [node],
            "setNode": {
                "labels": {f"{namespace}/tier": tier},
                "annotations": {f"{namespace}/note": tier},
                "taints": [{"key": f"{namespace}/edge", "effect": "NoSchedule"}],
            },
            "removal": {"gracePeriodSeconds": 0},
        }
        meta = {"name": name}
        plane.apply({"apiVersion": "tkeedge.io/v1", "kind": "NodeUnit", "metadata": meta, "spec": spec})

    def node(full: str) -> tuple[dict[str, str], dict[str, str], set[str]]:
        found = plane.get("node", full)
        taints = {taint["key"] for taint in found["spec"].get("taints", ())}
        return found["metadata"].get("labels", {}), found["metadata"].get("annotations", {}), taints

    def is_member(full: str, tier: str) -> bool:
        labels, annotations, taints = node(full)
        return (labels.get(world.key), labels.get(f"{namespace}/tier"), annotations.get(f"{namespace}/note")) == (
            "hz",
            tier,
            tier,
        ) and f"{namespace}/edge" in taints

    def is_none(full: str) -> bool:
        labels, annotations, taints = node(full)
        ours = [key for key in annotations if "tkeedge.io" in key]
        return not ({world.key, f"{namespace}/tier"} & labels.keys() or ours or f"{namespace}/edge" in taints)

    def status(kind: str, full: str) -> dict[str, Any]:
        return (plane.get(kind, full) or {}).get("status", {})  # type: ignore[no-any-return]

    group = {
        "apiVersion": "tkeedge.io/v1",
        "kind": "NodeGroup",
        "metadata": {"name": sites},
        "spec": {"gridUniqKey": sites, "autoFindNodeKeys": ["region"]},
    }
    try:
        await asyncio.to_thread(plane.apply, group, world.deployment_grid())
        await asyncio.to_thread(declare, one, "gold")

        def joined() -> bool:
            return (
                is_member(one, "gold")
                and is_none(two)
                and node(found)[0].get(sites) == namespace
                and status("nodeunit", name).get("nodes") == [one]
                and status("nodegroup", sites).get("nodeCount") == 1
                and world.condition().get("reason") == "UnitsNotReady"
            )

        # The member's labels and its taints, the other's label, a child, two made objects, and five statuses.
        assert await _lives(world, wait_for, joined) >= 10
        await asyncio.to_thread(declare, two, "silver")
        await asyncio.to_thread(plane.kubectl, "label", "node", found, "region-")
        remove = {"spec": {"removal": {"gracePeriodSeconds": 0}}}
        await asyncio.to_thread(plane.kubectl, "patch", "nodegroup", sites, "--type=merge", "-p", json.dumps(remove))

        def moved() -> bool:
            return (
                is_member(two, "silver")
                and is_none(one)
                and sites not in node(found)[0]
                and status("nodeunit", name).get("nodes") == [two]
                and status("nodegroup", sites).get("nodeCount") == 0
            )

        assert await _lives(world, wait_for, moved) >= 6
    finally:
        for kind, full in (("nodeunit", name), ("nodegroup", sites)):
            await asyncio.to_thread(plane.kubectl, "delete", kind, full, "--ignore-not-found")
