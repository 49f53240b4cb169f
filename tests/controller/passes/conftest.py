"""An API server in memory, and passes over it: given objects → expected writes, with crashes and stale stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import pytest

from sitegrid.api.meta import timestamp
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.controller.evictions import Evictions
from sitegrid.controller.metrics import Metrics
from sitegrid.controller.outcomes import Outcomes
from sitegrid.controller.podnames import PodNames
from sitegrid.controller.queues import GridKey, ServiceKey
from sitegrid.controller.reporter import Reporter
from sitegrid.controller.services import Services
from sitegrid.controller.sitepatches import SitePatches
from sitegrid.controller.slices import Slices
from sitegrid.controller.statuses import HOLD, Statuses
from sitegrid.controller.workloads import Workloads
from sitegrid.controller.writer import Writer
from sitegrid.grid.kinds import SERVICE
from sitegrid.grid.observed import AnyService, Companion, EndpointSlice, Node, Service, Workload
from sitegrid.kube.errors import ApiError
from tests.support.fakeapi import NAMESPACE, FakeApi, Manifest
from tests.support.lives import Life


class Controller(Life):
    """A life that passes over grids and their Services."""

    def __init__(self, api: FakeApi, start: float = 0.0) -> None:
        super().__init__(api, start)
        cluster = self.cluster
        self.stores = {
            "nodes": (cluster.nodes, Node),
            "servicegrids": (cluster.service_grids.store, ServiceGrid),
            "services": (cluster.services.store, Service),
            "endpointslices": (cluster.slices.store, EndpointSlice),
        }
        for workload in (stores for stores in cluster.workloads.values() if not stores.kind.optional):
            self.stores[workload.kind.grid_plural] = (workload.grids.store, workload.kind.grid_type)
            self.stores[workload.kind.child.plural] = (workload.children.store, Workload)
        for kind, companions in cluster.companions.items():
            self.stores[kind.plural] = (companions.store, Companion)
        writer = Writer(api, Metrics())
        statuses = Statuses(writer, clock=self.time)
        reporter = Reporter(self.recorder)
        self.workloads = {
            name: Workloads(stores.kind, cluster, writer, statuses, reporter, api, now=self.now, clock=self.time)
            for name, stores in cluster.workloads.items()
        }
        self.outcomes = Outcomes()
        self.patches = SitePatches(cluster, writer, reporter, clock=self.time)
        self.services = Services(
            SERVICE, cluster, writer, statuses, reporter, self.outcomes, self.patches, now=self.now, clock=self.time
        )
        self.evictions = Evictions(cluster, api, writer, reporter, now=self.now)
        pods = PodNames(api)
        self.slices = Slices(cluster, writer, self.outcomes, self.patches, pods, now=self.now, clock=self.time)

    def sync(self, *plurals: str) -> None:
        """Let the stores (these, or all) see what the API has."""
        super().sync(*plurals)
        if not plurals or "services" in plurals:
            known = [AnyService(item.metadata, item.spec) for item in self.cluster.services.store.list()]
            self.cluster.any_services.replace(known)

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
    """Do what Kubernetes' endpointslice controller does: one slice per Service, here with one endpoint per node.

    A Service without a selector is none of its business: what it has made stays. So does what the endpoints
    controller has made, and of that the endpointslicemirroring controller makes another slice.
    """
    for name, service in api.of("services").items():
        own = service["metadata"].get("labels", {})
        if not service["spec"].get("selector"):
            _mirror(api, name)
            continue
        if name not in api.of("endpoints"):
            api.put("endpoints", {"metadata": {"name": name, "labels": own}})
        labels = {
            **own,
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


def _mirror(api: FakeApi, name: str) -> None:
    found = api.of("endpoints").get(name)
    if found is None or f"{name}-mirror" in api.of("endpointslices"):
        return
    labels = {
        **found["metadata"]["labels"],
        "kubernetes.io/service-name": name,
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    owners = [{"kind": "Endpoints", "name": name, "uid": found["metadata"]["uid"]}]
    metadata = {"name": f"{name}-mirror", "labels": labels, "ownerReferences": owners}
    endpoints = [{"addresses": ["10.0.0.0"], "conditions": {"ready": True}}]
    api.put("endpointslices", {"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": []})


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
def new_controller() -> Callable[..., Controller]:
    """Return a function that starts a controller on a scene's API."""
    return lambda scene, start=0.0: Controller(scene.api, start)


@pytest.fixture(name="endpoints")
def _endpoints() -> Callable[[FakeApi], None]:
    """Do what Kubernetes' endpointslice controller does."""
    return endpoints
