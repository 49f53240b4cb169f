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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sitegrid.api.meta import timestamp
from sitegrid.api.workloads import ReplicatedGridSpec, WorkloadGrid
from sitegrid.controller.children import make_child
from sitegrid.controller.cluster import OWNER, Cluster, decode
from sitegrid.controller.evictions import Lists
from sitegrid.controller.queues import GridKey
from sitegrid.controller.refusals import Refusals
from sitegrid.controller.reporter import Reporter, api_problem, refused_change
from sitegrid.controller.resources import child_resource, grid_resource
from sitegrid.controller.retries import Retries, attempt
from sitegrid.controller.statuses import Statuses
from sitegrid.controller.writer import Writer
from sitegrid.controller.written import Written
from sitegrid.grid.applied import Verdicts
from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.kinds import ObjectKind, WorkloadKind
from sitegrid.grid.observed import Companion, Workload
from sitegrid.grid.plan import Action, Annotate, Create, Delete, Managed, Observed, Plan, Update, plan_workloads
from sitegrid.grid.problem import Problem
from sitegrid.grid.refusals import lacking
from sitegrid.grid.removal import UNIT_GONE_SINCE
from sitegrid.grid.status import workload_status
from sitegrid.grid.templates import unused_templates
from sitegrid.kube.errors import ApiError

log = logging.getLogger(__name__)

MAX_ACTIONS: Final = 200
"""Actions of one pass; a larger plan goes on in the next, so that a long rollout sees new units and reports."""


@dataclass(slots=True)
class _Memory:
    """What is remembered of one grid between passes; all of it can be lost."""

    uid: str
    retries: Retries
    blueprint: Blueprint


