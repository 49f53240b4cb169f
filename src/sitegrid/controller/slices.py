"""One pass over a grid Service's slices: writes the unit slices that differ, deletes those that are no longer wanted.

Called by the manager's slice workers, which wait for nothing but endpoints. Invariant I1: where the Service is not
(or no longer) controlled by a known ServiceGrid, nothing is wanted, and what is there is deleted. Invariant I8: what
a unit's nodes last saw stays while the cloud cannot see them (`sitegrid.grid.reachability`), and while the Service
that endpoints come from is not there or has no slices yet. Held by ``tests/controller/passes`` and
``tests/controller/test_reachability.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Final

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.workloads import StatefulSetGrid
from sitegrid.controller.cluster import SOURCE, UNIT_SLICE, Cluster, decode, service_index
from sitegrid.controller.leftovers import delete_leftovers
from sitegrid.controller.outcomes import Outcome, Outcomes
from sitegrid.controller.podnames import PodNames
from sitegrid.controller.queues import ServiceKey
from sitegrid.controller.sitepatches import SitePatches
from sitegrid.controller.writer import Manifest, Writer
from sitegrid.grid.aliases import GridSet
from sitegrid.grid.fallback import Falling
from sitegrid.grid.observed import EndpointSlice, Node, Service
from sitegrid.grid.reachability import carry_over, find_holds, silenced
from sitegrid.grid.service import has_endpoints, is_sites_of
from sitegrid.grid.slices import is_patch_slice, patch_slice, unchanged, unselected, untracked, wanted_slices
from sitegrid.grid.sources import as_sources, leftovers, of_service, sources_of
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import ENDPOINTSLICES, NODES
from sitegrid.wire.labels import UNIT

log = logging.getLogger(__name__)

WRITES_PER_SERVICE: Final = 8
"""Writes of one Service's slices at once, half of what all have: a Service whose slices change in every unit leaves
room for another's one slice, whose site would otherwise wait for all of them."""

SETTLE: Final = 3.0
"""Seconds for which former endpoints stay beside those of a Service that has just got slices (again): Kubernetes
makes slices of 100 endpoints, one after another."""

_Slices = dict[str, EndpointSlice]
"""Slices by their names."""


