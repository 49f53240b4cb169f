"""The agent's server: takes each request to the one handler that the gate names, and turns failures into answers.

Failures are answered as the API server words them; whatever is not expected is 500 and counted, never a pass-through.
Own pages: ``/sitegrid/healthz`` (the process runs), ``/sitegrid/readyz`` (the node's units are known),
``/sitegrid/units``, ``/sitegrid/metrics``. Without a WAN, what was kept is answered from memory and all else is 503
at once. Who has no place (see `places`) is 429. Held by ``tests/agent/test_server.py``,
``tests/agent/test_offline.py``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from sitegrid.agent.gate import Kind, Route, decide
from sitegrid.agent.hosts import is_own
from sitegrid.agent.http import Connection
from sitegrid.agent.hub import Hub, TooManyViews
from sitegrid.agent.metrics import CONTENT_TYPE, Metrics
from sitegrid.agent.negotiate import NOT_ACCEPTABLE, negotiate
from sitegrid.agent.objects import get_object, refuse_a_grids
from sitegrid.agent.options import ListOptions, OptionsError, list_options, parse_query
from sitegrid.agent.passthrough import forward
from sitegrid.agent.places import PASSED, SERVED, Places
from sitegrid.agent.reads import Read, Reads
from sitegrid.agent.reply import UpstreamError
from sitegrid.agent.request import Disconnected, Request
from sitegrid.agent.serve import UNREADY, Answer, Watch, send_list
from sitegrid.agent.source import Refused, TooLarge
from sitegrid.agent.upstream import Upstream
from sitegrid.agent.view import View, ViewKey
from sitegrid.wire.codec import Codec, CodecError
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.resources import ENDPOINTS
from sitegrid.wire.selectors import FieldSelector, LabelSelector, SelectorError
from sitegrid.wire.status import Status

_log = logging.getLogger(__name__)

_MAX_TERMS: Final = 64
"""Of a request's selectors: every object is held against each of them, and again with every change."""
_MISDIRECTED: Final = Route(
    Kind.REFUSED,
    status=421,
    message="the Host header does not name this agent: ask it as localhost, by the address that it listens on, or by "
    "a name in the certificate of --tls-cert-file",
)
_END_SECONDS: Final = 1.0
"""How long requests may take to be answered once the agent ends."""
_OFFLINE_RETRY: Final = 5
"""Seconds until a request that the API server must answer is worth another try while that cannot be reached."""
_BUSY: Final = "all places for clients like this one are taken; most are kept back for those with an accepted token"
_BUSY_RETRY: Final = 1
_LARGE_RETRY: Final = 30


