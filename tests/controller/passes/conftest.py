"""An API server in memory, and passes over it: given objects → expected writes, with crashes and stale stores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import pytest

from sitegrid.api.meta import timestamp
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.evictions import Evictions
from sitegrid.controller.fallbacks import FallbackStates
from sitegrid.controller.metrics import Metrics
from sitegrid.controller.queues import GridKey, ServiceKey
from sitegrid.controller.reporter import Reporter
from sitegrid.controller.services import Services
from sitegrid.controller.sitepatches import SitePatches
from sitegrid.controller.slices import Slices
from sitegrid.controller.statuses import HOLD, Statuses
from sitegrid.controller.workloads import Workloads
from sitegrid.controller.writer import Writer
from sitegrid.grid.kinds import SERVICE
from sitegrid.grid.observed import Companion, EndpointSlice, Node, Service, Workload
from sitegrid.kube.client import ObjectList
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import Resource

Manifest = dict[str, Any]
T = TypeVar("T")
NAMESPACE = "default"


class Crash(BaseException):
    """The controller's process is dead."""


class FakeApi:
    """Enough of the API server's server-side apply for whole objects of ours; it can kill the controller."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Manifest] = {}
        """By plural and name; all but nodes in one namespace."""
        self.writes: list[str] = []
        self.lists: list[str] = []
        self.crash_after: int | None = None
        """Kill the controller right after this many writes took effect."""
        self.refuse: Callable[[str, str], ApiError | None] = lambda verb, name: None
        self._version = 0

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest:
        """Return one object."""
        self._alive()
        return copy.deepcopy(self._found(resource.plural, name))

    async def create(self, resource: Resource, obj: Manifest, *, field_manager: str | None = None) -> Manifest:
        """Create what does not exist."""
        assert resource.plural == "endpointslices"  # children are applied
        name = obj["metadata"]["name"]
        self._alive()
        if (error := self.refuse("create", name)) is not None:
            raise error
        if (resource.plural, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f"{name} exists")
        managed = [{"manager": field_manager, "operation": "Update"}]
        self.put(resource.plural, {**obj, "metadata": {**obj["metadata"], "managedFields": managed}})
        self._wrote(f"create {resource.plural} {name}")
        return copy.deepcopy(self.objects[resource.plural, name])

    async def apply(
        self,
        resource: Resource,
        obj: Manifest,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Manifest:
        """Apply: our fields become what `obj` says; fields of others stay."""
        assert field_manager in ("sitegrid", "sitegrid-released")
        name = obj["metadata"]["name"]
        self._alive()
        if (error := self.refuse("apply", name)) is not None:
            raise error
        key = (resource.plural, name)
        present = self.objects.get(key)
        uid = obj["metadata"].get("uid")
        if uid is not None and (present is None or present["metadata"]["uid"] != uid):
            raise ApiError(409, "Conflict", "uid differs")
        if field_manager != "sitegrid":
            assert present is not None
            assert {**present["spec"], **obj["spec"]} == present["spec"]  # what is released stays as it is
            self._wrote(f"release {resource.plural} {name}")
            return copy.deepcopy(present)
        obj = copy.deepcopy(obj)
        if subresource == "status":
            assert present is not None
            changed = {**present, "status": obj["status"]}
        else:
            changed = self._merged(present, obj)
        if present is None or _comparable(present) != _comparable(changed):
            self.put(resource.plural, changed)
        self._wrote(f"{'status' if subresource else 'apply'} {resource.plural} {name}")
        return copy.deepcopy(self.objects[key])

    async def patch(self, resource: Resource, name: str, patch: Manifest, namespace: str | None = None) -> Manifest:
        """Merge patch, with its preconditions."""
        self._alive()
        if (error := self.refuse("patch", name)) is not None:
            raise error
        found = copy.deepcopy(self._found(resource.plural, name))
        metadata = patch["metadata"]
        for field in ("uid", "resourceVersion"):
            if found["metadata"][field] != metadata[field]:
                raise ApiError(409, "Conflict", f"{field} differs")
        found = _merge_patch(found, patch)
        if found["metadata"].get("managedFields") == [{}]:
            del found["metadata"]["managedFields"]
        self.put(resource.plural, found)
        self._wrote(f"{'annotate' if patch.keys() == {'metadata'} else 'patch'} {resource.plural} {name}")
        return copy.deepcopy(self.objects[resource.plural, name])

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
        self._wrote(f"delete {resource.plural} {name}")

    async def list_as(
        self,
        object_type: type[T],
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> ObjectList[T]:
        """Return the objects with a label, and with a field such as ``spec.nodeName``."""
        self._alive()
        if (error := self.refuse("list", resource.plural)) is not None:
            raise error
        assert namespace == (None if resource.plural == "services" else NAMESPACE)
        key, _, value = label_selector.partition("=")
        path, _, wanted = field_selector.partition("=")
        self.lists.append(f"{resource.plural} {wanted}")
        found = [
            item
            for item in self.of(resource.plural).values()
            if (not key or item["metadata"]["labels"].get(key) == value)
            and (not path or _field(item, path) == wanted)
        ]
        items = [msgspec.json.decode(msgspec.json.encode(item), type=object_type) for item in found]
        return ObjectList(items, str(self._version))

    def put(self, plural: str, obj: Manifest) -> None:
        """Store an object with a new resourceVersion, as anybody's write does."""
        self._version += 1
        where = {} if plural == "nodes" else {"namespace": NAMESPACE}
        metadata = {**where, "uid": f"uid-{self._version}", **obj["metadata"]}
        key = (plural, metadata["name"])
        former = self.objects.get(key)
        generation = former["metadata"]["generation"] if former else 0
        if former is None or former.get("spec") != obj.get("spec"):
            generation += 1
        metadata.update(resourceVersion=str(self._version), generation=generation)
        self.objects[key] = {**obj, "metadata": metadata}

    def of(self, plural: str) -> dict[str, Manifest]:
        """Return the objects of one type by name."""
        return {name: obj for (kind, name), obj in self.objects.items() if kind == plural}

    def _merged(self, present: Manifest | None, obj: Manifest) -> Manifest:
        metadata = copy.deepcopy(present["metadata"]) if present else {}
        for field in ("labels", "annotations"):
            metadata[field] = {**metadata.get(field, {}), **obj["metadata"].get(field, {})}
        metadata["ownerReferences"] = obj["metadata"]["ownerReferences"]
        metadata["name"] = obj["metadata"]["name"]
        owned = {"f:metadata": {"f:labels": _fields(obj["metadata"]["labels"]), "f:ownerReferences": {}}}
        if "spec" in obj:
            owned["f:spec"] = _fields(obj["spec"])
        metadata["managedFields"] = [{"manager": "sitegrid", "operation": "Apply", "fieldsV1": owned}]
        return {**(present or {}), **obj, "metadata": metadata}

    def _found(self, plural: str, name: str) -> Manifest:
        if (plural, name) not in self.objects:
            raise ApiError(404, "NotFound", f"{plural} {name} not found")
        return self.objects[plural, name]

    def _alive(self) -> None:
        if self.crash_after is not None and len(self.writes) >= self.crash_after:
            raise Crash

    def _wrote(self, write: str) -> None:
        self.writes.append(write)
        self._alive()


