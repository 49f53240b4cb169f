"""Runs the passes: workers on the two queues, for as long as this process leads.

The story: `Manager.lead` waits until everything is observed, adds every key once, and then works on what the triggers
add. A pass that fails is tried again with backoff, for ever; a pass that asks to come again is added later. Being
cancelled (the Lease was lost, or the process stops) ends it between or within passes; the next one to lead begins
with everything again, and a pass looks only at the present state.
Held by ``tests/controller/passes/test_manager.py`` and the tests on a real API server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from sitegrid.api.nodeunits import NodeUnit
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.evictions import Evictions, Lists
from sitegrid.controller.memberships import Memberships
from sitegrid.controller.metrics import Metrics
from sitegrid.controller.nodeunits import MIN_INTERVAL as UNIT_INTERVAL
from sitegrid.controller.nodeunits import NodeUnits
from sitegrid.controller.outcomes import Outcomes
from sitegrid.controller.podnames import PodNames
from sitegrid.controller.queues import GridKey, Queues, ServiceKey, UnitKey
from sitegrid.controller.reporter import Recorder, Reporter
from sitegrid.controller.services import Services
from sitegrid.controller.sitepatches import SitePatches
from sitegrid.controller.sites import SITES, SitePasses
from sitegrid.controller.slices import Slices
from sitegrid.controller.statuses import Statuses
from sitegrid.controller.triggers import Triggers
from sitegrid.controller.unittriggers import NODE, UnitTriggers
from sitegrid.controller.workloads import Workloads
from sitegrid.controller.writer import Api, Writer
from sitegrid.grid.kinds import SERVICE_KINDS
from sitegrid.grid.nodelimits import STRICT, NodeLimits
from sitegrid.grid.servicepatches import NODE_PORTS
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.kube.queue import WorkQueue

log = logging.getLogger(__name__)

GRID_WORKERS: Final = 8
SLICE_WORKERS: Final = 8
SLICE_WRITES: Final = 16
"""Writes of unit slices at once."""
UNIT_WORKERS: Final = 4
"""Passes over nodes, NodeUnits and NodeGroups at once, which also bounds their writes."""
RESYNC: Final = 300.0
"""Seconds between two looks at everything. At rest that writes nothing; it finds what no event tells, such as a child
that was made and deleted while the watch was down."""

K = TypeVar("K", GridKey, ServiceKey, UnitKey)


class ReadWrite(Api, Lists, Protocol):
    """The part of `sitegrid.kube.client.Client` that is used."""


class Manager:
    """The controller's work, without the process around it."""

    def __init__(
        self,
        cluster: Cluster,
        api: ReadWrite,
        recorder: Recorder,
        metrics: Metrics,
        *,
        node_ports: range = NODE_PORTS,
        node_limits: NodeLimits = STRICT,
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._triggers = Triggers(cluster)
        writer = Writer(api, metrics)
        statuses, reporter = Statuses(writer), Reporter(recorder)
        self._workloads = {
            kind: Workloads(stores.kind, cluster, writer, statuses, reporter, api)
            for kind, stores in cluster.workloads.items()
        }
        self._evictions = Evictions(cluster, api, writer, reporter)
        outcomes = Outcomes()
        outcomes.listener = self._triggers.grid
        metrics.watch_fallbacks(outcomes.total)
        patches = SitePatches(cluster, writer, reporter, node_ports=node_ports)
        patches.listener = self._triggers.slices
        self._services = {
            name: Services(kind, cluster, writer, statuses, reporter, outcomes, patches)
            for name, kind in SERVICE_KINDS.items()
        }
        # Writes of slices have their own share, so that they never wait behind a rollout's.
        self._slices = Slices(cluster, Writer(api, metrics, parallel=SLICE_WRITES), outcomes, patches, PodNames(api))
        unit_writer = Writer(api, metrics, parallel=UNIT_WORKERS)
        self._memberships = Memberships(cluster, unit_writer, limits=node_limits)
        unit_statuses = Statuses(unit_writer, interval=UNIT_INTERVAL)
        self._node_units = NodeUnits(cluster, unit_writer, unit_statuses, reporter, self._memberships)
        self._unit_triggers = UnitTriggers(cluster, self._memberships)
        self._sites = SitePasses(cluster, unit_writer)

    async def lead(self) -> None:
        """Work until cancelled."""
        await self._cluster.wait_synced()
        queues = Queues()
        self._metrics.watch_queue("grids", lambda: len(queues.grids))
        self._metrics.watch_queue("slices", lambda: len(queues.slices))
        self._metrics.watch_queue("units", lambda: len(queues.units))
        self._triggers.queues = queues
        self._triggers.add_all()
        self._unit_triggers.start(queues.units)
        self._sites.queue = queues.units
        self._sites.add()
        log.info("working: %d workload grids, %d ServiceGrids, %d nodes", *self._cluster.counts())
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(GRID_WORKERS):
                    tasks.create_task(self._work(queues.grids, self._grid))
                for _ in range(SLICE_WORKERS):
                    tasks.create_task(self._work(queues.slices, self._service_slices))
                for _ in range(UNIT_WORKERS):
                    tasks.create_task(self._work(queues.units, self._unit))
                while True:
                    await asyncio.sleep(RESYNC)
                    self._triggers.add_all()
                    self._unit_triggers.add_all()
                    self._sites.add()
        finally:
            self._triggers.queues = None
            self._unit_triggers.stop()
            self._sites.queue = None
            queues.shut_down()

    async def _grid(self, key: GridKey) -> float | None:
        if key.kind in self._services:
            return await self._services[key.kind].reconcile(key)
        times = [await self._workloads[key.kind].reconcile(key), await self._evictions.reconcile(key)]
        return min((seconds for seconds in times if seconds is not None), default=None)

    async def _service_slices(self, key: ServiceKey) -> float | None:
        return await self._slices.reconcile(key)

    async def _unit(self, key: UnitKey) -> float | None:
        if key.kind == NODE:
            return await self._memberships.reconcile(key.name)
        if key.kind == SITES:
            return await self._sites.reconcile()
        if key.kind == NodeUnit.KIND:
            return await self._node_units.unit(key.unique_key, key.name)
        return await self._node_units.group(key.unique_key)

    async def _work(self, queue: WorkQueue[K], one_pass: Callable[[K], Awaitable[float | None]]) -> None:
        while True:
            key = await queue.get()
            kind = "EndpointSlice" if isinstance(key, ServiceKey) else key.kind
            started = time.monotonic()
            result = "error"
            try:
                again = await one_pass(key)
                result = "ok"
                queue.forget(key)
                if again is not None:
                    queue.add_after(key, again)
            except (ApiError, Unreachable) as error:
                # Conflicts are the normal case of somebody having been faster; the next pass sees what they wrote.
                level = logging.DEBUG if isinstance(error, ApiError) and error.conflict else logging.WARNING
                log.log(level, "%s %s/%s: %s; trying again", kind, key.namespace, key.name, error)
                queue.add_rate_limited(key)
            except Exception:
                log.exception("%s %s/%s: unexpected failure; trying again", kind, key.namespace, key.name)
                queue.add_rate_limited(key)
            finally:
                queue.done(key)
                self._metrics.passes.labels(kind=kind, result=result).inc()
                self._metrics.pass_seconds.labels(kind=kind).observe(time.monotonic() - started)
