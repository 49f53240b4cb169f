"""Nodes, NodeUnits and NodeGroups in an API server in memory, and the controller's work on them, with crashes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sitegrid.api.nodeunits import NodeGroup, NodeUnit
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.workloads import DeploymentGrid
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.memberships import Memberships
from sitegrid.controller.metrics import Metrics
from sitegrid.controller.nodeunits import MIN_INTERVAL, NodeUnits
from sitegrid.controller.queues import UnitKey
from sitegrid.controller.reporter import Reporter
from sitegrid.controller.statuses import Statuses
from sitegrid.controller.unittriggers import UnitTriggers
from sitegrid.controller.writer import Writer
from sitegrid.grid.observed import Node
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import Resource

Manifest = dict[str, Any]


class Crash(BaseException):
    """The controller's process is dead."""


class FakeApi:
    """Enough of the API server for metadata by server-side apply, merge patches, and whole objects."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.owned: dict[tuple[str, str], dict[str, set[tuple[str, str]]]] = {}
        """By object and field manager, the labels and annotations that it applied."""
        self.writes: list[str] = []
        self.crash_after: int | None = None
        self.refuse: Callable[[str, str], ApiError | None] = lambda verb, name: None
        """What the API server says to a write, by verb and name; None lets it pass."""
        self.refused = 0
        self._version = 0

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest:
        """Return one object."""
        return copy.deepcopy(self._found(resource.plural, name))

    async def create(self, resource: Resource, obj: Manifest, *, field_manager: str | None = None) -> Manifest:
        """Create what does not exist."""
        self._alive()
        if (resource.plural, obj["metadata"]["name"]) in self.objects:
            raise ApiError(409, "AlreadyExists", "it exists")
        self.put(resource.plural, obj)
        return self._wrote("create", resource.plural, obj["metadata"]["name"])

    async def apply(
        self,
        resource: Resource,
        obj: Manifest,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Manifest:
        """Apply a status, or labels and annotations, as one manager of several."""
        self._alive()
        plural, name = resource.plural, obj["metadata"]["name"]
        self._may("apply", name)
        present = copy.deepcopy(self._found(plural, name))
        if present["metadata"]["uid"] != obj["metadata"]["uid"]:
            raise ApiError(409, "Conflict", "uid differs")
        if subresource == "status":
            self.put(plural, {**present, "status": obj["status"]})
            return self._wrote("status", plural, name)
        assert not force
        owned = self.owned.setdefault((plural, name), {})
        wanted = {
            (kind, key): value
            for kind in ("labels", "annotations")
            for key, value in obj["metadata"].get(kind, {}).items()
        }
        metadata = present["metadata"]
        assert all(obj["metadata"].get(kind, True) for kind in ("labels", "annotations")), "an empty map is owned"
        for kind, key in wanted:
            there = metadata.get(kind, {}).get(key)
            mine = (kind, key) in owned.get(field_manager, set())
            shared = any((kind, key) in fields for other, fields in owned.items() if other != field_manager)
            if there not in (None, wanted[kind, key]) and (shared or not mine):
                raise ApiError(409, "Conflict", f"conflict: {key}")
        for kind, key in owned.pop(field_manager, set()) - wanted.keys():
            if not any((kind, key) in fields for fields in owned.values()):
                metadata.get(kind, {}).pop(key, None)
        for (kind, key), value in wanted.items():
            metadata.setdefault(kind, {})[key] = value
        owned[field_manager] = {*wanted}
        self.put(plural, present)
        return self._wrote("apply", plural, f"{name} {field_manager}")

    async def patch(self, resource: Resource, name: str, patch: Manifest, namespace: str | None = None) -> Manifest:
        """Merge annotations and taints, with preconditions."""
        self._alive()
        self._may("patch", name)
        found = copy.deepcopy(self._found(resource.plural, name))
        for field in ("uid", "resourceVersion"):
            if found["metadata"][field] != patch["metadata"][field]:
                raise ApiError(409, "Conflict", f"{field} differs")
        annotations = {**found["metadata"].get("annotations", {}), **patch["metadata"]["annotations"]}
        found["metadata"]["annotations"] = {key: value for key, value in annotations.items() if value is not None}
        if "spec" in patch:
            found["spec"] = {**found.get("spec", {}), "taints": patch["spec"]["taints"]}
        self.put(resource.plural, found)
        return self._wrote("patch", resource.plural, name)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation_policy: str | None = None,
    ) -> None:
        """Delete, with preconditions."""
        self._alive()
        metadata = self._found(resource.plural, name)["metadata"]
        if (metadata["uid"], metadata["resourceVersion"]) != (uid, resource_version):
            raise ApiError(409, "Conflict", "it changed")
        del self.objects[resource.plural, name]
        self._wrote("delete", resource.plural, name)

    def put(self, plural: str, obj: Manifest) -> None:
        """Store an object with a new resourceVersion, as anybody's write does."""
        self._version += 1
        key = (plural, obj["metadata"]["name"])
        former = self.objects.get(key)
        metadata = {
            "uid": f"uid-{self._version}",
            "creationTimestamp": f"2026-01-01T00:{self._version // 60:02}:{self._version % 60:02}Z",
            "generation": 0,
            **(former["metadata"] if former else {}),
            **obj["metadata"],
        }
        if former is None or former.get("spec") != obj.get("spec"):
            metadata["generation"] += 1
        metadata["resourceVersion"] = str(self._version)
        self.objects[key] = {**obj, "metadata": metadata}

    def of(self, plural: str) -> dict[str, Manifest]:
        """Return the objects of one type by name."""
        return {name: obj for (kind, name), obj in self.objects.items() if kind == plural}

    def _found(self, plural: str, name: str) -> Manifest:
        if (plural, name) not in self.objects:
            raise ApiError(404, "NotFound", f"{plural} {name} not found")
        return self.objects[plural, name]

    def _may(self, verb: str, name: str) -> None:
        if (error := self.refuse(verb, name)) is not None:
            self.refused += 1
            raise error

    def _alive(self) -> None:
        if self.crash_after is not None and len(self.writes) >= self.crash_after:
            raise Crash

    def _wrote(self, verb: str, plural: str, name: str) -> Manifest:
        self.writes.append(f"{verb} {plural} {name}")
        self._alive()
        return copy.deepcopy(self.objects.get((plural, name.split()[0]), {}))


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, regarding: Manifest, *, type: str, reason: str, action: str, note: str) -> None:
        """Keep one."""
        self.events.append((reason, note))