def _fields(value: Any) -> Manifest:
    return {f"f:{name}": _fields(item) for name, item in value.items()} if isinstance(value, dict) else {}


def _merge_patch(value: Any, patch: Any) -> Any:
    """Return what RFC 7386 makes of `value`."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge_patch(merged.get(name), change)
    return merged


def _field(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name, {})
    return value


def _comparable(obj: Manifest) -> Manifest:
    metadata = {
        name: value for name, value in obj["metadata"].items() if name not in ("resourceVersion", "generation")
    }
    return {**obj, "metadata": metadata}


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, regarding: Manifest, *, type: str, reason: str, action: str, note: str) -> None:
        """Keep one."""
        self.events.append((reason, note))


class Controller:
    """One life of the controller: its stores, its memory and its passes, on an API that outlives it."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.clock = 0.0
        self.recorder = Recorder()
        cluster = self.cluster = Cluster(clock=self.time, now=self.now)
        self._stores: dict[str, tuple[Any, type[Any]]] = {
            "nodes": (cluster.nodes, Node),
            "servicegrids": (cluster.service_grids.store, ServiceGrid),
            "services": (cluster.services.store, Service),
            "endpointslices": (cluster.slices.store, EndpointSlice),
        }
        for workload in (stores for stores in cluster.workloads.values() if not stores.kind.optional):
            self._stores[workload.kind.grid_plural] = (workload.grids.store, workload.kind.grid_type)
            self._stores[workload.kind.child.plural] = (workload.children.store, Workload)
        for kind, companions in cluster.companions.items():
            self._stores[kind.plural] = (companions.store, Companion)
        writer = Writer(api, Metrics())
        statuses = Statuses(writer, clock=self.time)
        reporter = Reporter(self.recorder)
        self.workloads = {
            name: Workloads(stores.kind, cluster, writer, statuses, reporter, api, now=self.now, clock=self.time)
            for name, stores in cluster.workloads.items()
        }
        self.fallbacks, self.patches = FallbackStates(), SitePatches(cluster, api, clock=self.time)
        self.services = Services(
            SERVICE, cluster, writer, statuses, reporter, self.fallbacks, self.patches, now=self.now, clock=self.time
        )
        self.evictions = Evictions(cluster, api, writer, reporter, now=self.now)
        self.slices = Slices(cluster, writer, self.fallbacks, self.patches, now=self.now)

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
            objects = (msgspec.json.encode(obj) for obj in self.api.of(plural).values())
            store.replace([msgspec.json.decode(data, type=object_type) for data in objects])

    async def one_pass(self) -> None:
        """Pass once over everything that the stores have."""
        self.clock += 1.0
        for kind, stores in self.cluster.workloads.items():
            for grid in stores.grids.store.list():
                key = GridKey(kind, NAMESPACE, grid.metadata.name)
                await self.workloads[kind].reconcile(key)
                await self.evictions.reconcile(key)
        for service_grid in self.cluster.service_grids.store.list():
            await self.services.reconcile(GridKey("ServiceGrid", NAMESPACE, service_grid.metadata.name))
        for service in self.cluster.services.store.list():
            try:
                await self.slices.reconcile(ServiceKey(NAMESPACE, service.metadata.name))
            except ApiError as error:
                assert error.conflict  # tried again by the queue

    async def until_rest(self) -> None:
        """Sync and pass until nothing is written any more, also not what was held back."""
        held = False
        for _ in range(20):
            before = len(self.api.writes)
            collect_garbage(self.api)
            endpoints(self.api)
            self.sync()
            await self.one_pass()
            quiet = len(self.api.writes) == before
            if quiet and held:
                return
            held = quiet
            self.clock += HOLD if held else 0.0
        raise AssertionError(f"no rest: {self.api.writes[-20:]}")


