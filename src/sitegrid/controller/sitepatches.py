"""What each unit's Service has different, found by the passes over ServiceGrids for the passes over slices.

The former have time to ask the API server about it; the latter wait for nothing and write what is known, and leave
what is there while nothing is known yet. Held by ``tests/controller/passes/test_sitepatches.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.dryruns import DryRuns
from sitegrid.controller.queues import ServiceKey
from sitegrid.controller.reporter import Reporter
from sitegrid.controller.resources import service_grid_resource
from sitegrid.controller.writer import Writer
from sitegrid.grid.kinds import SERVICE_KINDS, qualified
from sitegrid.grid.nodeunits import seniority
from sitegrid.grid.observed import Service
from sitegrid.grid.problem import Problem
from sitegrid.grid.servicepatches import (
    NODE_PORTS,
    Claim,
    NodePorts,
    ServicePatches,
    claims_of,
    node_ports_of,
    service_patches,
    wants_node_ports,
)
from sitegrid.grid.status import DEGRADED, MAX_MESSAGE
from sitegrid.grid.units import Units
from sitegrid.grid.unitstates import shortened


class SitePatches:
    """The patches of all ServiceGrids."""

    def __init__(
        self,
        cluster: Cluster,
        writer: Writer,
        reporter: Reporter,
        *,
        node_ports: range = NODE_PORTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find them with what is in `cluster`; `node_ports` is kube-apiserver's --service-node-port-range."""
        self.listener: Callable[[ServiceKey], None] = lambda key: None
        """Is told the Service of which something changed."""
        self._cluster = cluster
        self._reporter = reporter
        self._node_ports = node_ports
        self._dry_runs = DryRuns(writer, clock=clock)
        self._texts: dict[ServiceKey, Mapping[str, str]] = {}
        self._found: dict[str, tuple[Units, tuple[object, ...], ServicePatches]] = {}
        """By the grid's uid: of which units and of what else it was found what."""
        self._told: dict[str, Mapping[str, Problem]] = {}
        """By the grid's uid, the problems by unit that events have told."""
        cluster.services.store.add_handler(self._forget_gone)

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
            node_ports = NodePorts(self._node_ports, self._allocated_ports(), self._older_claims(grid))
        found = self._resolve(grid, service, units, node_ports)
        if service is not None:
            found = await self._dry_runs.allowed(service, found)
            key = ServiceKey(service.metadata.namespace, service.metadata.name)
            texts = {value: patch.text() for value, patch in found.patches.items()}
            if self._texts.get(key) != texts:
                self._texts[key] = texts
                self.listener(key)
        self._tell(grid, found.problems)
        return found

    def forget_grid(self, uid: str) -> None:
        """Forget a ServiceGrid that is gone."""
        self._found.pop(uid, None)
        self._told.pop(uid, None)

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

    def _allocated_ports(self) -> Mapping[int, str]:
        """Return which Service has which node port, of all Services of the cluster."""
        return {
            number: f"{service.metadata.namespace}/{service.metadata.name}"
            for service in self._cluster.any_services.list()
            for number in node_ports_of(service)
        }

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

    def _tell(self, grid: ServiceGrid, problems: Mapping[str, Problem]) -> None:
        """Record an event for units whose patch has a problem that it did not have before."""
        told = self._told.get(grid.metadata.uid)
        self._told[grid.metadata.uid] = problems
        if told is None and any(c.type == DEGRADED and c.status == "True" for c in grid.status.conditions):
            return  # by the controller before this one
        new = [value for value, problem in sorted(problems.items()) if problem != (told or {}).get(value)]
        if new:
            where = f"unit {new[0]}: " if new[0] else ""
            more = f" ({len(new) - 1} more)" if len(new) > 1 else ""
            problem = problems[new[0]]
            self._reporter.warning(
                service_grid_resource(SERVICE_KINDS[qualified(grid.GROUP, grid.KIND)]),
                grid.metadata,
                reason=problem.reason,
                action="Override",
                note=shortened(f"{where}{problem.message}", MAX_MESSAGE - len(more)) + more,
            )

    def _forget_gone(self, old: Service | None, new: Service | None) -> None:
        if new is None and old is not None:
            self._dry_runs.forget(old.metadata.uid)


def _order(grid: ServiceGrid) -> tuple[str, ...]:
    return (*seniority(grid.metadata), grid.metadata.namespace, grid.metadata.uid)
