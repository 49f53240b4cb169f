"""One pass over SuperEdge's NodeUnits and NodeGroups: has ours be what they say, and tells them how that is.

Called by the manager's workers; never two at a time. What is to be is `sitegrid.grid.sites`'s; all work on nodes is
that of our NodeUnits, whose problems are told here as well. While SuperEdge's kinds are not observed nothing is done:
what was made of them stays. Held by ``tests/controller/superedge``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sitegrid.api.nodeunits import MAX_LISTED, NodeGroup, NodeUnit
from sitegrid.api.superedge import (
    MEMBER_OF_UNIT,
    SiteNodeGroup,
    SiteNodeGroupStatus,
    SiteNodeUnit,
    SiteNodeUnitStatus,
)
from sitegrid.controller.cluster import Cluster, decode
from sitegrid.controller.queues import UnitKey
from sitegrid.controller.reporter import api_problem
from sitegrid.controller.resources import NODEGROUPS, NODEUNITS, SITE_NODEGROUPS, SITE_NODEUNITS
from sitegrid.controller.writer import Writer
from sitegrid.controller.written import Written
from sitegrid.grid.nodeunitstatus import conditions_of
from sitegrid.grid.observed import Node
from sitegrid.grid.problem import Problem
from sitegrid.grid.sites import FROM_SITE, Sites, translate
from sitegrid.grid.status import DEGRADED
from sitegrid.kube.errors import ApiError
from sitegrid.kube.queue import WorkQueue

log = logging.getLogger(__name__)

SITES: Final = "Sites"
"""The one key of this work."""
DELAY: Final = 1.0
"""Seconds that a change waits for others like it: everything is looked at for it."""
RETRY: Final = 30.0
"""Seconds until what the API server refused is tried again."""


class SitePasses:
    """Passes, and the handlers that ask for them."""

    def __init__(
        self, cluster: Cluster, writer: Writer, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._cluster = cluster
        self._writer = writer
        self._now = now
        self._refused: dict[tuple[str, str], Problem] = {}
        self.queue: WorkQueue[UnitKey] | None = None
        """Where the key goes; None while this process does not lead."""
        for store in (cluster.site_units, cluster.site_groups):
            store.store.add_handler(lambda old, new: self.add())
        cluster.node_units.store.add_handler(self._ours)
        cluster.node_groups.store.add_handler(self._ours)
        cluster.nodes.add_handler(self._node)

    def add(self) -> None:
        """Ask for a pass."""
        if self.queue is not None:
            self.queue.add_after(UnitKey(SITES, "", ""), DELAY)

    async def reconcile(self) -> float | None:
        """Bring our objects and SuperEdge's statuses to what they should be; return when to come again, in seconds.

        Raises ApiError (conflicts above all) and Unreachable.
        """
        cluster = self._cluster
        if not (cluster.optional.served(SITE_NODEUNITS) and cluster.optional.served(SITE_NODEGROUPS)):
            return None
        units, groups = cluster.site_units.store.list(), cluster.site_groups.store.list()
        sites = translate(units, groups)
        self._refused = {}
        for (kind, name), manifest in sites.wanted.items():
            await self._ensure(kind, name, manifest)
        await self._delete_unwanted(sites)
        for unit in units:
            await self._report_unit(sites, unit)
        for group in groups:
            await self._report_group(sites, group)
        return RETRY if self._refused else None

    async def _ensure(self, kind: str, name: str, manifest: dict[str, Any]) -> None:
        resource, store, object_type = self._kind(kind)
        present = store.get("", name)
        if present is not None and _as_wanted(present, manifest):
            return
        try:
            if present is None:
                answer = await self._writer.create(resource, manifest)
            else:
                answer = await self._writer.update(resource, manifest, present.metadata.uid)
        except ApiError as error:
            if error.conflict:
                raise
            self._refused[kind, name] = api_problem(error)
            return
        log.info("%s %s is as SuperEdge's objects say", kind, name)
        store.wrote(decode(answer, object_type))

    async def _delete_unwanted(self, sites: Sites) -> None:
        for kind in (NodeUnit.KIND, NodeGroup.KIND):
            resource, store, _ = self._kind(kind)
            for item in store.store.list():
                meta = item.metadata
                if FROM_SITE in meta.labels and (kind, meta.name) not in sites.wanted and not meta.deletion_timestamp:
                    await self._writer.delete(resource, meta)
                    store.deleted(meta)
                    log.info("deleted %s %s: what it was made from is gone", kind, meta.name)

    async def _report_unit(self, sites: Sites, unit: SiteNodeUnit) -> None:
        name = unit.metadata.name
        members = self._cluster.units.nodes_of(name, MEMBER_OF_UNIT)
        nodes = [node for each in members if (node := self._cluster.nodes.get("", each)) is not None]
        ready = sorted(node.metadata.name for node in nodes if node.ready)
        others = sorted(node.metadata.name for node in nodes if not node.ready)
        problems = self._problems(sites, unit)
        status = SiteNodeUnitStatus(
            observed_generation=unit.metadata.generation,
            ready_rate=f"{len(ready)}/{len(nodes)}",
            ready_nodes=ready[:MAX_LISTED],
            not_ready_nodes=others[:MAX_LISTED],
            conditions=conditions_of(
                unit, f"{name}={MEMBER_OF_UNIT}", len(nodes), len(ready), problems, now=self._now()
            ),
        )
        if status != unit.status:
            await self._writer.status(SITE_NODEUNITS, unit.metadata, msgspec.to_builtins(status))

    async def _report_group(self, sites: Sites, group: SiteNodeGroup) -> None:
        name = group.metadata.name
        by_node = self._cluster.units.by_node(name)
        units = sorted({*sites.units_of.get(name, ()), *by_node.values()})
        nodes = [node for each in by_node if (node := self._cluster.nodes.get("", each)) is not None]
        problems = self._problems(sites, group)
        status = SiteNodeGroupStatus(
            observed_generation=group.metadata.generation,
            unit_number=len(units),
            node_units=units[:MAX_LISTED],
            conditions=conditions_of(
                group, name, len(nodes), sum(node.ready for node in nodes), problems, now=self._now()
            ),
        )
        if status != group.status:
            await self._writer.status(SITE_NODEGROUPS, group.metadata, msgspec.to_builtins(status))

    def _problems(self, sites: Sites, origin: SiteNodeUnit | SiteNodeGroup) -> Sequence[Problem]:
        """Return what is wrong with an object: what was refused, what ours complain of, what has no counterpart."""
        key = (origin.KIND, origin.metadata.name)
        made = sites.made_from.get(key, ())
        found = [self._refused[item] for item in made if item in self._refused]
        for kind, name in made:
            ours = self._kind(kind)[1].get("", name)
            for condition in ours.status.conditions if ours is not None else ():
                if condition.type == DEGRADED and condition.status == "True":
                    found.append(Problem(condition.reason, condition.message))
        return [*dict.fromkeys((*found, *sites.problems.get(key, ())))]

    def _kind(self, kind: str) -> tuple[Any, Written[Any], type[Any]]:
        if kind == NodeUnit.KIND:
            return NODEUNITS, self._cluster.node_units, NodeUnit
        return NODEGROUPS, self._cluster.node_groups, NodeGroup

    def _ours(self, old: NodeUnit | NodeGroup | None, new: NodeUnit | NodeGroup | None) -> None:
        if any(item is not None and FROM_SITE in item.metadata.labels for item in (old, new)):
            self.add()

    def _node(self, old: Node | None, new: Node | None) -> None:
        """Report on nodes that come, go, get ready or other labels; a heartbeat is nothing (I7)."""
        if not self._cluster.site_units.store and not self._cluster.site_groups.store:
            return
        same = old is not None and new is not None
        if not (same and old and new and old.ready == new.ready and old.metadata.labels == new.metadata.labels):
            self.add()


def _as_wanted(present: NodeUnit | NodeGroup, manifest: dict[str, Any]) -> bool:
    """Tell whether `present` says what is wanted, whatever else it has."""
    wanted = msgspec.convert(manifest, type(present))
    return present.spec == wanted.spec and wanted.metadata.labels.items() <= present.metadata.labels.items()