class Keys:
    """Stands in for the work queue: keys wait until they are worked on, whatever the delay."""

    def __init__(self) -> None:
        self.keys: dict[UnitKey, None] = {}

    def add_after(self, key: UnitKey, seconds: float) -> None:
        """Add a key."""
        self.keys[key] = None


class Life:
    """One life of the controller: its stores, its memory and its work, on an API that outlives it."""

    def __init__(self, api: FakeApi, start: float = 0.0) -> None:
        self.api = api
        self.clock = start
        self.recorder = Recorder()
        cluster = self.cluster = Cluster(clock=self.time)
        writer = Writer(api, Metrics())
        self.memberships = Memberships(cluster, writer, now=self.now, clock=self.time)
        statuses = Statuses(writer, interval=MIN_INTERVAL, clock=self.time)
        self.node_units = NodeUnits(
            cluster, writer, statuses, Reporter(self.recorder), self.memberships, now=self.now
        )
        self._stores: dict[str, tuple[Any, type[Any]]] = {
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

    def time(self) -> float:
        """Return the fake time in seconds."""
        return self.clock

    def now(self) -> datetime:
        """Return the fake time."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.clock)

    def sync(self, *plurals: str) -> None:
        """Let the stores (these, or all) see what the API has."""
        for plural in plurals or self._stores:
            store, object_type = self._stores[plural]
            objects = [msgspec.json.encode(obj) for obj in self.api.of(plural).values()]
            store.replace([msgspec.json.decode(data, type=object_type) for data in objects])

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
def new_life() -> Callable[..., Life]:
    """Return a function that starts a controller on a scene's API."""
    return lambda scene, start=0.0: Life(scene.api, start)


@pytest.fixture
def crash() -> type[BaseException]:
    """What a dead controller raises."""
    return Crash