class Server:
    """All requests of one agent; `certified` tells the names and addresses in its certificate at the moment."""

    def __init__(
        self,
        hub: Hub,
        upstream: Upstream,
        metrics: Metrics,
        reads: Reads | None = None,
        certified: Callable[[], frozenset[str | bytes]] = frozenset,
    ) -> None:
        self._hub = hub
        self._certified = certified
        self._reads = reads or Reads(())
        self._upstream = upstream
        self._metrics = metrics
        self._authentication = hub.authentication
        self._places = Places(metrics, self._authentication.accepted)
        self._watches: set[Watch] = set()
        self._ending = False

    async def listen(self, host: str, port: int, context: ssl.SSLContext | None = None) -> asyncio.Server:
        """Accept connections on `host`:`port`, with TLS when there is a `context`. Raises OSError."""
        return await asyncio.get_running_loop().create_server(self._connection(context), host, port, backlog=128)

    async def listen_on(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> asyncio.Server:
        """Accept connections on a socket that listens already."""
        return await asyncio.get_running_loop().create_server(self._connection(context), sock=sock, backlog=128)

    def _connections(self) -> list[Connection]:
        return [connection for connection in self._places.connections if isinstance(connection, Connection)]

    def _connection(self, context: ssl.SSLContext | None) -> Callable[[], Connection]:
        return lambda: Connection(self.handle, self._metrics, self._places, context)

    async def end(self) -> None:
        """End all watches where they are, and all else when it is answered, or after a second.

        The listeners must be closed. A watch ends as it does when its time is over, with a bookmark: its client is to
        come back at once, where a broken one would have it wait first (client-go tools/cache/reflector.go).
        """
        for _ in range(3):
            await asyncio.sleep(0)  # A connection accepted just now is known after three turns of the loop.
        self._ending = True
        for watch in self._watches:
            watch.end()
        for connection in self._connections():
            connection.retire()
        losses = [asyncio.ensure_future(connection.lost.wait()) for connection in self._connections()]
        if losses:
            await asyncio.wait(losses, timeout=_END_SECONDS)
        for loss in losses:
            loss.cancel()
        await self.close()

    async def close(self) -> None:
        """Cut every client off, and return when their connections are gone; nobody's token matters any more."""
        connections = self._connections()
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.lost.wait() for connection in connections))
        self._authentication.close()

    async def handle(self, request: Request, connection: Connection) -> None:
        """Answer one request."""
        route = decide(request.method, request.target) if self._is_meant(request, connection) else _MISDIRECTED
        self._metrics.add("requests_total", label=route.kind.value)
        codec: Codec = JSON
        try:
            if route.kind in (Kind.VIEW, Kind.OBJECT):
                codec = self._codec(request)
            await self._place(request, connection, route)
            await self._answer(request, connection, route, codec)
        except (Answer, OptionsError) as refusal:
            await self._refuse(connection, refusal.status, codec)
        except Refused as refusal:
            await self._pass_refusal(connection, refusal, codec)
        except UpstreamError as error:
            retry = _OFFLINE_RETRY if self._upstream.wan.down else 1
            await self._refuse(connection, Status(503, str(error), retry_after=retry), codec)
        except TooManyViews:
            await self._refuse(connection, self._busy(), codec)
        except CodecError as error:
            self._metrics.add("undecodable_total")
            await self._refuse(connection, Status(503, f"not understood: {error}", retry_after=1), codec)
        except Disconnected:
            raise
        except Exception:
            _log.exception("%s %s", request.method, request.target)
            await self._refuse(connection, Status(500, "internal error of the agent"), codec)
        finally:
            self._places.give_back(connection)

    async def _place(self, request: Request, connection: Connection, route: Route) -> None:
        """Give the request a place; a client that is not known may be authenticated. Raises `Answer`."""
        if route.kind in (Kind.OWN, Kind.REFUSED):
            return
        authorization = _authorization(request)
        connection.identity = self._authentication.identity(authorization)
        self._authentication.look(authorization)
        place = SERVED if route.kind is Kind.VIEW else PASSED
        if self._places.take(connection, place):
            return
        if not (await self._authentication.ask(authorization) and self._places.take(connection, place)):
            raise Answer(self._busy())

    def _busy(self) -> Status:
        self._metrics.add("refused_clients_total")
        return Status(429, _BUSY, retry_after=_BUSY_RETRY)

    def _is_meant(self, request: Request, connection: Connection) -> bool:
        """Tell whether a request is sent to this agent, not by a browser to a name that was made to lead here."""
        host = request.header(b"host")
        if not host and request.http10:
            return True  # no browser
        return is_own(host, connection.address, self._certified())

    async def _refuse(self, connection: Connection, status: Status, codec: Codec) -> None:
        """Answer with a Status; in the middle of an answer only cutting the client off is honest."""
        self._metrics.add("refused_total", label=str(status.code))
        if connection.started:
            connection.abort()
            return
        headers = [(b"content-type", codec.media_type.encode())]
        if status.retry_after:
            headers.append((b"retry-after", b"%d" % status.retry_after))
        await connection.respond(status.code, headers, codec.render_status(status))

    async def _pass_refusal(self, connection: Connection, refusal: Refused, codec: Codec) -> None:
        """Pass on what the API server has against the client's question; what it has against the agent is 503."""
        if isinstance(refusal, TooLarge):
            await self._refuse(connection, Status(429, refusal.body.decode(), retry_after=_LARGE_RETRY), codec)
            return
        if refusal.status not in (400, 404, 422):
            await self._refuse(connection, Status(503, f"{UNREADY}: {refusal}", retry_after=5), codec)
            return
        self._metrics.add("refused_total", label=str(refusal.status))
        await connection.respond(refusal.status, [(b"content-type", refusal.media_type.encode())], refusal.body)

    def _codec(self, request: Request) -> Codec:
        codec = negotiate(request.header(b"accept"))
        if codec is None:
            raise Answer(Status(406, NOT_ACCEPTABLE))
        return codec

    async def _answer(self, request: Request, connection: Connection, route: Route, codec: Codec) -> None:
        if route.kind is Kind.REFUSED:
            raise Answer(Status(route.status, route.message))
        if route.kind is Kind.OWN:
            await self._own(connection, route.name)
        elif route.kind in (Kind.PASS, Kind.SERVICE):
            if route.kind is Kind.SERVICE:
                await refuse_a_grids(route, self._upstream, self._hub)
            if not request.header(b"authorization"):
                # client-go sends its token over TLS only; whoever wonders about 403 for system:anonymous finds this.
                self._metrics.add("without_credentials_total")
            await self._pass(request, connection)
        elif request.upgrade or request.chunked or request.header(b"content-length") not in ("", "0"):
            raise Answer(Status(400, "a guarded resource is read without a body or an upgrade"))
        elif route.kind is Kind.OBJECT:
            parse_query(request.target.partition("?")[2])
            await get_object(request, connection, route, self._upstream, self._hub, codec)
        elif route.resource is ENDPOINTS:
            await self._as_client(request, connection, route, codec)
        else:
            await self._view(request, connection, route, codec)

    async def _pass(self, request: Request, connection: Connection) -> None:
        """Pass a request through, or answer it from what is kept for its client."""
        read = self._reads.find(request)
        codec = negotiate(request.header(b"accept"))
        if read is None or codec is None:
            await self._forward(request, connection)
        elif read.name:
            await self._kept_object(request, connection, read, codec)
        else:
            await self._as_client(request, connection, Route(Kind.VIEW, read.resource, read.namespace), codec)

    async def _forward(self, request: Request, connection: Connection) -> None:
        await forward(request, connection, self._upstream, request.target, self._authentication.heard)

    async def _as_client(self, request: Request, connection: Connection, route: Route, codec: Codec) -> None:
        """Answer a LIST or WATCH of what is read with the client's credential."""
        if request.impersonates:
            raise Answer(Status(400, "the agent lists for nobody else: ask the API server itself to impersonate"))
        try:
            await self._view(request, connection, route, codec, self._hub.identify(_authorization(request)))
        except Refused as refusal:
            if route.resource is not ENDPOINTS:
                # It may list and not watch: its own request is what the API server can judge.
                await self._forward(request, connection)
                return
            # It was asked with the client's credential: the answer is the client's, whatever it is.
            self._metrics.add("refused_total", label=str(refusal.status))
            await connection.respond(refusal.status, [(b"content-type", refusal.media_type.encode())], refusal.body)

    async def _kept_object(self, request: Request, connection: Connection, read: Read, codec: Codec) -> None:
        """Ask for one object; without a WAN, answer with what its client has listed."""
        try:
            await self._forward(request, connection)
        except UpstreamError:
            identity = self._hub.identify(_authorization(request))
            item = self._hub.known_object(identity, read.resource, read.namespace, read.name, codec)
            if item is None or connection.started:
                raise
            headers = [(b"content-type", codec.media_type.encode())]
            await connection.respond(200, headers, codec.render_object(read.resource, item))

    async def _own(self, connection: Connection, path: str) -> None:
        text = [(b"content-type", b"text/plain; charset=utf-8")]
        if path == "/sitegrid/healthz":
            await connection.respond(200, text, b"ok\n")
        elif path == "/sitegrid/readyz":
            known = self._hub.node.known
            await connection.respond(
                200 if known else 503, text, b"ok\n" if known else f"{self._unready()}\n".encode()
            )
        elif path == "/sitegrid/metrics":
            await connection.respond(200, [(b"content-type", CONTENT_TYPE)], self._metrics.render())
        elif path == "/sitegrid/units":
            await self._units(connection)
        else:
            raise Answer(Status(404, "the agent's pages are healthz, readyz, units and metrics"))

    async def _units(self, connection: Connection) -> None:
        """Tell the node's name, and its units by their unique keys."""
        node = self._hub.node
        if not node.known:
            raise Answer(Status(503, self._unready(), retry_after=1))
        body = json.dumps({"node": node.name, "units": node.by_key}, sort_keys=True)
        await connection.respond(200, [(b"content-type", b"application/json")], f"{body}\n".encode())

    def _unready(self) -> str:
        """Return why the node's units are not known."""
        wan = self._upstream.wan
        why = wan.reason if wan.down else self._hub.node.refusal
        return f"{UNREADY}: {why}" if why else UNREADY

    def _check(self, label_selector: str, field_selector: str) -> None:
        try:
            terms = len(LabelSelector(label_selector).requirements) + len(FieldSelector(field_selector).terms)
        except SelectorError as error:
            raise Answer(Status(400, str(error))) from error
        if terms > _MAX_TERMS:
            raise Answer(
                Status(400, f"the selectors have {terms} terms, more than {_MAX_TERMS}: ask for less or for all")
            )

    async def _view(
        self, request: Request, connection: Connection, route: Route, codec: Codec, identity: str = ""
    ) -> None:
        """Answer a LIST or WATCH; with an `identity` from what the API server shows that client."""
        assert route.resource is not None
        if self._ending:
            raise Answer(Status(503, "the agent ends, and another one begins", retry_after=1))
        options = list_options(parse_query(request.target.partition("?")[2]), watch_path=route.watch)
        fields = options.field_selector
        if route.name:
            fields = f"{fields},metadata.name={route.name}" if fields else f"metadata.name={route.name}"
        self._check(options.label_selector, fields)
        key = ViewKey(route.resource, route.namespace, options.label_selector, fields, codec, identity)
        if not self._hub.has_room(key, connection.identity):
            await self._authentication.ask(_authorization(request))
        with self._hub.view(key, connection, _authorization(request)) as view:
            await self._serve(view, options, connection)

    async def _serve(self, view: View, options: ListOptions, connection: Connection) -> None:
        wan = self._upstream.wan
        if not await view.wait_ready(lambda: wan.down):
            if view.refusal is not None:
                raise view.refusal
            raise Answer(Status(503, f"{UNREADY}: {wan.reason}" if wan.down else UNREADY, retry_after=1))
        if not options.watch:
            authenticated = self._authentication.accepted(connection.identity)
            await send_list(view, options, connection, self._metrics, authenticated=authenticated)
            return
        watch = Watch(view, options, connection, self._metrics)
        self._watches.add(watch)
        self._metrics.add("watchers")
        try:
            await watch.run()
        finally:
            self._watches.discard(watch)
            self._metrics.add("watchers", -1)


def _authorization(request: Request) -> str:
    return request.header(b"authorization")
