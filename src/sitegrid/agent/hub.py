"""Shares sources and views among all clients, and lets them go some time after the last one left.

Called by the server for every LIST and WATCH. Equal requests share a view, equal questions to the API server share a
source, so upstream traffic does not grow with a node's clients. With a disk, a source begins with what was kept of
it. While the API server cannot be reached nothing is let go: nobody could get it again. Held by
``tests/agent/test_hub.py``, ``tests/agent/test_offline.py``.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sitegrid.agent.disk import Disk
from sitegrid.agent.eventlog import Place
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.node import NodeUnits, node_source_key
from sitegrid.agent.patches import Patches
from sitegrid.agent.source import TAKEN_OVER, Source, SourceKey
from sitegrid.agent.upstream import Upstream
from sitegrid.agent.view import View, ViewKey
from sitegrid.wire.codec import Codec, Item
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTSLICES, Resource

LINGER: Final = 300.0
"""Seconds that a view is kept without a client: a client's restart must not cost a new list over the WAN."""
MAX_VIEWS: Final = 64
"""Of guarded resources, and as many times four of others (a kubelet watches each ConfigMap by itself)."""


class TooManyViews(Exception):
    """Clients ask for more different selections at a time than the agent is ready to keep."""


class Hub:
    """All sources and views of one agent; `live` tells that the one before it has served until a moment ago."""

    def __init__(
        self, node_name: str, upstream: Upstream, metrics: Metrics, disk: Disk | None = None, *, live: bool = False
    ) -> None:
        self._taken_over = asyncio.get_running_loop().time() + TAKEN_OVER if live else 0.0
        self._upstream = upstream
        self._metrics = metrics
        self._disk = disk
        self._salt = secrets.token_bytes(32)
        self._authorizations: dict[str, str] = {}
        upstream.wan.listeners.append(self._wan_changed)
        self._sources: dict[SourceKey, tuple[Source, list[int]]] = {}
        self._views: dict[ViewKey, View] = {}
        self._timers: dict[ViewKey, asyncio.TimerHandle] = {}
        self._unit_changes = 0
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Has the exception that ended a source: a fault of our own, after which what is shown is out of date."""
        self.node = NodeUnits(node_name, self._acquire(node_source_key(node_name)), self._units_changed)
        slices = ViewKey(ENDPOINTSLICES, "", "", "", PROTOBUF)  # as kube-proxy and CoreDNS ask for them
        self.patches = Patches(self.node, slices.slices_source, self._acquire, self._release)

    def _acquire(self, key: SourceKey) -> Source:
        if key not in self._sources:
            source = self._new_source(key)
            self._sources[key] = (source, [0])
            source.start(self._source_broken)
        source, users = self._sources[key]
        users[0] += 1
        self._metrics.set("sources", len(self._sources))
        return source

    def _new_source(self, key: SourceKey) -> Source:
        authorization = self._authorizations[key.identity] if key.identity else ""
        if self._disk is None:
            return Source(key, self._upstream, self._metrics, authorization=authorization)
        return Source(
            key,
            self._upstream,
            self._metrics,
            authorization=authorization,
            stored=self._disk.load(key),
            # After a relabelling what was kept for these units may be older than what clients have been shown since.
            resume=self._unit_changes < 2,
            shown=asyncio.get_running_loop().time() < self._taken_over and self._disk.was_shown(key),
            keep=self._disk.keep,
        )

    def _source_broken(self, error: BaseException) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)

    def source_keys(self) -> list[SourceKey]:
        """Return what is asked for at the moment."""
        return list(self._sources)

    def _release(self, source: Source) -> None:
        users = self._sources[source.key][1]
        users[0] -= 1
        if not users[0]:
            source.stop()
            del self._sources[source.key]
        self._metrics.set("sources", len(self._sources))

    def _wan_changed(self) -> None:
        self._metrics.set("wan_down", self._upstream.wan.down)
        if self._upstream.wan.down:
            for source, _ in list(self._sources.values()):
                source.wan_lost()

    def _units_changed(self) -> None:
        self._unit_changes += 1  # The first is that they are known at all.
        self._metrics.set("units", len(self.node.units))
        self.patches.units_changed()
        for view in list(self._views.values()):
            view.units_changed()

    def identify(self, authorization: str) -> str:
        """Return the name, for keys, of the client with this Authorization header."""
        if self._disk is not None:
            return self._disk.identity(authorization)
        return hmac.digest(self._salt, authorization.encode("latin-1"), "sha256").hex()

    def known_object(self, identity: str, resource: Resource, namespace: str, name: str, codec: Codec) -> Item | None:
        """Return an object that `identity` may see because it has listed it; None where it is not known."""
        for key, view in self._views.items():
            if (key.identity, key.resource, key.codec) != (identity, resource, codec):
                continue
            if view.ready and view.refusal is None:
                item = view.items.get(f"{namespace}/{name}" if namespace else name)
                if item is not None:
                    return item
        return None

    @contextmanager
    def view(self, key: ViewKey, authorization: str = "") -> Iterator[View]:
        """Give the view of `key` while a request needs it; `authorization` is that of the key's identity.

        Raises `SelectorError`, `TooManyViews`.
        """
        view = self._views.get(key)
        if view is None:
            self._make_room(key)
            if key.identity:
                self._authorizations[key.identity] = authorization
            left = self._disk.left(key.name) if self._disk is not None else None
            view = View(key, self.node, self._acquire, self._release, self.patches, left)
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
                # A view that the API server refused, or that has nothing to show, is of no use to the next client.
                useless = view.refusal is not None or (self._upstream.wan.down and not view.ready)
                delay = 0 if useless else LINGER
                self._timers[key] = asyncio.get_running_loop().call_later(delay, self._expire, key)

    def _make_room(self, wanted: ViewKey) -> None:
        """Drop the view that has been without clients for the longest time, when there are too many of its kind."""
        alike = [key for key in self._views if bool(key.identity) == bool(wanted.identity)]
        if len(alike) < (4 * MAX_VIEWS if wanted.identity else MAX_VIEWS):
            return
        idle = next((key for key in self._timers if key in alike), None)
        if idle is None:
            raise TooManyViews
        self._timers[idle].cancel()
        self._forget(idle)

    def _expire(self, key: ViewKey) -> None:
        if self._upstream.wan.down and self._views[key].ready:
            self._timers[key] = asyncio.get_running_loop().call_later(LINGER, self._expire, key)
        else:
            self._forget(key)

    def _forget(self, key: ViewKey) -> None:
        del self._timers[key]
        self._views.pop(key).close()
        used = {key.identity for key in self._views}
        self._authorizations = {name: value for name, value in self._authorizations.items() if name in used}
        self._metrics.set("views", len(self._views))

    def places(self) -> dict[str, Place]:
        """Return what each view leaves to the next agent's; the sources must have ended."""
        shown = [view for view in self._views.values() if view.ready and view.refusal is None]
        return {view.key.name: view.place() for view in shown}

    def shown_sources(self) -> list[SourceKey]:
        """Return what is asked for at the moment and known."""
        return [key for key, (source, _) in self._sources.items() if source.synced]

    def close(self) -> None:
        """End every source."""
        for timer in self._timers.values():
            timer.cancel()
        for source, _ in self._sources.values():
            source.stop()
        self.broken.cancel()
