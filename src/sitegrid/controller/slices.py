"""One pass over a grid Service's slices: writes the unit slices that differ, deletes those that are no longer wanted.

Called by the manager's slice workers, which wait for nothing but endpoints. Invariant I1: where the Service is not
(or no longer) controlled by a known ServiceGrid, nothing is wanted, and what is there is deleted. Held by
``tests/controller/test_slices.py``.
"""

from __future__ import annotations

import asyncio

from sitegrid.api.grids import ServiceGrid
from sitegrid.controller.cluster import SOURCE, UNIT_SLICE, Cluster, decode, service_index
from sitegrid.controller.queues import ServiceKey
from sitegrid.controller.writer import Writer
from sitegrid.grid.observed import EndpointSlice, Service
from sitegrid.grid.slices import manifest, unchanged, wanted_slices
from sitegrid.kube.resources import ENDPOINTSLICES


class Slices:
    """Passes over the slices of grid Services."""

    def __init__(self, cluster: Cluster, writer: Writer) -> None:
        self._cluster = cluster
        self._writer = writer

    async def reconcile(self, key: ServiceKey) -> float | None:
        """Bring the Service's unit slices to what they should be.

        Raises ApiError and Unreachable, after all were tried.
        """
        index = service_index(key.namespace, key.name)
        wanted = {item.metadata.name: item for item in self._wanted(key, index)}
        present = {item.metadata.name: item for item in self._cluster.slices.by_index(UNIT_SLICE, index)}
        writes = [
            self._apply(item, present.get(name))
            for name, item in wanted.items()
            if name not in present or not unchanged(item, present[name])
        ]
        deletes = [self._delete(item) for name, item in present.items() if name not in wanted]
        results = await asyncio.gather(*writes, *deletes, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return None

    def _wanted(self, key: ServiceKey, index: str) -> list[EndpointSlice]:
        service = self._cluster.services.get(key.namespace, key.name)
        grid = self._grid_of(service)
        if service is None or grid is None:
            return []
        uid = service.metadata.uid
        sources = (
            source
            for source in self._cluster.slices.by_index(SOURCE, index)
            # A namesake that was just deleted may have left its own behind.
            if any(owner.uid == uid for owner in source.metadata.owner_references)
        )
        unique_key = grid.spec.grid_uniq_key
        return wanted_slices(service, unique_key, sources, self._cluster.units.by_node(unique_key))

    def _grid_of(self, service: Service | None) -> ServiceGrid | None:
        owner = service.metadata.controller() if service is not None else None
        if service is None or owner is None or owner.kind != ServiceGrid.KIND:
            return None
        grid = self._cluster.service_grids.get(service.metadata.namespace, owner.name)
        return grid if grid is not None and grid.metadata.uid == owner.uid else None

    async def _apply(self, item: EndpointSlice, present: EndpointSlice | None) -> None:
        if present is None:
            answer = await self._writer.create(ENDPOINTSLICES, manifest(item))
        else:
            answer = await self._writer.update(ENDPOINTSLICES, manifest(item), present.metadata.uid)
        self._cluster.slices.wrote(decode(answer, EndpointSlice))

    async def _delete(self, item: EndpointSlice) -> None:
        await self._writer.delete(ENDPOINTSLICES, item.metadata)
        self._cluster.slices.deleted(item.metadata)
