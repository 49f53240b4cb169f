from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest


async def test_a_request_arrives_as_it_was_sent(site: Any) -> None:
    """Method, path, query, body and the client's own headers reach the API server."""
    headers = {"Authorization": "Bearer mine", "Content-Type": "application/json", "X-Other": "1"}
    status, _, body = await site.request("PATCH", "/api/v1/x%20y?a=b&a=c", headers, b'{"c":1}')
    echo = json.loads(body)
    assert status == 200
    assert (echo["method"], echo["target"], echo["body"]) == ("PATCH", "/api/v1/x%20y?a=b&a=c", '{"c":1}')
    assert (echo["headers"]["authorization"], echo["headers"]["x-other"]) == ("Bearer mine", "1")


async def test_the_agents_account_is_never_lent(site: Any, api: Any, objects: Any) -> None:
    """A client without credentials is passed on without any; only the agent's own questions carry its token."""
    await site.names(objects.slices)
    await site.request("GET", "/api/v1/secrets")
    await site.request("GET", "/api/v1/namespaces/default/services/none")
    await site.request("GET", "/api/v1/endpoints")
    tokens: dict[bool, set[str | None]] = {True: set(), False: set()}
    for _, target, headers in api.requests:
        own = target.startswith(tuple(f"{path}?" for path in (objects.slices, objects.services, objects.nodes)))
        tokens[own].add(headers.get("authorization"))
    assert tokens == {True: {"Bearer agents-own-token"}, False: {None}}


async def test_hop_by_hop_headers_stay_on_their_hop(site: Any) -> None:
    """What concerns one connection only, or is named by Connection, is not passed on."""
    headers = {"Keep-Alive": "5", "Proxy-Authorization": "x", "X-Hop": "1", "TE": "trailers"}
    reader, _ = await site.raw(
        b"GET /api/v1/nodesx HTTP/1.1\r\nHost: localhost\r\nConnection: close, x-hop\r\n"
        + b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items())
        + b"\r\n"
    )
    echo = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    assert not {"keep-alive", "proxy-authorization", "x-hop", "te", "connection"} & echo["headers"].keys()


async def test_a_chunked_body_is_passed_on(site: Any) -> None:
    """A body of unknown length streams through."""
    reader, _ = await site.raw(
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n"
    )
    echo = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    assert echo["headers"]["transfer-encoding"] == "chunked"
    assert echo["body"] == "3\r\nabc\r\n0\r\n\r\n"


async def test_expect_continue_is_answered(site: Any) -> None:
    """A client that waits for 100 Continue gets it and its body is passed on."""
    reader, writer = await site.raw(
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ok")
    assert json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["body"] == "ok"


async def test_an_upgrade_becomes_a_tunnel(site: Any) -> None:
    """After 101 bytes flow both ways, the first ones of either side included."""
    reader, writer = await site.raw(
        b"GET /exec HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert await reader.readexactly(len(b"helloearly")) == b"helloearly"
    writer.write(b"late")
    assert await reader.readexactly(4) == b"late"


async def test_no_api_server_is_503(site: Any, api: Any) -> None:
    """With the WAN down a passed request fails at once, with Retry-After."""
    await api.stop()
    status, headers, body = await site.request("POST", "/api/v1/namespaces/a/events", body=b"{}")
    assert (status, json.loads(body)["reason"]) == (503, "ServiceUnavailable")
    assert headers["retry-after"] == "5"


async def test_half_an_answer_ends_with_the_connection(site: Any, api: Any) -> None:
    """When the API server goes away in mid-answer the client sees a broken connection, not a short answer."""
    reader, _ = await site.raw(
        b"GET /exec HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    )
    await reader.readuntil(b"hello")
    api.cut()
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE", "OPTIONS"])
async def test_connections_are_kept(site: Any, method: str) -> None:
    """One client connection serves many passed requests."""
    request = f"{method} /x HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    reader, writer = await site.raw(request)
    for _ in range(2):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(0 if method == "HEAD" else length)
        writer.write(request)


async def test_a_selector_cannot_take_the_filter_away(site: Any) -> None:
    """An illegal selector is refused, not extended to something legal."""
    status, _ = await site.get("/api/v1/endpoints", labelSelector="a in (b")
    assert status == 400
