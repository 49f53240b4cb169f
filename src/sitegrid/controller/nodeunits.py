"""One pass over a unit's NodeUnit or a key's NodeGroup: makes it where none is, deletes ours where unused, reports.

Called by the manager's workers; never two at a time for one unit or key. An object that a user wrote, or put
something into, is never deleted, and of none anything but the status is rewritten (invariant I3). Held by
``tests/controller/nodeunits`` and ``tests/controller/test_nodeunits.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from sitegrid.api.nodeunits import NodeGroup, NodeUnit
from sitegrid.controller.cluster import KEY, UNIT_OF_KEY, Cluster, decode, unit_index
from sitegrid.controller.memberships import Memberships
from sitegrid.controller.reporter import Reporter
from sitegrid.controller.resources import NODEGROUPS, NODEUNITS
from sitegrid.controller.statuses import Statuses
from sitegrid.controller.writer import Writer
from sitegrid.grid.kinds import qualified
from sitegrid.grid.membership import Owner
from sitegrid.grid.nodeunits import generated_node_group, generated_node_unit, is_generated
from sitegrid.grid.nodeunitstatus import group_status, runs_in, unit_status
from sitegrid.grid.observed import Node
from sitegrid.grid.overrides import Unit
from sitegrid.grid.status import DEGRADED

log = logging.getLogger(__name__)

STARTING: Final = 1.0
"""Seconds until the next try while not all nodes have been looked at: a status now would be taken back at once."""
MIN_INTERVAL: Final = 3.0
"""Seconds between two writes of one object's status: it is for people, and there are thousands of them."""


