"""The connection that sources share, TLS sessions, and what a rotated CA or token does to both."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sitegrid.agent.credentials import from_kubeconfig
from sitegrid.agent.multiplex import FEW, Stream
from sitegrid.agent.reply import Reply, UpstreamError
from sitegrid.agent.upstream import Exchange, Upstream
from sitegrid.wire.http2 import CONNECTION_WINDOW, MAX_FRAME, STREAM_WINDOW
from tests.support.http2server import DATA, GOAWAY, PING, ApiServer


async def _asked(server: ApiServer, upstream: Upstream, count: int, objects: Any) -> list[Reply]:
    """Make `count` requests at once, which the server then has."""
    before = sum(len(connection.requests) for connection in server.connections)
    replies = await asyncio.gather(*(upstream.ask(f"/{n}", [("Accept", "x")], as_agent=True) for n in range(count)))
    await objects.eventually(lambda: sum(len(c.requests) for c in server.connections) == before + count)
    return list(replies)


async def test_sources_share_a_connection(server: ApiServer, upstream: Upstream, objects: Any) -> None:
    """Requests at the same time cost one handshake, and each gets its own answer."""
    replies = await _asked(server, upstream, 3, objects)
    (connection,) = server.connections
    assert {request[b"authorization"] for request in connection.requests.values()} == {b"Bearer first"}
    for stream, request in reversed(connection.requests.items()):
        connection.answer(stream, b"200", b"to " + request[b":path"], end=True)
    for number, reply in enumerate(replies):
        await reply.head(5)
        assert (reply.status, await reply.read_all(100, 5)) == (200, b"to /%d" % number)


async def test_a_lost_connection_ends_all_answers(server: ApiServer, upstream: Upstream, objects: Any) -> None:
    """None is taken for whole, and the next request makes another connection."""
    replies = await _asked(server, upstream, 2, objects)
    for stream in server.connections[0].requests:
        server.connections[0].answer(stream, b"200", b"part")
    for reply in replies:
        await reply.head(5)
    server.connections[0].writer.transport.abort()
    for reply in replies:
        with pytest.raises(UpstreamError):
            await reply.read_all(100, 5)
    await _asked(server, upstream, 1, objects)
    assert len(server.connections) == 2


async def test_an_ended_source_leaves_the_others_alone(server: ApiServer, upstream: Upstream, objects: Any) -> None:
    """Its answer is cancelled, the connection stays."""
    replies = await _asked(server, upstream, 2, objects)
    replies[0].close()
    (connection,) = server.connections
    await objects.eventually(lambda: connection.cancelled)
    ended, other = connection.cancelled[0], *(set(connection.requests) - set(connection.cancelled))
    connection.answer(ended, b"200", b"late")
    connection.answer(other, b"200", b"ok", end=True)
    assert await replies[1].read_all(100, 5) == b"ok"


async def test_what_nobody_reads_any_more_is_given_back(server: ApiServer, upstream: Upstream, objects: Any) -> None:
    """Answers that are given up with bytes unread do not use up what the API server may send to the others."""
    count = STREAM_WINDOW // MAX_FRAME
    (steady,) = await _asked(server, upstream, 1, objects)
    (connection,) = server.connections
    for number in (3, 5, 7, 9, 11):
        (reply,) = await _asked(server, upstream, 1, objects)
        connection.answer(number, b"200")
        for _ in range(count):
            connection.send(DATA, 0, number, b"x" * MAX_FRAME)
        await reply.head()
        await objects.eventually(lambda reply=reply: sum(map(len, reply._chunks)) == STREAM_WINDOW)
        reply.close()
        await objects.eventually(lambda: len(connection.cancelled) == len(connection.requests) - 1)
    assert connection.window >= CONNECTION_WINDOW / 2
    steady.close()


async def test_a_server_that_reads_no_answers_is_left(
    server: ApiServer, upstream: Upstream, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers to pings do not pile up: the connection ends, and everything on it."""
    monkeypatch.setattr("sitegrid.agent.multiplex._UNSENT", 1000)
    (reply,) = await _asked(server, upstream, 1, objects)
    (connection,) = server.connections
    (link,) = upstream._links
    monkeypatch.setattr(link._transport, "write", lambda data: None)
    monkeypatch.setattr(link._transport, "get_write_buffer_size", lambda: 2000)
    connection.send(PING, 0, 0, b"12345678")
    with pytest.raises(UpstreamError, match="does not read"):
        await reply.head()


async def test_a_burst_arrives_whole_and_in_order(server: ApiServer, upstream: Upstream, objects: Any) -> None:
    """Reading in batches loses nothing and mixes nothing up; the rest of a large body is asked for as it is taken."""
    (reply,) = await _asked(server, upstream, 1, objects)
    (connection,) = server.connections
    connection.answer(1, b"200")
    pieces = [b"%5d" % number * 300 for number in range(150)]
    for piece in pieces:
        connection.send(DATA, 0, 1, piece)
        await connection.writer.drain()
        await asyncio.sleep(0)
    connection.send(DATA, 1, 1)
    assert await reply.read_all(1 << 20, 5) == b"".join(pieces)


