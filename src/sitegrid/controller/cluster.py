"""What the controller observes: one reflector and store per resource type, decoded as `sitegrid.grid.observed`.

Only what concerns grids is watched: children and slices by their labels. Invariant: nothing is planned before every
store is complete (`wait_synced`), for a half-filled node store would look like vanished units.
Held by ``tests/controller/passes/test_manager.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sitegrid.api.grids import DeploymentGrid, ServiceGrid
from sitegrid.api.meta import ObjectMeta
from sitegrid.controller.reaches import NodeReaches
from sitegrid.controller.resources import DEPLOYMENTGRIDS, SERVICEGRIDS
from sitegrid.controller.written import Written
from sitegrid.grid.observed import Deployment, EndpointSlice, Node, Service
from sitegrid.grid.slices import is_source, is_unit_slice
from sitegrid.grid.units import Units, find_units, unit_of_node
from sitegrid.kube.client import Client
from sitegrid.kube.reflector import Reflector
from sitegrid.kube.resources import DEPLOYMENTS, ENDPOINTSLICES, NODES, SERVICES
from sitegrid.kube.store import Store
from sitegrid.wire.labels import GRID, GRID_UNIQ_KEY, SERVICE_NAME, UNIT_SERVICE_NAME

log = logging.getLogger(__name__)

OWNER: Final = "owner"
"""Index: children by the uid of their controller."""
KEY: Final = "key"
"""Index: grids by their unique key."""
SOURCE: Final = "source"
"""Index: Kubernetes' own slices by the Service (`service_index`)."""
UNIT_SLICE: Final = "unit-slice"
"""Index: unit slices by the Service."""

FIRST_NOTICE: Final = 3.0
NEXT_NOTICE: Final = 30.0
"""Seconds until the log says (again) what is being waited for."""


class NodeUnits:
    """The units of each unique key, found anew only after a node's labels changed."""

    def __init__(self, nodes: Store[Node]) -> None:
        self._nodes = nodes
        self._known: dict[str, tuple[Units, Mapping[str, str]]] = {}
        nodes.add_handler(self._changed)

    def of(self, key: str) -> Units:
        """Return the units of `key`."""
        return self._get(key)[0]

    def by_node(self, key: str) -> Mapping[str, str]:
        """Return the value of `key` by the node's name, for nodes that are in a unit."""
        return self._get(key)[1]

    def _get(self, key: str) -> tuple[Units, Mapping[str, str]]:
        known = self._known.get(key)
        if known is None:
            nodes = ((node.metadata.name, node.metadata.labels) for node in self._nodes.list())
            units = find_units(nodes, key)
            known = self._known[key] = (units, unit_of_node(units))
        return known

    def _changed(self, old: Node | None, new: Node | None) -> None:
        for key in changed_labels(old, new):
            self._known.pop(key, None)


class Cluster:
    """The stores, as they are once our own writes have come back, and the reflectors that fill them."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.nodes: Store[Node] = Store()
        self.units = NodeUnits(self.nodes)
        self.reaches = NodeReaches(self.nodes, now=now)
        self.deployment_grids: Written[DeploymentGrid] = Written(Store(), {KEY: _unique_key}, clock=clock)
        self.service_grids: Written[ServiceGrid] = Written(Store(), {KEY: _unique_key}, clock=clock)
        self.deployments: Written[Deployment] = Written(Store(), {OWNER: _owner}, clock=clock)
        self.services: Written[Service] = Written(Store(), {OWNER: _owner}, clock=clock)
        self.slices: Written[EndpointSlice] = Written(
            Store(), {SOURCE: _source, UNIT_SLICE: _unit_slice}, clock=clock
        )
        self._reflectors: list[Reflector[Any]] = []

    def reflect(self, client: Client) -> list[Reflector[Any]]:
        """Return the reflectors that fill the stores from `client`; the caller runs them."""
        self._reflectors = [
            Reflector(client, NODES, self.nodes, object_type=Node),
            Reflector(client, DEPLOYMENTGRIDS, self.deployment_grids.store, object_type=DeploymentGrid),
            Reflector(client, SERVICEGRIDS, self.service_grids.store, object_type=ServiceGrid),
            Reflector(client, DEPLOYMENTS, self.deployments.store, object_type=Deployment, label_selector=GRID),
            Reflector(client, SERVICES, self.services.store, object_type=Service, label_selector=GRID),
            Reflector(
                client, ENDPOINTSLICES, self.slices.store, object_type=EndpointSlice, label_selector=GRID_UNIQ_KEY
            ),
        ]
        return self._reflectors

    def unsynced(self) -> list[str]:
        """Return what is still missing, in words for /readyz and the log; empty when everything is observed."""
        return [
            f"{reflector.resource.plural}: "
            + ("the CustomResourceDefinition is not installed" if reflector.missing else "not synced")
            for reflector in self._reflectors
            if not reflector.synced.is_set()
        ]

    def counts(self) -> tuple[int, int, int]:
        """Return how many DeploymentGrids, ServiceGrids and nodes are observed."""
        return len(self.deployment_grids.store), len(self.service_grids.store), len(self.nodes)

    async def wait_synced(self) -> None:
        """Return when every store has been complete once."""
        waiting = asyncio.gather(*(reflector.synced.wait() for reflector in self._reflectors))
        try:
            timeout = FIRST_NOTICE
            while not (await asyncio.wait([waiting], timeout=timeout))[0]:
                timeout = NEXT_NOTICE
                log.warning("waiting for %s", "; ".join(self.unsynced()))
                if any(reflector.missing for reflector in self._reflectors):
                    log.warning("install the CustomResourceDefinitions: sitegrid crds | kubectl apply -f -")
        finally:
            waiting.cancel()


def changed_labels(old: Node | None, new: Node | None) -> set[str]:
    """Return the label keys by which two states of a node differ; a heartbeat changes none."""
    before = old.metadata.labels if old is not None else {}
    after = new.metadata.labels if new is not None else {}
    if before == after:
        return set()
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def service_index(namespace: str, name: str) -> str:
    """Return how the slice indexes name a Service."""
    return f"{namespace}/{name}"


def decode(answer: dict[str, Any], object_type: type[Any]) -> Any:
    """Return an API server's answer as the observed type; through JSON, since field sets stay undecoded (Raw)."""
    return msgspec.json.decode(msgspec.json.encode(answer), type=object_type)


def _unique_key(grid: DeploymentGrid | ServiceGrid) -> Iterable[str]:
    return (grid.spec.grid_uniq_key,)


def _owner(child: Deployment | Service) -> Iterable[str]:
    owner = child.metadata.controller()
    return () if owner is None else (owner.uid,)


def _source(item: EndpointSlice) -> Iterable[str]:
    return (_service_of(item.metadata, SERVICE_NAME),) if is_source(item) else ()


def _unit_slice(item: EndpointSlice) -> Iterable[str]:
    return (_service_of(item.metadata, UNIT_SERVICE_NAME),) if is_unit_slice(item) else ()


def _service_of(metadata: ObjectMeta, label: str) -> str:
    return service_index(metadata.namespace, metadata.labels[label])
