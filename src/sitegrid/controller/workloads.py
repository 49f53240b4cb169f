"""One pass over a workload grid: plan, write what is missing or differs, report.

Called by the manager's workers with a grid's key; never two at a time for one key. A pass looks only at the present
state, so it may be cut short anywhere and begun again (a crash after any write included). Each unit fails for
itself (I4). Held by ``tests/controller/passes``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sitegrid.api.grids import DeploymentGrid
from sitegrid.api.meta import timestamp
from sitegrid.controller.children import make_child
from sitegrid.controller.cluster import OWNER, Cluster, decode
from sitegrid.controller.queues import GridKey
from sitegrid.controller.reporter import Reporter, api_problem
from sitegrid.controller.resources import DEPLOYMENTGRIDS
from sitegrid.controller.retries import Retries
from sitegrid.controller.statuses import Statuses
from sitegrid.controller.writer import Writer
from sitegrid.grid.applied import Verdicts
from sitegrid.grid.kinds import DEPLOYMENT
from sitegrid.grid.observed import Deployment
from sitegrid.grid.plan import Action, Annotate, Create, Delete, Plan, Update, WantedCache, plan_workloads
from sitegrid.grid.problem import Problem
from sitegrid.grid.removal import UNIT_GONE_SINCE
from sitegrid.grid.status import workload_status
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.kube.resources import DEPLOYMENTS

log = logging.getLogger(__name__)

MAX_ACTIONS: Final = 200
"""Actions of one pass; a larger plan goes on in the next, so that a long rollout sees new units and reports."""


@dataclass(slots=True)
class _Memory:
    """What is remembered of one grid between passes; all of it can be lost."""

    uid: str
    retries: Retries
    wanted: WantedCache = field(default_factory=WantedCache)


class Workloads:
    """Passes over DeploymentGrids."""

    def __init__(
        self,
        cluster: Cluster,
        writer: Writer,
        statuses: Statuses,
        reporter: Reporter,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._writer = writer
        self._statuses = statuses
        self._reporter = reporter
        self._now = now
        self._clock = clock
        self._verdicts = Verdicts()
        self._memory: dict[GridKey, _Memory] = {}
        cluster.deployments.store.add_handler(self._forget_gone)

    async def reconcile(self, key: GridKey) -> float | None:
        """Bring the grid's children and status to what they should be; return in how many seconds to come again."""
        grid = self._cluster.deployment_grids.get(key.namespace, key.name)
        if grid is None or grid.metadata.deletion_timestamp:
            if (memory := self._memory.pop(key, None)) is not None:
                self._statuses.forget(memory.uid)
            return None  # its children go by their owner references
        memory = self._remembered(key, grid.metadata.uid)
        plan = self._plan(grid, memory)
        todo = [action for action in plan.actions if memory.retries.allowed(action.unit, _digest(action))]
        memory.retries.keep_only({action.unit for action in plan.actions})
        await asyncio.gather(
            *(self._carry_out(action, key, grid, plan, memory.retries) for action in todo[:MAX_ACTIONS])
        )
        problems = {**memory.retries.problems(), **plan.problems}
        # The grid may have got a new status or spec meanwhile; an old spec's status says so by its generation.
        status = workload_status(grid, plan.children, problems, now=self._now())
        wake = await self._statuses.write(DEPLOYMENTGRIDS, self._cluster.deployment_grids, grid, status)
        if len(todo) > MAX_ACTIONS:
            return 0.0
        times = (wake or None, plan.wake_in, memory.retries.next_due())
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _remembered(self, key: GridKey, uid: str) -> _Memory:
        memory = self._memory.get(key)
        if memory is None or memory.uid != uid:
            memory = self._memory[key] = _Memory(uid, Retries(clock=self._clock))
        return memory

    def _plan(self, grid: DeploymentGrid, memory: _Memory) -> Plan:
        namespace = grid.metadata.namespace
        return plan_workloads(
            DEPLOYMENT,
            grid,
            self._cluster.units.of(grid.spec.grid_uniq_key),
            self._cluster.deployments.by_index(OWNER, grid.metadata.uid),
            lambda name: self._cluster.deployments.get(namespace, name),
            now=self._now(),
            verdicts=self._verdicts,
            cache=memory.wanted,
        )

    async def _carry_out(
        self, action: Action, key: GridKey, grid: DeploymentGrid, plan: Plan, retries: Retries
    ) -> None:
        """Do one action and note how it came out; nothing is raised, so that no unit stops another."""
        present = self._cluster.deployment_grids.get(key.namespace, key.name)
        if present is None or present.metadata.uid != grid.metadata.uid or present.metadata.deletion_timestamp:
            return  # deleted while its children were being made
        try:
            problem = await self._do(action, grid, plan)
        except ApiError as error:
            # Somebody changed or deleted the child between the event and our write: the next pass sees that.
            stale = error.conflict and not isinstance(action, Create)
            problem = None if stale else api_problem(error)
            log.log(logging.DEBUG if stale else logging.WARNING, "%s unit %s: %s", _name(grid), action.unit, error)
        except Unreachable as error:
            problem = None
            log.warning("%s unit %s: %s", _name(grid), action.unit, error)
        else:
            if problem is None:
                retries.succeeded(action.unit)
                return
        retries.failed(action.unit, _digest(action), problem)
        if problem is not None:
            self._warn(action, grid, problem)

    async def _do(self, action: Action, grid: DeploymentGrid, plan: Plan) -> Problem | None:
        meta = grid.metadata
        answer: dict[str, Any] | Problem
        if isinstance(action, Delete):
            await self._writer.delete(DEPLOYMENTS, action.child)
            self._cluster.deployments.deleted(action.child)
            self._verdicts.forget(action.child.uid)
            note = f"Deleted Deployment {action.child.name}: its unit {action.unit} had no nodes for too long"
            self._tell(grid, "SuccessfulDelete", "Delete", note)
            return None
        if isinstance(action, Annotate):
            since = None if action.gone_since is None else timestamp(action.gone_since)
            answer = await self._writer.annotate(DEPLOYMENTS, action.child, UNIT_GONE_SINCE, since)
            self._noted(action, grid)
        elif isinstance(action, Create):
            answer = await make_child(self._writer, DEPLOYMENTS, action.manifest, meta.uid)
            if isinstance(answer, Problem):
                return answer
            self._tell(grid, "SuccessfulCreate", "Create", f"Created Deployment {answer['metadata']['name']}")
        else:
            answer = await self._writer.update(DEPLOYMENTS, action.manifest, action.uid)
            self._tell(grid, "SuccessfulUpdate", "Update", f"Updated Deployment {answer['metadata']['name']}")
        child: Deployment = decode(answer, Deployment)
        self._cluster.deployments.wrote(child)
        if isinstance(action, Create | Update):
            self._verdicts.settle(child.metadata, action.digest)
        if action.unit in plan.children:
            plan.children[action.unit] = child
        return None

    def _noted(self, action: Annotate, grid: DeploymentGrid) -> None:
        if action.gone_since is None:
            self._tell(grid, "UnitBack", "Keep", f"Unit of Deployment {action.child.name} has nodes again")
            return
        removal = grid.spec.removal
        then = (
            f"it will be deleted in {removal.grace_period_seconds} s"
            if removal.policy == "Delete"
            else "it will be retained"
        )
        note = f"Unit of Deployment {action.child.name} has no nodes any more; {then}"
        self._reporter.warning(DEPLOYMENTGRIDS, grid.metadata, reason="UnitGone", action="Mark", note=note)

    def _tell(self, grid: DeploymentGrid, reason: str, action: str, note: str) -> None:
        log.info("%s: %s", _name(grid), note)
        self._reporter.normal(DEPLOYMENTGRIDS, grid.metadata, reason=reason, action=action, note=note)

    def _warn(self, action: Action, grid: DeploymentGrid, problem: Problem) -> None:
        verb = type(action).__name__
        self._reporter.warning(
            DEPLOYMENTGRIDS,
            grid.metadata,
            reason=f"Failed{verb}",
            action=verb,
            note=f"Unit {action.unit}: {problem.message}",
        )

    def _forget_gone(self, old: Deployment | None, new: Deployment | None) -> None:
        if new is None and old is not None:
            self._verdicts.forget(old.metadata.uid)


def _digest(action: Action) -> str:
    """Return what stands for the object that an action is to write; a new one is tried without waiting."""
    return action.digest if isinstance(action, Create | Update) else type(action).__name__


def _name(grid: DeploymentGrid) -> str:
    return f"DeploymentGrid {grid.metadata.namespace}/{grid.metadata.name}"
