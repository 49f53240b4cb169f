"""Shares sources and views among all clients, and lets them go some time after the last one left.

Called by the server for every LIST and WATCH. Equal requests share a view, equal questions to the API server share a
source, so a node's upstream traffic does not grow with its clients. Held by ``tests/agent/test_hub.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sitegrid.agent.metrics import Metrics
from sitegrid.agent.node import NodeUnits, node_source_key
from sitegrid.agent.source import Source, SourceKey
from sitegrid.agent.upstream import Upstream
from sitegrid.agent.view import View, ViewKey

LINGER: Final = 300.0
"""Seconds that a view is kept without a client: a client's restart must not cost a new list over the WAN."""
MAX_VIEWS: Final = 64


class TooManyViews(Exception):
    """Clients ask for more different selections at a time than the agent is ready to keep."""


class Hub:
    """All sources and views of one agent."""

    def __init__(self, node_name: str, upstream: Upstream, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._sources: dict[SourceKey, tuple[Source, list[int]]] = {}
        self._views: dict[ViewKey, View] = {}
        self._timers: dict[ViewKey, asyncio.TimerHandle] = {}
        self.node = NodeUnits(node_name, self._acquire(node_source_key(node_name)), self._units_changed)

    def _acquire(self, key: SourceKey) -> Source:
        if key not in self._sources:
            source = Source(key, self._upstream, self._metrics)
            self._sources[key] = (source, [0])
            source.start()
        source, users = self._sources[key]
        users[0] += 1
        self._metrics.set("sources", len(self._sources))
        return source

    def _release(self, source: Source) -> None:
        users = self._sources[source.key][1]
        users[0] -= 1
        if not users[0]:
            source.stop()
            del self._sources[source.key]
        self._metrics.set("sources", len(self._sources))

    def _units_changed(self) -> None:
        self._metrics.set("units", len(self.node.units))
        for view in list(self._views.values()):
            view.units_changed()

    @contextmanager
    def view(self, key: ViewKey) -> Iterator[View]:
        """Give the view of `key` while a request needs it. Raises `SelectorError`, `TooManyViews`."""
        view = self._views.get(key)
        if view is None:
            self._make_room()
            view = View(key, self.node, self._acquire, self._release)
            self._views[key] = view
            self._metrics.set("views", len(self._views))
        if key in self._timers:
            self._timers.pop(key).cancel()
        view.clients += 1
        try:
            yield view
        finally:
            view.clients -= 1
            if not view.clients and self._views.get(key) is view:
                # A view that the API server refused is of no use to the next client.
                delay = 0 if view.refusal is not None and not view.ready else LINGER
                self._timers[key] = asyncio.get_running_loop().call_later(delay, self._forget, key)

    def _make_room(self) -> None:
        """Drop the view that has been without clients for the longest time, when there are too many."""
        if len(self._views) < MAX_VIEWS:
            return
        if not self._timers:
            raise TooManyViews
        key = next(iter(self._timers))
        self._timers[key].cancel()
        self._forget(key)

    def _forget(self, key: ViewKey) -> None:
        del self._timers[key]
        self._views.pop(key).close()
        self._metrics.set("views", len(self._views))

    def close(self) -> None:
        """End every source."""
        for timer in self._timers.values():
            timer.cancel()
        for source, _ in self._sources.values():
            source.stop()