class Workloads:
    """Passes over the workload grids of one kind."""

    def __init__(
        self,
        kind: WorkloadKind,
        cluster: Cluster,
        writer: Writer,
        statuses: Statuses,
        reporter: Reporter,
        api: Lists,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind = kind
        self._resource = grid_resource(kind)
        self._cluster = cluster
        stores = cluster.workloads[kind.name]
        self._grids, self._children = stores.grids, stores.children
        self._writer = writer
        self._statuses = statuses
        self._reporter = reporter
        self._now = now
        self._clock = clock
        self._verdicts = Verdicts()
        self._refusals = Refusals(api, kind.child.kind, clock)
        self._memory: dict[GridKey, _Memory] = {}
        self._children.store.add_handler(self._forget_gone)
        for companions in cluster.companions.values():
            companions.store.add_handler(self._forget_gone)

    async def reconcile(self, key: GridKey) -> float | None:
        """Bring the grid's children and status to what they should be; return in how many seconds to come again."""
        grid = self._grids.get(key.namespace, key.name)
        if grid is None or grid.metadata.deletion_timestamp:
            if (memory := self._memory.pop(key, None)) is not None:
                self._statuses.forget(memory.uid)
                self._refusals.forget(memory.uid)
            return None  # its children go by their owner references
        if await self._delete_unused_templates(grid):
            return 0.0
        memory = self._remembered(key, grid)
        units = self._cluster.units.of(grid.spec.grid_uniq_key)
        plan = plan_workloads(
            memory.blueprint, grid, units, self._observed(grid), now=self._now(), verdicts=self._verdicts
        )
        todo = [action for action in plan.actions if memory.retries.allowed(_retry_key(action), _digest(action))]
        memory.retries.keep_only({_retry_key(action) for action in plan.actions})
        await asyncio.gather(
            *(self._carry_out(action, key, grid, plan, memory.retries) for action in todo[:MAX_ACTIONS])
        )
        refused, look_again = await self._refusals.of(
            grid.metadata.uid, grid.metadata.namespace, lacking(self._kind, plan)
        )
        failed = {_unit(retry_key): problem for retry_key, problem in memory.retries.problems().items()}
        # The grid may have got a new status or spec meanwhile; an old spec's status says so by its generation.
        status, moving = workload_status(memory.blueprint, grid, units, plan, {**refused, **failed}, now=self._now())
        wake = await self._statuses.write(self._resource, self._grids, grid, status, moving=moving)
        if len(todo) > MAX_ACTIONS:
            return 0.0
        times = (wake or None, plan.wake_in, memory.retries.next_due(), look_again)
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _remembered(self, key: GridKey, grid: WorkloadGrid) -> _Memory:
        memory = self._memory.get(key)
        if memory is None or memory.uid != grid.metadata.uid:
            retries = Retries(clock=self._clock)
            memory = self._memory[key] = _Memory(grid.metadata.uid, retries, Blueprint(self._kind, grid))
        elif not memory.blueprint.is_for(grid):
            memory.blueprint = Blueprint(self._kind, grid)
        return memory

    def _observed(self, grid: WorkloadGrid) -> Observed:
        namespace = grid.metadata.namespace

        def find(kind: ObjectKind, name: str) -> Managed | None:
            if kind == self._kind.child:
                return self._children.get(namespace, name)
            return self._cluster.companions[kind].get(namespace, name)

        return Observed(
            self._children.by_index(OWNER, grid.metadata.uid),
            find,
            lambda kind, uid: self._cluster.companions[kind].by_index(OWNER, uid),
            [kind for kind, companions in self._cluster.companions.items() if companions],
        )

    async def _delete_unused_templates(self, grid: WorkloadGrid) -> bool:
        """Delete what nothing names from templatePool, where the user asks for it; tell whether anything was."""
        if not isinstance(grid.spec, ReplicatedGridSpec) or not grid.spec.auto_delete_unused_template:
            return False
        names = unused_templates(grid.spec)
        if not names:
            return False
        try:
            answer = await self._writer.delete_templates(self._resource, grid.metadata, names)
        except ApiError as error:
            # The next pass sees what somebody was faster with; and no unit waits for a tidy spec.
            if not error.conflict:
                log.warning("%s: unused templates: %s", self._name(grid), error)
            return False
        self._grids.wrote(decode(answer, type(grid)))
        self._tell(grid, "TemplateDeleted", "Delete", f"Deleted unused entries of templatePool: {', '.join(names)}")
        return True

    async def _carry_out(
        self, action: Action, key: GridKey, grid: WorkloadGrid, plan: Plan, retries: Retries
    ) -> None:
        """Do one action and note how it came out; nothing is raised, so that no unit stops another."""
        present = self._grids.get(key.namespace, key.name)
        if present is None or present.metadata.uid != grid.metadata.uid or present.metadata.deletion_timestamp:
            return  # deleted while its children were being made
        problem = await attempt(
            self._do(action, grid, plan),
            retries,
            key=_retry_key(action),
            digest=_digest(action),
            # Somebody changed or deleted the child between the event and our write: the next pass sees that.
            may_be_stale=not isinstance(action, Create),
            refused=lambda error: _refused(action, error),
            what=f"{self._name(grid)} unit {action.unit}",
        )
        if problem is not None:
            self._warn(action, grid, problem)

    async def _do(self, action: Action, grid: WorkloadGrid, plan: Plan) -> Problem | None:
        resource = child_resource(action.kind)
        answer: dict[str, Any] | Problem
        if isinstance(action, Delete):
            await self._writer.delete(resource, action.child)
            self._store(action.kind).deleted(action.child)
            self._verdicts.forget(action.child.uid)
            note = f"Deleted {action.kind.kind} {action.child.name}: {action.why}"
            self._tell(grid, "SuccessfulDelete", "Delete", note)
            return None
        if isinstance(action, Annotate):
            since = None if action.gone_since is None else timestamp(action.gone_since)
            answer = await self._writer.annotate(resource, action.child, UNIT_GONE_SINCE, since)
            self._noted(action, grid)
        elif isinstance(action, Create):
            answer = await make_child(self._writer, resource, action.manifest, action.owner_uid)
            if isinstance(answer, Problem):
                return answer
            note = f"Created {action.kind.kind} {answer['metadata']['name']}"
            self._tell(grid, "SuccessfulCreate", "Create", note)
        else:
            answer = await self._update(action)
            self._updated(action, grid)
        self._wrote(action, answer, plan)
        return None

    async def _update(self, action: Update) -> dict[str, Any]:
        resource = child_resource(action.kind)
        if action.released_replicas is not None:
            await self._writer.release_replicas(resource, action.manifest, action.uid, action.released_replicas)
        return await self._writer.update(resource, action.manifest, action.uid)

    def _wrote(self, action: Create | Update | Annotate, answer: dict[str, Any], plan: Plan) -> None:
        """Note the API server's answer, for this pass's status and for the next pass's plan."""
        store = self._store(action.kind)
        written = decode(answer, Workload if action.kind == self._kind.child else Companion)
        store.wrote(written)
        if isinstance(action, Create | Update):
            self._verdicts.settle(written.metadata, action.digest)
        if action.kind == self._kind.child and action.unit in plan.children:
            plan.children[action.unit] = written
            if not isinstance(action, Annotate):
                plan.outdated.discard(action.unit)

    def _store(self, kind: ObjectKind) -> Written[Any]:
        return self._children if kind == self._kind.child else self._cluster.companions[kind]

    def _updated(self, action: Update, grid: WorkloadGrid) -> None:
        name = f"{action.kind.kind} {action.manifest['metadata']['name']}"
        if action.repair:
            note = f"{name} was changed by somebody else; set it back to what the grid says"
            self._reporter.warning(self._resource, grid.metadata, reason="Repaired", action="Update", note=note)
            log.info("%s: %s", self._name(grid), note)
        else:
            self._tell(grid, "SuccessfulUpdate", "Update", f"Updated {name}")

    def _noted(self, action: Annotate, grid: WorkloadGrid) -> None:
        name = f"{action.kind.kind} {action.child.name}"
        if action.gone_since is None:
            self._tell(grid, "UnitBack", "Keep", f"Unit of {name} is back")
            return
        removal = grid.spec.removal
        then = (
            f"it will be deleted in {removal.grace_period_seconds} s"
            if removal.policy == "Delete"
            else "it will be retained"
        )
        note = f"{name}: {action.why}; {then}"
        self._reporter.warning(self._resource, grid.metadata, reason="UnitGone", action="Mark", note=note)

    def _tell(self, grid: WorkloadGrid, reason: str, action: str, note: str) -> None:
        log.info("%s: %s", self._name(grid), note)
        self._reporter.normal(self._resource, grid.metadata, reason=reason, action=action, note=note)

    def _warn(self, action: Action, grid: WorkloadGrid, problem: Problem) -> None:
        verb = type(action).__name__
        self._reporter.warning(
            self._resource,
            grid.metadata,
            reason=f"Failed{verb}",
            action=verb,
            note=f"Unit {action.unit}: {problem.message}",
        )

    def _forget_gone(self, old: Workload | Companion | None, new: Workload | Companion | None) -> None:
        if new is None and old is not None:
            self._verdicts.forget(old.metadata.uid)

    def _name(self, grid: WorkloadGrid) -> str:
        return f"{self._kind.name} {grid.metadata.namespace}/{grid.metadata.name}"


def _refused(action: Action, error: ApiError) -> Problem:
    if isinstance(action, Update):
        return refused_change(error, child_resource(action.kind), action.manifest["metadata"]["name"])
    return api_problem(error)


def _retry_key(action: Action) -> str:
    """Return what fails for itself: one object of one unit. A unit's name, a label value, has no slash."""
    return f"{action.unit}/{action.kind.kind}"


def _unit(retry_key: str) -> str:
    return retry_key.partition("/")[0]


def _digest(action: Action) -> str:
    """Return what stands for the object that an action is to write; a new one is tried without waiting."""
    return action.digest if isinstance(action, Create | Update) else type(action).__name__
