from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import ssl
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sitegrid.agent.request import Body, Disconnected

GET = b"GET /sitegrid/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def _exchange(site: Any, data: bytes) -> bytes:
    """Send bytes, return everything until the agent closes."""
    reader, _ = await site.raw(data)
    async with asyncio.timeout(10):
        answer: bytes = await reader.read()
    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"Host: localhost\r\nHost: b\r\n",
        b"",
        b"Host: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        b"Host: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        b"Host: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Host: localhost\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"Host: localhost\r\nTransfer-Encoding: identity\r\n",
        b"Host: localhost\r\nContent-Length: -1\r\n",
        b"Host: localhost\r\nContent-Length: 1, 1\r\n",
        b"Host: localhost\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n",
        b"Host: localhost\r\nX-Long: " + b"x" * 70_000 + b"\r\n",
        b"Host: localhost\r\nBad Name: x\r\n",
        b"Host: localhost\r\nX: a\r\n folded\r\n",
    ],
)
async def test_an_ambiguous_head_is_refused(site: Any, api: Any, head: bytes) -> None:
    """What two servers could read differently is 400, closes the connection, and never goes upstream."""
    answer = await _exchange(site, b"POST /api/v1/x HTTP/1.1\r\n" + head + b"\r\nA")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer
    assert not [target for _, target, _ in api.requests if target == "/api/v1/x"]


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
async def test_what_is_no_http_is_refused(site: Any, data: bytes) -> None:
    """TLS on the plain port and other noise get 400 and an end."""
    assert (await _exchange(site, data)).startswith(b"HTTP/1.1 400 ")


async def test_a_smuggled_request_is_not_seen(site: Any, api: Any) -> None:
    """A second request hidden behind contradictory framing is not answered."""
    hidden = b"GET /api/v1/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    answer = await _exchange(site, head + hidden)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert not [target for _, target, _ in api.requests if "hidden" in target]


async def test_trailers_are_refused(site: Any) -> None:
    """Headers behind a body come too late to be decided by: the request is cut off."""
    data = b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: x\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        assert b" 200 " not in await _exchange(site, data)


async def test_pipelined_requests_are_answered_in_order(site: Any) -> None:
    """Requests that were sent before the first answer are answered one after the other."""
    unknown = b"GET /sitegrid/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await _exchange(site, GET + GET + unknown)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


async def test_endless_pipelining_is_refused(site: Any) -> None:
    """More waiting requests than a client needs are 400."""
    answer = await _exchange(site, GET * 1000)
    assert b"too many pipelined requests" in answer


