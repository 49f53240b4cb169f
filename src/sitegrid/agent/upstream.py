"""The way to the API server: sources share one HTTP/2 connection, what is passed through shares another.

Used by sources (with the agent's account, or a client's) and by pass-through (with nothing but what the client sent).
The two do not share: a client could slow the watches that closure lives by, use up their streams, or have the API
server end their connection. Upgrades, large bodies, and what cannot be said exactly in HTTP/2 have an HTTP/1.1
connection each, as all have where the API server speaks nothing else.

Every wait has a limit, and the kernel is told to give a silent peer up (TCP_USER_TIMEOUT, keepalive), so that a WAN
that swallows packets is noticed. A passed request that is not answered soon asks whether the connection is alive, so
that it fails as fast as a new connection would.

asyncio keeps a 256 KiB buffer per TLS connection; `limit_tls_buffers` makes it 4 KiB, which saves 10 MB with 40
connections. The attribute is undocumented: ``tests/agent/test_upstream.py`` pins it.

What became of every connection is told to `wan`. While that is down a client's request fails at once, and a probe
looks for the API server in the background; sources go on trying by themselves.

Invariant: the agent's account is used only where `as_agent` is said. Held by ``tests/agent/test_passthrough.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import socket
import ssl
import weakref
from asyncio import sslproto
from collections.abc import Awaitable, Callable, Container, Iterable
from typing import Final, NoReturn, TypeVar

import httptools

from sitegrid.agent.credentials import HTTP2, Credentials, CredentialsError, ResumingContext
from sitegrid.agent.multiplex import Fields, Link, Passing, Stream
from sitegrid.agent.reply import MAX_HEADERS, Reply, Unprocessed, UpstreamError
from sitegrid.agent.wan import Wan

_log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for a connection that nobody waits for: a lost SYN is sent again ever later, so a new try is better then.
Clients wait no longer than the WAN's usual time allows (`Wan.patience`)."""
_HANDSHAKE_TIMEOUT: Final = 20.0
"""Seconds more for TLS of the sources' connection: who has answered is there, maybe behind seconds of other data."""
_FIRST_LOOK: Final = 0.3
"""Seconds after its start that an agent waits for the API server before it shows what it had on its disk."""
_FIRST_PROBE, _LONGEST_PROBE = 0.25, 5.0
"""Seconds between two probes of a WAN that is down."""
_IDLE, _INTERVAL, _PROBES = 20, 5, 4
"""Seconds of silence until the kernel looks whether the peer is there, between looks, and how many fail."""
_READ: Final = 32 * 1024
_TLS_BUFFER: Final = 4 * 1024

_ORDINARY: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PATH: Final = re.compile(r"/[\x21-\x7e]*")
_REPEATED: Final = frozenset({"accept", "accept-encoding", "content-type", "user-agent"})
"""What clients say alike with every request, and which is no secret."""


def limit_tls_buffers() -> None:
    """Make asyncio's buffer per TLS connection 4 KiB: clients' requests are small, and little is passed through."""
    sslproto.SSLProtocol.max_size = _TLS_BUFFER


