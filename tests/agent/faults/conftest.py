"""A simulated site: the agent's own code between a model of an API server and models of client-go's reflectors.

There are no sockets and no clock: a loop of our own runs whatever can run and moves its time only when told to, so a
run is decided by its seed alone, and an outage of an hour takes a millisecond. Nothing of the agent but its upstream
connection and its client connections is replaced.

Addresses tell where they belong: ``10.<unit>.…`` is an endpoint of that unit, ``10.9.…`` of no grid, ``10.66.…`` of
a slice with every unit's endpoints. Each write has an address of its own, so a stale one is told from a current one.
"""

from __future__ import annotations

import asyncio
import json
import re
import selectors
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import pytest

from sitegrid.agent.hub import Hub
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.reply import UpstreamError
from sitegrid.agent.request import Body, Disconnected, Request
from sitegrid.agent.server import Server
from sitegrid.agent.source import Source, SourceKey, Stored
from sitegrid.agent.wan import Wan
from sitegrid.wire.selectors import LabelSelector
from tests.support.kubeproto import parse

SLICES: Final = "/apis/discovery.k8s.io/v1/endpointslices"
SERVICES: Final = "/api/v1/services"
NODES: Final = "/api/v1/nodes"
ENDPOINTS: Final = "/api/v1/endpoints"
KINDS: Final = {
    SLICES: ("EndpointSlice", "discovery.k8s.io/v1"),
    SERVICES: ("Service", "v1"),
    NODES: ("Node", "v1"),
    ENDPOINTS: ("Endpoints", "v1"),
}
UNITS: Final = {"zone.u1": 1, "zone.u2": 2, "zone.u3": 3, "rack.r1": 4}
"""Unit ids and the second byte of their endpoints' addresses."""
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
_ADDRESS: Final = re.compile(rb"10\.(\d+)\.\d+\.\d+")

Key = tuple[str, str]


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop that runs until there is nothing to do, and whose time passes only in `advance`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._until = 0.0
        super().__init__(_SteppedSelector(self._idle))

    def time(self) -> float:
        """Return seconds since the loop was made, as far as they were let pass."""
        return self._now

    def _idle(self, timeout: float | None) -> None:
        """Let time pass up to the next timer, or stop."""
        if timeout is not None and self._now + timeout <= self._until:
            self._now += timeout
        else:
            self._now = max(self._now, self._until)
            self.stop()

    def settle(self) -> None:
        """Run what can run now."""
        self.advance(0)

    def advance(self, seconds: float) -> None:
        """Run what can run in the next `seconds`."""
        self._until = self._now + seconds
        self.run_forever()


class _SteppedSelector(selectors.DefaultSelector):
    """Never waits: a wait means that the loop is idle."""

    def __init__(self, idle: Callable[[float | None], None]) -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self._idle(timeout)
        return super().select(0)


_GRID_KEY: Final = "tkeedge.io/grid-uniq-key"
_PATCH: Final = "tkeedge.io/service-patch"


