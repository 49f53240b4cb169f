from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sitegrid.agent.credentials import Credentials, from_kubeconfig
from sitegrid.agent.reply import UpstreamError
from sitegrid.agent.upstream import Upstream, limit_tls_buffers

Serve = Callable[[bytes], Awaitable[Upstream]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Give a function that starts a server with one fixed answer and returns the way to it."""
    servers = []

    async def start(answer: bytes) -> Upstream:
        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        servers.append(await asyncio.start_server(client, "127.0.0.1", 0))
        return Upstream(Credentials(f"http://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"))

    yield start
    for server in servers:
        server.close()


async def _body(upstream: Upstream, method: str = "GET") -> bytes:
    exchange = await upstream.open(method, "/", [], as_agent=True)
    try:
        await exchange.head(5)
        return await exchange.read_all(1000, 5)
    finally:
        exchange.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_bodies_are_read_whole(serve: Serve, answer: bytes) -> None:
    """All framings of a body give the same bytes, informational answers before it included."""
    assert await _body(await serve(answer)) == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
    ],
)
async def test_a_broken_answer_is_an_error(serve: Serve, answer: bytes) -> None:
    """What is cut off, is no HTTP or is too large is never taken for a whole answer."""
    with pytest.raises(UpstreamError):
        await _body(await serve(answer))


async def test_an_answer_to_head_has_no_body(serve: Serve) -> None:
    """Content-Length of a HEAD's answer is not waited for."""
    assert await _body(await serve(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), "HEAD") == b""


async def test_an_unknown_certificate_is_refused(tmp_path: Path, certificates: Any) -> None:
    """A server whose certificate another authority made is not spoken to."""
    (tmp_path / "server").mkdir()
    certificates(tmp_path / "server")
    certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server" / "tls.crt", tmp_path / "server" / "tls.key")

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("the handshake must fail")

    server = await asyncio.start_server(client, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    config = tmp_path / "kubeconfig"
    config.write_text(
        '{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"c"}}],"users":[{"name":"c",'
        '"user":{}}],"clusters":[{"name":"c","cluster":{"certificate-authority":"tls.crt","server":'
        f'"https://127.0.0.1:{port}"}}}}]}}'
    )
    with pytest.raises(UpstreamError, match="certificate is not to be trusted"):
        await Upstream(from_kubeconfig(str(config))).open("GET", "/", [], as_agent=True)
    server.close()


async def test_who_has_answered_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a full queue TLS takes longer than a connection may take: a new try would only wait behind the same."""
    monkeypatch.setattr("sitegrid.agent.upstream.CONNECT_TIMEOUT", 0.2)
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
    upstream = Upstream(Credentials(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    asking = asyncio.create_task(upstream.ask("/", [], as_agent=True))
    writer = await accepted.get()
    done, _ = await asyncio.wait([asking], timeout=0.5)
    assert not done
    writer.close()
    with pytest.raises(UpstreamError):
        await asking
    upstream.close()
    server.close()


def test_the_tls_buffer_is_where_we_think_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio still sizes a TLS connection's buffer by this undocumented attribute."""
    loop = asyncio.new_event_loop()

    def buffer() -> int:
        protocol: Any = sslproto.SSLProtocol(
            loop, asyncio.Protocol(), ssl.create_default_context(), loop.create_future()
        )
        protocol._app_transport._closed = True  # it never had a connection to close
        return len(protocol._ssl_buffer)

    monkeypatch.setattr(sslproto.SSLProtocol, "max_size", 256 * 1024)
    assert buffer() == 256 * 1024
    limit_tls_buffers()
    assert buffer() == 4 * 1024
    loop.close()
