"""What each unit's Service has different, found by the passes over ServiceGrids for the passes over slices.

The former have time to ask which node ports are free; the latter wait for nothing and write what is known, and leave
what is there while nothing is known yet. Held by ``tests/controller/passes/test_sitepatches.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.evictions import Lists
from sitegrid.controller.queues import ServiceKey
from sitegrid.grid.nodeunits import seniority
from sitegrid.grid.observed import Service
from sitegrid.grid.servicepatches import (
    NODE_PORTS,
    Claim,
    NodePorts,
    ServicePatches,
    claims_of,
    service_patches,
    wants_node_ports,
)
from sitegrid.grid.units import Units
from sitegrid.kube.resources import SERVICES

FRESH: Final = 30.0
"""Seconds for which the cluster's node ports are not asked for again: all Services have to be listed for them."""


class SitePatches:
    """The patches of all ServiceGrids."""

    def __init__(
        self,
        cluster: Cluster,
        lists: Lists,
        *,
        node_ports: range = NODE_PORTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find them with what is in `cluster`; `node_ports` is kube-apiserver's --service-node-port-range."""
        self.listener: Callable[[ServiceKey], None] = lambda key: None
        """Is told the Service of which something changed."""
        self._cluster = cluster
        self._lists = lists
        self._node_ports = node_ports
        self._clock = clock
        self._texts: dict[ServiceKey, Mapping[str, str]] = {}
        self._allocated: tuple[float, Mapping[int, str]] = (float("-inf"), {})
        self._found: dict[str, tuple[Units, tuple[object, ...], ServicePatches]] = {}
        """By the grid's uid: of which units and of what else it was found what."""

    def get(self, key: ServiceKey) -> Mapping[str, str] | None:
        """Return the patches of a Service by unit, as they are written; None where they are not known yet."""
        return self._texts.get(key)

    def forget(self, key: ServiceKey) -> None:
        """Forget a Service that is gone, or no grid's."""
        self._texts.pop(key, None)

    async def find(self, grid: ServiceGrid, service: Service | None, units: Units) -> ServicePatches:
        """Find the patches of `grid`, whose Service is `service`. Raises ApiError and Unreachable."""
        node_ports = NodePorts()
        if wants_node_ports(grid):
            node_ports = NodePorts(self._node_ports, await self._allocated_ports(), self._older_claims(grid))
        found = self._resolve(grid, service, units, node_ports)
        if service is not None:
            key = ServiceKey(service.metadata.namespace, service.metadata.name)
            texts = {value: patch.text() for value, patch in found.patches.items()}
            if self._texts.get(key) != texts:
                self._texts[key] = texts
                self.listener(key)
        return found

    def forget_grid(self, uid: str) -> None:
        """Forget a ServiceGrid that is gone."""
        self._found.pop(uid, None)

    def _resolve(
        self, grid: ServiceGrid, service: Service | None, units: Units, node_ports: NodePorts
    ) -> ServicePatches:
        """Return the patches, found anew only after something changed that they depend on."""
        meta = grid.metadata
        rest = (meta.generation, service and (service.metadata.name, service.spec), node_ports)
        known = self._found.get(meta.uid)
        if known is None or known[0] is not units or known[1] != rest:
            known = self._found[meta.uid] = (units, rest, service_patches(grid, units, service, node_ports))
        return known[2]

    async def _allocated_ports(self) -> Mapping[int, str]:
        """Return which Service has which node port, of all Services of the cluster."""
        asked, known = self._allocated
        if self._clock() - asked < FRESH:
            return known
        found: dict[int, str] = {}
        for service in (await self._lists.list_as(Service, SERVICES)).items:
            name = f"{service.metadata.namespace}/{service.metadata.name}"
            ports = [port.node_port for port in service.spec.ports]
            found.update((number, name) for number in (*ports, service.spec.health_check_node_port) if number)
        self._allocated = (self._clock(), found)
        return found

    def _older_claims(self, grid: ServiceGrid) -> list[Claim]:
        """Return what the overrides of ServiceGrids that were there before `grid` want."""
        mine = _order(grid)
        return [
            claim
            for store in self._cluster.service_grid_stores.values()
            for other in store.store.list()
            if other.spec.overrides and wants_node_ports(other) and _order(other) < mine
            for claim in claims_of(other, self._cluster.units.of(other.spec.grid_uniq_key))
        ]


def _order(grid: ServiceGrid) -> tuple[str, ...]:
    return (*seniority(grid.metadata), grid.metadata.namespace, grid.metadata.uid)
