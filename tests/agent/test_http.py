from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

GET = b"GET /sitegrid/healthz HTTP/1.1\r\nHost: a\r\n\r\n"


async def _exchange(site: Any, data: bytes) -> bytes:
    """Send bytes, return everything until the agent closes."""
    reader, _ = await site.raw(data)
    async with asyncio.timeout(10):
        answer: bytes = await reader.read()
    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"Host: a\r\nHost: b\r\n",
        b"",
        b"Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        b"Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        b"Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"Host: a\r\nTransfer-Encoding: identity\r\n",
        b"Host: a\r\nContent-Length: -1\r\n",
        b"Host: a\r\nContent-Length: 1, 1\r\n",
        b"Host: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n",
        b"Host: a\r\nX-Long: " + b"x" * 70_000 + b"\r\n",
        b"Host: a\r\nBad Name: x\r\n",
        b"Host: a\r\nX: a\r\n folded\r\n",
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
    hidden = b"GET /api/v1/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST /api/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    answer = await _exchange(site, head + hidden)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert not [target for _, target, _ in api.requests if "hidden" in target]


async def test_trailers_are_refused(site: Any) -> None:
    """Headers behind a body come too late to be decided by: the request is cut off."""
    data = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: x\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        assert b" 200 " not in await _exchange(site, data)


async def test_pipelined_requests_are_answered_in_order(site: Any) -> None:
    """Requests that were sent before the first answer are answered one after the other."""
    unknown = b"GET /sitegrid/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = await _exchange(site, GET + GET + unknown)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


async def test_endless_pipelining_is_refused(site: Any) -> None:
    """More waiting requests than a client needs are 400."""
    answer = await _exchange(site, GET * 1000)
    assert b"too many pipelined requests" in answer


async def test_too_many_connections_are_turned_away(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a connection is closed at once; the others go on."""
    monkeypatch.setattr("sitegrid.agent.http.MAX_CONNECTIONS", 1)
    reader, writer = await site.raw(GET)
    await reader.readuntil(b"ok\n")
    with contextlib.suppress(ConnectionError):
        assert await _exchange(site, GET) == b""
    writer.write(GET)
    assert b"ok" in await reader.readuntil(b"ok\n")


async def test_a_head_that_never_ends_is_cut(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends its head drop by drop does not keep the connection."""
    monkeypatch.setattr("sitegrid.agent.http.HEAD_TIMEOUT", 0.05)
    with contextlib.suppress(ConnectionError):
        assert await _exchange(site, b"GET / HTTP/1.1\r\nHost:") == b""


async def test_a_body_that_never_comes_is_cut(site: Any, api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guarded request announcing a body is refused at once; its connection is closed."""
    answer = await _exchange(
        site, b"GET /api/v1/services HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_an_old_client_gets_a_plain_body(site: Any, objects: Any) -> None:
    """HTTP/1.0 gets no chunks, and the connection ends with the answer."""
    answer = await _exchange(site, f"GET {objects.slices} HTTP/1.0\r\n\r\n".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["kind"] == "EndpointSliceList"
    assert b"connection: close" in answer
