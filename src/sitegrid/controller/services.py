"""One pass over a ServiceGrid: its one Service, and its status. The Service's slices are `slices`'s work.

Called by the manager's workers with a grid's key; never two at a time for one key.
Held by ``tests/controller/passes``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.controller.children import make_child
from sitegrid.controller.cluster import OWNER, Cluster, decode
from sitegrid.controller.fallbacks import FallbackStates
from sitegrid.controller.queues import GridKey, ServiceKey
from sitegrid.controller.reporter import Reporter, refused_change
from sitegrid.controller.resources import service_grid_resource
from sitegrid.controller.retries import Retries, attempt
from sitegrid.controller.sitepatches import FRESH, SitePatches
from sitegrid.controller.statuses import Statuses
from sitegrid.controller.writer import Writer
from sitegrid.grid.applied import Verdicts, annotated, applied_hash
from sitegrid.grid.kinds import ServiceKind
from sitegrid.grid.observed import Service
from sitegrid.grid.problem import Problem, name_conflict
from sitegrid.grid.service import wanted_service
from sitegrid.grid.servicepatches import wants_node_ports
from sitegrid.grid.status import listed, service_status
from sitegrid.kube.resources import SERVICES

log = logging.getLogger(__name__)

_SERVICE = ""
"""The one thing that can fail here, for `Retries`."""


@dataclass(slots=True)
class _Memory:
    """What is remembered of one grid between passes; all of it can be lost."""

    uid: str
    retries: Retries
    used: Mapping[str, str]
    """By unit whose endpoints it uses, as events have told."""


class Services:
    """Passes over the ServiceGrids of one kind."""

    def __init__(
        self,
        kind: ServiceKind,
        cluster: Cluster,
        writer: Writer,
        statuses: Statuses,
        reporter: Reporter,
        fallbacks: FallbackStates,
        patches: SitePatches,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._grids = cluster.service_grid_stores[kind.name]
        self._resource = service_grid_resource(kind)
        self._writer = writer
        self._statuses = statuses
        self._reporter = reporter
        self._fallbacks = fallbacks
        self._patches = patches
        self._now = now
        self._clock = clock
        self._verdicts = Verdicts()
        self._memory: dict[GridKey, _Memory] = {}
        cluster.services.store.add_handler(self._forget_gone)

    async def reconcile(self, key: GridKey) -> float | None:
        """Bring the grid's Service and status to what they should be; return in how many seconds to come again."""
        grid = self._grids.get(key.namespace, key.name)
        if grid is None or grid.metadata.deletion_timestamp:
            if (memory := self._memory.pop(key, None)) is not None:
                self._statuses.forget(memory.uid)
                self._fallbacks.forget_grid(memory.uid)
                self._patches.forget_grid(memory.uid)
            return None  # its Service goes by its owner reference
        memory = self._memory.get(key)
        if memory is None or memory.uid != grid.metadata.uid:
            told = {state.unit: state.to for state in grid.status.fallbacks}
            memory = self._memory[key] = _Memory(grid.metadata.uid, Retries(clock=self._clock), told)
        await self._ensure(grid, memory.retries)
        problem = memory.retries.problems().get(_SERVICE)
        if problem is None:
            await self._delete_former(grid)
        self._tell_fallbacks(grid, memory)
        units = self._cluster.units.of(grid.spec.grid_uniq_key)
        fallbacks = self._fallbacks.of(grid, units)
        patches = await self._patches.find(grid, self._service_of(grid), units)
        unknown = fallbacks.unknown | patches.unknown
        problems = {**({} if problem is None else {"": problem}), **patches.problems, **fallbacks.problems}
        status = service_status(grid, units, problems, used=memory.used, unknown=unknown, now=self._now())
        wake = await self._statuses.write(self._resource, self._grids, grid, status)
        # Nothing tells that a node port became free.
        retry = FRESH if patches.problems and wants_node_ports(grid) else None
        times = (wake or None, memory.retries.next_due(), retry)
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _service_of(self, grid: ServiceGrid) -> Service | None:
        """Return the grid's Service, None where there is none or it is not the grid's."""
        service = self._cluster.services.get(grid.metadata.namespace, grid.wanted_service_name())
        owner = service.metadata.controller() if service is not None else None
        return service if owner is not None and owner.uid == grid.metadata.uid else None

    async def _ensure(self, grid: ServiceGrid, retries: Retries) -> None:
        wanted = wanted_service(grid)
        digest = applied_hash(wanted)
        service = self._cluster.services.get(grid.metadata.namespace, grid.wanted_service_name())
        owner = service.metadata.controller() if service is not None else None
        ours = owner is not None and owner.uid == grid.metadata.uid
        if service is not None and ours and self._settled(service, wanted, digest):
            retries.succeeded(_SERVICE)
            return
        if not retries.allowed(_SERVICE, digest):
            return
        problem = await attempt(
            self._apply(grid, wanted, digest, service, ours),
            retries,
            key=_SERVICE,
            digest=digest,
            may_be_stale=ours,
            refused=lambda error: refused_change(error, SERVICES, grid.wanted_service_name()),
            what=_name(grid),
        )
        if problem is not None:
            self._reporter.warning(
                self._resource, grid.metadata, reason="FailedApply", action="Apply", note=problem.message
            )

    def _settled(self, service: Service, wanted: dict[str, Any], digest: str) -> bool:
        """Tell whether there is nothing to write: as applied, or on its way out, which its deletion's event ends."""
        return bool(service.metadata.deletion_timestamp) or self._verdicts.in_sync(service.metadata, wanted, digest)

    async def _apply(
        self, grid: ServiceGrid, wanted: dict[str, Any], digest: str, service: Service | None, ours: bool
    ) -> Problem | None:
        manifest = annotated(wanted, digest)
        if service is None:
            made = await make_child(self._writer, SERVICES, manifest, grid.metadata.uid)
            if isinstance(made, Problem):
                return made
            answer, done = made, "Create"
        elif ours:
            answer, done = await self._writer.update(SERVICES, manifest, service.metadata.uid), "Update"
        else:
            owner = service.metadata.controller()
            whose = f"{owner.kind} {owner.name}" if owner is not None else ""
            return name_conflict("Service", service.metadata.namespace, service.metadata.name, whose)
        applied: Service = decode(answer, Service)
        self._cluster.services.wrote(applied)
        self._verdicts.settle(applied.metadata, digest)
        note = f"{done}d Service {applied.metadata.name}"
        log.info("%s: %s", _name(grid), note)
        self._reporter.normal(self._resource, grid.metadata, reason=f"Successful{done}", action=done, note=note)
        return None

    async def _delete_former(self, grid: ServiceGrid) -> None:
        """Delete the Services that this grid made under another serviceName; the present one is there by now."""
        name = grid.wanted_service_name()
        for service in self._cluster.services.by_index(OWNER, grid.metadata.uid):
            if service.metadata.name == name or service.metadata.deletion_timestamp:
                continue
            await self._writer.delete(SERVICES, service.metadata)
            self._cluster.services.deleted(service.metadata)
            note = f"Deleted Service {service.metadata.name}: serviceName is {name} now"
            log.info("%s: %s", _name(grid), note)
            self._reporter.normal(
                self._resource, grid.metadata, reason="SuccessfulDelete", action="Delete", note=note
            )

    def _tell_fallbacks(self, grid: ServiceGrid, memory: _Memory) -> None:
        """Record an event for units that begin or cease to use another's endpoints; more than a few are counted."""
        key = ServiceKey(grid.metadata.namespace, grid.wanted_service_name())
        used, told = self._fallbacks.get(key), memory.used
        if used is None or used == told:
            return
        memory.used = used
        begun = [f"{unit} uses {to}" for unit, to in sorted(used.items()) if told.get(unit) != to]
        ended = [unit for unit in sorted(told) if unit not in used]
        meta, action = grid.metadata, "FallBack"
        if begun:
            note = f"Units without a ready endpoint: {listed(begun)}"
            self._reporter.warning(self._resource, meta, reason="FallbackBegan", action=action, note=note)
        if ended:
            note = f"Units that use their own endpoints again: {listed(ended)}"
            self._reporter.normal(self._resource, meta, reason="FallbackEnded", action=action, note=note)

    def _forget_gone(self, old: Service | None, new: Service | None) -> None:
        if new is None and old is not None:
            self._verdicts.forget(old.metadata.uid)


def _name(grid: ServiceGrid) -> str:
    return f"ServiceGrid {grid.metadata.namespace}/{grid.metadata.name}"
