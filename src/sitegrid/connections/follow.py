"""Follows what the node's agent shows of grids, as any reader of EndpointSlices would: by its plain listener.

Each `Follower` is a thread with one watch; it puts what it hears into a queue, as `Shown` and `Hidden`, whatever ends
its watch. Slices and Services are asked for as protobuf and by their labels alone, so that the agent answers from
what it has for kube-proxy, and asks the API server for nothing more that is not empty. Held by
``tests/agent/test_followers.py``.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from http.client import HTTPConnection, HTTPException, IncompleteRead
from queue import SimpleQueue
from typing import Final, NamedTuple

from sitegrid.wire.codec import CodecError, Item
from sitegrid.wire.frames import FrameError
from sitegrid.wire.labels import GRID_UNIQ_KEY, MANAGED_BY, SITEGRID
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES, Resource

_log = logging.getLogger(__name__)

GRIDS: Final = {ENDPOINTSLICES: f"{MANAGED_BY}%3D{SITEGRID}", SERVICES: GRID_UNIQ_KEY.replace("/", "%2F")}
"""By which labels what an agent shows of a grid is told from the rest, percent-encoded."""
_WATCH: Final = (
    "watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&labelSelector="
)
_SILENCE: Final = 150.0
"""Seconds without a bookmark after which a watch is no longer believed in; an agent sends one every 75 s."""
_ANSWER: Final = 5.0
"""Seconds for an answer of the agent's own."""
_RETRY: Final = 1.0


class Shown(NamedTuple):
    """An object is shown like this."""

    resource: Resource
    item: Item


class Hidden(NamedTuple):
    """An object is not shown any more."""

    resource: Resource
    key: str


class Synced(NamedTuple):
    """All objects that are shown have been told, once a watch."""

    resource: Resource


Heard = Shown | Hidden | Synced


class NodeUnits(NamedTuple):
    """The node's name, and its units: ids by unique key."""

    node: str
    units: dict[str, str]


class AgentError(Exception):
    """The agent does not answer, or not what it should; the message says why."""


def ask_units(host: str, port: int) -> NodeUnits:
    """Return the node's units as its agent knows them. Raises `AgentError`."""
    connection = HTTPConnection(host, port, timeout=_ANSWER)
    try:
        connection.request("GET", "/sitegrid/units")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise AgentError(body.decode(errors="replace").strip())
        document = json.loads(body)
        return NodeUnits(document["node"], document["units"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise AgentError(str(error)) from error
    finally:
        connection.close()


class Follower:
    """Follows one resource at the agent on `host` and `port`, once started, for as long as the process runs."""

    def __init__(self, host: str, port: int, resource: Resource, heard: SimpleQueue[Heard]) -> None:
        self._address = (host, port)
        self._resource = resource
        self._heard = heard
        self._known: set[str] = set()
        self._ended = threading.Event()
        self._connection: HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name=resource.plural)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and return when it has."""
        self._ended.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        told = ""
        while not self._ended.is_set():
            try:
                self._watch()
                told = ""
            except (OSError, HTTPException, AgentError, CodecError, FrameError) as error:
                why = "it ended in the middle" if isinstance(error, IncompleteRead) else str(error)
                if why != told and not self._ended.is_set():
                    told = why
                    _log.warning("the agent shows no %s: %s", self._resource.plural, told)
            self._ended.wait(_RETRY)

    def _watch(self) -> None:
        """Follow one watch to its end. What is not among its initial events was hidden meanwhile."""
        self._connection = connection = HTTPConnection(*self._address, timeout=_SILENCE)
        try:
            path = f"{self._resource.path()}?{_WATCH}{GRIDS[self._resource]}"
            connection.request("GET", path, headers={"Accept": PROTOBUF.stream_media_type})
            response = connection.getresponse()
            if response.status != 200:
                raise AgentError(f"status {response.status}")
            frames = PROTOBUF.frames()
            missing: set[str] | None = set(self._known)
            while data := response.read1(65536):
                for frame in frames.feed(data):
                    missing = self._take(frame, missing)
        finally:
            connection.close()

    def _take(self, frame: bytes, missing: set[str] | None) -> set[str] | None:
        """Pass an event on; return what is still missing of what was known, None once all is told."""
        change = PROTOBUF.change(frame)
        if change.type == "ERROR":
            raise AgentError(change.message)
        if change.item is None:
            if change.initial_events_end and missing is not None:
                for key in sorted(missing):
                    self._hide(key)
                self._heard.put(Synced(self._resource))
                return None
            return missing
        key = change.item.key
        if missing is not None:
            missing.discard(key)
        if change.type == "DELETED":
            self._hide(key)
        else:
            self._known.add(key)
            self._heard.put(Shown(self._resource, change.item))
        return missing

    def _hide(self, key: str) -> None:
        self._known.discard(key)
        self._heard.put(Hidden(self._resource, key))
