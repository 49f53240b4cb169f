"""HTTP/1.1 to the API server: one exchange per connection, bodies as streams.

Used by sources (with the agent's account) and by pass-through (with nothing but what the client sent). Every wait has
a limit, and the kernel is told to give a silent peer up (TCP_USER_TIMEOUT, keepalive), so that a WAN that swallows
packets is noticed.

asyncio keeps a 256 KiB buffer per TLS connection; `limit_tls_buffers` makes it 32 KiB, which saves 18 MB with 40
watches. The attribute is undocumented: ``tests/agent/test_upstream.py`` pins it.

Invariant: the agent's account is used only where `as_agent` is said. Held by ``tests/agent/test_passthrough.py``.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import sslproto
from collections.abc import AsyncIterator, Iterable
from typing import Final

import httptools

from sitegrid.agent.credentials import Credentials, CredentialsError

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for TCP and TLS together."""
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
    """Opens exchanges with one API server."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials

    async def open(self, method: str, target: str, headers: Iterable[tuple[str, str]], *, as_agent: bool) -> Exchange:
        """Connect and send a request head; Host (and, `as_agent`, the token) are added. Raises `UpstreamError`."""
        try:
            lines = [f"{method} {target} HTTP/1.1", f"Host: {self.credentials.host_header}"]
            if as_agent and (token := self.credentials.token()):
                lines.append(f"Authorization: Bearer {token}")
            context = self.credentials.context(as_agent=as_agent)
            lines += [f"{name}: {value}" for name, value in headers]
            head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(
                    self.credentials.host,
                    self.credentials.port,
                    ssl=context,
                    server_hostname=self.credentials.server_name if context else None,
                    limit=2 * _READ,
                )
        except TimeoutError as error:
            raise UpstreamError("the API server did not answer in time") from error
        except (OSError, CredentialsError) as error:
            raise UpstreamError(str(error)) from error
        _notice_silence(writer)
        writer.write(head)
        return Exchange(reader, writer, method)


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