class Upstream:
    """Asks one API server; `wan` says whether it can be reached."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.wan = Wan()
        self._unusable: dict[str, str] = {}
        """Which parts of the configuration could not be used at the last try, and why."""
        self._probe: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._dialed: dict[tuple[ResumingContext, type[Link]], asyncio.Task[Link | None]] = {}
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self.wan.listeners.append(self._wan_changed)

    def start(self) -> None:
        """Find out whether the API server can be reached, so that requests need not wait to learn that it cannot."""
        self._look()
        self._timer = asyncio.get_running_loop().call_later(_FIRST_LOOK, self._give_up)

    def close(self) -> None:
        """End the background work, and the shared connection."""
        if self._timer is not None:
            self._timer.cancel()
        if self._probe is not None:
            self._probe.cancel()
        for dialing in self._dialed.values():
            dialing.cancel()
        for link in self._links:
            link.close()

    def _give_up(self) -> None:
        if not self.wan.up:
            self.wan.lost(next(iter(self._unusable.values()), "it has not answered yet"), guessed=True)

    def _wan_changed(self) -> None:
        """Have no new request on a connection that may not have outlived the WAN's absence."""
        if self.wan.down:
            for link in self._links:
                if isinstance(link, Passing):
                    link.retire()

    def require(self) -> None:
        """Raise `UpstreamError` while the WAN is down."""
        if self.wan.down:
            raise UpstreamError(f"the API server cannot be reached: {self.wan.reason}")

    async def open(self, method: str, target: str, headers: Iterable[tuple[str, str]], *, as_agent: bool) -> Exchange:
        """Connect and send a request head; Host (and, `as_agent`, the token) are added. Raises `UpstreamError`."""
        self.require()
        headers = self._with_token(headers, as_agent=as_agent)
        return await self._exchange(method, target, headers, self.wan.patience, as_agent=as_agent)

    async def pass_on(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes, timeout: float
    ) -> Reply:
        """Make a client's request, and return the answer once its head is there, at most `timeout` seconds later.

        `headers` are all there are, with the body's length where it has one. What the API server has not begun with
        when it ends the connection is asked again, once; a connection that is silent is given up. Raises
        `UpstreamError`.
        """
        self.require()
        link = await self._passing(method, target, headers)
        if link is not None and link.fits(fields := self._fields(method, target, headers, _REPEATED)):
            stream = link.open(fields, body)
            try:
                await self._answer(link, stream, timeout)
            except Unprocessed:
                pass
            except BaseException:
                stream.close()
                raise
            else:
                return stream
        exchange = await self.open(method, target, headers, as_agent=False)
        try:
            if body:
                await exchange.send(body)
            await exchange.head(timeout)
        except BaseException:
            exchange.close()
            raise
        return exchange

    async def _passing(self, method: str, target: str, headers: list[tuple[str, str]]) -> Passing | None:
        """Return the connection that passed requests share; None where this one needs its own.

        The API server ends a connection that brings a request of nobody's (UnauthenticatedHTTP2DOSMitigation in
        apiserver pkg/endpoints/filters/authentication.go).
        """
        if method not in _ORDINARY or _PATH.fullmatch(target) is None:
            return None
        if not any(name.lower() == "authorization" for name, _ in headers):
            return None
        link = await self._shared(Passing, as_agent=False)
        return link if isinstance(link, Passing) and link.usable else None

    async def _answer(self, link: Passing, stream: Stream, timeout: float) -> None:
        """Wait for the answer's head, however long, but on a live connection. Raises `UpstreamError`."""
        patience = self.wan.patience / 2
        if not await stream.begins(patience):
            if not await link.answers(patience):
                link.retire()
                self._late(patience, "it fell silent")
            await stream.head(timeout)

    async def server(self, *, as_agent: bool) -> object:
        """Return what stands for the API server's process that is asked next, None where that is not known.

        It is known of shared connections only. Raises `UpstreamError`.
        """
        link = await self._shared(Link, as_agent=as_agent)
        return link.server if link is not None else None

    async def ask(self, target: str, headers: Iterable[tuple[str, str]], *, as_agent: bool) -> Reply:
        """GET `target` for a source: on the shared connection, where the API server speaks HTTP/2.

        Nobody waits for it, so that it is tried patiently, and while the WAN is down too. Raises `UpstreamError`.
        """
        headers = self._with_token(headers, as_agent=as_agent)
        link = await self._shared(Link, as_agent=as_agent)
        if link is None:
            return await self._exchange("GET", target, headers, CONNECT_TIMEOUT, as_agent=as_agent)
        return link.open(self._fields("GET", target, headers, {name.lower() for name, _ in headers}))

    def _fields(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], repeated: Container[str]
    ) -> Fields:
        """Return a request's head as HTTP/2 has it."""
        pseudo = [(":method", method), (":scheme", "https"), (":authority", self.credentials.host_header)]
        fields = [(name, value, True) for name, value in pseudo] + [(":path", target, False)]
        fields += [(name.lower(), value, name.lower() in repeated) for name, value in headers]
        return [(name.encode("latin-1"), value.encode("latin-1"), again) for name, value, again in fields]

    def _with_token(self, headers: Iterable[tuple[str, str]], *, as_agent: bool) -> list[tuple[str, str]]:
        token = self._own("token", self.credentials.token) if as_agent else ""
        return [*([("Authorization", f"Bearer {token}")] if token else []), *headers]

    def _context(self, *, as_agent: bool) -> ResumingContext | None:
        return self._own(
            "own certificates" if as_agent else "certificates",
            lambda: self.credentials.context(as_agent=as_agent),
        )

    def _own(self, part: str, get: Callable[[], T]) -> T:
        """Return a part of the configuration. That it cannot be used, who runs the agent is told once.

        Raises `UpstreamError`.
        """
        try:
            found = get()
        except CredentialsError as error:
            if self._unusable.get(part) != str(error):
                self._unusable[part] = str(error)
                _log.error("the API server cannot be asked: %s", error)
            raise UpstreamError(f"the API server cannot be asked: {error}") from error
        self._unusable.pop(part, None)
        return found

    async def _exchange(
        self, method: str, target: str, headers: list[tuple[str, str]], limit: float, *, as_agent: bool
    ) -> Exchange:
        """Make an exchange on a connection of its own."""
        context = self._context(as_agent=as_agent)
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.credentials.host_header}"]
        lines += [f"{name}: {value}" for name, value in headers]
        reader, writer = await self._connect(limit, self._streams(context))
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        return Exchange(reader, writer, method)

    async def _streams(self, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            self.credentials.host,
            self.credentials.port,
            ssl=context,
            server_hostname=self.credentials.server_name if context else None,
            limit=2 * _READ,
        )
        _notice_silence(writer.transport)
        self.wan.follow(writer.transport)
        return reader, writer

    async def _shared(self, kind: type[Link], *, as_agent: bool) -> Link | None:
        """Return the shared connection of a kind, made where there is none; None where there cannot be one.

        All who need it wait for the same attempt. It is of the present credentials only.
        """
        context = self._context(as_agent=as_agent)
        if context is None:
            return None
        dialing = self._dialed.get((context, kind))
        if dialing is None or (dialing.done() and not _is_good(dialing)):
            # All others are of former credentials, or take no further requests.
            current = [self._context(as_agent=yes) for yes in (True, False)]
            self._dialed = {known: task for known, task in self._dialed.items() if known[0] in current}
            for link in self._links:
                if link.context not in current or (link.context, type(link)) == (context, kind):
                    link.retire()
            dialing = asyncio.get_running_loop().create_task(self._dial(context, kind), name="source dial")
            self._dialed[context, kind] = dialing
        return await asyncio.shield(dialing)

    async def _dial(self, context: ResumingContext, kind: type[Link]) -> Link | None:
        limit = self.wan.patience if kind is Passing else CONNECT_TIMEOUT + _HANDSHAKE_TIMEOUT
        link = await self._connect(limit, self._link(context, kind))
        if link.protocol == HTTP2:
            return link
        link.close()
        return None

    async def _link(self, context: ResumingContext, kind: type[Link]) -> Link:
        loop, credentials = asyncio.get_running_loop(), self.credentials
        async with asyncio.timeout(CONNECT_TIMEOUT):
            transport, link = await loop.create_connection(
                lambda: kind(context, credentials.server_name), credentials.host, credentials.port
            )
        self._links.add(link)
        _notice_silence(transport)
        self.wan.follow(transport)
        try:
            await link.secured
        except BaseException:
            link.close()
            raise
        return link

    async def _connect(self, limit: float, connecting: Awaitable[T]) -> T:
        """Connect within `limit` seconds, and tell the WAN whether that went well. Raises `UpstreamError`."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            async with asyncio.timeout(limit):
                result = await connecting
        except TimeoutError as error:
            self._late(limit, _why(error), error)
        except OSError as error:
            self._lost(_why(error), error)
        self.wan.reached(loop.time() - begin)
        return result

    def _lost(self, reason: str, error: OSError | None = None) -> NoReturn:
        """Tell the WAN, and have it looked for. Raises `UpstreamError`."""
        self.wan.lost(reason)
        self._look()
        raise UpstreamError(f"the API server cannot be reached: {self.wan.reason}") from error

    def _late(self, seconds: float, reason: str, error: OSError | None = None) -> NoReturn:
        """Tell the WAN that nothing came for `seconds`: it is lost, unless data come on another connection.

        Raises `UpstreamError`.
        """
        if not self.wan.late(seconds):
            self._lost(reason, error)
        raise UpstreamError("the API server is slow: ask again") from error

    def _look(self) -> None:
        """Have a probe running."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().create_task(self._probe_until_reached(), name="source probe")

    async def _probe_until_reached(self) -> None:
        """Look for the API server until it is there, on the shared connection if there can be one."""
        pause = _FIRST_PROBE
        while True:
            try:
                link = await self._shared(Link, as_agent=True)
                if link is None:
                    _, writer = await self._connect(CONNECT_TIMEOUT, self._streams(self._context(as_agent=True)))
                    writer.transport.abort()
                elif not self.wan.up:
                    # The connection is not new, and what became of another one says that it may be dead.
                    await self._ping(link)
            except UpstreamError:
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(2 * pause, _LONGEST_PROBE)
            else:
                return

    async def _ping(self, link: Link) -> None:
        """See whether the shared connection is alive, and end it otherwise. Raises `UpstreamError`."""
        begin = asyncio.get_running_loop().time()
        if not await link.answers(CONNECT_TIMEOUT):
            link.close()
            raise UpstreamError("the API server fell silent")
        # A connection takes three times as long to make.
        self.wan.reached(3 * (asyncio.get_running_loop().time() - begin))


