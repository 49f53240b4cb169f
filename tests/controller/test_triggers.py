"""Which changes give which keys."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.workloads import DeploymentGrid
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.queues import GridKey, Queues, ServiceKey
from sitegrid.controller.triggers import Triggers
from sitegrid.grid.observed import EndpointSlice, Node, Service, Workload
from sitegrid.kube.queue import WorkQueue

GRID = GridKey("DeploymentGrid", "default", "web")
SERVICE_GRID = GridKey("ServiceGrid", "default", "web")
SERVICE = ServiceKey("default", "web-svc")


class _World:
    """A cluster with one grid of each kind, and what was added to the queues."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.triggers = Triggers(self.cluster)
        self.version = 0
        spec = {"gridUniqKey": "zone", "template": {}}
        self.put(self.cluster.workloads["DeploymentGrid"].grids.store, DeploymentGrid, "web", uid="dg", spec=spec)
        self.put(self.cluster.service_grids.store, ServiceGrid, "web", uid="sg", spec=spec)
        owner = {"kind": "ServiceGrid", "name": "web", "uid": "sg", "controller": True}
        self.put(self.cluster.services.store, Service, "web-svc", ownerReferences=[owner])
        self.triggers.queues = self.queues = Queues()

    def put(self, store: Any, kind: type[Any], name: str, spec: Any = None, **metadata: Any) -> None:
        """Store an object."""
        self.version += 1
        data = {"metadata": {"name": name, "namespace": "default", "resourceVersion": str(self.version), **metadata}}
        if kind is Node:
            del data["metadata"]["namespace"]
        if spec is not None:
            data["spec"] = spec
        store.set(msgspec.json.decode(msgspec.json.encode(data), type=kind))

    async def added(self) -> set[Any]:
        """Return what is to be worked on now."""
        keys: set[Any] = set()
        queues: tuple[WorkQueue[Any], ...] = (self.queues.grids, self.queues.slices)
        for queue in queues:
            while len(queue):
                key = await queue.get()
                keys.add(key)
                queue.done(key)
        return keys


@pytest.fixture
def cluster_world() -> _World:
    """A cluster with one grid of each kind."""
    return _World()


async def test_heartbeat_gives_nothing(cluster_world: _World) -> None:
    """A node whose labels stay needs nothing (I7)."""
    nodes = cluster_world.cluster.nodes
    cluster_world.put(nodes, Node, "n", labels={"zone": "one"})
    await cluster_world.added()
    cluster_world.put(nodes, Node, "n", labels={"zone": "one"})
    assert await cluster_world.added() == set()


async def test_label_of_the_key_gives_its_grids(cluster_world: _World) -> None:
    """A node that comes into a unit concerns the grids of that key, and their Services' slices."""
    cluster_world.put(cluster_world.cluster.nodes, Node, "n", labels={"zone": "one"})
    assert await cluster_world.added() == {GRID, SERVICE_GRID, SERVICE}


async def test_other_labels_give_nothing(cluster_world: _World) -> None:
    """A label that no grid has as its key concerns nobody."""
    cluster_world.put(cluster_world.cluster.nodes, Node, "n", labels={"disk": "ssd"})
    assert await cluster_world.added() == set()


async def test_child_gives_its_grid(cluster_world: _World) -> None:
    """A child that comes or goes concerns the grid that controls it, not the one that its label names."""
    owner = {"kind": "DeploymentGrid", "name": "web", "uid": "dg", "controller": True}
    labels = {"tkeedge.io/grid": "other"}
    store = cluster_world.cluster.workloads["DeploymentGrid"].children.store
    cluster_world.put(store, Workload, "web-one", ownerReferences=[owner], labels=labels)
    assert await cluster_world.added() == {GRID}


async def test_source_slice_gives_its_service(cluster_world: _World) -> None:
    """Kubernetes' own slice concerns its Service's slices, and no grid."""
    labels = {
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": "web-svc",
    }
    cluster_world.put(cluster_world.cluster.slices.store, EndpointSlice, "web-svc-abcde", labels=labels)
    assert await cluster_world.added() == {SERVICE}


async def test_unit_slice_gives_its_service(cluster_world: _World) -> None:
    """A unit slice that somebody edits is looked at."""
    labels = {"endpointslice.kubernetes.io/managed-by": "sitegrid", "tkeedge.io/service-name": "web-svc"}
    cluster_world.put(cluster_world.cluster.slices.store, EndpointSlice, "web-svc-one", labels=labels)
    assert await cluster_world.added() == {SERVICE}


async def test_nothing_is_kept_while_not_leading(cluster_world: _World) -> None:
    """A replica that does not lead observes; when it leads it looks at everything."""
    cluster_world.triggers.queues = None
    cluster_world.put(cluster_world.cluster.nodes, Node, "n", labels={"zone": "one"})
    assert await cluster_world.added() == set()
    cluster_world.triggers.queues = cluster_world.queues
    cluster_world.triggers.add_all()
    assert await cluster_world.added() == {GRID, SERVICE_GRID, SERVICE}
