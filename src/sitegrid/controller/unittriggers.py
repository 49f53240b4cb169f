"""Turns changes of nodes, NodeUnits, NodeGroups and grids into keys of the work on units.

Registered once on the stores; while this process does not lead there is no queue, and changes need nothing.
Statuses wait a moment, so that what changes together is written together. Invariant I7: a node's heartbeat gives no
key. Held by ``tests/controller/nodeunits``.
"""

from __future__ import annotations

from typing import Any, Final

from sitegrid.api.nodeunits import NodeGroup, NodeUnit
from sitegrid.controller.cluster import KEY, NAMED_NODE, Cluster, changed_labels
from sitegrid.controller.memberships import Memberships
from sitegrid.controller.queues import UnitKey
from sitegrid.grid.membership import Owner
from sitegrid.grid.nodeunits import is_generated
from sitegrid.grid.observed import Node
from sitegrid.kube.queue import WorkQueue
from sitegrid.kube.store import Store

NODE: Final = "Node"
DELAY: Final = 0.3
"""Seconds that a change waits for others like it before NodeUnits and NodeGroups are looked at."""
DECLARED_DELAY: Final = 0.5
"""Seconds that a change of what is declared waits for others, since every node is looked at for it. A node that joins
a unit so has its rules within about a second."""


class UnitTriggers:
    """The handlers on the stores of `cluster`."""

    def __init__(self, cluster: Cluster, memberships: Memberships) -> None:
        self._cluster = cluster
        self._memberships = memberships
        self.queue: WorkQueue[UnitKey] | None = None
        memberships.changed = self._problems
        cluster.nodes.add_handler(self._node)
        cluster.node_units.store.add_handler(self._node_unit)
        cluster.node_groups.store.add_handler(self._node_group)
        for store in cluster.grid_stores():
            store.add_handler(self._grid)

    def start(self, queue: WorkQueue[UnitKey]) -> None:
        """Begin to lead: add everything that is observed to `queue`, and from now on what changes."""
        self.queue = queue
        self._memberships.start()
        self.add_all()

    def stop(self) -> None:
        """Lead no more."""
        self.queue = None

    def add_all(self) -> None:
        """Add everything that is observed."""
        self._add_nodes(0.0)
        for key in {key for store in self._keyed() for key in store.index_values(KEY)}:
            self._add_key(key)

    def _add_nodes(self, delay: float) -> None:
        for node in self._cluster.nodes.list():
            self._add(NODE, "", node.metadata.name, delay)

    def _add_key(self, key: str) -> None:
        """Add all units of `key`: those that there are, and those that some NodeUnit is for."""
        values = {*self._cluster.units.of(key)}
        values |= {node_unit.unit for node_unit in self._cluster.node_units.store.by_index(KEY, key)}
        for value in values:
            self._add(NodeUnit.KIND, key, value)
        self._add(NodeGroup.KIND, key)

    def _add_unit(self, key: str, value: str) -> None:
        self._add(NodeUnit.KIND, key, value)
        self._add(NodeGroup.KIND, key)

    def _add(self, kind: str, key: str, name: str = "", delay: float = DELAY) -> None:
        if self.queue is not None:
            self.queue.add_after(UnitKey(kind, key, name), delay)

    def _node(self, old: Node | None, new: Node | None) -> None:
        node = new or old
        if self.queue is None or node is None:
            return
        if old is None or new is None or _members_differ(old, new):
            self._add(NODE, "", node.metadata.name, 0.0)
        changed = changed_labels(old, new)
        if old is None or new is None or old.ready != new.ready or _annotations_differ(old, new):
            changed |= node.metadata.labels.keys()
        for key in changed:
            for state in (old, new):
                if self._is_key(key) and state is not None and (value := state.metadata.labels.get(key)):
                    self._add_unit(key, value)
        if old is None or new is None:
            for node_unit in self._cluster.node_units.store.by_index(NAMED_NODE, node.metadata.name):
                self._add_unit(node_unit.spec.grid_uniq_key, node_unit.unit)

    def _is_key(self, key: str) -> bool:
        """Tell whether a label is a unique key that anybody asks for; most labels are none."""
        return any(store.by_index(KEY, key) for store in self._keyed())

    def _keyed(self) -> list[Store[Any]]:
        cluster = self._cluster
        return [*cluster.grid_stores(), cluster.node_units.store, cluster.node_groups.store]

    def _node_unit(self, old: NodeUnit | None, new: NodeUnit | None) -> None:
        if old is not None and new is not None and not _said_otherwise(old, new):
            return
        for node_unit in (old, new):
            if node_unit is not None:
                self._add_unit(node_unit.spec.grid_uniq_key, node_unit.unit)
        # Of those that we make by themselves there may be thousands, and they say nothing of nodes;
        # only a NodeGroup's selector may find them.
        silent = all(node_unit is None or is_generated(node_unit) for node_unit in (old, new))
        if not silent or any(group.spec.selector is not None for group in self._cluster.node_groups.store.list()):
            self._memberships.invalidate()
            self._add_nodes(DECLARED_DELAY)

    def _node_group(self, old: NodeGroup | None, new: NodeGroup | None) -> None:
        group = new or old
        if group is None or (old is not None and new is not None and not _said_otherwise(old, new)):
            return
        self._add_key(group.spec.grid_uniq_key)
        if not all(item is None or is_generated(item) for item in (old, new)):
            self._memberships.invalidate()
            self._add_nodes(DECLARED_DELAY)

    def _grid(self, old: Any, new: Any) -> None:
        """Look at the key of a grid that comes or goes, or chooses other units; all else is not about units."""
        grid = new or old
        if (
            old is None
            or new is None
            or old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
            or getattr(old.spec, "units", None) != getattr(new.spec, "units", None)
        ):
            self._add_key(grid.spec.grid_uniq_key)

    def _problems(self, owner: Owner) -> None:
        """Report what is wrong, or is no more, with what an owner declares."""
        cluster = self._cluster
        for node_unit in cluster.node_units.store.list():
            if Owner.of(node_unit) == owner:
                self._add(NodeUnit.KIND, node_unit.spec.grid_uniq_key, node_unit.unit)
        for group in cluster.node_groups.store.list():
            if Owner.of(group) == owner:
                self._add(NodeGroup.KIND, group.spec.grid_uniq_key)


def _members_differ(old: Node, new: Node) -> bool:
    """Tell whether a node's labels, annotations or taints differ, which memberships are made of."""
    return (
        old.metadata.labels != new.metadata.labels
        or _annotations_differ(old, new)
        or old.spec.taints != new.spec.taints
        or old.metadata.uid != new.metadata.uid
    )


def _annotations_differ(old: Node, new: Node) -> bool:
    return old.metadata.annotations != new.metadata.annotations


def _said_otherwise(old: NodeUnit | NodeGroup, new: NodeUnit | NodeGroup) -> bool:
    """Tell whether two states of an object differ in what the user says, not in its status alone."""
    before, after = old.metadata, new.metadata
    return (
        before.generation != after.generation
        or before.labels != after.labels
        or before.uid != after.uid
        or before.deletion_timestamp != after.deletion_timestamp
    )