def collect_garbage(api: FakeApi) -> None:
    """Do what Kubernetes' garbage collector does: budgets and autoscalers do not outlive their child."""
    uids = {obj["metadata"]["uid"] for obj in api.objects.values()}
    for key, obj in [*api.objects.items()]:
        owners = obj["metadata"].get("ownerReferences") or ()
        if key[0] not in ("poddisruptionbudgets", "horizontalpodautoscalers"):
            continue
        if any(owner.get("controller") and owner["uid"] not in uids for owner in owners):
            del api.objects[key]


def pods_ready(node: Manifest) -> bool:
    """Tell what a node's pods are said to be: not ready, once the node lifecycle controller gives it up."""
    conditions = node.get("status", {}).get("conditions", [])
    return all(condition["status"] == "True" for condition in conditions if condition["type"] == "Ready")


def endpoints(api: FakeApi) -> None:
    """Do what Kubernetes' endpointslice controller does: one slice per Service, here with one endpoint per node."""
    for name, service in api.of("services").items():
        labels = {
            **service["metadata"].get("labels", {}),
            "kubernetes.io/service-name": name,
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        }
        wanted = {
            "metadata": {
                "name": f"{name}-abcde",
                "labels": labels,
                "ownerReferences": [{"kind": "Service", "name": name, "uid": service["metadata"]["uid"]}],
            },
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": [f"10.0.0.{number}"], "conditions": {"ready": pods_ready(node)}, "nodeName": name}
                for number, (name, node) in enumerate(sorted(api.of("nodes").items()))
            ],
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        }
        present = api.of("endpointslices").get(f"{name}-abcde")
        if present is None or present["endpoints"] != wanted["endpoints"]:
            api.put("endpointslices", wanted)