async def test_a_few_events_do_not_wait_for_more(
    server: ApiServer, upstream: Upstream, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change is some events in quick succession: each is read when it comes."""
    monkeypatch.setattr("sitegrid.agent.multiplex.PAUSE", 60.0)
    (reply,) = await _asked(server, upstream, 1, objects)
    server.connections[0].answer(1, b"200")
    body = reply.body(5)
    for number in range(FEW):
        server.connections[0].send(DATA, 0, 1, b"%d" % number)
        assert await anext(body) == b"%d" % number


async def test_after_goaway_the_next_request_goes_elsewhere(
    server: ApiServer, upstream: Upstream, objects: Any
) -> None:
    """What is open goes on where it is: API servers spread their clients this way."""
    (reply,) = await _asked(server, upstream, 1, objects)
    server.connections[0].answer(1, b"200")
    await reply.head(5)
    server.connections[0].send(GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\0")
    server.connections[0].send(DATA, 0, 1, b"still here")
    assert await anext(reply.body(5)) == b"still here"
    await _asked(server, upstream, 1, objects)
    assert len(server.connections) == 2
    server.connections[0].send(DATA, 1, 1, b"!")
    assert await reply.read_all(100, 5) == b"!"


async def test_what_another_connection_met_is_not_believed_for_long(
    server: ApiServer, upstream: Upstream, objects: Any
) -> None:
    """Told that the WAN is down, the probe asks on the shared connection, and finds that it is not."""
    await _asked(server, upstream, 1, objects)
    upstream.wan.lost("a client's connection took too long")
    upstream.start()
    await objects.eventually(lambda: upstream.wan.up)
    assert len(server.connections) == 1


async def test_a_mute_connection_is_replaced(
    server: ApiServer, upstream: Upstream, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on which nothing answers is ended, with an error for its sources; the probe makes another one."""
    monkeypatch.setattr("sitegrid.agent.upstream.CONNECT_TIMEOUT", 0.2)
    (reply,) = await _asked(server, upstream, 1, objects)
    server.connections[0].mute = True
    upstream.wan.lost("a client's connection took too long")
    upstream.start()
    with pytest.raises(UpstreamError):
        await reply.head(5)
    await objects.eventually(lambda: upstream.wan.up and server.connections[0].ended and len(server.connections) > 1)


async def test_without_http_2_each_request_has_its_connection(
    server: ApiServer, upstream: Upstream, objects: Any
) -> None:
    """What the server does not speak is not insisted on."""
    server.stop()
    server.protocols = ["http/1.1"]
    await server.start()
    reply = await upstream.ask("/", [], as_agent=True)
    assert isinstance(reply, Exchange)
    assert await reply.read_all(100, 5) == b"ok"
    reply.close()


async def _pass_through(upstream: Upstream) -> bytes:
    exchange = await upstream.open("GET", "/", [], as_agent=False)
    try:
        return await exchange.read_all(100, 5)
    finally:
        exchange.close()


async def test_the_next_connection_resumes_the_session(server: ApiServer, upstream: Upstream, objects: Any) -> None:
    """Certificates cross the WAN once: all later connections, shared or not, resume the session of the first."""
    assert await _pass_through(upstream) == b"ok"
    for _ in range(2):
        (reply,) = await _asked(server, upstream, 1, objects)
        server.connections[-1].answer(1, b"200", end=True)
        assert await reply.read_all(100, 5) == b""
        server.connections[-1].writer.transport.abort()
        await objects.eventually(lambda: server.connections[-1].ended)
    assert await _pass_through(upstream) == b"ok"
    assert [connection.resumed for connection in server.connections] == [False, True, True, True]


async def test_no_session_outlives_the_authority(server: ApiServer, upstream: Upstream) -> None:
    """A server that the present authority does not vouch for is refused, though it knows the session."""
    for _ in range(2):
        await _pass_through(upstream)
    assert server.connections[-1].resumed
    server.renew()
    server.publish()
    with pytest.raises(UpstreamError, match="its certificate is not to be trusted"):
        await upstream.open("GET", "/", [], as_agent=False)
    with pytest.raises(UpstreamError, match="its certificate is not to be trusted"):
        await upstream.ask("/", [], as_agent=True)


async def test_a_new_authority_is_used_at_once(server: ApiServer, upstream: Upstream, objects: Any) -> None:
    """The file is read again: the next request verifies anew, and the old connection ends with what is open on it."""
    (former,) = await _asked(server, upstream, 1, objects)
    server.connections[0].answer(1, b"200")
    await former.head(5)
    old = server.connections[0]
    server.stop_listening()
    server.renew()
    server.publish()
    await server.start()
    await _asked(server, upstream, 1, objects)
    assert [connection.resumed for connection in server.connections] == [False, False]
    assert await _pass_through(upstream) == b"ok"
    assert not old.ended
    old.send(DATA, 1, 1, b"whole")
    assert await former.read_all(100, 5) == b"whole"
    await objects.eventually(lambda: old.ended)


async def test_a_new_token_is_sent_at_once(server: ApiServer, upstream: Upstream, objects: Any) -> None:
    """The next request on the same connection has it."""
    await _asked(server, upstream, 1, objects)
    (server.directory / "token").write_text("second")
    await _asked(server, upstream, 1, objects)
    (connection,) = server.connections
    assert [r[b"authorization"] for r in connection.requests.values()] == [b"Bearer first", b"Bearer second"]


@pytest.mark.cluster
async def test_the_real_api_server_multiplexes(cluster: Any) -> None:
    """Several answers of a real API server on one connection, an error and a large one among them."""
    upstream = Upstream(from_kubeconfig(str(cluster.kubeconfig("agent-token"))))
    headers = [("Accept", "application/json")]
    try:
        paths = ("/api/v1/nodes", "/openapi/v2", "/nothing/of/that/name", "/api/v1/nodes?watch=true&timeoutSeconds=1")
        replies = [await upstream.ask(path, headers, as_agent=True) for path in paths]
        bodies = [await reply.read_all(64 << 20, 20) for reply in replies]
    finally:
        upstream.close()
    assert all(isinstance(reply, Stream) for reply in replies)
    assert [reply.status for reply in replies] == [200, 200, 403, 200]
    assert json.loads(bodies[0])["kind"] == "NodeList"
    assert len(bodies[1]) > 1 << 20
    assert json.loads(bodies[1])["swagger"] == "2.0"
