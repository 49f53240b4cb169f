"""HTTP/1.1 to the API server: one exchange per connection, bodies as streams.

Used by sources (with the agent's account) and by pass-through (with nothing but what the client sent). Every wait has
a limit, and the kernel is told to give a silent peer up (TCP_USER_TIMEOUT, keepalive), so that a WAN that swallows
packets is noticed.

asyncio keeps a 256 KiB buffer per TLS connection; `limit_tls_buffers` makes it 32 KiB, which saves 18 MB with 40
watches. The attribute is undocumented: ``tests/agent/test_upstream.py`` pins it.

What became of every connection is told to `wan`. While that is down a client's request fails at once, and a probe
looks for the API server in the background; sources go on trying by themselves.

Invariant: the agent's account is used only where `as_agent` is said. Held by ``tests/agent/test_passthrough.py``.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from asyncio import sslproto
from collections.abc import AsyncIterator, Iterable
from typing import Final

import httptools

from sitegrid.agent.credentials import Credentials, CredentialsError
from sitegrid.agent.wan import Wan

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for TCP and TLS together; clients wait no longer than the WAN's usual time allows (`Wan.patience`)."""
_FIRST_LOOK: Final = 0.3
"""Seconds after its start that an agent waits for the API server before it shows what it had on its disk."""
_FIRST_PROBE, _LONGEST_PROBE = 0.25, 5.0
"""Seconds between two probes of a WAN that is down."""
HEAD_TIMEOUT: Final = 60.0
"""Seconds for the API server to begin its answer (its own limit for short requests)."""
_DEAD_PEER: Final = 30.0
"""Seconds after which the kernel gives up a peer that acknowledges nothing."""
_READ: Final = 32 * 1024
_MAX_HEADERS: Final = 64 * 1024

Headers = list[tuple[bytes, bytes]]


class UpstreamError(ConnectionError):
    """The API server cannot be reached, or did not speak HTTP."""


def limit_tls_buffers() -> None:
    """Make asyncio's buffer per TLS connection 32 KiB."""
    sslproto.SSLProtocol.max_size = _READ


class Upstream:
    """Opens exchanges with one API server; `wan` says whether it can be reached."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.wan = Wan()
        self._probe: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Find out whether the API server can be reached, so that requests need not wait to learn that it cannot."""
        self._look()
        self._timer = asyncio.get_running_loop().call_later(_FIRST_LOOK, self._give_up)

    def close(self) -> None:
        """End the background work."""
        if self._timer is not None:
            self._timer.cancel()
        if self._probe is not None:
            self._probe.cancel()

    def _give_up(self) -> None:
        if not self.wan.up:
            self.wan.lost("it has not answered yet")

    async def open(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        *,
        as_agent: bool,
        background: bool = False,
    ) -> Exchange:
        """Connect and send a request head; Host (and, `as_agent`, the token) are added. Raises `UpstreamError`.

        Nobody waits for a `background` exchange, so that it is tried patiently and while the WAN is down too.
        """
        if self.wan.down and not background:
            raise UpstreamError(f"the API server cannot be reached: {self.wan.reason}")
        try:
            lines = [f"{method} {target} HTTP/1.1", f"Host: {self.credentials.host_header}"]
            if as_agent and (token := self.credentials.token()):
                lines.append(f"Authorization: Bearer {token}")
            context = self.credentials.context(as_agent=as_agent)
        except CredentialsError as error:
            raise UpstreamError(str(error)) from error
        lines += [f"{name}: {value}" for name, value in headers]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        reader, writer = await self._connect(context, CONNECT_TIMEOUT if background else self.wan.patience)
        _notice_silence(writer)
        writer.write(head)
        return Exchange(reader, writer, method)

    async def _connect(
        self, context: ssl.SSLContext | None, limit: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect within `limit` seconds, and tell the WAN whether that went well. Raises `UpstreamError`."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            async with asyncio.timeout(limit):
                streams = await asyncio.open_connection(
                    self.credentials.host,
                    self.credentials.port,
                    ssl=context,
                    server_hostname=self.credentials.server_name if context else None,
                    limit=2 * _READ,
                )
        except OSError as error:
            # TimeoutError is one of them, and has no text.
            self.wan.lost(str(error) or "it did not answer in time")
            self._look()
            raise UpstreamError(f"the API server cannot be reached: {self.wan.reason}") from error
        self.wan.reached(loop.time() - begin)
        return streams

    def _look(self) -> None:
        """Have a probe running."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().create_task(self._probe_until_reached(), name="source probe")

    async def _probe_until_reached(self) -> None:
        pause = _FIRST_PROBE
        while True:
            try:
                _, writer = await self._connect(self.credentials.context(as_agent=False), CONNECT_TIMEOUT)
            except (UpstreamError, CredentialsError):
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(2 * pause, _LONGEST_PROBE)
            else:
                writer.transport.abort()
                return


def _notice_silence(writer: asyncio.StreamWriter) -> None:
    """Have the kernel end the connection when the peer is silently gone."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_DEAD_PEER * 1000))


class Exchange:
    """One request and its answer. `status` and `headers` are there after `head()`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str) -> None:
        self._reader = reader
        self._writer = writer
        self._method = method
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._head_done = False
        self._complete = False
        self._header_bytes = 0
        self.upgraded = False
        self.status = 0
        self.reason = b""
        self.headers: Headers = []

    # What the parser calls.
    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase."""
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; too many of them are an error."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MAX_HEADERS:
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

    async def head(self, timeout: float = HEAD_TIMEOUT) -> None:
        """Wait at most `timeout` seconds for status and headers. Raises `UpstreamError`."""
        try:
            async with asyncio.timeout(timeout):
                while not self._head_done:
                    await self._feed()
        except TimeoutError as error:
            raise UpstreamError("the API server did not answer in time") from error

    async def _feed(self) -> None:
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

    async def body(self, timeout: float | None = None) -> AsyncIterator[bytes]:
        """Yield the body as it comes; each wait may last `timeout` seconds. Raises `UpstreamError`."""
        while True:
            chunks, self._chunks = self._chunks, []
            for chunk in chunks:
                yield chunk
            if self._chunks:
                continue
            if self._complete:
                return
            try:
                async with asyncio.timeout(timeout):
                    await self._feed()
            except TimeoutError as error:
                raise UpstreamError("the API server fell silent") from error

    async def read_all(self, limit: int, timeout: float) -> bytes:
        """Return the whole body, at most `limit` bytes. Raises `UpstreamError`."""
        data = bytearray()
        async for chunk in self.body(timeout):
            data += chunk
            if len(data) > limit:
                raise UpstreamError(f"the API server's answer has more than {limit} bytes")
        return bytes(data)

    def header(self, name: bytes) -> bytes:
        """Return the value of header `name` (lower case), empty without it."""
        return next((value for key, value in self.headers if key.lower() == name), b"")

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