class NodeUnits:
    """Passes over NodeUnits and NodeGroups."""

    def __init__(
        self,
        cluster: Cluster,
        writer: Writer,
        statuses: Statuses,
        reporter: Reporter,
        memberships: Memberships,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._writer = writer
        self._statuses = statuses
        self._reporter = reporter
        self._memberships = memberships
        self._now = now
        cluster.node_units.store.add_handler(self._forget_gone)
        cluster.node_groups.store.add_handler(self._forget_gone)

    def in_use(self, key: str) -> bool:
        """Tell whether units of `key` are to be seen: a grid uses it, or a user wrote a NodeGroup for it."""
        groups = self._cluster.node_groups.by_index(KEY, key)
        return bool(self._grids(key)) or any(not is_generated(group) for group in groups)

    async def unit(self, key: str, value: str) -> float | None:
        """Bring the NodeUnit of a unit to what it should be; return in how many seconds to come again.

        Raises ApiError and Unreachable.
        """
        nodes = self._nodes(key, value)
        wanted = bool(nodes) and self.in_use(key)
        found = self._cluster.node_units.by_index(UNIT_OF_KEY, unit_index(key, value))
        kept = await self._kept(found, wanted)
        if wanted and not found:
            await self._make(generated_node_unit(key, value, self._unit_name_taken(key, value)))
            return None
        if not self._memberships.complete():
            return STARTING
        info = self._cluster.units.of(key).get(value)
        grids = self._grids(key, info.unit) if info is not None and nodes else []
        waits = [await self._report_unit(node_unit, nodes, grids) for node_unit in kept]
        return max(waits, default=0.0) or None

    async def group(self, key: str) -> float | None:
        """Bring the NodeGroup of a key to what it should be; return in how many seconds to come again.

        Raises ApiError and Unreachable.
        """
        wanted = self.in_use(key)
        found = self._cluster.node_groups.by_index(KEY, key)
        kept = await self._kept(found, wanted)
        if wanted and not found:
            await self._make(generated_node_group(key, self._group_name_taken(key)))
            return None
        if not self._memberships.complete():
            return STARTING
        grids, units = self._grids(key), self._cluster.units.by_node(key)
        nodes = [node for name in units if (node := self._cluster.nodes.get("", name)) is not None]
        waits = []
        for group in kept:
            problems = self._memberships.problems(Owner.of(group))
            status = group_status(group, {*units.values()}, nodes, grids, problems, now=self._now())
            waits.append(await self._statuses.write(NODEGROUPS, self._cluster.node_groups, group, status))
        return max(waits, default=0.0) or None

    async def _report_unit(self, node_unit: NodeUnit, nodes: list[Node], grids: list[str]) -> float:
        unknown = [name for name in node_unit.spec.nodes if self._cluster.nodes.get("", name) is None]
        problems = self._memberships.problems(Owner.of(node_unit))
        status = unit_status(node_unit, nodes, grids, problems, unknown=sorted(unknown), now=self._now())
        wait = await self._statuses.write(NODEUNITS, self._cluster.node_units, node_unit, status)
        former = {(c.type, c.reason) for c in node_unit.status.conditions}
        for condition in status.conditions if not wait else ():
            if (
                condition.type == DEGRADED
                and condition.status == "True"
                and (DEGRADED, condition.reason) not in former
            ):
                self._reporter.warning(
                    NODEUNITS, node_unit.metadata, reason=condition.reason, action="Join", note=condition.message
                )
        return wait

    async def _kept(self, found: list[Any], wanted: bool) -> list[Any]:
        """Delete those of our own making that are not wanted, or not any more since a user wrote one."""
        alive = [item for item in found if not item.metadata.deletion_timestamp]
        users = [item for item in alive if not is_generated(item)]
        made = sorted((item for item in alive if is_generated(item)), key=lambda item: str(item.metadata.name))
        kept = users or (made[:1] if wanted else [])
        for item in made:
            if item not in kept:
                await self._delete(item)
        return kept

    async def _make(self, manifest: dict[str, Any]) -> None:
        unit = manifest["kind"] == NodeUnit.KIND
        answer = await self._writer.make(NODEUNITS if unit else NODEGROUPS, manifest)
        log.info("made %s %s", manifest["kind"], manifest["metadata"]["name"])
        if unit:
            self._cluster.node_units.wrote(decode(answer, NodeUnit))
        else:
            self._cluster.node_groups.wrote(decode(answer, NodeGroup))

    async def _delete(self, item: NodeUnit | NodeGroup) -> None:
        resource, note_deleted = (
            (NODEUNITS, self._cluster.node_units.deleted)
            if item.KIND == NodeUnit.KIND
            else (NODEGROUPS, self._cluster.node_groups.deleted)
        )
        await self._writer.delete(resource, item.metadata)
        note_deleted(item.metadata)
        log.info("deleted %s %s: it is unused, or a user's takes its place", item.KIND, item.metadata.name)

    def _unit_name_taken(self, key: str, value: str) -> Callable[[str], bool]:
        def taken(name: str) -> bool:
            other = self._cluster.node_units.get("", name)
            return other is not None and (other.spec.grid_uniq_key, other.unit) != (key, value)

        return taken

    def _group_name_taken(self, key: str) -> Callable[[str], bool]:
        def taken(name: str) -> bool:
            other = self._cluster.node_groups.get("", name)
            return other is not None and other.spec.grid_uniq_key != key

        return taken

    def _nodes(self, key: str, value: str) -> list[Node]:
        names = self._cluster.units.nodes_of(key, value)
        return [node for name in names if (node := self._cluster.nodes.get("", name)) is not None]

    def _grids(self, key: str, unit: Unit | None = None) -> list[str]:
        """Return the grids that use `key`, or that run in one unit of it, as a status names them."""
        return sorted(
            f"{qualified(grid.GROUP, grid.KIND)} {grid.metadata.namespace}/{grid.metadata.name}"
            for store in self._cluster.grid_stores()
            for grid in store.by_index(KEY, key)
            if not grid.metadata.deletion_timestamp and (unit is None or runs_in(grid, unit))
        )

    def _forget_gone(self, old: NodeUnit | NodeGroup | None, new: NodeUnit | NodeGroup | None) -> None:
        if new is None and old is not None:
            self._statuses.forget(old.metadata.uid)
