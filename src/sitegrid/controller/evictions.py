"""Moves the pods of a unit's lost node to the unit's other nodes, in the place of Kubernetes' taint eviction.

Called by the manager after each pass over a workload grid. Pods are not watched: those of one node and unit are
listed at the moment the node is given up, once. Which nodes those are is decided by `sitegrid.grid.eviction`; this
deletes the pods, as Kubernetes' taint eviction would. ReplicaSets replace them at once; a StatefulSet does when the
pod is gone, which its node has to say, unless an administrator says so in its place (the out-of-service taint, which
is about pods that are being deleted, or the Node's deletion). A DaemonSet's pods have no other node to go to, and
Kubernetes leaves them alone, too. Invariant I8: while a whole unit is unreachable, nothing of it is touched. Held by
``tests/controller/passes/test_evictions.py`` and, on a real API server, ``tests/controller/test_reachability.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from sitegrid.api.workloads import ReplicatedGridSpec, WorkloadGrid
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.queues import GridKey
from sitegrid.controller.reporter import Reporter
from sitegrid.controller.resources import grid_resource
from sitegrid.controller.writer import Writer
from sitegrid.grid.adoption import ADOPTED
from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.eviction import LostNode, find_lost
from sitegrid.grid.observed import Pod
from sitegrid.kube.client import ObjectList
from sitegrid.kube.resources import PODS, Resource
from sitegrid.wire.labels import UNIT, unit_id

log = logging.getLogger(__name__)

T = TypeVar("T")


class Lists(Protocol):
    """The part of `sitegrid.kube.client.Client` that is used for looking."""

    async def list_as(
        self,
        object_type: type[T],
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> ObjectList[T]:
        """Return all objects that match."""


class Evictions:
    """Passes over workload grids that look for lost nodes."""

    def __init__(
        self,
        cluster: Cluster,
        api: Lists,
        writer: Writer,
        reporter: Reporter,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._api = api
        self._writer = writer
        self._reporter = reporter
        self._now = now
        self._done: dict[str, set[LostNode]] = {}
        """By the grid's uid: what needs no second look."""

    async def reconcile(self, key: GridKey) -> float | None:
        """Delete the grid's pods on nodes that its units have lost; return in how many seconds to come again.

        Raises ApiError and Unreachable.
        """
        stores = self._cluster.workloads[key.kind]
        grid = stores.grids.get(key.namespace, key.name)
        unready = self._cluster.reaches.unready()
        if grid is None or grid.metadata.deletion_timestamp or not unready:
            self._done.pop(grid.metadata.uid if grid is not None else "", None)
            return None
        if not isinstance(grid.spec, ReplicatedGridSpec):
            return None
        unique_key = grid.spec.grid_uniq_key
        units, blueprint = self._cluster.units.of(unique_key), Blueprint(stores.kind, grid)
        losses = find_lost(
            lambda value: blueprint.tolerated(units[value].unit),
            units,
            self._cluster.units.by_node(unique_key),
            self._cluster.reaches.all(),
            unready,
            self._now(),
        )
        done = self._done.setdefault(grid.metadata.uid, set())
        done.intersection_update(losses.lost)
        for lost in losses.lost:
            if lost not in done:
                await self._evict(blueprint, grid, lost)
                done.add(lost)
        return losses.wake_in

    async def _evict(self, blueprint: Blueprint, grid: WorkloadGrid, lost: LostNode) -> None:
        kind = blueprint.kind
        unit, child = unit_id(grid.spec.grid_uniq_key, lost.unit), blueprint.child_name(lost.unit)
        present = self._cluster.children[kind.child].get(grid.metadata.namespace, child)
        # Pods of a child that was taken over have no label of ours; their owner's name tells whose they are.
        shared = present is not None and ADOPTED in present.metadata.annotations
        found = await self._api.list_as(
            Pod,
            PODS,
            grid.metadata.namespace,
            label_selector="" if shared else f"{UNIT}={unit}",
            field_selector=f"spec.nodeName={lost.node}",
        )
        pods = [
            pod.metadata
            for pod in found.items
            if pod.of_child(kind.child.kind, child) and not pod.metadata.deletion_timestamp
        ]
        for pod in pods:
            await self._writer.delete(PODS, pod)
        if pods:
            names = ", ".join(pod.name for pod in pods)
            note = (
                f"Node {lost.node} of unit {lost.unit} is lost, other nodes of the unit are not: "
                f"deleted its pods, to be run there: {names}"
            )
            log.warning("%s %s/%s: %s", kind.name, grid.metadata.namespace, grid.metadata.name, note)
            self._reporter.warning(
                grid_resource(kind), grid.metadata, reason="UnitNodeLost", action="Evict", note=note
            )
