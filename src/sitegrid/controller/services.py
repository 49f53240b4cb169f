"""One pass over a ServiceGrid: its two Services, and its status. The Services' slices are `slices`'s work.

Called by the manager's workers with a grid's key; never two at a time for one key. A Service that an older controller
made has its selector taken off only when the one beside it has all of its endpoints, so no site loses one (I8); a
selector that somebody adds later is taken off at once (I2). Held by ``tests/controller/passes``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.controller.children import make_child
from sitegrid.controller.cluster import NAMESPACE, OWNER, SOURCE, Cluster, decode, service_index
from sitegrid.controller.outcomes import Outcomes
from sitegrid.controller.queues import GridKey, ServiceKey
from sitegrid.controller.reporter import Reporter, refused_change
from sitegrid.controller.resources import service_grid_resource
from sitegrid.controller.retries import Retries, attempt
from sitegrid.controller.sitepatches import SitePatches
from sitegrid.controller.statuses import Statuses
from sitegrid.controller.writer import Writer
from sitegrid.grid.applied import Verdicts, annotated, applied_hash
from sitegrid.grid.endpointcounts import EndpointCount
from sitegrid.grid.kinds import ServiceKind
from sitegrid.grid.observed import Service
from sitegrid.grid.problem import NAME_CONFLICT, Problem, name_conflict
from sitegrid.grid.service import (
    has_endpoints,
    is_closed,
    is_sites_of,
    sites_names,
    wanted_service,
    wanted_sites_service,
    was_sites,
)
from sitegrid.grid.sidedoors import side_doors
from sitegrid.grid.sources import covers
from sitegrid.grid.status import listed, service_status
from sitegrid.kube.resources import SERVICES

log = logging.getLogger(__name__)

_SERVICE, _SITES, _SELECTOR = "1 service", "2 sites", "3 selector"
"""What can fail here, for `Retries`, in the order in which it is told; each is a problem of the whole grid."""


@dataclass(slots=True)
class _Memory:
    """What is remembered of one grid between passes; all of it can be lost."""

    uid: str
    retries: Retries
    used: Mapping[str, str]
    """By unit whose endpoints it uses, as events have told."""
    doors: Collection[str] = ()
    """The plain Services that select the grid's pods, as events have told."""
    name: int = 0
    """Which of the names for the Service with the selector is to be tried: the ones before it are somebody else's."""


