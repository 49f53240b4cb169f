"""One site's change is not kept waiting by a burst of others' work, counted in writes that come before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.workloads import DeploymentGrid
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.manager import Manager
from sitegrid.controller.metrics import Metrics
from sitegrid.grid.observed import EndpointSlice, Node
from tests.support.fakeapi import FakeApi, Manifest, Recorder

UNITS = 300
MOST = 60
"""Writes that may come before: the shares of all other work, and what follows them meanwhile."""


class Busy(FakeApi):
    """Each write takes a few turns of the event loop, so that others are begun meanwhile."""

    async def create(self, *args: Any, **kwargs: Any) -> Manifest:
        """Create, in a while."""
        await _turns()
        return await super().create(*args, **kwargs)

    async def apply(self, *args: Any, **kwargs: Any) -> Manifest:
        """Apply, in a while."""
        await _turns()
        return await super().apply(*args, **kwargs)

    async def patch(self, *args: Any, **kwargs: Any) -> Manifest:
        """Patch, in a while."""
        await _turns()
        return await super().patch(*args, **kwargs)


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class World:
    """An API with units of one node each, and the stores of a controller that sees every write at once."""

    def __init__(self) -> None:
        self.api = Busy()
        self.cluster = Cluster()
        for number in range(UNITS):
            self.node(number)

    def node(self, number: int, **status: Any) -> None:
        """Put a node, ready or not."""
        labels = {"zone": f"u{number}"}
        self.api.put("nodes", {"metadata": {"name": f"n{number}", "labels": labels}, "status": status})
        self.cluster.nodes.set(self._observed("nodes", f"n{number}", Node))

    def deployment_grid(self) -> None:
        """Put one, whose children and their status are a write for each unit."""
        template = {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}}}
        spec = {"gridUniqKey": "zone", "template": template}
        self.api.put("deploymentgrids", {"metadata": {"name": "x"}, "spec": spec})
        self.cluster.workloads["DeploymentGrid"].grids.store.set(
            self._observed("deploymentgrids", "x", DeploymentGrid)
        )

    def service_grid(self, name: str) -> None:
        """Put one."""
        spec = {"gridUniqKey": "zone", "template": {"selector": {"app": name}, "ports": [{"port": 80}]}}
        self.api.put("servicegrids", {"metadata": {"name": name}, "spec": spec})
        self.cluster.service_grids.store.set(self._observed("servicegrids", name, ServiceGrid))

    def endpoints(self, grid: str, address: Callable[[int], str]) -> None:
        """Put the Service's own slice, with an endpoint on each node, as Kubernetes does."""
        service = self.api.of("services")[f"{grid}-svc-sites"]["metadata"]
        labels = {
            **service["labels"],
            "kubernetes.io/service-name": service["name"],
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        }
        owners = [{"kind": "Service", "name": service["name"], "uid": service["uid"]}]
        endpoints = [{"addresses": [address(number)], "nodeName": f"n{number}"} for number in range(UNITS)]
        metadata = {"name": f"{grid}-kubernetes", "labels": labels, "ownerReferences": owners}
        self.api.put("endpointslices", {"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints})
        self.cluster.slices.store.set(self._observed("endpointslices", f"{grid}-kubernetes", EndpointSlice))

    def shown(self, address: str) -> bool:
        """Tell whether a unit slice has an address."""
        return any(
            endpoint["addresses"] == [address]
            for name, item in self.api.of("endpointslices").items()
            if not name.endswith("-kubernetes")
            for endpoint in item.get("endpoints") or ()
        )

    def _observed(self, plural: str, name: str, object_type: type[Any]) -> Any:
        return msgspec.json.decode(msgspec.json.encode(self.api.of(plural)[name]), type=object_type)


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - plain state without an event of its own
        await asyncio.sleep(0)


def _statuses(world: World) -> None:
    """Give each unit a child, and a NodeUnit whose status changes."""
    world.deployment_grid()
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    for number in range(UNITS):
        world.node(number, conditions=[ready])


def _slices(world: World) -> None:
    """Change each unit's slice of another Service."""
    world.endpoints("other", lambda number: f"10.2.0.{number}")


@pytest.mark.parametrize("burst", [_statuses, _slices], ids=["children and statuses", "another Service's slices"])
async def test_a_sites_slice_overtakes_a_burst(burst: Callable[[World], None]) -> None:
    """Of a burst's hundreds of writes only those come first that were under way, or have a share of their own."""
    world = World()
    for grid in ("web", "other"):
        world.service_grid(grid)
    lead = asyncio.create_task(Manager(world.cluster, world.api, Recorder(), Metrics()).lead())
    await _until(lambda: len(world.api.of("services")) == 4)
    for grid in ("web", "other"):
        world.endpoints(grid, lambda number: f"10.1.0.{number}")
    writes = world.api.writes
    await _until(lambda: sum(write.startswith("patch endpointslices") for write in writes) == 2 * UNITS)
    begin = len(writes)
    burst(world)
    await _until(lambda: len(writes) > begin + 20)
    begin = len(writes)
    world.endpoints("web", lambda number: "10.3.0.1" if number == UNITS // 2 else f"10.1.0.{number}")
    await _until(lambda: world.shown("10.3.0.1"))
    assert len(writes) - begin < MOST
    lead.cancel()
    await asyncio.gather(lead, return_exceptions=True)
