"""Whether the cloud hears of each node, and since when, by this process' own clock where it has seen the change.

A Node's conditions carry the times, so that a controller that starts in the middle of an outage knows what the former
one knew (`sitegrid.grid.reachability`). But a returning kubelet writes them by the clock of an edge machine that was
cut off; what we see happen is therefore dated by us, and nothing is in the future. Called by the passes; a node's
heartbeat changes nothing here (invariant I7). Held by ``tests/controller/test_reaches.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from sitegrid.grid.observed import Node
from sitegrid.grid.reachability import RETURN, Reach, reach_of
from sitegrid.kube.store import Store

log = logging.getLogger(__name__)


class NodeReaches:
    """The reach of every node in a store."""

    def __init__(self, nodes: Store[Node], *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._all: dict[str, Reach] = {}
        self._unsettled: set[str] = set()
        self._unready: set[str] = set()
        nodes.add_handler(self._changed)

    def all(self) -> Mapping[str, Reach]:
        """Return every node's reach by its name."""
        return self._all

    def unready(self) -> frozenset[str]:
        """Return the nodes with Ready Unknown or False."""
        return frozenset(self._unready)

    def unsettled(self) -> dict[str, Reach]:
        """Return the nodes that are away or came back within `RETURN`."""
        horizon = self._now() - RETURN
        self._unsettled = {
            name for name in self._unsettled if self._all[name].away or self._all[name].since > horizon
        }
        return {name: self._all[name] for name in self._unsettled}

    def _changed(self, old: Node | None, new: Node | None) -> None:
        if new is None:
            if old is not None:
                self._forget(old.metadata.name)
            return
        name, read = new.metadata.name, reach_of(new)
        before = reach_of(old) if old is not None else None
        if read == before:
            return
        reach = self._dated(name, before, read)
        if before is not None and before.away != reach.away:
            log.info("node %s is %s", name, "unreachable" if reach.away else "reachable again")
        self._all[name] = reach
        for names, belongs in ((self._unsettled, True), (self._unready, reach.ready in ("Unknown", "False"))):
            names.add(name) if belongs else names.discard(name)

    def _dated(self, name: str, before: Reach | None, read: Reach) -> Reach:
        now, known = self._now(), self._all.get(name)
        reach = read._replace(since=min(read.since, now), ready_since=min(read.ready_since, now))
        if before is None or known is None:
            return reach
        if before.away != read.away:
            reach = reach._replace(since=now, new=False)
        elif before.since == read.since:
            reach = reach._replace(since=known.since, new=known.new)
        if before.ready != read.ready:
            reach = reach._replace(ready_since=now)
        elif before.ready_since == read.ready_since:
            reach = reach._replace(ready_since=known.ready_since)
        return reach

    def _forget(self, name: str) -> None:
        self._all.pop(name, None)
        self._unsettled.discard(name)
        self._unready.discard(name)
