"""What the controller observes: one reflector and store per resource type, decoded as `sitegrid.grid.observed`.

Only what concerns grids is watched: children and slices by their labels. Invariant: nothing is planned before every
store is complete (`wait_synced`), for a half-filled node store would look like vanished units.
Held by ``tests/controller/passes/test_manager.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sitegrid.api.nodeunits import NodeGroup, NodeUnit
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.superedge import SiteNodeGroup, SiteNodeUnit
from sitegrid.api.workloads import WorkloadGrid
from sitegrid.controller.optional import Optional
from sitegrid.controller.reaches import NodeReaches
from sitegrid.controller.resources import (
    NODEGROUPS,
    NODEUNITS,
    SERVICEGRIDS,
    SITE_NODEGROUPS,
    SITE_NODEUNITS,
    child_resource,
    grid_resource,
    service_grid_resource,
)
from sitegrid.controller.written import Written
from sitegrid.grid.kinds import (
    COMPANION_KINDS,
    SERVICE,
    SERVICE_KINDS,
    WORKLOAD_KINDS,
    ObjectKind,
    WorkloadKind,
    owner_kind,
)
from sitegrid.grid.nodeunits import Declaration, UnitOfKey, declared, is_generated
from sitegrid.grid.observed import AnyService, Companion, EndpointSlice, Node, Service, Workload
from sitegrid.grid.service import is_sites_of
from sitegrid.grid.slices import is_unit_slice
from sitegrid.grid.sources import is_source, source_service
from sitegrid.grid.units import Units, unit_of_node, units_of
from sitegrid.kube.client import Client
from sitegrid.kube.reflector import Reflector
from sitegrid.kube.resources import ENDPOINTSLICES, NODES, SERVICES
from sitegrid.kube.store import Store
from sitegrid.wire.labels import GRID, GRID_UNIQ_KEY, UNIT_SERVICE_NAME

log = logging.getLogger(__name__)

OWNER: Final = "owner"
"""Index: children by the uid of their controller."""
KEY: Final = "key"
"""Index: grids, NodeUnits and NodeGroups by their unique key."""
UNIT_OF_KEY: Final = "unit-of-key"
"""Index: NodeUnits by the unit that they are for (`unit_index`)."""
NAMED_NODE: Final = "named-node"
"""Index: NodeUnits by the nodes that they name."""
SOURCE: Final = "source"
"""Index: Kubernetes' own slices by the grid's Service that they have the endpoints of (`service_index`)."""
UNIT_SLICE: Final = "unit-slice"
"""Index: unit slices by the Service."""

NAMESPACE: Final = "namespace"
"""Index: Services of whoever by their namespace."""

FIRST_NOTICE: Final = 3.0
NEXT_NOTICE: Final = 30.0
"""Seconds until the log says (again) what is being waited for."""


class KnownUnits:
    """The units of each unique key, found anew only after a node's labels or a NodeUnit changed."""

    def __init__(self, nodes: Store[Node], node_units: Store[NodeUnit]) -> None:
        self._nodes = nodes
        self._node_units = node_units
        self._known: dict[str, tuple[Units, Mapping[str, str]]] = {}
        self._declared: Mapping[UnitOfKey, Declaration] | None = None
        nodes.add_handler(self._changed)
        node_units.add_handler(self._declaration_changed)

    def of(self, key: str) -> Units:
        """Return the units of `key`."""
        return self._get(key)[0]

    def by_node(self, key: str) -> Mapping[str, str]:
        """Return the value of `key` by the node's name, for nodes that are in a unit."""
        return self._get(key)[1]

    def nodes_of(self, key: str, value: str) -> Collection[str]:
        """Return the names of the nodes of one unit; none where there is no such unit."""
        info = self._get(key)[0].get(value)
        return () if info is None else info.nodes

    def _get(self, key: str) -> tuple[Units, Mapping[str, str]]:
        known = self._known.get(key)
        if known is None:
            nodes = ((node.metadata.name, node.metadata.labels) for node in self._nodes.list())
            if self._declared is None:
                self._declared = declared(self._node_units.list())
            units = units_of(key, nodes, self._declared)
            known = self._known[key] = (units, unit_of_node(units))
        return known

    def _changed(self, old: Node | None, new: Node | None) -> None:
        for key in changed_labels(old, new):
            self._known.pop(key, None)

    def _declaration_changed(self, old: NodeUnit | None, new: NodeUnit | None) -> None:
        for key in changed_declarations(old, new):
            self._declared = None
            self._known.pop(key, None)