def _why(error: OSError) -> str:
    """Return in plain words why there is no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ssl.SSLError) or error.errno is None:
        return str(error)
    # asyncio's own text repeats the address; look-ups of names have numbers of their own.
    return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)


def _is_good(dialing: asyncio.Task[Link | None]) -> bool:
    """Tell whether an attempt that is over need not be repeated: it is of use, or the API server has no HTTP/2."""
    if dialing.cancelled() or dialing.exception() is not None:
        return False
    link = dialing.result()
    return link is None or (link.lasting if isinstance(link, Passing) else link.usable)


def _notice_silence(transport: asyncio.BaseTransport) -> None:
    """Have the kernel end the connection when the peer is silently gone."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    # Also for what was sent and is not acknowledged, which keepalive does not look after.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, (_IDLE + _INTERVAL * _PROBES) * 1000)


class Exchange(Reply):
    """One request and its answer, on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str) -> None:
        super().__init__()
        self._reader = reader
        self._writer = writer
        self._method = method
        self._parser = httptools.HttpResponseParser(self)
        self._header_bytes = 0
        self.upgraded = False
        self.reason = b""

    # What the parser calls.
    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase."""
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; too many of them are an error."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADERS:
            raise UpstreamError("the API server's answer has too many headers")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Note the status; an answer to HEAD ends here, and 1xx (but 101) is skipped."""
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200 and self.status != 101:
            return
        self._head_done = True
        if self._method == "HEAD":
            self._complete = True

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body until it is asked for."""
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """Note the end, or begin anew after an informational answer."""
        if self._head_done:
            self._complete = True
        else:
            self.headers, self.reason = [], b""

    # What our callers use.
    async def send(self, data: bytes) -> None:
        """Send a piece of the request body (framed by the caller). Raises `UpstreamError`."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise UpstreamError(str(error)) from error

    async def _more(self) -> None:
        try:
            data = await self._reader.read(_READ)
            if not data:
                self._at_end()
                return
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.upgraded = True
            self._head_done = self._complete = True
            if rest := data[upgrade.args[0] :]:
                self._chunks.append(rest)
        except (OSError, httptools.HttpParserError) as error:
            if self._complete and self._method == "HEAD":
                return
            raise UpstreamError(str(error) or type(error).__name__) from error

    def _at_end(self) -> None:
        """Accept the end of the connection as the end of the body only where the answer says no other."""
        framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        if not self._head_done or framed:
            raise UpstreamError("the API server closed the connection early")
        self._complete = True

    async def read_raw(self) -> bytes:
        """Return what arrives on an upgraded connection, empty at its end. Raises `UpstreamError`."""
        if self._chunks:
            return self._chunks.pop(0)
        try:
            return await self._reader.read(_READ)
        except (OSError, ssl.SSLError) as error:
            raise UpstreamError(str(error)) from error

    def close(self) -> None:
        """Give the connection up without waiting for anything."""
        self._writer.transport.abort()