class Services:
    """Passes over the ServiceGrids of one kind."""

    def __init__(
        self,
        kind: ServiceKind,
        cluster: Cluster,
        writer: Writer,
        statuses: Statuses,
        reporter: Reporter,
        outcomes: Outcomes,
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
        self._outcomes = outcomes
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
                self._outcomes.forget_grid(memory.uid)
                self._patches.forget_grid(memory.uid)
            return None  # its Service goes by its owner reference
        memory = self._memory.get(key)
        if memory is None or memory.uid != grid.metadata.uid:
            told = {state.unit: state.to for state in grid.status.fallbacks}
            memory = self._memory[key] = _Memory(grid.metadata.uid, Retries(clock=self._clock), told)
        sites = await self._ensure_services(grid, memory)
        failures = memory.retries.problems()
        if not failures:
            await self._delete_former(grid, sites)
        self._tell_fallbacks(grid, memory)
        self._tell_side_doors(grid, memory)
        units = self._cluster.units.of(grid.spec.grid_uniq_key)
        fallbacks = self._outcomes.of(grid, units)
        patches = await self._patches.find(grid, self._service_of(grid), units)
        whole = {"": failures[min(failures)]} if failures else {}
        report = service_status(
            grid,
            units,
            {**whole, **patches.problems, **fallbacks.problems},
            sites=sites,
            endpoints=self._endpoints(grid),
            used=memory.used,
            unknown=fallbacks.unknown | patches.unknown,
            now=self._now(),
        )
        wake = await self._statuses.write(self._resource, self._grids, grid, report.status, moving=report.moving)
        times = (wake or None, memory.retries.next_due())
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _endpoints(self, grid: ServiceGrid) -> Mapping[str, EndpointCount] | None:
        """Return how many endpoints each unit has; None where that is not known yet."""
        found = self._outcomes.get(ServiceKey(grid.metadata.namespace, grid.wanted_service_name()))
        return None if found is None else found.endpoints

    def _service_of(self, grid: ServiceGrid) -> Service | None:
        """Return the grid's Service, None where there is none or it is not the grid's."""
        return self._own(grid, grid.wanted_service_name())

    def _own(self, grid: ServiceGrid, name: str) -> Service | None:
        """Return the Service with a name if it is the grid's."""
        service = self._cluster.services.get(grid.metadata.namespace, name)
        owner = service.metadata.controller() if service is not None else None
        return service if owner is not None and owner.uid == grid.metadata.uid else None

    async def _ensure_services(self, grid: ServiceGrid, memory: _Memory) -> str:
        """Bring both Services to what they should be; return the name of the one with the selector.

        It is empty where the template has no endpoints. The Service that users name is the first to be made: where
        its name is not free, the other is of no use.
        """
        sites = self._sites_name(grid, memory)
        service = self._service_of(grid)
        if service is not None and was_sites(service) and not service.metadata.deletion_timestamp:
            # It is headless for ever, and the template's may not be.
            await self._delete(grid, service, "its name is serviceName now")
            service = None
        opened = service is not None and not is_closed(service) and not self._covered(grid, service)
        wanted = wanted_service(grid, "" if opened else sites)
        await self._ensure(grid, memory.retries, _SERVICE, wanted)
        service = self._service_of(grid)
        if service is None or not sites:
            memory.retries.succeeded(_SITES)
        else:
            sites = await self._ensure_sites(grid, memory, service)
        if service is not None and service.spec.selector and not wanted["spec"].get("selector"):
            await self._take_selector(grid, memory.retries, service)
        else:
            memory.retries.succeeded(_SELECTOR)  # nothing is left to be tried, whoever took it off
        return sites

    def _sites_name(self, grid: ServiceGrid, memory: _Memory) -> str:
        if not has_endpoints(grid):
            return ""
        present = self._cluster.sites_of(grid)
        names = sites_names(grid.wanted_service_name())
        return present.metadata.name if present is not None else names[memory.name % len(names)]

    def _covered(self, grid: ServiceGrid, service: Service) -> bool:
        """Tell whether the Service can lose its selector: it has no endpoint that the other has not."""
        index = service_index(grid.metadata.namespace, service.metadata.name)
        return covers(service, self._cluster.sites_of(grid), self._cluster.slices.by_index(SOURCE, index))

    async def _ensure_sites(self, grid: ServiceGrid, memory: _Memory, service: Service) -> str:
        """Bring the Service with the selector to what it should be, under the first name that is free."""
        for _ in sites_names(service.metadata.name):
            name = self._sites_name(grid, memory)
            await self._ensure(grid, memory.retries, _SITES, wanted_sites_service(grid, name, service))
            problem = memory.retries.problems().get(_SITES)
            if problem is None or problem.reason != NAME_CONFLICT:
                break
            memory.name += 1
        return name

    async def _take_selector(self, grid: ServiceGrid, retries: Retries, service: Service) -> None:
        """Take off a selector that is not ours to give up by an apply, since somebody else has set it."""
        name = service.metadata.name

        async def take() -> None:
            patch = {"spec": {"selector": None}}
            taken: Service = decode(await self._writer.merge(SERVICES, service.metadata, patch), Service)
            self._cluster.services.wrote(taken)
            note = (
                f"Took the selector off Service {name} that somebody had added: with it, whoever is not behind an "
                "agent reaches all units"
            )
            self._reporter.warning(
                self._resource, grid.metadata, reason="SelectorRemoved", action="Update", note=note
            )

        digest = service.metadata.resource_version
        if not retries.allowed(_SELECTOR, digest):
            return
        await attempt(
            take(),
            retries,
            key=_SELECTOR,
            digest=digest,
            may_be_stale=True,
            refused=lambda error: refused_change(error, SERVICES, name),
            what=_name(grid),
        )

    async def _ensure(self, grid: ServiceGrid, retries: Retries, key: str, wanted: dict[str, Any]) -> None:
        """Bring one of the Services to what is `wanted`; what fails is noted in `retries` under `key`."""
        digest, name = applied_hash(wanted), wanted["metadata"]["name"]
        present = self._cluster.services.get(grid.metadata.namespace, name)
        ours = self._own(grid, name)
        if ours is not None and self._settled(ours, wanted, digest):
            retries.succeeded(key)
            return
        if not retries.allowed(key, digest):
            return
        problem = await attempt(
            self._apply(grid, wanted, digest, present),
            retries,
            key=key,
            digest=digest,
            may_be_stale=ours is not None,
            refused=lambda error: refused_change(error, SERVICES, name),
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
        self, grid: ServiceGrid, wanted: dict[str, Any], digest: str, service: Service | None
    ) -> Problem | None:
        manifest = annotated(wanted, digest)
        owner = service.metadata.controller() if service is not None else None
        if service is None:
            made = await make_child(self._writer, SERVICES, manifest, grid.metadata.uid)
            if isinstance(made, Problem):
                return made
            answer, done = made, "Create"
        elif owner is not None and owner.uid == grid.metadata.uid:
            answer, done = await self._writer.update(SERVICES, manifest, service.metadata.uid), "Update"
        else:
            whose = f"{owner.kind} {owner.name}" if owner is not None else ""
            return name_conflict("Service", service.metadata.namespace, service.metadata.name, whose)
        applied: Service = decode(answer, Service)
        self._cluster.services.wrote(applied)
        self._verdicts.settle(applied.metadata, digest)
        note = f"{done}d Service {applied.metadata.name}"
        log.info("%s: %s", _name(grid), note)
        self._reporter.normal(self._resource, grid.metadata, reason=f"Successful{done}", action=done, note=note)
        return None

    async def _delete_former(self, grid: ServiceGrid, sites: str) -> None:
        """Delete the Services that this grid made under other names, or needs no more; the present ones are there."""
        name = grid.wanted_service_name()
        for service in self._cluster.services.by_index(OWNER, grid.metadata.uid):
            if service.metadata.name in (name, sites) or service.metadata.deletion_timestamp:
                continue
            of_present = is_sites_of(service, grid)
            why = f"Service {name} has no selector" if of_present else f"serviceName is {name} now"
            await self._delete(grid, service, why)

    async def _delete(self, grid: ServiceGrid, service: Service, why: str) -> None:
        await self._writer.delete(SERVICES, service.metadata)
        self._cluster.services.deleted(service.metadata)
        note = f"Deleted Service {service.metadata.name}: {why}"
        log.info("%s: %s", _name(grid), note)
        self._reporter.normal(self._resource, grid.metadata, reason="SuccessfulDelete", action="Delete", note=note)

    def _tell_fallbacks(self, grid: ServiceGrid, memory: _Memory) -> None:
        """Record an event for units that begin or cease to use another's endpoints; more than a few are counted."""
        key = ServiceKey(grid.metadata.namespace, grid.wanted_service_name())
        found, told = self._outcomes.get(key), memory.used
        if found is None or found.fallbacks == told:
            return
        used = found.fallbacks
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

    def _tell_side_doors(self, grid: ServiceGrid, memory: _Memory) -> None:
        """Record an event for plain Services that have begun to select the grid's pods."""
        found = side_doors(grid, self._cluster.any_services.by_index(NAMESPACE, grid.metadata.namespace))
        begun = [name for name in found if name not in memory.doors]
        memory.doors = found
        if begun:
            note = f"These pods are also selected by plain Services, which reach all units: {listed(begun)}"
            self._reporter.warning(self._resource, grid.metadata, reason="SideDoor", action="Look", note=note)

    def _forget_gone(self, old: Service | None, new: Service | None) -> None:
        if new is None and old is not None:
            self._verdicts.forget(old.metadata.uid)


def _name(grid: ServiceGrid) -> str:
    return f"ServiceGrid {grid.metadata.namespace}/{grid.metadata.name}"