class WorkloadStores:
    """The grids of one kind, and the children of all kinds of grid that make such ones."""

    def __init__(self, kind: WorkloadKind, children: Written[Workload], clock: Callable[[], float]) -> None:
        self.kind = kind
        self.grids: Written[WorkloadGrid] = Written(Store(), {KEY: _unique_key}, clock=clock)
        self.children = children


class Cluster:
    """The stores, as they are once our own writes have come back, and the reflectors that fill them."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.nodes: Store[Node] = Store()
        self.node_units: Written[NodeUnit] = Written(
            Store(), {KEY: _unique_key, UNIT_OF_KEY: _unit_of_key, NAMED_NODE: _named_nodes}, clock=clock
        )
        self.node_groups: Written[NodeGroup] = Written(Store(), {KEY: _unique_key}, clock=clock)
        self.site_units: Written[SiteNodeUnit] = Written(Store(), clock=clock)
        self.site_groups: Written[SiteNodeGroup] = Written(Store(), clock=clock)
        self.units = KnownUnits(self.nodes, self.node_units.store)
        self.reaches = NodeReaches(self.nodes, now=now)
        self.children: dict[ObjectKind, Written[Workload]] = {
            kind.child: Written(Store(), {OWNER: _owner}, clock=clock) for kind in WORKLOAD_KINDS.values()
        }
        self.workloads = {
            name: WorkloadStores(kind, self.children[kind.child], clock) for name, kind in WORKLOAD_KINDS.items()
        }
        """By the name of the kind of grid."""
        self.companions: dict[ObjectKind, Written[Companion]] = {
            kind: Written(Store(), {OWNER: _owner}, clock=clock) for kind in COMPANION_KINDS
        }
        self.service_grid_stores: dict[str, Written[ServiceGrid]] = {
            name: Written(Store(), {KEY: _unique_key}, clock=clock) for name in SERVICE_KINDS
        }
        """By the name of the kind."""
        self.service_grids = self.service_grid_stores[SERVICE.name]
        self.services: Written[Service] = Written(Store(), {OWNER: _owner}, clock=clock)
        self.any_services: Store[AnyService] = Store()
        """All Services of the cluster: node ports are the cluster's, and any may select a grid's pods."""
        self.any_services.add_index(NAMESPACE, lambda service: (service.metadata.namespace,))
        self.slices: Written[EndpointSlice] = Written(
            Store(), {SOURCE: _source, UNIT_SLICE: _unit_slice}, clock=clock
        )
        self._reflectors: list[Reflector[Any]] = []
        self.optional = Optional()

    def reflect(self, client: Client) -> list[Reflector[Any]]:
        """Return the reflectors that fill the stores from `client`; the caller runs them, and `optional`."""
        self._reflectors = [
            Reflector(client, NODES, self.nodes, object_type=Node),
            Reflector(client, NODEUNITS, self.node_units.store, object_type=NodeUnit),
            Reflector(client, NODEGROUPS, self.node_groups.store, object_type=NodeGroup),
            Reflector(client, SERVICEGRIDS, self.service_grids.store, object_type=ServiceGrid),
            Reflector(client, SERVICES, self.services.store, object_type=Service, label_selector=GRID),
            Reflector(client, SERVICES, self.any_services, object_type=AnyService),
            Reflector(
                client, ENDPOINTSLICES, self.slices.store, object_type=EndpointSlice, label_selector=GRID_UNIQ_KEY
            ),
        ]
        for stores in self.workloads.values():
            kind, grids = stores.kind, stores.grids.store
            if kind.optional:
                self.optional.add(grid_resource(kind), grids, kind.grid_type)
            else:
                self._reflectors.append(Reflector(client, grid_resource(kind), grids, object_type=kind.grid_type))
        for name, service_kind in SERVICE_KINDS.items():
            if service_kind.optional:
                service_grids = self.service_grid_stores[name].store
                self.optional.add(service_grid_resource(service_kind), service_grids, service_kind.grid_type)
        for child_kind, children in self.children.items():
            child = child_resource(child_kind)
            self._reflectors.append(
                Reflector(client, child, children.store, object_type=Workload, label_selector=GRID)
            )
        for object_kind, companions in self.companions.items():
            resource = child_resource(object_kind)
            self._reflectors.append(
                Reflector(client, resource, companions.store, object_type=Companion, label_selector=GRID)
            )
        self.optional.add(SITE_NODEUNITS, self.site_units.store, SiteNodeUnit)
        self.optional.add(SITE_NODEGROUPS, self.site_groups.store, SiteNodeGroup)
        return [*self._reflectors, self.optional.reflect(client)]

    def grid_stores(self) -> list[Store[Any]]:
        """Return the stores of grids, of all kinds."""
        return [
            *(stores.grids.store for stores in self.workloads.values()),
            *(service_grids.store for service_grids in self.service_grid_stores.values()),
        ]

    def service_grid_of(self, service: Service) -> ServiceGrid | None:
        """Return the ServiceGrid that controls a Service, of whatever kind."""
        owner = service.metadata.controller()
        store = self.service_grid_stores.get(owner_kind(owner)) if owner is not None else None
        grid = store.get(service.metadata.namespace, owner.name) if store is not None and owner is not None else None
        return grid if grid is not None and owner is not None and grid.metadata.uid == owner.uid else None

    def sites_of(self, grid: ServiceGrid) -> Service | None:
        """Return the Service that has the endpoints of the grid's."""
        services = self.services.by_index(OWNER, grid.metadata.uid)
        found = (service for service in services if is_sites_of(service, grid))
        return min(found, key=lambda service: service.metadata.name, default=None)

    def works_on(self, service: Service) -> bool:
        """Tell whether grids of the kind that controls a Service are observed: else nobody knows what is wanted."""
        owner = service.metadata.controller()
        kind = SERVICE_KINDS.get(owner_kind(owner)) if owner is not None else None
        return kind is None or not kind.optional or self.optional.served(service_grid_resource(kind))

    def unsynced(self) -> list[str]:
        """Return what is still missing, in words for /readyz and the log; empty when everything is observed."""
        return [
            f"{reflector.resource.plural}: "
            + ("the CustomResourceDefinition is not installed" if reflector.missing else "not synced")
            for reflector in self._reflectors
            if not reflector.synced.is_set()
        ]

    def counts(self) -> tuple[int, int, int]:
        """Return how many workload grids, ServiceGrids and nodes are observed."""
        workload_grids = sum(len(stores.grids.store) for stores in self.workloads.values())
        service_grids = sum(len(service_grids.store) for service_grids in self.service_grid_stores.values())
        return workload_grids, service_grids, len(self.nodes)

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
        await self.optional.wait_synced()