class Slices:
    """Passes over the slices of grid Services."""

    def __init__(
        self,
        cluster: Cluster,
        writer: Writer,
        outcomes: Outcomes,
        patches: SitePatches,
        pods: PodNames,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._writer = writer
        self._outcomes = outcomes
        self._patches = patches
        self._pods = pods
        self._now = now
        self._clock = clock
        self._bare: dict[ServiceKey, float] = {}
        """When a Service's slices were last missing, by the clock."""

    async def reconcile(self, key: ServiceKey) -> float | None:
        """Bring the Service's unit slices to what they should be; return in how many seconds to come again.

        Raises ApiError and Unreachable, after all were tried.
        """
        service = self._cluster.services.get(key.namespace, key.name)
        grid = self._grid_of(service)
        if service is not None and not self._cluster.works_on(service):
            return None
        if service is not None and grid is not None and is_sites_of(service, grid):
            return None  # its slices are looked at for the other's sake
        index = service_index(key.namespace, key.name)
        await self._learn_names(key, service, index)
        present, wanted, again = self._look(key, index)
        if nodes := silenced(wanted.values(), present.values()):
            await self._refresh(nodes)
            present, wanted, again = self._look(key, index)
        writes = [
            partial(self._write, item, present.get(name))
            for name, item in wanted.items()
            if name not in present or not unchanged(item, present[name])
        ]
        deletes = [partial(self._delete, item) for name, item in present.items() if name not in wanted]
        share = asyncio.Semaphore(WRITES_PER_SERVICE)

        async def in_turn(write: Callable[[], Awaitable[None]]) -> None:
            async with share:
                await write()

        results = await asyncio.gather(*map(in_turn, (*writes, *deletes)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        service = self._cluster.services.get(key.namespace, key.name)
        if service is not None and self._grid_of(service) is not None:
            left = leftovers(service, self._cluster.slices.by_index(SOURCE, index))
            if left:
                await delete_leftovers(self._cluster, self._writer, service, left)
        return again

    async def _learn_names(self, key: ServiceKey, service: Service | None, index: str) -> None:
        """Come to know the host names of the endpoints that the Service is to have."""
        grid = self._grid_of(service)
        sites = self._cluster.sites_of(grid) if grid is not None else None
        if sites is None:
            self._pods.forget(key)
            return
        items = of_service(sites, self._cluster.slices.by_index(SOURCE, index))
        await self._pods.learn(key, sites.spec.selector or {}, items)

    async def _refresh(self, names: Iterable[str]) -> None:
        """Have the store know the nodes as they are now, so that it is not behind the slices."""
        try:
            answers = await asyncio.gather(*(self._writer.find(NODES, "", name) for name in names))
        except ApiError as error:
            if error.status != 403:
                raise
            # An older ClusterRole: the store is right but for moments, and no endpoint would ever go otherwise.
            log.warning("nodes cannot be asked for, apply deploy/rbac/controller.yaml: %s", error)
            return
        for found in answers:
            # Not one whose deletion the store has seen meanwhile: no further event would take it out again.
            if found is not None and self._cluster.nodes.get(None, found["metadata"]["name"]) is not None:
                self._cluster.nodes.set(decode(found, Node))

    def _look(self, key: ServiceKey, index: str) -> tuple[_Slices, _Slices, float | None]:
        """Return the unit slices that are there, those that should be, and in how many seconds to come again."""
        present = {item.metadata.name: item for item in self._cluster.slices.by_index(UNIT_SLICE, index)}
        items, again = self._wanted(key, index, present.values())
        return present, {item.metadata.name: item for item in items}, again

    def _wanted(
        self, key: ServiceKey, index: str, present: Iterable[EndpointSlice]
    ) -> tuple[list[EndpointSlice], float | None]:
        service = self._cluster.services.get(key.namespace, key.name)
        grid = self._grid_of(service)
        if service is None or grid is None:
            self._outcomes.forget(key)
            self._patches.forget(key)
            self._bare.pop(key, None)
            return [], None
        unique_key, now = grid.spec.grid_uniq_key, self._now()
        units, by_node = self._cluster.units.of(unique_key), self._cluster.units.by_node(unique_key)
        holds = find_holds(units, self._cluster.reaches.unsettled(), by_node, now)
        present = of_service(service, present)
        sources, settled = self._sources(key, service, grid, index, present)
        carried = carry_over(unique_key, sources, present, by_node, holds)
        away = {by_node[node] for node, hold in holds.items() if hold.until is None}
        projection = wanted_slices(
            service,
            unique_key,
            carried.sources,
            by_node,
            find_set=partial(self._find_set, key.namespace),
            falling=Falling(self._outcomes.of(grid, units).ways, away, present),
        )
        self._outcomes.set(key, grid, Outcome(projection.fallbacks, projection.endpoints))
        again = None if carried.until is None else max(0.0, (carried.until - now).total_seconds())
        again = min((seconds for seconds in (again, settled) if seconds is not None), default=None)
        return [*projection.slices, *self._patch_slices(key, service, grid, present)], again

    def _sources(
        self, key: ServiceKey, service: Service, grid: ServiceGrid, index: str, present: list[EndpointSlice]
    ) -> tuple[list[EndpointSlice], float | None]:
        """Return the slices that endpoints are taken from, and in how many seconds these are others.

        Where the Service with the selector is missing, on its way out (Kubernetes deletes one slice after another
        then, and makes none), or was just made, the present unit slices are among them.
        """
        items, sites = self._cluster.slices.by_index(SOURCE, index), self._cluster.sites_of(grid)
        found = self._pods.get(key).named(sources_of(service, sites, items))
        leaves = sites is not None and bool(sites.metadata.deletion_timestamp)
        if not has_endpoints(grid):
            return found, None
        now, kept = self._clock(), as_sources(present)
        if kept and (leaves or not found):
            self._bare[key] = now
        settled = self._bare.get(key, -SETTLE) + SETTLE
        if settled <= now:
            self._bare.pop(key, None)
            return found, None
        return [*found, *kept], settled - now if found else None

    def _patch_slices(
        self, key: ServiceKey, service: Service, grid: ServiceGrid, present: Iterable[EndpointSlice]
    ) -> list[EndpointSlice]:
        """Return what tells units that their Service is another; as it is while that is not known yet."""
        if not grid.spec.overrides:
            return []
        texts = self._patches.get(key)
        if texts is None:
            return [item for item in present if is_patch_slice(item)]
        unique_key = grid.spec.grid_uniq_key
        return [patch_slice(service, unique_key, value, text) for value, text in texts.items()]

    def _find_set(self, namespace: str, name: str) -> GridSet | None:
        child = self._cluster.workloads[StatefulSetGrid.KIND].children.get(namespace, name)
        owner = child.metadata.controller() if child is not None else None
        if child is None or owner is None or owner.kind != StatefulSetGrid.KIND:
            return None
        return GridSet(owner.name, child.metadata.labels.get(UNIT, ""))

    def _grid_of(self, service: Service | None) -> ServiceGrid | None:
        return None if service is None else self._cluster.service_grid_of(service)

    async def _write(self, item: EndpointSlice, present: EndpointSlice | None) -> None:
        """Make `present` what `item` says, without managedFields: they would be two fifths of it on every WAN.

        They can be taken off only with a change of the object, so a new one is first made as nobody selects it.
        """
        if present is None:
            present = self._wrote(await self._writer.make(ENDPOINTSLICES, unselected(item)))
        self._wrote(await self._writer.merge(ENDPOINTSLICES, present.metadata, untracked(item)))

    def _wrote(self, answer: Manifest) -> EndpointSlice:
        item: EndpointSlice = decode(answer, EndpointSlice)
        self._cluster.slices.wrote(item)
        return item

    async def _delete(self, item: EndpointSlice) -> None:
        await self._writer.delete(ENDPOINTSLICES, item.metadata)
        self._cluster.slices.deleted(item.metadata)
