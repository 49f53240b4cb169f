"""Shares sources and views among all clients, and lets them go some time after the last one left.

Called by the server for every LIST and WATCH. Equal requests share a view, equal questions to the API server share a
source, so upstream traffic does not grow with a node's clients. With a disk, a source begins with what was kept of
it. While the API server cannot be reached nothing is let go: nobody could get it again.

Most views are kept back for authenticated clients. What no such client has asked for goes soon, has short lists, and
is never on the disk, unless it is essential for the node: then it is always there. Held by
``tests/agent/test_hub.py``, ``tests/agent/test_offline.py``.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sitegrid.agent.authentication import Authentication
from sitegrid.agent.disk import NODE, Disk
from sitegrid.agent.eventlog import Place
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.node import NodeUnits, node_source_key
from sitegrid.agent.patches import Patches
from sitegrid.agent.places import greediest
from sitegrid.agent.source import TAKEN_OVER, Source, SourceKey
from sitegrid.agent.upstream import Upstream
from sitegrid.agent.view import Client, View, ViewKey
from sitegrid.wire.codec import Codec, Item
from sitegrid.wire.labels import GRID_UNIQ_KEY, MANAGED_BY, SITEGRID
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES, Resource

LINGER: Final = 300.0
"""Seconds that a view is kept without a client: a client's restart must not cost a new list over the WAN."""
SHORT_LINGER: Final = 10.0
"""The same where no authenticated client has asked for it."""
MAX_VIEWS: Final = 64
"""Of guarded resources, and as many times four of others (a kubelet watches each ConfigMap by itself)."""
MAX_UNAUTHENTICATED: Final = 8
"""Those of each kind that no authenticated client has asked for."""
_GRIDS_ALONE: Final = ((ENDPOINTSLICES, "", f"{MANAGED_BY}={SITEGRID}"), (SERVICES, "", GRID_UNIQ_KEY))
"""What `sitegrid connections` asks for, without a token. Nothing of no grid is among these, which has to be known."""


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
        if disk is None:
            self.authentication = Authentication(upstream, self.identify)
        else:
            self.authentication = Authentication(
                upstream, self.identify, disk.accepted(), lambda: disk.keep_accepted(self.authentication.remembered)
            )
        self.authentication.listeners.append(self._accepted)
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
        return Source(
            key,
            self._upstream,
            self._metrics,
            authorization=self._authorizations[key.identity] if key.identity else "",
            stored=self._disk.load(key) if self._disk is not None else None,
            # After a relabelling what was kept for these units may be older than what clients have been shown since.
            resume=self._unit_changes < 2,
            shown=self._was_shown(key),
            keep=self._keep,
            heard=self.authentication.heard,
            wanted=lambda source: self._owner(source) is not None,
        )

    def _was_shown(self, key: SourceKey) -> bool:
        """Tell whether the agent before this one has shown it until a moment ago."""
        live = asyncio.get_running_loop().time() < self._taken_over
        return live and self._disk is not None and self._disk.was_shown(key)

    def _keep(self, source: Source) -> None:
        """Have the disk hold what somebody known wants of it; what may not be shown any more goes in any case."""
        if self._disk is None:
            return
        if not source.synced:
            self._disk.forget(source.key)
        elif (owner := self._owner(source)) is not None:
            self._disk.keep(source, owner)

    def _owner(self, source: Source) -> str | None:
        """Return for whom a source is kept: the node itself or an authenticated client; None where it is nobody's."""
        if self._is_essential(source.key):
            return NODE
        if source.key.identity:
            return source.key.identity if self.authentication.accepted(source.key.identity) else None
        views = (listener for listener in source.listeners if isinstance(listener, View))
        return next((view.owner for view in views if view.owner), None)

    def _is_essential(self, key: SourceKey) -> bool:
        """Tell whether the node cannot do without it: itself, its units' slices, and what clients share."""
        if key == node_source_key(self.node.name):
            return True
        if any(key == ViewKey(*grids, "", key.codec).plain_source() for grids in _GRIDS_ALONE):
            return True
        for resource in (ENDPOINTSLICES, SERVICES, ENDPOINTS):
            whole = ViewKey(resource, "", "", "", key.codec)
            sources = (
                whole.plain_source(),
                whole.slices_source(self.node.units),
                whole.services_source(self.node.keys),
            )
            if key in sources:
                return True
        return False

    def _accepted(self, identity: str) -> None:
        """Have what a client is asking for be its own, now that the API server is known to have accepted it."""
        for view in list(self._views.values()):
            if view.key.identity == identity or any(client.identity == identity for client in view.clients):
                self._own(view, identity)

    def _own(self, view: View, identity: str) -> None:
        if view.owner:
            return
        view.own(identity)
        for source in view.sources():
            if source.synced:
                self._keep(source)

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
    def view(self, key: ViewKey, client: Client, authorization: str = "") -> Iterator[View]:
        """Give the view of `key` while a request of `client` needs it; `authorization` is that of the key's identity.

        Raises `SelectorError`, `TooManyViews`.
        """
        view = self._views.get(key)
        if view is None:
            self._make_room(key, client.identity)
            if key.identity:
                self._authorizations[key.identity] = authorization
            left = self._disk.left(key.name) if self._disk is not None else None
            view = View(key, self.node, self._acquire, self._release, self.patches, left)
            self._views[key] = view
            self._metrics.set("views", len(self._views))
        if key in self._timers:
            self._timers.pop(key).cancel()
        view.clients[client] = None
        if self.authentication.accepted(client.identity):
            self._own(view, client.identity)
        try:
            yield view
        finally:
            del view.clients[client]
            if not view.clients and self._views.get(key) is view:
                # A view that the API server refused, or that has nothing to show, is of no use to the next client.
                useless = view.refusal is not None or (self._upstream.wan.down and not view.ready)
                delay = 0 if useless else LINGER if view.owner else SHORT_LINGER
                self._timers[key] = asyncio.get_running_loop().call_later(delay, self._expire, key)

    def has_room(self, key: ViewKey, identity: str) -> bool:
        """Tell whether the view of `key` is there, or may be made for that client now."""
        return key in self._views or self._is_left(key, identity) or self._last_wanted(key, identity) is not None

    def _alike(self, wanted: ViewKey) -> dict[ViewKey, View]:
        """Return the views of a kind, the oldest first."""
        return {key: view for key, view in self._views.items() if bool(key.identity) == bool(wanted.identity)}

    def _is_left(self, wanted: ViewKey, identity: str) -> bool:
        """Tell whether a view can be made without another one's end."""
        alike = self._alike(wanted).values()
        if len(alike) >= (4 * MAX_VIEWS if wanted.identity else MAX_VIEWS):
            return False
        if self.authentication.accepted(identity):
            return True
        return sum(not view.owner for view in alike) < min(MAX_UNAUTHENTICATED, MAX_VIEWS)

    def _last_wanted(self, wanted: ViewKey, identity: str) -> ViewKey | None:
        """Return the view of its kind that can be missed most, and that a client may have ended for its own."""
        alike = self._alike(wanted)
        idle = next((key for key in self._timers if key in alike and not alike[key].owner), None)
        if idle is not None or not self.authentication.accepted(identity):
            return idle
        idle = next((key for key in self._timers if key in alike), None)
        if idle is not None:
            return idle
        accepted = self.authentication.accepted
        for key, view in alike.items():
            if not any(accepted(client.identity) for client in view.clients):
                return key
        greedy = greediest(identity, [view.owner for view in alike.values()])
        return next((key for key, view in alike.items() if view.owner == greedy), None)

    def _make_room(self, wanted: ViewKey, identity: str) -> None:
        """Drop the view that can be missed most when there are too many of its kind. Raises `TooManyViews`."""
        if self._is_left(wanted, identity):
            return
        key = self._last_wanted(wanted, identity)
        if key is None:
            raise TooManyViews
        if key in self._timers:
            self._timers.pop(key).cancel()
        for client in tuple(self._views[key].clients):
            client.abort()
        self._forget(key)

    def _expire(self, key: ViewKey) -> None:
        view = self._views[key]
        if self._upstream.wan.down and view.ready and (view.owner or key.selects_here):
            self._timers[key] = asyncio.get_running_loop().call_later(LINGER, self._expire, key)
        else:
            del self._timers[key]
            self._forget(key)

    def _forget(self, key: ViewKey) -> None:
        self._views.pop(key).close()
        used = {key.identity for key in self._views}
        self._authorizations = {name: value for name, value in self._authorizations.items() if name in used}
        self._metrics.set("views", len(self._views))

    def places(self) -> dict[str, Place]:
        """Return what each view leaves to the next agent's, if it is somebody's; the sources must have ended."""
        shown = [view for view in self._views.values() if view.ready and view.refusal is None]
        kept = [view for view in shown if all(self._owner(source) is not None for source in view.sources())]
        return {view.key.name: view.place() for view in kept}

    def shown_sources(self) -> list[SourceKey]:
        """Return what is asked for at the moment and known, and is kept for somebody."""
        return [
            key for key, (source, _) in self._sources.items() if source.synced and self._owner(source) is not None
        ]

    def close(self) -> None:
        """End every source."""
        for timer in self._timers.values():
            timer.cancel()
        for source, _ in self._sources.values():
            source.stop()
        self.broken.cancel()
