"""Nodes, NodeUnits and NodeGroups in an API server in memory, and the controller's work on them, with crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sitegrid.api.nodeunits import NodeGroup, NodeUnit
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.workloads import DeploymentGrid
from sitegrid.controller.memberships import Memberships
from sitegrid.controller.metrics import Metrics
from sitegrid.controller.nodeunits import MIN_INTERVAL, NodeUnits
from sitegrid.controller.queues import UnitKey
from sitegrid.controller.reporter import Reporter
from sitegrid.controller.statuses import Statuses
from sitegrid.controller.unittriggers import UnitTriggers
from sitegrid.controller.writer import Writer
from sitegrid.grid.nodelimits import STRICT, NodeLimits
from sitegrid.grid.observed import Node
from sitegrid.kube.errors import ApiError
from tests.support.fakeapi import FakeApi, Manifest
from tests.support.lives import Life


class Keys:
    """Stands in for the work queue: keys wait until they are worked on, whatever the delay."""

    def __init__(self) -> None:
        self.keys: dict[UnitKey, None] = {}

    def add_after(self, key: UnitKey, seconds: float) -> None:
        """Add a key."""
        self.keys[key] = None


class Units(Life):
    """A life that works on nodes, NodeUnits and NodeGroups."""

    def __init__(self, api: FakeApi, start: float = 0.0, limits: NodeLimits = STRICT) -> None:
        super().__init__(api, start)
        cluster, writer = self.cluster, Writer(api, Metrics())
        self.memberships = Memberships(cluster, writer, limits=limits, now=self.now, clock=self.time)
        statuses = Statuses(writer, interval=MIN_INTERVAL, clock=self.time)
        self.node_units = NodeUnits(
            cluster, writer, statuses, Reporter(self.recorder), self.memberships, now=self.now
        )
        self.stores = {
            "nodes": (cluster.nodes, Node),
            "servicegrids": (cluster.service_grids.store, ServiceGrid),
            "deploymentgrids": (cluster.workloads["DeploymentGrid"].grids.store, DeploymentGrid),
            "nodeunits": (cluster.node_units.store, NodeUnit),
            "nodegroups": (cluster.node_groups.store, NodeGroup),
        }
        self.queue = Keys()
        self.triggers = UnitTriggers(cluster, self.memberships)
        self.sync()
        self.triggers.start(self.queue)  # type: ignore[arg-type]

    async def work(self) -> None:
        """Work on the keys that wait; conflicts are tried again after the next sync, as the queue does it."""
        keys, self.queue.keys = [*self.queue.keys], {}
        for key in keys:
            try:
                if key.kind == "Node":
                    again = await self.memberships.reconcile(key.name)
                elif key.kind == "NodeUnit":
                    again = await self.node_units.unit(key.unique_key, key.name)
                else:
                    again = await self.node_units.group(key.unique_key)
            except ApiError as error:
                assert error.status in (404, 409)  # somebody was faster
                again = 0.0
            if again is not None and again <= MIN_INTERVAL:
                self.queue.add_after(key, again)

    async def until_rest(self) -> None:
        """Sync and work until there is nothing to do; each round takes a second."""
        for _ in range(50):
            self.clock += 1.0
            self.sync()
            if not self.queue.keys:
                return
            await self.work()
        raise AssertionError(f"no rest: {self.api.writes[-20:]}")

    async def later(self, seconds: float) -> None:
        """Let time pass, and all that waited for it be done."""
        self.clock += seconds
        self.triggers.add_all()
        await self.until_rest()


class Scene:
    """What a test puts into the API."""

    def __init__(self) -> None:
        self.api = FakeApi()

    def node(self, name: str, *, ready: bool = True, taints: list[Manifest] | None = None, **labels: str) -> None:
        """Put a node; one that exists keeps the labels that others own."""
        former = self.api.of("nodes").get(name, {"metadata": {"name": name}})
        metadata = {**former["metadata"], "labels": {**former["metadata"].get("labels", {}), **labels}}
        condition = {"type": "Ready", "status": "True" if ready else "Unknown"}
        spec = {"taints": taints} if taints is not None else former.get("spec", {})
        self.api.put("nodes", {"metadata": metadata, "spec": spec, "status": {"conditions": [condition]}})

    def heartbeat(self, name: str) -> None:
        """Let a kubelet report that nothing has changed."""
        former = self.api.of("nodes")[name]
        condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": f"at {len(self.api.writes)}"}
        self.api.put("nodes", {**former, "status": {"conditions": [condition]}})

    def grid(self, key: str = "zone", name: str = "web") -> None:
        """Put a grid that uses a key."""
        self.api.put(
            "servicegrids",
            {"metadata": {"name": name, "namespace": "shop"}, "spec": {"gridUniqKey": key, "template": {}}},
        )

    def workload(self, name: str, **spec: Any) -> None:
        """Put a DeploymentGrid of the key ``zone``."""
        spec = {"gridUniqKey": "zone", "template": {}, **spec}
        self.api.put("deploymentgrids", {"metadata": {"name": name, "namespace": "shop"}, "spec": spec})

    def unit(self, name: str, **spec: Any) -> None:
        """Put a NodeUnit as a user does."""
        self._put("nodeunits", name, {"gridUniqKey": "zone", **spec})

    def group(self, name: str, **spec: Any) -> None:
        """Put a NodeGroup as a user does."""
        self._put("nodegroups", name, spec)

    def unlabel(self, node: str, key: str) -> None:
        """Take a label off a node as a user does; whoever owned it owns it no more."""
        former = self.api.of("nodes")[node]
        labels = {name: value for name, value in self.labels(node).items() if name != key}
        self.api.put("nodes", {**former, "metadata": {**former["metadata"], "labels": labels}})
        for fields in self.api.owned.get(("nodes", node), {}).values():
            fields.discard(("labels", key))

    def remove(self, plural: str, name: str) -> None:
        """Delete an object as a user does."""
        del self.api.objects[plural, name]

    def _put(self, plural: str, name: str, spec: Manifest) -> None:
        former = self.api.of(plural).get(name, {"metadata": {"name": name}})
        self.api.put(plural, {**former, "spec": spec})

    def labels(self, node: str) -> dict[str, str]:
        """Return a node's labels."""
        found: dict[str, str] = self.api.of("nodes")[node]["metadata"].get("labels", {})
        return found

    def result(self) -> dict[str, Any]:
        """Return what must come out the same, however it came about."""
        nodes = {
            name: (
                node["metadata"].get("labels") or {},
                node["metadata"].get("annotations") or {},
                node.get("spec", {}).get("taints") or [],
            )
            for name, node in self.api.of("nodes").items()
        }
        others = {
            (kind, name): (
                obj["spec"],
                obj["metadata"].get("labels"),
                {
                    key: value
                    for key, value in obj.get("status", {}).items()
                    if key not in ("conditions", "observedGeneration")
                },
            )
            for (kind, name), obj in self.api.objects.items()
            if kind in ("nodeunits", "nodegroups")
        }
        return {"nodes": nodes, "others": others}

    def reason(self, plural: str, name: str, type: str = "Degraded") -> str:
        """Return the reason of a condition."""
        conditions = self.api.of(plural)[name]["status"]["conditions"]
        return next(str(condition["reason"]) for condition in conditions if condition["type"] == type)


@pytest.fixture
def new_scene() -> Callable[[], Scene]:
    """Return a function that makes an empty API to put things into."""
    return Scene


@pytest.fixture
def scene() -> Scene:
    """An empty API to put things into."""
    return Scene()


@pytest.fixture
def new_life() -> Callable[..., Units]:
    """Return a function that starts a controller on a scene's API."""
    return lambda scene, start=0.0, limits=STRICT: Units(scene.api, start, limits)