def changed_labels(old: Node | None, new: Node | None) -> set[str]:
    """Return the label keys by which two states of a node differ; a heartbeat changes none."""
    before = old.metadata.labels if old is not None else {}
    after = new.metadata.labels if new is not None else {}
    if before == after:
        return set()
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def changed_declarations(old: NodeUnit | None, new: NodeUnit | None) -> set[str]:
    """Return the unique keys of whose units two states of a NodeUnit say different things.

    A status says nothing, and neither does a NodeUnit that we made by ourselves.
    """
    saying = [item for item in (old, new) if item is not None and not is_generated(item)]
    if len(saying) == 2 and _says(saying[0]) == _says(saying[1]):
        return set()
    return {item.spec.grid_uniq_key for item in saying}


def service_index(namespace: str, name: str) -> str:
    """Return how the slice indexes name a Service."""
    return f"{namespace}/{name}"


def decode(answer: dict[str, Any], object_type: type[Any]) -> Any:
    """Return an API server's answer as the observed type; through JSON, since field sets stay undecoded (Raw)."""
    return msgspec.json.decode(msgspec.json.encode(answer), type=object_type)


def _says(node_unit: NodeUnit) -> tuple[object, ...]:
    meta, spec = node_unit.metadata, node_unit.spec
    return (node_unit.unit, meta.labels, bool(meta.deletion_timestamp), spec.values, spec.suspend)


def unit_index(key: str, value: str) -> str:
    """Return how the index of NodeUnits names a unit; neither part of it can have the separator."""
    return f"{key}={value}"


def _unique_key(item: WorkloadGrid | ServiceGrid | NodeUnit | NodeGroup) -> Iterable[str]:
    return (item.spec.grid_uniq_key,)


def _unit_of_key(node_unit: NodeUnit) -> Iterable[str]:
    return (unit_index(node_unit.spec.grid_uniq_key, node_unit.unit),)


def _named_nodes(node_unit: NodeUnit) -> Iterable[str]:
    return node_unit.spec.nodes


def _owner(child: Workload | Companion | Service) -> Iterable[str]:
    owner = child.metadata.controller()
    return () if owner is None else (owner.uid,)


def _source(item: EndpointSlice) -> Iterable[str]:
    return (service_index(item.metadata.namespace, source_service(item)),) if is_source(item) else ()


def _unit_slice(item: EndpointSlice) -> Iterable[str]:
    metadata = item.metadata
    return (service_index(metadata.namespace, metadata.labels[UNIT_SERVICE_NAME]),) if is_unit_slice(item) else ()