class Scene:
    """What a test puts into the API."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api

    def node(self, name: str, value: str | None) -> None:
        """Put a node, in the unit `value` of the key ``zone``."""
        self.api.put("nodes", {"metadata": {"name": name, "labels": {"zone": value} if value else {}}})

    def report(self, name: str, ready: str, at: datetime) -> None:
        """Let a node's kubelet, or the node lifecycle controller, say how the node is since `at`."""
        node = self.api.of("nodes")[name]
        since = timestamp(at)
        other = "Unknown" if ready == "Unknown" else "False"
        conditions = [
            {"type": "Ready", "status": ready, "lastTransitionTime": since},
            {"type": "DiskPressure", "status": other, "lastTransitionTime": since},
        ]
        self.api.put("nodes", {**node, "status": {"conditions": conditions}})

    def pod(self, name: str, node: str, unit: str, owner: str, kind: str = "ReplicaSet") -> None:
        """Put a pod of a ReplicaSet or other workload."""
        _, _, template = owner.rpartition("-")
        controller = {"kind": kind, "name": owner, "uid": f"uid-{owner}", "controller": True}
        labels = {"tkeedge.io/unit": f"zone.{unit}", "pod-template-hash": template}
        metadata = {"name": name, "labels": labels, "ownerReferences": [controller]}
        self.api.put("pods", {"metadata": metadata, "spec": {"nodeName": node}})

    def grids(self, *, image: str = "web:1", name: str = "web", removal: Manifest | None = None) -> None:
        """Put a DeploymentGrid and a ServiceGrid."""
        template = {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
        }
        spec = {"gridUniqKey": "zone", "template": template, **({"removal": removal} if removal else {})}
        service = {"selector": {"app": name}, "ports": [{"port": 80}]}
        for plural, body in (
            ("deploymentgrids", spec),
            ("servicegrids", {"gridUniqKey": "zone", "template": service}),
        ):
            former = self.api.of(plural).get(name, {"metadata": {"name": name}})
            self.api.put(plural, {**former, "spec": body})

    def workload(self, kind: str, name: str = "web", **spec: Any) -> None:
        """Put a workload grid of any kind; `spec` replaces fields of its spec."""
        template = {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        }
        plural = f"{kind.lower()}s"
        former = self.api.of(plural).get(name, {"metadata": {"name": name}})
        self.api.put(plural, {**former, "spec": {"gridUniqKey": "zone", "template": template, **spec}})

    def result(self) -> dict[str, Any]:
        """Return what must come out the same, however it came about."""

        def plain(objects: Iterable[Manifest], *fields: str) -> dict[str, Any]:
            return {obj["metadata"]["name"]: [obj.get(field) for field in fields] for obj in objects}

        unit_slices = (
            item
            for item in self.api.of("endpointslices").values()
            if item["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "sitegrid"
        )
        return {
            "deployments": plain(self.api.of("deployments").values(), "spec"),
            "others": {
                plural: plain(self.api.of(plural).values(), "spec")
                for plural in ("statefulsets", "daemonsets", "poddisruptionbudgets", "horizontalpodautoscalers")
            },
            "services": plain(self.api.of("services").values(), "spec"),
            "slices": plain(unit_slices, "endpoints", "ports"),
            "status": {
                f"{plural}/{name}": {
                    key: value for key, value in grid.get("status", {}).items() if key != "conditions"
                }
                for plural in ("deploymentgrids", "statefulsetgrids", "daemonsetgrids")
                for name, grid in self.api.of(plural).items()
            },
        }


@pytest.fixture
def new_scene() -> Callable[[], Scene]:
    """Return a function that makes an empty API to put things into."""
    return lambda: Scene(FakeApi())


@pytest.fixture
def scene(new_scene: Callable[[], Scene]) -> Scene:
    """An empty API to put things into."""
    return new_scene()


@pytest.fixture
def new_controller() -> Callable[[Scene], Controller]:
    """Return a function that starts a controller on a scene's API."""
    return lambda scene: Controller(scene.api)


@pytest.fixture(name="endpoints")
def _endpoints() -> Callable[[FakeApi], None]:
    """Do what Kubernetes' endpointslice controller does."""
    return endpoints


@pytest.fixture
def crash() -> type[BaseException]:
    """What a dead controller raises."""
    return Crash
