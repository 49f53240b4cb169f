"""The agent's HTTP/1.1 server side: asyncio.Protocol and httptools, one request at a time per connection.

Strict where requests could be read in two ways: both framings at once, repeated Host, Content-Length,
Transfer-Encoding or Authorization, and any transfer coding but `chunked` are 400 and close the connection. Limits on
heads and waiting times, and `Places`, keep one client from starving the others. Upgrades to another HTTP are not
taken. A handler reads `Request.body` and answers with `Connection.respond`, or `start`, `send` and `finish`; `send`
waits while the client does not read.

Invariant: what the parser and the API server could understand differently is not passed on.
Held by ``tests/agent/test_http.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Final, cast

import httptools

from sitegrid.agent.metrics import Metrics
from sitegrid.agent.places import Places
from sitegrid.agent.request import STALL_TIMEOUT, Body, Disconnected, Request
from sitegrid.wire.status import Status

MAX_HEAD: Final = 64 * 1024
MAX_TARGET: Final = 16 * 1024
HEAD_TIMEOUT: Final = 15.0
"""Seconds for a request head to arrive once its connection is open or its first byte is there."""
IDLE_TIMEOUT: Final = 300.0
"""Seconds that a connection may rest between requests; longer than client-go's 90, so the client closes first."""
_WRITE_BUFFER: Final = 64 * 1024
_PIPELINE: Final = 8
_HEADER: Final = 64
"""What a header costs besides its text, in bytes: memory is what a head has to be limited for."""
_MAX_UNPRODUCTIVE: Final = MAX_HEAD + MAX_TARGET + 1024
"""Bytes that may arrive without ending a head or being body: the parser keeps an unfinished header, however long."""

_ONCE: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"authorization", b"upgrade", b"expect"})


