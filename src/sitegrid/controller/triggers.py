"""Turns changes of observed objects into keys of work. A key never says what happened, only what to look at.

Registered once on the stores; while this process does not lead there are no queues, and changes need nothing.
Invariant I7: a node's heartbeat, which changes no label and no condition's status, gives no key. Held by
``tests/controller/test_triggers.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final, TypeVar

from sitegrid.api.nodeunits import NodeUnit
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.workloads import StatefulSetGrid, WorkloadGrid
from sitegrid.controller.cluster import KEY, OWNER, Cluster, changed_declarations, changed_labels
from sitegrid.controller.queues import GridKey, Queues, ServiceKey
from sitegrid.grid.kinds import SERVICE_KINDS, WORKLOAD_KINDS, owner_kind
from sitegrid.grid.observed import AnyService, Companion, EndpointSlice, Node, Service, Workload
from sitegrid.grid.reachability import reach_of
from sitegrid.grid.service import is_closed
from sitegrid.grid.servicepatches import node_ports_of, wants_node_ports
from sitegrid.grid.sidedoors import side_doors
from sitegrid.grid.slices import is_unit_slice
from sitegrid.grid.sources import is_source, source_service
from sitegrid.wire.labels import GRID, SITES_OF, UNIT_SERVICE_NAME, label_value

CHILD_DELAY: Final = 0.1
"""Seconds to wait after a child's status changed, since its neighbours' are about to."""

GRID_KINDS: Final = WORKLOAD_KINDS.keys() | SERVICE_KINDS.keys()

C = TypeVar("C", Workload, Service)


class Triggers:
    """The handlers on the stores of `cluster`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.queues: Queues | None = None
        """Where the keys go; None while this process does not lead."""
        cluster.nodes.add_handler(self._node)
        cluster.node_units.store.add_handler(self._node_unit)
        for kind, stores in cluster.workloads.items():
            stores.grids.store.add_handler(partial(self._workload_grid, kind))
        for child_kind, children in cluster.children.items():
            makers = [kind for kind, stores in cluster.workloads.items() if stores.kind.child == child_kind]
            children.store.add_handler(partial(self._child, makers))
        cluster.workloads[StatefulSetGrid.KIND].children.store.add_handler(self._stateful_set)
        for companions in cluster.companions.values():
            companions.store.add_handler(self._companion)
        for kind, service_grids in cluster.service_grid_stores.items():
            service_grids.store.add_handler(partial(self._service_grid, kind))
        cluster.services.store.add_handler(self._service)
        cluster.any_services.add_handler(self._any_service)
        cluster.slices.store.add_handler(self._slice)

    def add_all(self) -> None:
        """Add everything that is observed, as at the beginning of leading."""
        for kind, stores in self._cluster.workloads.items():
            for grid in stores.grids.store.list():
                self._workload_grid(kind, None, grid)
        for kind, service_grids in self._cluster.service_grid_stores.items():
            for service_grid in service_grids.store.list():
                self._service_grid(kind, None, service_grid)
        for service in self._cluster.services.store.list():
            self._service(None, service)
        for item in self._cluster.slices.store.list():
            self._slice(None, item)

    def grid(self, key: GridKey) -> None:
        """Add a grid of whose surroundings something was found out."""
        if self.queues is not None:
            self.queues.grids.add(key)

    def slices(self, key: ServiceKey) -> None:
        """Add the slices of a Service of whose units something was found out."""
        if self.queues is not None:
            self.queues.slices.add(key)

    def _node(self, old: Node | None, new: Node | None) -> None:
        if self.queues is None:
            return
        for key in changed_labels(old, new):
            self._workload_grids_of(key)
            for kind, service_grids in self._cluster.service_grid_stores.items():
                for service_grid in service_grids.store.by_index(KEY, key):
                    self._service_grid(kind, None, service_grid)
        if old is not None and new is not None and reach_of(old) != reach_of(new):
            self._reach(new)

    def _reach(self, node: Node) -> None:
        """Add what depends on whether a node is heard of: where its units' pods are to run, and their endpoints."""
        for key in node.metadata.labels:
            self._workload_grids_of(key)
            self._slices_of_key(key)

    def _node_unit(self, old: NodeUnit | None, new: NodeUnit | None) -> None:
        if self.queues is None:
            return
        for key in changed_declarations(old, new):
            self._workload_grids_of(key)
            for kind, service_grids in self._cluster.service_grid_stores.items():
                for service_grid in service_grids.store.by_index(KEY, key):
                    if service_grid.spec.fallback or service_grid.spec.overrides:
                        self._service_grid(kind, None, service_grid)

    def _workload_grids_of(self, key: str) -> None:
        for kind, stores in self._cluster.workloads.items():
            for grid in stores.grids.store.by_index(KEY, key):
                self._workload_grid(kind, None, grid)

    def _workload_grid(self, kind: str, old: WorkloadGrid | None, new: WorkloadGrid | None) -> None:
        grid = new or old
        if self.queues is not None and grid is not None:
            self.queues.grids.add(GridKey(kind, grid.metadata.namespace, grid.metadata.name))

    def _service_grid(self, kind: str, old: ServiceGrid | None, new: ServiceGrid | None) -> None:
        grid = new or old
        if self.queues is None or grid is None:
            return
        self.queues.grids.add(GridKey(kind, grid.metadata.namespace, grid.metadata.name))
        if old is not None and new is not None and old.metadata.generation == new.metadata.generation:
            return
        self._slices_of(grid)
        if any(wants_node_ports(state) for state in (old, new) if state is not None):
            self._rivals()

    def _any_service(self, old: AnyService | None, new: AnyService | None) -> None:
        """Look at who wants node ports in some units when any Service got or gave up one, and at side doors."""
        before, after = (node_ports_of(service) if service is not None else set() for service in (old, new))
        if before != after:
            self._rivals()
        if (old and (old.spec.selector, old.metadata.labels)) == (new and (new.spec.selector, new.metadata.labels)):
            return
        states = [service for service in (old, new) if service is not None]
        for kind, service_grids in self._cluster.service_grid_stores.items():
            for grid in service_grids.store.list():
                if side_doors(grid, states) and self.queues is not None:
                    self.queues.grids.add(GridKey(kind, grid.metadata.namespace, grid.metadata.name))

    def _rivals(self) -> None:
        """Add all that want node ports in some units: others have other ones than before, or want them."""
        if self.queues is None:
            return
        for kind, service_grids in self._cluster.service_grid_stores.items():
            for grid in service_grids.store.list():
                if self.queues is not None and wants_node_ports(grid):
                    self.queues.grids.add(GridKey(kind, grid.metadata.namespace, grid.metadata.name))

    def _slices_of_key(self, key: str) -> None:
        for service_grids in self._cluster.service_grid_stores.values():
            for service_grid in service_grids.store.by_index(KEY, key):
                self._slices_of(service_grid)

    def _slices_of(self, grid: ServiceGrid) -> None:
        if self.queues is None:
            return
        for service in self._cluster.services.by_index(OWNER, grid.metadata.uid):
            self.queues.slices.add(_slices_key(service))

    def _companion(self, old: Companion | None, new: Companion | None) -> None:
        """Add the grid of the child that controls the companion, unless only its status changed."""
        if self.queues is None or (old is not None and new is not None and not _edited(old, new)):
            return
        for companion in (old, new):
            owner = companion.metadata.controller() if companion is not None else None
            if companion is None or owner is None:
                continue
            for child_kind, children in self._cluster.children.items():
                if owner.kind == child_kind.kind:
                    child = children.get(companion.metadata.namespace, owner.name)
                    if child is not None:
                        self._child((), None, child)

    def _service(self, old: Service | None, new: Service | None) -> None:
        service = new or old
        self._child(self._cluster.service_grid_stores, old, new)
        if self.queues is not None and service is not None:
            self.queues.slices.add(_slices_key(service))

    def _slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        if self.queues is None:
            return
        for item in (old, new):
            if item is None:
                continue
            labels = item.metadata.labels
            if is_source(item):
                key = ServiceKey(item.metadata.namespace, source_service(item))
                self.queues.slices.add(key)
                self._unclosed(key)
            elif is_unit_slice(item):
                self.queues.slices.add(ServiceKey(item.metadata.namespace, labels[UNIT_SERVICE_NAME]))

    def _unclosed(self, key: ServiceKey) -> None:
        """Add the grid of a Service that keeps its selector until the other one has all of its endpoints."""
        service = self._cluster.services.get(key.namespace, key.name)
        if service is not None and not is_closed(service):
            self._child((), None, service)

    def _child(self, makers: Iterable[str], old: C | None, new: C | None) -> None:
        """Add the grids that control the child; and where it is gone, of all its `makers` those that want its name.

        The label tells their name, as well as that of the grid that it was of.
        """
        if self.queues is None:
            return
        # What is gone must be made again at once; a status has time.
        delay = CHILD_DELAY if old is not None and new is not None else 0.0
        for child in (old, new):
            if child is None:
                continue
            meta, owner = child.metadata, child.metadata.controller()
            if owner is not None and (kind := owner_kind(owner)) in GRID_KINDS:
                self.queues.grids.add_after(GridKey(kind, meta.namespace, owner.name), delay)
            name = meta.labels.get(GRID, "")
            for kind in makers if new is None else ():
                if owner is None or owner_kind(owner) != kind or label_value(owner.name) != name:
                    self.queues.grids.add_after(GridKey(kind, meta.namespace, name), delay)

    def _stateful_set(self, old: Workload | None, new: Workload | None) -> None:
        """Add the slices in which its pods have their grid's name, when that is another or none now."""
        if self.queues is None or old is None or new is None:
            return
        owners = (old.metadata.controller(), new.metadata.controller())
        if owners[0] == owners[1]:
            return
        for owner in owners:
            stores = self._cluster.workloads.get(owner_kind(owner)) if owner is not None else None
            grid = stores.grids.get(new.metadata.namespace, owner.name) if stores is not None and owner else None
            if grid is not None:
                self._slices_of_key(grid.spec.grid_uniq_key)


def _slices_key(service: Service) -> ServiceKey:
    """Return whose slices a Service of a grid is about: its own, or those of the one whose endpoints it has."""
    meta = service.metadata
    return ServiceKey(meta.namespace, meta.labels.get(SITES_OF) or meta.name)


def _edited(old: Companion, new: Companion) -> bool:
    """Tell whether anything of ours may have changed; an autoscaler's status does every few seconds."""
    before, after = old.metadata, new.metadata
    return (
        before.applied_fields() != after.applied_fields()
        or before.labels != after.labels
        or before.annotations != after.annotations
        or before.deletion_timestamp != after.deletion_timestamp
        or before.controller() != after.controller()
    )