async def test_a_connection_at_rest_gives_way(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds connections without a request keeps nobody out."""
    monkeypatch.setattr("sitegrid.agent.places.MAX_CONNECTIONS", 2)
    silent, _ = await site.raw(b"")
    rested, _ = await site.raw(GET)
    await rested.readuntil(b"ok\n")
    for reader in (silent, rested):
        newcomer, _ = await site.raw(GET)
        await newcomer.readuntil(b"ok\n")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert site.metrics.get("turned_away_total") == 2


async def test_too_many_connections_are_turned_away(site: Any, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every connection has a request, a further one is closed at once; the others go on."""
    monkeypatch.setattr("sitegrid.agent.places.MAX_CONNECTIONS", 1)
    monkeypatch.setattr("sitegrid.agent.places.NEWCOMERS", 0)
    watch = await site.watch(objects.slices)
    with contextlib.suppress(ConnectionError):
        assert await _exchange(site, GET) == b""
    assert site.metrics.get("turned_away_total") == 1
    assert site.metrics.get("connections") == 1
    watch.close()
    await objects.eventually(lambda: not site.metrics.get("connections"))
    assert b"ok" in await _exchange(site, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


@pytest.fixture
async def tls(site: Any, tmp_path: Any, certificates: Any) -> AsyncIterator[int]:
    """Give the port of a TLS listener."""
    certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    listener = await site.server.listen("127.0.0.1", 0, context)
    yield listener.sockets[0].getsockname()[1]
    listener.close()


async def test_a_client_without_tls_is_counted(site: Any, objects: Any, tls: int) -> None:
    """A connection that has not said a word of TLS is one of those that there may be, until it ends."""
    _, writer = await asyncio.open_connection("127.0.0.1", tls)
    await objects.eventually(lambda: site.metrics.get("connections") == 1)
    writer.close()
    await objects.eventually(lambda: not site.metrics.get("connections"))


@pytest.mark.parametrize("noise", [GET, b"\x16\x03\x01\x00\x05hello"])
async def test_what_is_no_tls_ends_the_connection(site: Any, objects: Any, tls: int, noise: bytes) -> None:
    """Plain HTTP on the TLS port gets no answer, and is not counted any more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", tls)
    writer.write(noise)
    with contextlib.suppress(ConnectionError):
        assert b"200" not in await reader.read()
    await objects.eventually(lambda: not site.metrics.get("connections"))
    writer.close()


async def test_a_slow_handshake_is_cut(site: Any, objects: Any, tls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS has no more time than a head."""
    monkeypatch.setattr("sitegrid.agent.http.HEAD_TIMEOUT", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", tls)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    await objects.eventually(lambda: not site.metrics.get("connections"))
    writer.close()


async def test_a_request_may_come_with_the_end_of_the_handshake(site: Any, tls: int) -> None:
    """What arrives before the handshake is known to be over is not lost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    reader, writer = await asyncio.open_connection("127.0.0.1", tls)
    answer = b""
    shaken = False
    async with asyncio.timeout(10):
        while b"ok\n" not in answer:
            with contextlib.suppress(ssl.SSLWantReadError):
                if not shaken:
                    client.do_handshake()
                    shaken = True
                    client.write(GET)
                while b"ok\n" not in answer:
                    answer += client.read()
            writer.write(outgoing.read())
            if b"ok\n" not in answer:
                incoming.write(await reader.read(65536))
    writer.close()


async def test_many_small_headers_are_a_large_head(site: Any) -> None:
    """A header is limited by the memory that it takes, which is more than its text."""
    answer = await _exchange(site, b"GET /x HTTP/1.1\r\nHost: localhost\r\n" + b"a:\r\n" * 2000 + b"\r\n")
    assert b"request head is too large" in answer


async def test_waiting_requests_have_one_heads_memory(site: Any, objects: Any) -> None:
    """Heads that wait behind a watch are limited together."""
    head = b"GET /x HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 30_000 + b"\r\n\r\n"
    reader, _ = await site.raw(
        f"GET {objects.slices}?watch=1&timeoutSeconds=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    answer = await _exchange(site, head * 3)
    assert b"request head is too large" in answer


async def test_a_body_does_not_wait_behind_a_watch(site: Any, objects: Any) -> None:
    """While it waited nothing would be read, and nobody would see that the client is gone."""
    watch = f"GET {objects.slices}?watch=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    post = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        await _exchange(site, watch + post + b"x" * 100_000)
    await objects.eventually(lambda: not site.metrics.get("connections"))


async def test_a_bodys_pieces_take_no_more_than_their_bytes(site: Any) -> None:
    """A body in chunks of one byte arrives whole."""
    head = b"POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await _exchange(site, head + b"1\r\nA\r\n" * 1000 + b"0\r\n\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["body"].count("A") == 1000


async def test_a_head_that_never_ends_is_cut(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends its head drop by drop does not keep the connection."""
    monkeypatch.setattr("sitegrid.agent.http.HEAD_TIMEOUT", 0.05)
    with contextlib.suppress(ConnectionError):
        assert await _exchange(site, b"GET / HTTP/1.1\r\nHost:") == b""


async def test_a_body_that_never_comes_is_cut(site: Any, api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guarded request announcing a body is refused at once; its connection is closed."""
    answer = await _exchange(
        site, b"GET /api/v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_an_old_client_gets_a_plain_body(site: Any, objects: Any) -> None:
    """HTTP/1.0 gets no chunks, and the connection ends with the answer."""
    answer = await _exchange(site, f"GET {objects.slices} HTTP/1.0\r\n\r\n".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["kind"] == "EndpointSliceList"
    assert b"connection: close" in answer


POST = b"POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + b"-1\r\nA\r\n0\r\n\r\n",
        CHUNKED + b"+1\r\nA\r\n0\r\n\r\n",
        CHUNKED + b"0x1\r\nA\r\n0\r\n\r\n",
        CHUNKED + b"1_0\r\nA\r\n0\r\n\r\n",
        CHUNKED + b" 1\r\nA\r\n0\r\n\r\n",
        CHUNKED + b"10000000000000001\r\nA\r\n0\r\n\r\n",
        CHUNKED + b"1\nA\n0\n\n",
        CHUNKED + b"1\r\nAA\r\n0\r\n\r\n",
        CHUNKED + b"1;x=\ny\r\nA\r\n0\r\n\r\n",
        CHUNKED + b"\r\nA\r\n0\r\n\r\n",
        POST + b"Content-Length: +1\r\n\r\nA",
        POST + b"Content-Length: 0x1\r\n\r\nA",
        POST + b"Content-Length: 1 1\r\n\r\nA",
        POST + b"Content-Length:\r\n\r\nA",
        POST + b"Content-Length: 99999999999999999999\r\n\r\nA",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length : 1\r\n\r\nA",
        POST + b"Content-Length: 1\r\n Transfer-Encoding: chunked\r\n\r\nA",
        b"POST /api/v1/x HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 1\r\nX: a\x00b\r\n\r\nA",
        POST + b"Content-Length: 1\r\nX: a\rb\r\n\r\nA",
        POST + b"Content-Length: 1\r\nX: a\nTransfer-Encoding: chunked\r\n\r\nA",
        POST + b"Content-Length: 1\nX: a\n\nA",
        b"POST /api/v1/x HTTP/1.1\nHost: a\nContent-Length: 1\n\nA",
        b"POST /api/v1/x\tHTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nA",
        b"POST /api/v1/x y HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nA",
        b"POST /api/v1/x\xff HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nA",
        b"POST /api/v1/x\x00 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nA",
        b" POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nA",
        b"P(ST /api/v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nA",
        b"CONNECT b:443 HTTP/1.1\r\nHost: b\r\n\r\n",
    ],
    ids=repr,
)  # fmt: skip
async def test_hostile_framing_never_goes_upstream_whole(site: Any, api: Any, data: bytes) -> None:
    """Framing that another server might read differently is never completed upstream and ends the connection."""
    hidden = b"GET /api/v1/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        answer = await _exchange(site, data + hidden)
        assert b"HTTP/1.1 200 " not in answer
    assert not [target for _, target, _ in api.requests if "hidden" in target]


async def test_a_chunk_extension_is_not_passed_on(site: Any, api: Any) -> None:
    """Chunks are framed anew, so that what a client wrote into their heads does not reach the API server."""
    data = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1;evil=yes\r\nA\r\n0\r\n\r\n"
    answer = await _exchange(site, data)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"evil" not in answer


@pytest.mark.parametrize(
    "begin",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
    ids=["value", "name", "target", "trailer"],
)
async def test_an_endless_head_is_not_collected(site: Any, begin: bytes) -> None:
    """A head (or trailer) without an end is given up after as many bytes as a head may have, not after a time."""
    reader, writer = await site.raw(begin)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            while not reader.at_eof():
                writer.write(b"x" * 32768)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.001):
                        assert b" 200 " not in await reader.read(1000)


async def test_a_refused_body_is_not_waited_for(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a body nobody wants, drop by drop, does not keep the connection."""
    monkeypatch.setattr("sitegrid.agent.http.STALL_TIMEOUT", 0.05)
    answer = await _exchange(site, b"GET /api/v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nA")
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_body_that_stalls_ends_its_request() -> None:
    """Whoever passes a body on does not wait for the rest for ever."""
    body = Body(lambda on: None)
    body.feed(b"half")
    assert await body.read() == b"half"
    with pytest.raises(Disconnected):
        await body.read(0.01)


async def test_a_client_that_does_not_read_a_short_answer_is_cut_off(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers pile up to a limit; then the client has a while to read, and is cut off."""
    monkeypatch.setattr("sitegrid.agent.http.STALL_TIMEOUT", 0.05)
    for number in range(300):
        api.put(objects.slices, objects.plain(f"p{number}", "10.9.0.1", pad="x" * 60))
    request = f"GET {objects.slices} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    _, writer = await site.raw(b"")
    writer.transport.pause_reading()
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            writer.write(request)
            await writer.drain()
            if not site.server._places.connections:
                break
            await asyncio.sleep(0)
    await objects.eventually(lambda: not site.server._places.connections)


@pytest.mark.parametrize("protocol", ["h2c", "websocket, h2c", "HTTP/2.0", "TLS/1.0"])
async def test_an_upgrade_to_another_http_is_not_taken(site: Any, api: Any, protocol: str) -> None:
    """Requests in such a tunnel would pass unseen; the request is answered without, and so are those behind it."""
    head = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABk\r\n"
    request = f"GET /x HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode()
    last = b"GET /sitegrid/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await _exchange(site, request + request + last)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]
    for _, target, headers in api.requests:
        assert target != "/x" or not {"upgrade", "http2-settings"} & headers.keys()


@pytest.mark.parametrize("framing", [b"Content-Length: 43\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_body_is_not_taken_for_a_request(site: Any, api: Any, framing: bytes) -> None:
    """Where the parser does not tell the body of a request with an upgrade, such a request is refused."""
    hidden = b"GET /api/v1/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    answer = await _exchange(site, head + framing + b"\r\n" + hidden)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not [target for _, target, _ in api.requests if target in ("/x", "/api/v1/hidden")]


@pytest.mark.parametrize(
    "request_", [b"", GET, b"nonsense\r\n\r\n", b"GET /apis/x HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
async def test_a_connection_that_ended_is_not_left_to_the_collector(site: Any, objects: Any, request_: bytes) -> None:
    """Connections of a flood are gone when they end, and not when the collector looks for them."""
    gc.collect()
    gc.disable()
    try:
        _, writer = await site.raw(request_)
        await objects.eventually(lambda: site.server._places.connections)
        (connection,) = (weakref.ref(connection) for connection in site.server._places.connections)
        writer.transport.abort()
        await objects.eventually(lambda: connection() is None)
    finally:
        gc.enable()