Handler = Callable[[Request, "Connection"], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client. `handler` is called for each request; what it leaves unanswered closes the connection.

    With a `context` TLS comes first. The connection has one of the `places` from its beginning, so that those who
    never say a word are not without limit.
    """

    def __init__(
        self,
        handler: Handler,
        metrics: Metrics,
        places: Places,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._handler = handler
        self._metrics = metrics
        self._places = places
        self._context = context
        self._early: list[bytes] | None = None if context is None else []
        """What came with the end of the handshake."""
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._requests: deque[Request] = deque()
        self._current: Request | None = None
        self._serving: Request | None = None
        self._head_bytes = 0
        self._unproductive = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._arrived = asyncio.Event()
        self._raw: Body | None = None
        self._broken: Status | None = None
        self._keep_alive = True
        self._chunked = False
        self._retired = False
        self._used = False
        self.lost = asyncio.Event()
        self.started = False
        """Whether a response to the current request has begun."""
        self.identity = ""
        """Whose credential the last request had (`Authentication.identity`)."""
        self.place = ""
        """Which place the request has that is being served (see `places`)."""

    # What asyncio calls.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection; when there are too many, another one gives way, or this one is turned away."""
        self._use(transport)
        if not self._places.enter(self):
            self.abort()
            return
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="client")
        self._arm(HEAD_TIMEOUT)

    def _use(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # TLS transports would buffer 512 KiB; what is buffered here can no longer be replaced by a newer state.
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)

    @property
    def address(self) -> str:
        """Return the address of the listener that the client reached."""
        address: str = self.transport.get_extra_info("sockname")[0]
        return address

    @property
    def resting(self) -> bool:
        """Tell whether no request is being served."""
        return self._timer is not None

    async def _secure(self, context: ssl.SSLContext) -> None:
        """Make TLS. Raises `Disconnected`."""
        secured = None
        with contextlib.suppress(OSError):  # which those of TLS are, too
            secured = await asyncio.get_running_loop().start_tls(
                self.transport, self, context, server_side=True, ssl_handshake_timeout=HEAD_TIMEOUT
            )
        if secured is None:
            self.connection_lost(None)  # asyncio tells nobody
            raise Disconnected("no TLS")
        self._use(secured)
        early, self._early = self._early or [], None
        for data in early:
            self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop whatever is being done for the client."""
        self.lost.set()
        self._places.leave(self)
        self._disarm()
        self._writable.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        # They hold this connection, which would be garbage that refers to itself: a flood's piles up.
        self._parser = self._current = self._serving = None
        self._requests.clear()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Parse; a request that cannot be understood is answered 400 after those before it."""
        if self._early is not None:
            self._early.append(data)
            return
        if self._raw is not None:
            self._raw.feed(data)
            return
        if self._broken is not None or self._parser is None:
            return
        self._unproductive += len(data)
        try:
            self._parser.feed_data(data)
            if self._unproductive > _MAX_UNPRODUCTIVE:
                raise _Malformed("request head is too large")
        except httptools.HttpParserUpgrade as upgrade:
            self._begin_raw(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(str(cause) if isinstance(cause, _Malformed) else "malformed HTTP request")
        except _Malformed as error:
            self._refuse(str(error))

    def _refuse(self, message: str) -> None:
        self._broken = Status(400, message)
        self._arrived.set()
        if self._current is not None and self._current.complete and not self._current.body.ended:
            # The body broke off while its request is being handled: nobody knows what was meant.
            self.abort()

    def _begin_raw(self, rest: bytes) -> None:
        """Take what is behind an upgrade request for its body; behind one that is not taken are further requests."""
        request = self._requests[-1] if self._requests else self._current_request
        if not request.upgrade:
            self._parser = httptools.HttpRequestParser(self)
            if rest:
                self.data_received(rest)
            return
        self._raw = Body(self._flow)
        request.body = self._raw
        if rest:
            self._raw.feed(rest)

    def _flow(self, on: bool) -> None:
        if self._gone:
            return
        if on:
            self.transport.resume_reading()
        elif self._requests and (self._serving or self._requests[0]) is not self._requests[-1]:
            # It waits for the answer to another request, and while it does nobody would see that the client is gone.
            self.abort()
        else:
            self.transport.pause_reading()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the parser calls.
    def on_message_begin(self) -> None:
        """Begin a request head."""
        if len(self._requests) >= _PIPELINE:
            raise _Malformed("too many pipelined requests")
        self._current = Request(Body(self._flow))
        if not self._requests:
            self._head_bytes = 0
        if self._timer is not None:
            self._arm(HEAD_TIMEOUT)

    @property
    def _current_request(self) -> Request:
        if self._current is None:
            raise _Malformed("malformed HTTP request")
        return self._current

    def on_url(self, url: bytes) -> None:
        """Keep (a piece of) the target."""
        request = self._current_request
        request.target += url.decode("latin-1")
        self._head_bytes += len(url)
        if len(request.target) > MAX_TARGET:
            raise _Malformed("request target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are refused, since they come after the decision about the request."""
        if self._current_request.complete:
            raise _Malformed("trailers are not supported")
        self._head_bytes += len(name) + len(value) + _HEADER
        if self._head_bytes > MAX_HEAD:
            raise _Malformed("request head is too large")
        self._current_request.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the head and hand the request over."""
        self._unproductive = 0
        request, parser = self._current_request, self._parser
        assert parser is not None  # it is what calls
        request.method = parser.get_method().decode("latin-1")
        request.http10 = parser.get_http_version() != "1.1"
        request.keep_alive = parser.should_keep_alive() and not request.http10
        self._check(request)
        if parser.should_upgrade():
            request.upgrade = not _is_http(request.header(b"upgrade"))
            if not request.upgrade and (request.chunked or request.header(b"content-length") not in ("", "0")):
                raise _Malformed("an upgrade to HTTP with a body")  # which the parser takes for what is behind it
        request.complete = True
        self._requests.append(request)
        self._disarm()
        self._arrived.set()

    def _check(self, request: Request) -> None:
        names = [name for name, _ in request.headers]
        for name in _ONCE:
            if names.count(name) > 1:
                raise _Malformed(f"header {name.decode()} is repeated")
        if b"host" not in names and not request.http10:
            raise _Malformed("header host is missing")
        if b"transfer-encoding" in names:
            if b"content-length" in names:
                raise _Malformed("content-length and transfer-encoding contradict each other")
            if request.header(b"transfer-encoding").strip().lower() != "chunked" or request.http10:
                raise _Malformed("only the chunked transfer coding is known")
            request.chunked = True

    def on_body(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        self._unproductive = 0
        self._current_request.body.feed(data)

    def on_message_complete(self) -> None:
        """End the body."""
        self._unproductive = 0
        self._current_request.body.end()

    # The loop over requests.
    async def _serve(self) -> None:
        try:
            if self._context is not None:
                await self._secure(self._context)
            while True:
                request = await self._next()
                if request is None:
                    return
                self.started = False
                self._serving = request
                self._keep_alive = request.keep_alive and not request.upgrade and not self._retired
                self._used = True
                await self._handler(request, self)
                self._serving = None
                if not self.started or not self._keep_alive or not await self._skip(request.body):
                    return
                if not self._requests:
                    self._arm(IDLE_TIMEOUT)
        except Disconnected:
            pass
        finally:
            # A TLS transport that is lost may not be touched any more.
            if not self.lost.is_set():
                self.transport.close()
                # A peer that never reads must not hold the closing connection open.
                self._arm(STALL_TIMEOUT)

    @property
    def _gone(self) -> bool:
        return self.lost.is_set() or self.transport.is_closing()

    async def _next(self) -> Request | None:
        """Return the next request; None once the client's bytes made no sense (it is told so)."""
        while not self._requests:
            if self._broken is not None:
                self._keep_alive = False
                self._metrics.add("refused_total", label="400")
                await self.respond(400, [(b"content-type", b"application/json")], self._broken.to_json())
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._requests.popleft()

    async def _skip(self, body: Body) -> bool:
        """Read what is left of a body, so that the next request is found; give up on a large one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STALL_TIMEOUT):
                for _ in range(64):
                    if body.finished:
                        return True
                    await body.read()
        return body.finished

    # What handlers use.
    async def respond(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole response."""
        lines = [*headers, (b"content-length", b"%d" % len(body))]
        self._write_head(status, lines)
        self.transport.write(body)
        await self._drain(STALL_TIMEOUT)

    async def start(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], *, length: int | None = None, no_body: bool = False
    ) -> None:
        """Begin a response whose body follows in pieces, of `length` bytes in all when that is known."""
        lines = list(headers)
        self._chunked = False
        if length is not None:
            lines.append((b"content-length", b"%d" % length))
        elif not no_body:
            # HTTP/1.0 knows no chunks: there the end of the connection ends the body.
            self._chunked = self._serving is None or not self._serving.http10
            if self._chunked:
                lines.append((b"transfer-encoding", b"chunked"))
        self._write_head(status, lines)
        await self._drain(STALL_TIMEOUT)

    def _write_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
        if not self._keep_alive and status != 101:
            headers = [*headers, (b"connection", b"close")]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, phrase.encode(), lines))

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        """Send a piece of the body, and wait while the client is behind. Raises `Disconnected`."""
        if not data:
            return
        self.transport.write(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)
        await self._drain(timeout)

    async def finish(self) -> None:
        """End a body that was sent in pieces."""
        if self._chunked:
            self.transport.write(b"0\r\n\r\n")
            await self._drain(STALL_TIMEOUT)

    def proceed(self) -> None:
        """Tell a client that waits for it to send its body (100 Continue)."""
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _drain(self, timeout: float | None) -> None:
        if self._gone:
            raise Disconnected("the client is gone")
        if self._writable.is_set():
            return
        try:
            async with asyncio.timeout(timeout):
                await self._writable.wait()
        except TimeoutError as error:
            self.abort()
            raise Disconnected("the client does not read") from error
        if self._gone:
            raise Disconnected("the client is gone")

    def retire(self) -> None:
        """Answer what was asked, and close; what has been connected just now may still ask."""
        self._retired = True
        self._keep_alive = False
        if self.resting and self._used and not self._gone:
            self.transport.close()

    def abort(self) -> None:
        """Cut the client off at once."""
        if not self.lost.is_set():
            self.transport.abort()


def _is_http(protocols: str) -> bool:
    """Tell whether an upgrade may be to HTTP (h2c, TLS/1.2): it would carry requests that nobody looks at.

    A server need not take an upgrade (RFC 9110, 7.8), and the JDK's client asks for h2c with every request.
    """
    return any(name.strip().lower().startswith(("h2", "http", "tls")) for name in protocols.split(","))


class _Malformed(Exception):
    """A request that cannot be understood in exactly one way."""
