"""One pass over a node: makes it a member of the units that claim it, and lets it go from those that do so no more.

Called by the manager's workers with a node's key; never two at a time for one node. Each write is planned from the
node as the former one left it, so a pass may be cut short anywhere. Nothing of others on the node is written
(invariant I3), and nothing at all where the node is as wanted (I7). Held by ``tests/controller/nodeunits`` and
``tests/controller/test_nodeunits.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from sitegrid.controller.cluster import Cluster, decode
from sitegrid.controller.reporter import api_problem
from sitegrid.controller.retries import Retries
from sitegrid.controller.writer import Writer
from sitegrid.controller.written import Written
from sitegrid.grid.membership import Declarers, Owner, decide
from sitegrid.grid.nodelimits import STRICT, NodeLimits
from sitegrid.grid.observed import Node
from sitegrid.grid.problem import Problem
from sitegrid.grid.setnode import (
    SET_NODE_CONFLICT,
    Apply,
    Outcome,
    Step,
    field_manager,
    held,
    plan_node,
    traces,
)
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import NODES
from sitegrid.wire.labels import short_hash

log = logging.getLogger(__name__)

MAX_STEPS: Final = 100
"""Writes of one pass; more would be a plan that never comes to an end, and the next pass may as well do them."""


class Memberships:
    """Passes over nodes, and what was found wrong in them."""

    def __init__(
        self,
        cluster: Cluster,
        writer: Writer,
        *,
        limits: NodeLimits = STRICT,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._writer = writer
        self._limits = limits
        self._now = now
        self._clock = clock
        self._nodes: Written[Node] = Written(cluster.nodes, clock=clock)
        self._declarers: Declarers | None = None
        self._retries: dict[str, Retries] = {}
        self._problems: dict[Owner, dict[str, Problem]] = {}
        self._own_problems: dict[Owner, list[Problem]] = {}
        self._unseen: set[str] = set()
        self.changed: Callable[[Owner], None] = lambda owner: None
        """Called when the problems of an owner are others than before."""

    def start(self) -> None:
        """Note that all nodes are about to be looked at, as at the beginning of leading."""
        self._unseen = {node.metadata.name for node in self._cluster.nodes.list()}

    def complete(self) -> bool:
        """Tell whether every node has been looked at, so that `problems` are all that there are."""
        if self._unseen:
            self._unseen = {name for name in self._unseen if self._cluster.nodes.get("", name) is not None}
        return not self._unseen

    def invalidate(self) -> None:
        """Note that NodeUnits or NodeGroups declare something else than before."""
        self._declarers = None

    def problems(self, owner: Owner) -> list[Problem]:
        """Return what is wrong with what an owner declares, in the order of the nodes."""
        own = self.declarers().told(owner)
        found = self._problems.get(owner, {})
        return [*own, *(found[node] for node in sorted(found))]

    def declarers(self) -> Declarers:
        """Return what is declared at present."""
        if self._declarers is None:
            cluster = self._cluster
            found = Declarers(cluster.node_units.store.list(), cluster.node_groups.store.list(), self._limits)
            self._declarers, former = found, self._own_problems
            owners = found.problems.keys() | found.refusals.keys()
            self._own_problems = {owner: found.told(owner) for owner in owners}
            for owner in former.keys() | owners:
                if former.get(owner) != self._own_problems.get(owner):
                    self.changed(owner)
        return self._declarers

    async def reconcile(self, name: str) -> float | None:
        """Have the node carry what it is to carry; return in how many seconds to come again.

        Raises ApiError (a conflict, when the node changed meanwhile, above all) and Unreachable.
        """
        # Thousands of nodes in a row, most of which need no write, would otherwise keep everybody else waiting.
        await asyncio.sleep(0)
        try:
            return await self._reconcile(name)
        finally:
            self._unseen.discard(name)

    async def _reconcile(self, name: str) -> float | None:
        retries = self._retries.get(name) or Retries(clock=self._clock)
        for _ in range(MAX_STEPS):
            node = self._nodes.get("", name)
            if node is None or node.metadata.deletion_timestamp:
                self._retries.pop(name, None)
                self._note(name, {})
                return None
            outcome, found = self._plan(node)
            step = next((step for step in outcome.steps if retries.allowed(str(step.owner), _digest(step))), None)
            if step is None:
                retries.keep_only({str(step.owner) for step in outcome.steps})
                break
            await self._carry_out(node, step, retries)
        else:
            return 0.0
        refused = retries.problems()
        for step in outcome.steps:
            if (problem := refused.get(str(step.owner))) is not None:
                found.setdefault(step.owner, problem)
        self._note(name, found)
        times = (outcome.wake_in, retries.next_due())
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _plan(self, node: Node) -> tuple[Outcome, dict[Owner, Problem]]:
        declarers = self.declarers()
        left = traces(node.metadata)
        claims = declarers.claims(node.metadata)
        decision = decide(node.metadata, claims, held(left), declarers.frozen)
        outcome = plan_node(node, decision, left, frozen=declarers.frozen, grace=declarers.grace, now=self._now())
        found = {claim.owner: problem for claim, problem in decision.lost}
        for owner, problem in outcome.problems:
            found.setdefault(owner, problem)
        return outcome, found

    async def _carry_out(self, node: Node, step: Step, retries: Retries) -> None:
        meta = node.metadata
        try:
            if isinstance(step, Apply):
                # An empty map would be a field that the owner has, and others conflict with.
                maps = {"labels": dict(step.labels), "annotations": dict(step.annotations)}
                fields = {name: values for name, values in maps.items() if values}
                answer = await self._writer.apply_as(NODES, meta, fields, field_manager(step.owner))
                done = "is no member any more" if not step.annotations else f"gets {_text(step)}"
                log.info("Node %s: %s, by %s", meta.name, done, step.owner)
            else:
                spec = {"spec": {"taints": step.taints}} if step.taints is not None else {}
                patch = {"metadata": {"annotations": dict(step.annotations)}, **spec}
                answer = await self._writer.merge(NODES, meta, patch)
        except ApiError as error:
            if error.status >= 500 or error.not_found or (error.conflict and not isinstance(step, Apply)):
                raise
            problem = api_problem(error)
            if error.conflict:
                problem = Problem(SET_NODE_CONFLICT, f"node {meta.name}: {problem.message}")
            log.warning("Node %s, by %s: %s", meta.name, step.owner, problem.message)
            retries.failed(str(step.owner), _digest(step), problem)
            self._retries[meta.name] = retries
        else:
            retries.succeeded(str(step.owner))
            self._nodes.wrote(decode(answer, Node))

    def _note(self, node: str, found: dict[Owner, Problem]) -> None:
        """Remember the problems of one node, and tell whose have changed."""
        for owner in [*self._problems.keys() | found.keys()]:
            problems = self._problems.setdefault(owner, {})
            before, after = problems.pop(node, None), found.get(owner)
            if after is not None:
                problems[node] = after
            if not problems:
                del self._problems[owner]
            if before != after:
                self.changed(owner)


def _digest(step: Step) -> str:
    """Return what tells a step from others; the moment of a mark, which is another at every try, does not."""
    if isinstance(step, Apply):
        return short_hash(repr(step))
    return short_hash(repr((sorted(step.annotations), step.taints)))


def _text(step: Apply) -> str:
    return ", ".join(f"{key}={value}" for key, value in step.labels.items()) or "annotations"
