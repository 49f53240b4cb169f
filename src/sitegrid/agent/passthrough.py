"""Passes a request through to the API server: any method, body, long watch or upgrade.

What goes upstream is what the client sent, its own Authorization included, and nothing of the agent's: neither token
nor client certificate. Hop-by-hop headers are dropped and the body is framed anew, so that both sides can only read
it in one way. Called by the server for everything that the gate does not guard.

A request with a short body is read whole and shares a connection with others, where its head and body are one packet.
Upgrades, and bodies that are large or of unknown length, are streams on connections of their own: what they cost is
little beside what they send, and behind a large body on a slow link nothing else has to wait.

What the API server says of the client's credential is told to `heard`, with the Authorization header that really went
upstream.

Invariant: the agent's account is never lent. Held by ``tests/agent/test_passthrough.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from sitegrid.agent.http import Connection
from sitegrid.agent.reply import Reply, UpstreamError
from sitegrid.agent.request import Disconnected, Request
from sitegrid.agent.upstream import Exchange, Upstream

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
    }
    | {b"transfer-encoding", b"upgrade", b"http2-settings", b"expect", b"host", b"content-length"}
)
_SHORT: Final = 16 * 1024
"""Bytes of the largest body that is read whole, and that others wait behind: 2.6 s at 50 kbit/s."""
Heard = Callable[[str, int], None]
"""Called with an Authorization header and the status of the answer to it."""
_LONG: Final = 3600.0 * 4
"""Seconds that the API server may take to begin its answer to a passed request (it may be an attach or a wait)."""


def end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers that are meant for the other end, without those that the Connection header names."""
    named = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    dropped = _HOP_BY_HOP | named
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def authorization(headers: list[tuple[str, str]]) -> str:
    """Return the Authorization header among those that go upstream; empty without one, or with several."""
    found = [value for name, value in headers if name.lower() == "authorization"]
    return found[0] if len(found) == 1 else ""


def _request_headers(request: Request) -> list[tuple[str, str]]:
    headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in end_to_end(request.headers)]
    if request.upgrade:
        headers += [("Connection", "Upgrade"), ("Upgrade", request.header(b"upgrade"))]
    elif request.chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    elif length := request.header(b"content-length"):
        headers.append(("Content-Length", length))
    return headers


async def forward(request: Request, connection: Connection, upstream: Upstream, target: str, heard: Heard) -> None:
    """Pass the request to `target` and the answer back. Raises `UpstreamError` while nothing is answered yet."""
    upstream.require()
    streamed = request.upgrade or request.chunked or int(request.header(b"content-length") or 0) > _SHORT
    try:
        await (_forward_stream if streamed else _forward_whole)(request, connection, upstream, target, heard)
    except UpstreamError:
        if connection.started:
            # Half an answer is out: only the end of the connection tells the client that the rest is missing.
            connection.abort()
            raise Disconnected("the API server's answer broke off") from None
        raise


async def _forward_whole(
    request: Request, connection: Connection, upstream: Upstream, target: str, heard: Heard
) -> None:
    _proceed(request, connection)
    body = bytearray()
    while data := await request.body.read():
        body += data
    headers = _request_headers(request)
    reply = await upstream.pass_on(request.method, target, headers, bytes(body), _LONG)
    heard(authorization(headers), reply.status)
    try:
        await _relay(connection, reply, head_only=request.method == "HEAD")
    finally:
        reply.close()


async def _forward_stream(
    request: Request, connection: Connection, upstream: Upstream, target: str, heard: Heard
) -> None:
    headers = _request_headers(request)
    exchange = await upstream.open(request.method, target, headers, as_agent=False)
    sender: asyncio.Task[None] | None = None
    try:
        if not request.upgrade:
            _proceed(request, connection)
            sender = asyncio.get_running_loop().create_task(_send_body(request, exchange))
        await exchange.head(_LONG)
        heard(authorization(headers), exchange.status)
        if exchange.upgraded:
            await _splice(request, connection, exchange)
        else:
            await _relay(connection, exchange, head_only=request.method == "HEAD")
    finally:
        if sender is not None:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sender
        exchange.close()


def _proceed(request: Request, connection: Connection) -> None:
    """Let a client that waits to be told so send its body."""
    if request.header(b"expect").lower() == "100-continue":
        connection.proceed()


async def _send_body(request: Request, exchange: Exchange) -> None:
    try:
        while data := await request.body.read():
            await exchange.send(b"%x\r\n%s\r\n" % (len(data), data) if request.chunked else data)
        if request.chunked:
            await exchange.send(b"0\r\n\r\n")
    except Disconnected:
        # Without the rest of the body there will be no answer to wait for.
        exchange.close()
        raise


async def _relay(connection: Connection, reply: Reply, *, head_only: bool) -> None:
    length = reply.header(b"content-length")
    no_body = head_only or reply.status in (204, 304)
    await connection.start(
        reply.status,
        end_to_end(reply.headers),
        length=int(length) if length.isdigit() else None,
        no_body=no_body,
    )
    if no_body:
        return
    async for chunk in reply.body():
        await connection.send(chunk)
    await connection.finish()


async def _splice(request: Request, connection: Connection, exchange: Exchange) -> None:
    """Copy both ways until either side ends."""
    headers = [*end_to_end(exchange.headers), (b"connection", b"Upgrade"), (b"upgrade", exchange.header(b"upgrade"))]
    await connection.start(101, headers, no_body=True)

    async def to_upstream() -> None:
        while data := await request.body.read(None):
            await exchange.send(data)

    async def to_client() -> None:
        while data := await exchange.read_raw():
            await connection.send(data)

    tasks = [asyncio.ensure_future(to_upstream()), asyncio.ensure_future(to_client())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