@dataclass(frozen=True)
class Obj:
    """One object of the API server."""

    path: str
    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    """An endpoint's; of a Service, and of the slice that holds a unit's patch for it, its external address."""
    rv: int = 0

    @property
    def key(self) -> Key:
        """Return namespace and name."""
        return self.namespace, self.name

    def seen(self) -> tuple[Any, ...]:
        """Return what is compared between a client's store and the truth."""
        # What the agent makes has versions of its own, and so have Services that were ever shown with a patch.
        rv = 0 if self.path == ENDPOINTS or (self.path == SERVICES and _GRID_KEY in self.labels) else self.rv
        return self.namespace, self.name, rv, tuple(sorted(self.labels.items())), self.address

    @property
    def patch(self) -> str:
        """Return the annotation of a slice that holds a unit's patch, empty for all others."""
        return json.dumps({"externalIPs": [self.address]}) if _PATCH in self.labels else ""

    def to_json(self) -> dict[str, Any]:
        """Return the object as the API server writes it."""
        kind, version = KINDS[self.path]
        meta: dict[str, Any] = {"name": self.name, "resourceVersion": str(self.rv), "labels": dict(self.labels)}
        if self.namespace:
            meta["namespace"] = self.namespace
        body: dict[str, Any] = {"kind": kind, "apiVersion": version, "metadata": meta}
        if self.path == SLICES:
            address = "" if self.patch else self.address
            body |= {"addressType": "IPv4", "endpoints": [{"addresses": [address]}] if address else None}
            if self.patch:
                meta["annotations"] = {_PATCH: self.patch}
            body["ports"] = [{"port": 80}]
        elif self.path == SERVICES:
            body["spec"] = {"clusterIP": "10.9.255.1", "type": "ClusterIP", "selector": {"a": "b"}}
        elif self.path == ENDPOINTS:
            body["subsets"] = [{"addresses": [{"ip": self.address}], "ports": [{"port": 80}]}]
        return body

    def to_protobuf(self) -> bytes:
        """Return the object's message."""
        meta = _blob(1, self.name) + (_blob(3, self.namespace) if self.namespace else b"") + _blob(6, str(self.rv))
        for key, value in self.labels.items():
            meta += _blob(11, _blob(1, key) + _blob(2, value))
        if self.patch:
            meta += _blob(12, _blob(1, _PATCH) + _blob(2, self.patch))
        message = _blob(1, meta)
        if self.path == SLICES:
            address = "" if self.patch else self.address
            message += (_blob(2, _blob(1, address)) if address else b"") + _blob(4, "IPv4")
            message += _blob(3, b"\x18\x50")
        elif self.path == SERVICES:
            selector = _blob(2, _blob(1, "a") + _blob(2, "b"))
            message += _blob(2, selector + _blob(3, "10.9.255.1") + _blob(4, "ClusterIP"))
        elif self.path == ENDPOINTS:
            message += _blob(2, _blob(1, _blob(1, self.address)) + _blob(3, b"\x10\x50"))
        return message


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _blob(number: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(number * 8 + 2) + _varint(len(data)) + data


def _envelope(kind: str, version: str, message: bytes) -> bytes:
    return b"k8s\0" + _blob(1, _blob(1, version) + _blob(2, kind)) + _blob(2, message) + _blob(3, "") + _blob(4, "")


@dataclass
class Event:
    """One watch event as it travels; `obj` of a bookmark or error has nothing but a resourceVersion."""

    type: str
    obj: Obj
    initial_events_end: bool = False
    code: int = 0


class Wire:
    """One connection of the agent to the API server; what the server wrote waits until it is delivered."""

    def __init__(self, network: Network, target: str, accept: str) -> None:
        path, _, query = target.partition("?")
        options = {name: values[0] for name, values in parse_qs(query).items()}
        self.network = network
        self.binary = PROTOBUF in accept
        self.partial = "PartialObjectMetadata" in accept
        self.path = path
        self.only: Key | None = None
        match = re.fullmatch(r"(/.*)/namespaces/([^/]+)/(\w+)(?:/([^/]+))?", path)
        self.namespace = match.group(2) if match else ""
        if match:
            self.path = f"{match.group(1)}/{match.group(3)}"
            self.only = (match.group(2), match.group(4)) if match.group(4) else None
        self.labels = LabelSelector(options.get("labelSelector", ""))
        self.name = options.get("fieldSelector", "").removeprefix("metadata.name=")
        self.identity = (self.path, self.namespace, options.get("labelSelector", ""), self.name, self.binary)
        self.options = options
        self.sent: deque[Event | bytes | None] = deque()
        self.allowance: int | None = None
        """How many more events may arrive while the connection is held; None: not held."""
        self.broken = self.closed = False
        self.collecting: dict[Key, Obj] | None = None
        self.status = 200
        media = PROTOBUF if self.binary else "application/json"
        self.media_type = media + ";stream=watch" if self.binary and options.get("watch") else media
        self.upgraded = False

    # What the server does.
    def selects(self, obj: Obj | None) -> bool:
        """Tell whether the request asks for the object."""
        return (
            obj is not None
            and self.namespace in ("", obj.namespace)
            and self.name in ("", obj.name)
            and self.labels.matches(obj.labels)
        )

    def tell(self, change: tuple[int, str, Obj | None, Obj | None]) -> None:
        """Send one change of the API server's objects."""
        rv, path, old, new = change
        if path != self.path:
            return
        was, now = self.selects(old), self.selects(new)
        if now and new is not None:
            self.sent.append(Event("MODIFIED" if was else "ADDED", new))
        elif was and old is not None:
            self.sent.append(Event("DELETED", replace(old, rv=rv)))

    # What the agent does.
    async def head(self, timeout: float = 60.0) -> None:
        """Wait for the head of the answer."""
        await self._wait(timeout, lambda: self.allowance != 0)

    async def _wait(self, timeout: float | None, arrived: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if self.broken:
                        raise UpstreamError("connection reset")
                    if not self.network.cut and arrived():
                        return
                    await self.network.changed()
        except TimeoutError as error:
            raise UpstreamError("silence") from error

    def header(self, name: bytes) -> bytes:
        """Return a response header."""
        return self.media_type.encode() if name == b"content-type" else b""

    async def body(self, timeout: float | None = None) -> AsyncIterator[bytes]:
        """Yield what arrives."""
        while True:
            await self._wait(timeout, lambda: bool(self.sent) and self.allowance != 0)
            event = self.sent.popleft()
            if self.allowance:
                self.allowance -= 1
            if event is None:
                if self.collecting is not None:
                    self.network.deliver(self, Event("LIST", Obj(self.path, "", "")))
                return
            if isinstance(event, bytes):
                yield event
            else:
                yield self._deliver(event)

    def _deliver(self, event: Event) -> bytes:
        """Return what arrives together: this event and those that are waiting behind it."""
        self.network.deliver(self, event)
        data = self._encode(event)
        while self.sent and isinstance(following := self.sent[0], Event) and self.allowance != 0:
            self.sent.popleft()
            if self.allowance:
                self.allowance -= 1
            self.network.deliver(self, following)
            data += self._encode(following)
        return data

    async def read_all(self, limit: int, timeout: float) -> bytes:
        """Return the whole body."""
        return b"".join([chunk async for chunk in self.body(timeout)])

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        self.network.wires.discard(self)

    def _encode(self, event: Event) -> bytes:
        kind, version = KINDS[self.path]
        if self.partial:
            kind, version = "PartialObjectMetadata", "meta.k8s.io/v1"
        if self.binary:
            message = event.obj.to_protobuf()
            if event.initial_events_end:
                end = _blob(12, _blob(1, "k8s.io/initial-events-end") + _blob(2, "true"))
                message = _blob(1, _blob(6, str(event.obj.rv)) + end)
            elif event.type == "ERROR":
                message = _blob(2, "Failure") + _varint(6 * 8) + _varint(event.code)
            frame = _blob(1, event.type) + _blob(2, _blob(1, _envelope(kind, version, message)))
            return len(frame).to_bytes(4, "big") + frame
        body = event.obj.to_json()
        if event.initial_events_end:
            body["metadata"]["annotations"] = {"k8s.io/initial-events-end": "true"}
        if event.type == "ERROR":
            body = {"kind": "Status", "code": event.code, "reason": "Expired"}
        return json.dumps({"type": event.type, "object": body}).encode() + b"\n"


class Network:
    """The API server and the way to it; stands for `sitegrid.agent.upstream.Upstream`."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[Key, Obj]] = {path: {} for path in KINDS}
        self.history: list[tuple[int, str, Obj | None, Obj | None]] = []
        self.rv = 1000
        self.oldest = 0
        self.cut = self.refusing = False
        self.streaming_lists = True
        self.wires: set[Wire] = set()
        self.arrived: dict[Any, dict[Key, Obj]] = {}
        """What the agent has been told, by request: a model of its sources."""
        self.wan = Wan()
        self.slow = False
        """What is asked for is answered late, with what was true when it was asked."""
        self.fetched: list[Obj] = []
        """What single GETs have answered."""
        self._waiters: list[asyncio.Future[None]] = []

    # The API server.
    def put(self, obj: Obj) -> None:
        """Create or replace an object."""
        self.rv += 1
        self._write(obj.path, self.objects[obj.path].get(obj.key), replace(obj, rv=self.rv))

    def delete(self, path: str, key: Key) -> None:
        """Delete an object."""
        self.rv += 1
        self._write(path, self.objects[path][key], None)

    def _write(self, path: str, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self.objects[path][new.key] = new
        elif old is not None:
            del self.objects[path][old.key]
        change = (self.rv, path, old, new)
        self.history.append(change)
        for wire in self.watches():
            wire.tell(change)
        self.wake()

    def watches(self) -> list[Wire]:
        """Return the open watches, in the order of what they ask for."""
        return sorted(
            (wire for wire in self.wires if wire.options.get("watch") and not wire.broken),
            key=lambda wire: wire.identity,
        )

    def bookmark(self) -> None:
        """Send a bookmark to every watch."""
        for wire in self.watches():
            wire.sent.append(Event("BOOKMARK", Obj(wire.path, "", "", rv=self.rv)))
        self.wake()

    def forget_history(self) -> None:
        """Answer 410 to who wants to resume from before now."""
        self.oldest = self.rv

    def reset(self) -> None:
        """Break every connection."""
        for wire in list(self.wires):
            wire.broken = True
        self.wake()

    def release(self) -> None:
        """Let everything through again."""
        self.cut = self.refusing = self.slow = False
        for wire in self.wires:
            wire.allowance = None
        self.wake()

    # The way to it.
    def wake(self) -> None:
        """Have every connection look at what changed."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self) -> None:
        """Wait for anything to change."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def pass_on(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes, timeout: float
    ) -> Wire:
        """Connect, send a client's request and wait for the answer's head, as `Upstream.pass_on` does."""
        if self.wan.down:
            raise UpstreamError("down")
        wire = await self._request(target, headers, self.wan.patience)
        await wire.head(timeout)
        return wire

    async def server(self, *, as_agent: bool) -> None:
        """Say that it is not known which process answers."""

    async def ask(self, target: str, headers: Iterable[tuple[str, str]], *, as_agent: bool) -> Wire:
        """Connect and send a source's request, as `Upstream.ask` does."""
        return await self._request(target, headers, 10)

    async def _request(self, target: str, headers: Iterable[tuple[str, str]], patience: float) -> Wire:
        if self.cut:
            await asyncio.sleep(patience)
        if self.cut or self.refusing:
            self.wan.lost("no connection")
            raise UpstreamError("no connection")
        self.wan.reached(0.01)
        wire = Wire(self, target, dict(headers)["Accept"])
        wire.allowance = 0 if self.slow else None
        self.wires.add(wire)
        if wire.only is not None:
            self._get(wire, wire.only)
        elif not wire.options.get("watch"):
            self._list(wire)
        else:
            self._watch(wire)
        return wire

    def _get(self, wire: Wire, key: Key) -> None:
        obj = self.objects[wire.path].get(key)
        kind, version = KINDS[wire.path]
        if obj is None:
            wire.status = 404
            wire.sent += [b"{}", None]
            return
        self.fetched.append(obj)
        if wire.binary:
            wire.sent += [_envelope(kind, version, obj.to_protobuf()), None]
        else:
            wire.sent += [json.dumps(obj.to_json()).encode(), None]

    def _selected(self, wire: Wire) -> list[Obj]:
        return [obj for _, obj in sorted(self.objects[wire.path].items()) if wire.selects(obj)]

    def _list(self, wire: Wire) -> None:
        kind, version = KINDS[wire.path]
        found = self._selected(wire)
        if wire.binary:
            items = b"".join(_blob(2, obj.to_protobuf()) for obj in found)
            body = _envelope(f"{kind}List", version, _blob(1, _blob(2, str(self.rv))) + items)
        else:
            meta = {"resourceVersion": str(self.rv)}
            items_json = [obj.to_json() for obj in found]
            body = json.dumps({"kind": f"{kind}List", "metadata": meta, "items": items_json}).encode()
        wire.sent += [body, None]
        wire.collecting = {obj.key: obj for obj in found}

    def _watch(self, wire: Wire) -> None:
        if wire.options.get("sendInitialEvents"):
            if not self.streaming_lists:
                wire.status = 422
                wire.sent += [b"{}", None]
                return
            wire.collecting = {}
            wire.sent += [Event("ADDED", obj) for obj in self._selected(wire)]
            wire.sent.append(Event("BOOKMARK", Obj(wire.path, "", "", rv=self.rv), initial_events_end=True))
            return
        rv = int(wire.options["resourceVersion"])
        if rv < self.oldest:
            wire.sent += [Event("ERROR", Obj(wire.path, "", ""), code=410), None]
            return
        for change in self.history:
            if change[0] > rv:
                wire.tell(change)

    def deliver(self, wire: Wire, event: Event) -> None:
        """Note what the agent knows from now on."""
        known = self.arrived.setdefault(wire.identity, {})
        into = known if wire.collecting is None else wire.collecting
        if event.type in ("ADDED", "MODIFIED"):
            into[event.obj.key] = event.obj
        elif event.type == "DELETED":
            into.pop(event.obj.key, None)
        elif event.initial_events_end or event.type == "LIST":
            self.arrived[wire.identity] = into
            wire.collecting = None

    def known_units(self) -> set[str]:
        """Return the units of the node as the agent was last told."""
        return {
            f"{key}.{value}"
            for identity, objects in self.arrived.items()
            if identity[0] == NODES
            for node in objects.values()
            for key, value in node.labels.items()
            if value
        }

    def allowed_addresses(self, *, single: bool) -> set[bytes]:
        """Return the addresses of grids that may be sent: those it was told last, or got for a `single` GET."""
        units = self.known_units()
        told = [
            obj for identity, objects in self.arrived.items() if identity[0] == SLICES for obj in objects.values()
        ]
        return {
            obj.address.encode()
            for obj in [*told, *(self.fetched if single else ())]
            if obj.labels.get("tkeedge.io/unit") in units
            and obj.labels.get("endpointslice.kubernetes.io/managed-by") == "sitegrid"
        }


@dataclass(frozen=True)
class Asks:
    """What one kind of client asks for, and the same as a function of labels."""

    path: str
    selector: str
    selects: Callable[[Mapping[str, str]], bool]
    binary: bool = False
    namespace: str = ""

    @property
    def target(self) -> str:
        """Return the collection's path."""
        root, _, plural = self.path.rpartition("/")
        return f"{root}/namespaces/{self.namespace}/{plural}" if self.namespace else self.path


_PROXY_NAME: Final = "service.kubernetes.io/service-proxy-name"
_HEADLESS: Final = "service.kubernetes.io/headless"
CLIENTS: Final = (
    Asks(SLICES, "", lambda labels: True),
    Asks(SLICES, f"!{_HEADLESS},!{_PROXY_NAME}", lambda x: not {_HEADLESS, _PROXY_NAME} & x.keys(), binary=True),
    Asks(
        SLICES, "kubernetes.io/service-name=web", lambda x: x.get("kubernetes.io/service-name") == "web", False, "a"
    ),
    Asks(SERVICES, f"!{_PROXY_NAME}", lambda x: _PROXY_NAME not in x, binary=True),
    Asks(SERVICES, "", lambda labels: True),
    # Two programs that ask for the same, as two processes of one kind: what one was told says nothing of the other.
    Asks(SLICES, "", lambda labels: True),
    Asks(SERVICES, f"!{_PROXY_NAME}", lambda x: _PROXY_NAME not in x, binary=True),
    Asks(ENDPOINTS, "", lambda labels: True),
    Asks(ENDPOINTS, "!a", lambda labels: True, binary=True, namespace="a"),
)


class Client:
    """client-go's reflector: lists or streams, watches from the last resourceVersion, and lists anew after 410."""

    def __init__(self, site: Simulation, asks: Asks) -> None:
        self.site = site
        self.asks = asks
        self.store: dict[Key, Obj] = {}
        self.rv: int | None = None
        self.heard: list[tuple[str, str]] = []
        """Type and name of each event since it was last looked at."""
        self.connection: ClientConnection | None = None
        self.streaming = True

    def connect(self) -> None:
        """Send the next request, if none is open."""
        if self.connection is not None:
            return
        query = {"labelSelector": self.asks.selector, "allowWatchBookmarks": "true"}
        listing = self.rv is None and not self.streaming
        if self.rv is not None:
            query |= {"watch": "true", "resourceVersion": str(self.rv)}
        elif self.streaming:
            query |= {"watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        self.connection = ClientConnection(self, listing=listing, initial=self.rv is None)
        self.site.send(f"{self.asks.target}?{urlencode(query)}", self.connection, binary=self.asks.binary)

    def hang_up(self) -> None:
        """Lose the connection, with what is under way in it."""
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    def restart(self, *, streaming: bool) -> None:
        """Forget everything."""
        self.hang_up()
        self.store, self.rv, self.streaming = {}, None, streaming


class ClientConnection:
    """A client's end of a connection; stands for `sitegrid.agent.http.Connection`."""

    address = "127.0.0.1"

    def __init__(
        self, client: Client | None, *, listing: bool = False, initial: bool = False, single: bool = False
    ) -> None:
        self.client = client
        self.single = single
        self.listing = listing
        self.status = 0
        self.body = b""
        self.started = self.gone = False
        self.blocked = self.ended = False
        self.at_rest = False
        """The client had everything at the last rest, so from then on events are exact."""
        self.task: asyncio.Task[None] | None = None
        self._collecting: dict[Key, Obj] | None = {} if initial else None
        self._under_way: list[bytes] = []
        self._buffer = b""
        self._site: Simulation | None = client.site if client is not None else None

    def watched_by(self, site: Simulation) -> None:
        """Have `site` look at every byte."""
        self._site = site

    # What the server calls.
    async def respond(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Take a whole answer."""
        self._look(body)
        self.started = True
        self.status, self.body = status, body

    async def start(self, status: int, headers: Any, **how: Any) -> None:
        """Take the head of a stream."""
        self.started = True
        self.status = status

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        """Take a piece of a stream, and wait while the client is slow."""
        if self.gone:
            raise Disconnected
        self._look(data)
        if self.listing or self.client is None:
            self.body += data
        else:
            self._under_way.append(data)
            self._read()
        while self.blocked and not self.gone:
            assert self._site is not None
            await self._site.network.changed()
        if self.gone:
            raise Disconnected

    async def finish(self) -> None:
        """Take the end of a stream."""
        if self.listing and self.client is not None:
            self.client.store, self.client.rv = decode_list(self.client.asks, self.body)

    def abort(self) -> None:
        """Be cut off, or hang up."""
        self.gone = True
        if self.task is not None:
            self.task.cancel()

    # What the client does.
    def unblock(self) -> None:
        """Read again."""
        self.blocked = False
        self._read()
        self.end_if_read()
        if self._site is not None:
            self._site.network.wake()

    def end_if_read(self) -> None:
        """Have the client connect again when the answer has ended and was read."""
        if self.ended and not self.blocked and self.client is not None and self.client.connection is self:
            self.client.connection = None

    def _look(self, data: bytes) -> None:
        if self._site is not None:
            self._site.look(data, single=self.single)

    def _read(self) -> None:
        if self.blocked or self.gone or self.client is None:
            return
        self._buffer += b"".join(self._under_way)
        self._under_way.clear()
        events, self._buffer = decode_events(self.client.asks, self._buffer)
        for event in events:
            self._apply(self.client, event)

    def _apply(self, client: Client, event: Event) -> None:
        if event.type == "ERROR":
            client.site.check(event.code == 410, f"ERROR {event.code}")
            client.rv = None
            return
        if self._collecting is not None:
            if event.type == "BOOKMARK":
                if event.initial_events_end:
                    client.store, self._collecting = self._collecting, None
                    client.rv = event.obj.rv
                return
            client.site.check(event.type == "ADDED" or event.obj.key in self._collecting, "no initial event")
            _upsert(self._collecting, event)
            return
        if event.type != "BOOKMARK":
            client.heard.append((event.type, event.obj.name))
        if self.at_rest and event.type != "BOOKMARK":
            client.site.check_exact(client, event)
        known = client.store.get(event.obj.key)
        if event.type == "MODIFIED" and known is not None and client.asks.path != ENDPOINTS:
            told = known.rv != event.obj.rv or known == event.obj
            client.site.check(told, f"{event.obj} differs from {known} under the same version: taken for a resync")
        _upsert(client.store, event)
        client.rv = event.obj.rv


def _upsert(store: dict[Key, Obj], event: Event) -> None:
    if event.type == "DELETED":
        store.pop(event.obj.key, None)
    elif event.type != "BOOKMARK":
        store[event.obj.key] = event.obj


def _from_json(path: str, body: dict[str, Any]) -> Obj:
    meta = body["metadata"]
    addresses = [a for endpoint in body.get("endpoints") or [] for a in endpoint["addresses"]]
    addresses += body.get("spec", {}).get("externalIPs", [])
    addresses += [a["ip"] for subset in body.get("subsets") or [] for a in subset["addresses"]]
    labels = meta.get("labels") or {}
    return Obj(
        path,
        meta.get("namespace", ""),
        meta.get("name", ""),
        labels,
        ",".join(addresses),
        int(meta["resourceVersion"]),
    )


def _from_protobuf(path: str, data: bytes) -> tuple[Obj, bool]:
    message = parse(KINDS[path][0], data)
    meta = message.metadata
    if path == SLICES:
        addresses = [address for endpoint in message.endpoints for address in endpoint.addresses]
    elif path == ENDPOINTS:
        addresses = [address.ip for subset in message.subsets for address in subset.addresses]
    else:
        addresses = message.spec.externalIPs
    obj = Obj(
        path, meta.namespace, meta.name, dict(meta.labels), ",".join(addresses), int(meta.resourceVersion or "0")
    )
    return obj, "k8s.io/initial-events-end" in meta.annotations


def decode_list(asks: Asks, body: bytes) -> tuple[dict[Key, Obj], int]:
    """Return the objects and the resourceVersion of a LIST."""
    if not asks.binary:
        value = json.loads(body)
        found = [_from_json(asks.path, item) for item in value["items"]]
        return {obj.key: obj for obj in found}, int(value["metadata"]["resourceVersion"])
    message = parse("List", parse("Unknown", body[4:]).raw)
    items = [_from_protobuf(asks.path, raw)[0] for raw in message.items]
    return {obj.key: obj for obj in items}, int(message.metadata.resourceVersion)


def decode_events(asks: Asks, data: bytes) -> tuple[list[Event], bytes]:
    """Return the whole events in `data` and the rest."""
    events = []
    if not asks.binary:
        *lines, rest = data.split(b"\n")
        for line in lines:
            value = json.loads(line)
            body = value["object"]
            if value["type"] == "ERROR":
                events.append(Event("ERROR", Obj(asks.path, "", ""), code=body["code"]))
            else:
                end = bool((body["metadata"].get("annotations") or {}).get("k8s.io/initial-events-end"))
                events.append(Event(value["type"], _from_json(asks.path, body), end))
        return events, rest
    while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
        length = int.from_bytes(data[:4], "big")
        event = parse("WatchEvent", data[4 : 4 + length])
        data = data[4 + length :]
        body = parse("Unknown", event.object.raw[4:]).raw
        if event.type == "ERROR":
            events.append(Event("ERROR", Obj(asks.path, "", ""), code=parse("Status", body).code))
        else:
            obj, end = _from_protobuf(asks.path, body)
            events.append(Event(event.type, obj, end))
    return events, data


class MemoryDisk:
    """Stands for `sitegrid.agent.disk.Disk`: what is kept is there at once."""

    def __init__(self) -> None:
        self._kept: dict[SourceKey, Stored] = {}

    def identity(self, authorization: str) -> str:
        """Return the name of the only client there is."""
        return "anybody"

    def load(self, key: SourceKey) -> Stored | None:
        """Return what was kept of a source."""
        stored = self._kept.get(key)
        return Stored(dict(stored.objects), stored.rv) if stored is not None else None

    def accepted(self) -> tuple[str, ...]:
        """Return the identities that the API server had accepted."""
        return ("anybody",)

    def keep(self, source: Source, owner: str) -> None:
        """Keep a source's state."""
        self._kept[source.key] = Stored(dict(source.objects), source.rv)

    def forget(self, key: SourceKey) -> None:
        """Forget a source's state."""
        self._kept.pop(key, None)

    def left(self, view: str) -> None:
        """Say that no agent before this one has ended as it should."""

    def was_shown(self, key: SourceKey) -> bool:
        """Say so, too."""
        return False


class Simulation:
    """One site: API server, agent and clients, and the oracle over them."""

    def __init__(self) -> None:
        self.loop = SteppedLoop()
        self.network = Network()
        self.violations: list[str] = []
        self.failed = False
        self.units_since_rest: list[set[str]] = []
        self.connections: list[ClientConnection] = []
        self.rest_rv = 0
        self.start_agent()
        self.clients = [Client(self, asks) for asks in CLIENTS]

    # The agent.
    def start_agent(self, disk: MemoryDisk | None = None) -> None:
        """Start an agent that knows nothing, or what is on `disk`."""
        if disk is None:
            self.network.arrived.clear()
        self.disk = disk or MemoryDisk()
        self.network.fetched.clear()
        self.network.wan = Wan()

        async def start() -> None:
            metrics = Metrics()
            self.hub = Hub("n1", self.network, metrics, self.disk)  # type: ignore[arg-type]
            self.server = Server(self.hub, self.network, metrics)  # type: ignore[arg-type]

        self.loop.run_until_complete(start())

    def stop_agent(self) -> None:
        """End the agent as a kill would: every connection is lost."""
        for client in self.clients:
            client.hang_up()
        for connection in self.connections:
            connection.abort()
        self.connections.clear()
        self.hub.close()
        self.network.reset()
        self.loop.settle()

    def send(self, target: str, connection: ClientConnection, *, binary: bool = False) -> None:
        """Have the agent answer a GET."""
        request = Request(Body(lambda on: None))
        request.body.end()
        request.method, request.target = "GET", target
        accept = PROTOBUF if binary else "application/json"
        request.headers = [(b"host", b"localhost"), (b"accept", accept.encode())]
        if connection.client is not None:
            request.headers.append((b"user-agent", b"reflector"))
        connection.watched_by(self)
        self.connections.append(connection)
        connection.task = self.loop.create_task(self._handle(request, connection))

    async def _handle(self, request: Request, connection: ClientConnection) -> None:
        try:
            await self.server.handle(request, connection)  # type: ignore[arg-type]
        except Disconnected:
            pass
        finally:
            connection.ended = True
            connection.end_if_read()

    # The oracle.
    def check(self, holds: bool, what: str) -> None:
        """Note a violation, which ends the run after the present step."""
        if not holds:
            self.violations.append(what)

    def look(self, data: bytes, *, single: bool) -> None:
        """Hold bytes that the agent sends against what it may send."""
        allowed = self.network.allowed_addresses(single=single)
        for match in _ADDRESS.finditer(data):
            self.check(
                match.group(1) == b"9" or match.group() in allowed,
                f"sent {match.group().decode()}, allowed are {sorted(allowed)}",
            )

    def units(self) -> set[str]:
        """Return the node's units at the API server."""
        node = self.network.objects[NODES].get(("", "n1"))
        return {f"{key}.{value}" for key, value in node.labels.items() if value} if node is not None else set()

    def right(self, asks: Asks, units: set[str] | None = None) -> dict[Key, Obj]:
        """Return what a client should have in the end."""
        own = self.units() if units is None else units
        if asks.path == ENDPOINTS:
            shown = self._endpoints(own)
        elif asks.path == SERVICES:
            shown = (self._patched(_shown(obj, own), own) for obj in self.network.objects[SERVICES].values())
        else:
            services = self._grids_services()
            slices = self.network.objects[SLICES].values()
            shown = (
                _shown(obj, own) for obj in slices if _GRID_KEY in obj.labels or _service_of(obj) not in services
            )
        return {
            obj.key: obj
            for obj in shown
            if obj is not None and asks.namespace in ("", obj.namespace) and asks.selects(obj.labels)
        }

    def _patched(self, service: Obj | None, units: set[str]) -> Obj | None:
        """Return a Service with the one patch that is for it in `units`; with several or none it is as it is."""
        if service is None or _GRID_KEY not in service.labels:
            return service
        found = [
            obj.address
            for obj in self.network.objects[SLICES].values()
            if obj.patch
            and (obj.namespace, obj.labels["tkeedge.io/service-name"]) == service.key
            and obj.labels["tkeedge.io/unit"] in units
            and obj.labels[_GRID_KEY] == service.labels[_GRID_KEY]
        ]
        return replace(service, address=found[0]) if len(found) == 1 else service

    def _grids_services(self) -> dict[Key, Obj]:
        return {
            key: service for key, service in self.network.objects[SERVICES].items() if _GRID_KEY in service.labels
        }

    def _endpoints(self, units: set[str]) -> Generator[Obj | None, None, None]:
        """Yield the Endpoints that clients should see: those of no grid, and those made of the units' slices."""
        services = self._grids_services()
        for key, obj in self.network.objects[ENDPOINTS].items():
            if key not in services and _GRID_KEY not in obj.labels:
                yield obj
        for (namespace, name), service in services.items():
            if (seen := _shown(service, units)) is not None:
                labels = {**seen.labels, "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
                found = {
                    slice_.address
                    for slice_ in self.network.objects[SLICES].values()
                    if slice_.labels.get("tkeedge.io/service-name") == name
                    and slice_.namespace == namespace
                    and _shown(slice_, units) is not None
                }
                yield Obj(ENDPOINTS, namespace, name, labels, ",".join(sorted(found)))

    def check_exact(self, client: Client, event: Event) -> None:
        """An event of what did not change, or of another type than the client's store wants, is not exact."""
        key = event.obj.key
        if event.type != "DELETED":
            wanted = "MODIFIED" if key in client.store else "ADDED"
            self.check(event.type == wanted, f"{event.type} of {key} should be {wanted}")
        merged = client.asks.path == ENDPOINTS or (client.asks.path == SERVICES and _GRID_KEY in event.obj.labels)
        if merged and self._made_anew():
            return
        if client.asks.path == SLICES and self._judged_anew(_service_of(event.obj)):
            return  # A slice without our labels comes and goes with the Service's and the node's labels.
        obj = self.network.objects[client.asks.path].get(key)
        if obj is not None and obj.rv <= self.rest_rv:
            stayed = all(key in self.right(client.asks, units) for units in self.units_since_rest)
            self.check(not stayed, f"{event.type} of {key}, which stayed as it was")

    def _judged_anew(self, service: Key) -> bool:
        """Tell whether Service or node have changed since the last rest, so that a grid may be here only now."""
        changes = (
            new or old for rv, path, old, new in self.network.history if path == SERVICES and rv > self.rest_rv
        )
        written = any(obj is not None and obj.key == service for obj in changes)
        relabelled = any(units != self.units_since_rest[0] for units in self.units_since_rest)
        return written or (relabelled and service in self._grids_services())

    def _made_anew(self) -> bool:
        """Tell whether anything has changed since the last rest of which Endpoints are made."""
        written = any(rv > self.rest_rv and path in (SLICES, SERVICES) for rv, path, _, _ in self.network.history)
        return written or any(units != self.units_since_rest[0] for units in self.units_since_rest)

    def relabelled(self) -> None:
        """Note that the node's units may have changed."""
        self.units_since_rest.append(self.units())

    def step(self) -> None:
        """Run what can run, then end the test if the oracle found something."""
        self.loop.settle()
        self.judge()

    def judge(self) -> None:
        """Fail if the oracle found something."""
        self.failed = self.failed or bool(self.violations)
        assert not self.violations, self.violations[:3]

    def rest(self) -> None:
        """Mend everything, let everything arrive, and compare each client's store with what it should have."""
        self.network.release()
        # The last rounds take no time: a watch may have come to its regular end just now.
        for seconds in (30, 30, 30, 30, 0, 0, 0):
            for client in self.clients:
                if client.connection is not None:
                    client.connection.unblock()
                client.connect()
            self.loop.advance(seconds)
        for client in self.clients:
            right = {obj.seen() for obj in self.right(client.asks).values()}
            have = {obj.seen() for obj in client.store.values()}
            self.check(have == right, f"{client.asks} has {have - right} too much and lacks {right - have}")
            self.check(client.connection is not None, f"no watch of {client.asks}")
            if client.connection is not None:
                client.connection.at_rest = True
        self.judge()
        self.rest_rv = self.network.rv
        self.units_since_rest = [self.units()]

    def close(self) -> None:
        """End everything that runs."""
        self.stop_agent()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.settle()
        self.loop.close()


def _service_of(slice_: Obj) -> Key:
    return slice_.namespace, slice_.labels.get("kubernetes.io/service-name", "")


def _shown(obj: Obj, units: set[str]) -> Obj | None:
    """Return an object as clients of a node in `units` should see it: written anew, not the agent's own function."""
    labels = dict(obj.labels)
    if _GRID_KEY not in labels:
        return obj
    if obj.path == SERVICES:
        if labels[_GRID_KEY] not in {unit.partition(".")[0] for unit in units}:
            return None
        if labels.get(_PROXY_NAME) == "sitegrid":
            del labels[_PROXY_NAME]
        return replace(obj, labels=labels)
    if (
        labels.get("tkeedge.io/unit") not in units
        or _PATCH in labels
        or labels.get("endpointslice.kubernetes.io/managed-by") != "sitegrid"
    ):
        return None
    service = labels["tkeedge.io/service-name"]
    headless = "tkeedge.io/headless" in labels
    labels = {key: value for key, value in labels.items() if not key.startswith("tkeedge.io/") and key != _PROXY_NAME}
    if not headless:
        labels.pop(_HEADLESS, None)
    return replace(obj, labels={**labels, "kubernetes.io/service-name": service})


@pytest.fixture(scope="session")
def simulation() -> Any:
    """Give the class of simulated sites, and the words in which rules speak of objects."""

    class Words:
        make, client_connection, obj = Simulation, ClientConnection, Obj
        slices, services, nodes, endpoints, units = SLICES, SERVICES, NODES, ENDPOINTS, UNITS

    return Words
