"""What is passed through over HTTP/2: requests share a connection, and none meets what happens to another."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from sitegrid.agent.credentials import from_kubeconfig
from sitegrid.agent.multiplex import FEW, Passing
from sitegrid.agent.reply import Reply, UpstreamError
from sitegrid.agent.upstream import Upstream
from sitegrid.wire.http2 import MAX_FRAME
from tests.support.http2server import DATA, GOAWAY, RST, ApiServer, Connection

WINDOW = 32 * 1024
MINE = ("authorization", "Bearer mine")
MY = dict([MINE])
Answer = tuple[tuple[bytes, bytes], ...]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for an API server that is lost at once, and wait long for connections, which a slow machine needs."""
    monkeypatch.setattr("sitegrid.agent.wan._PATIENCE", 10.0)
    monkeypatch.setattr("sitegrid.agent.upstream._FIRST_PROBE", 0.01)
    monkeypatch.setattr("sitegrid.agent.upstream._LONGEST_PROBE", 0.01)


class Passed:
    """Requests on their way, each by its path."""

    def __init__(self, server: ApiServer, upstream: Upstream, objects: Any) -> None:
        self._server = server
        self._upstream = upstream
        self._objects = objects
        self.tasks: list[asyncio.Task[Reply]] = []

    async def begin(
        self, path: str = "/", method: str = "GET", headers: Any = (), body: bytes = b"", timeout: float = 20
    ) -> tuple[asyncio.Task[Reply], Connection, int]:
        """Make a request, and return it once the server has it whole, with its connection and stream there."""
        before = len(self._server.whole)
        asking = self._upstream.pass_on(method, path, [MINE, *headers], body, timeout)
        self.tasks.append(asyncio.create_task(asking))
        await self._objects.eventually(lambda: len(self._server.whole) > before)
        return self.tasks[-1], *self._server.whole[-1]


@pytest.fixture
async def passed(server: ApiServer, upstream: Upstream, objects: Any) -> Any:
    """Give the way to make requests that are passed on."""
    passed = Passed(server, upstream, objects)
    yield passed
    for task in passed.tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, UpstreamError):
            (await task).close()


async def _body(task: asyncio.Task[Reply], limit: int = 1 << 20) -> bytes:
    reply = await task
    try:
        return await reply.read_all(limit, 20)
    finally:
        reply.close()


async def test_requests_share_a_connection(server: ApiServer, passed: Passed) -> None:
    """Each gets its own answer, with any method and a body; what the client says is all that is said."""
    first = await passed.begin("/a")
    headers = [("content-length", "4"), ("x-mine", "1")]
    second = await passed.begin("/b", "PUT", headers, b"body")
    for task, connection, stream in (second, first):
        connection.answer(stream, b"200", b"to " + connection.requests[stream][b":path"], end=True)
        assert await _body(task) == b"to " + connection.requests[stream][b":path"]
    (connection,) = server.connections
    host = b"127.0.0.1:%d" % server.port
    assert connection.bodies[3] == b"body"
    assert connection.requests[3] == {
        b":method": b"PUT",
        b":scheme": b"https",
        b":authority": host,
        b":path": b"/b",
        b"authorization": b"Bearer mine",
        b"content-length": b"4",
        b"x-mine": b"1",
    }


async def test_sources_are_not_on_it(server: ApiServer, upstream: Upstream, passed: Passed, objects: Any) -> None:
    """What closure lives by cannot be slowed, crowded out or cut off by a client, nor its token be guessed at."""
    await passed.begin("/passed")
    source = await upstream.ask("/source", [], as_agent=True)
    await objects.eventually(lambda: len(server.connections) == 2 and server.connections[1].requests)
    paths = [[request[b":path"] for request in c.requests.values()] for c in server.connections]
    assert paths == [[b"/passed"], [b"/source"]]
    source.close()


async def test_the_agents_certificate_is_not_shown_for_clients(server: ApiServer, objects: Any) -> None:
    """An agent that has one shows it for its own requests only."""
    pair = server.clients.client("agent")
    for name, data in (("agent.crt", pair.certificate), ("agent.key", pair.key)):
        (server.directory / name).write_bytes(data)
    server.user = {"client-certificate": "agent.crt", "client-key": "agent.key"}
    upstream = Upstream(server.credentials())
    try:
        source = await upstream.ask("/source", [], as_agent=True)
        asking = asyncio.create_task(upstream.pass_on("GET", "/passed", [MINE], b"", 20))
        assert (await server.asked(b"/source"))[0].certificate
        assert not (await server.asked(b"/passed"))[0].certificate
        asking.cancel()
        source.close()
    finally:
        upstream.close()
    await objects.eventually(lambda: all(connection.ended for connection in server.connections))


async def test_answers_that_nobody_reads_do_not_stop_the_others(passed: Passed, objects: Any) -> None:
    """Forty full windows are more than a connection's usual one; the next answer comes all the same."""
    unread = []
    for number in range(40):
        task, connection, stream = await passed.begin(f"/{number}")
        connection.answer(stream, b"200")
        for _ in range(WINDOW // MAX_FRAME):
            connection.send(DATA, 0, stream, b"x" * MAX_FRAME)
        unread.append(await task)
    assert connection.window > WINDOW
    task, connection, stream = await passed.begin("/next")
    connection.answer(stream, b"200", b"ok", end=True)
    assert await _body(task) == b"ok"
    for reply in unread:
        reply.close()
    await objects.eventually(lambda: len(connection.cancelled) == 40)


async def test_a_read_answer_may_go_on(passed: Passed, objects: Any) -> None:
    """More than all windows together, as far as it is read."""
    task, connection, stream = await passed.begin()
    connection.answer(stream, b"200")
    body = (await task).body(20)
    for _ in range((10 << 20) // WINDOW):
        for _ in range(WINDOW // MAX_FRAME):
            connection.send(DATA, 0, stream, b"x" * MAX_FRAME)
        read = 0
        while read < WINDOW:
            read += len(await anext(body))
        await objects.eventually(lambda: connection.window >= 2 * WINDOW)


async def test_an_answer_that_is_given_up_is_cancelled(passed: Passed, objects: Any) -> None:
    """Before its head and after it."""
    task, connection, stream = await passed.begin()
    task.cancel()
    await objects.eventually(lambda: connection.cancelled == [stream])
    task, connection, second = await passed.begin()
    connection.answer(second, b"200", b"part")
    (await task).close()
    await objects.eventually(lambda: connection.cancelled == [stream, second])


async def test_a_silent_connection_is_given_up(
    server: ApiServer, upstream: Upstream, passed: Passed, objects: Any
) -> None:
    """The request fails as if it had found no connection; the next goes elsewhere, and what is open goes on."""
    former, old, stream = await passed.begin("/watch")
    old.answer(stream, b"200", b"begin")
    body = (await former).body(20)
    assert await anext(body) == b"begin"
    upstream.wan.patience = 0.2
    old.mute = True
    task, *_ = await passed.begin("/lost")
    with pytest.raises(UpstreamError, match="cannot be reached: it fell silent"):
        await task
    await objects.eventually(lambda: upstream.wan.up)
    task, connection, number = await passed.begin("/next")
    assert connection is not old
    connection.answer(number, b"200", b"ok", end=True)
    assert await _body(task) == b"ok"
    old.send(DATA, 1, stream, b"end")
    assert await anext(body) == b"end"
    await objects.eventually(lambda: old.ended)


async def test_what_is_silent_beside_what_is_heard_is_not_a_lost_wan(
    server: ApiServer, upstream: Upstream, passed: Passed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow link the request fails alone, and the next ones go elsewhere; a new connection may be late, too."""
    late: list[float] = []

    def alive(seconds: float) -> bool:
        late.append(seconds)
        return True

    monkeypatch.setattr(upstream.wan, "late", alive)
    _, old, _ = await passed.begin("/first")
    upstream.wan.patience = 0.2
    old.mute = True
    task, *_ = await passed.begin()
    with pytest.raises(UpstreamError, match="the API server is slow: ask again"):
        await task
    assert (upstream.wan.up, late) == (True, [0.1])
    upstream.wan.patience = 0.0
    with pytest.raises(UpstreamError, match="the API server is slow: ask again"):
        await upstream.pass_on("GET", "/", [], b"", 20)
    assert (upstream.wan.up, late) == (True, [0.1, 0.0])
    upstream.wan.patience = 20.0
    _, connection, _ = await passed.begin()
    assert connection is not old


async def test_a_connection_that_is_busy_is_not_given_up(
    server: ApiServer, upstream: Upstream, passed: Passed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ping may be behind a large body: while that is acknowledged, somebody is there."""
    looks = iter([0.0, 0.0, 0.0, 60.0])
    monkeypatch.setattr(Passing, "_unacknowledged", lambda link: next(looks))
    server.mute = True
    await passed.begin("/first")
    upstream.wan.patience = 0.05
    task, *_ = await passed.begin("/body")
    with pytest.raises(UpstreamError, match="it fell silent"):
        await task
    assert next(looks, None) is None


async def test_acknowledgements_are_seen(upstream: Upstream, passed: Passed, objects: Any) -> None:
    """The kernel says how long ago the other one's last was."""
    _, connection, _ = await passed.begin()
    (link,) = upstream._links
    await objects.eventually(lambda: link._unacknowledged() > 0.1)
    connection.mute = True

    def acknowledged() -> bool:
        link._http.ping()
        link._flush()
        return link._unacknowledged() < 0.1

    await objects.eventually(acknowledged)


async def test_a_server_that_takes_its_time_is_waited_for(
    upstream: Upstream, passed: Passed, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers pings: how long it works on a request is its own affair."""
    monkeypatch.setattr(Passing, "_unacknowledged", lambda link: 0.0)
    await passed.begin("/first")
    upstream.wan.patience = 0.02
    task, connection, stream = await passed.begin()
    (link,) = upstream._links
    await objects.eventually(lambda: connection.pings and not link._pings)
    await asyncio.wait([task], timeout=0.2)
    connection.answer(stream, b"200", b"late", end=True)
    assert await _body(task) == b"late"


async def test_while_the_wan_is_down_nothing_is_asked(
    server: ApiServer, upstream: Upstream, passed: Passed, objects: Any
) -> None:
    """A request fails at once, though there is a connection; afterwards there is a new one."""
    task, old, stream = await passed.begin()
    old.answer(stream, b"200", end=True)
    (await task).close()
    upstream.wan.lost("a packet was lost")
    with pytest.raises(UpstreamError, match="a packet was lost"):
        await upstream.pass_on("GET", "/", [], b"", 20)
    assert len(old.requests) == 1
    await objects.eventually(lambda: old.ended)
    upstream.wan.reached(0.1)
    _, connection, _ = await passed.begin()
    assert connection is not old


@pytest.mark.parametrize("how", ["goaway", "refused"])
async def test_what_was_not_begun_is_asked_again_once(server: ApiServer, passed: Passed, how: str) -> None:
    """GOAWAY and REFUSED_STREAM say so: the request goes to a connection of its own, with its body."""
    first, connection, begun = await passed.begin("/begun")
    second, _, stream = await passed.begin("/again", "POST", [("content-length", "4")], b"body")
    if how == "goaway":
        connection.send(GOAWAY, 0, 0, begun.to_bytes(4, "big") + bytes(4))
    else:
        connection.send(RST, 0, stream, b"\0\0\0\7")
    assert await _body(second) == b"ok"
    assert server.connections[-1].bodies == {0: b"body"}
    assert server.connections[-1].requests[0][b"authorization"] == b"Bearer mine"
    connection.answer(begun, b"200", b"first", end=True)
    assert await _body(first) == b"first"


@pytest.mark.parametrize("how", ["lost", "reset"])
async def test_what_may_have_been_begun_is_not_asked_again(server: ApiServer, passed: Passed, how: str) -> None:
    """It is an error, since a write might be done twice; the next request is made."""
    task, connection, stream = await passed.begin("/", "POST")
    if how == "lost":
        connection.writer.transport.abort()
    else:
        connection.send(RST, 0, stream, b"\0\0\0\2")
    with pytest.raises(UpstreamError):
        await task
    assert sum(len(c.requests) for c in server.connections) == 1
    task, connection, stream = await passed.begin()
    connection.answer(stream, b"200", b"ok", end=True)
    assert await _body(task) == b"ok"


async def test_more_requests_than_the_server_answers_at_a_time(server: ApiServer, passed: Passed) -> None:
    """One too many has a connection of its own, and the shared one stays."""
    server.settings = b"\0\3\0\0\0\1"
    task, connection, stream = await passed.begin("/watch")
    connection.answer(stream, b"200")
    await task
    other, own, _ = await passed.begin("/other")
    assert (await _body(other), own.protocol) == (b"ok", "http/1.1")
    connection.send(DATA, 1, stream)
    assert await _body(task) == b""
    third, shared, stream = await passed.begin("/third")
    assert shared is connection
    shared.answer(stream, b"200", end=True)
    assert await _body(third) == b""


async def test_who_asks_for_many_answers_at_a_time_pays_for_them(
    passed: Passed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may be unread of all answers together is bounded, whatever the server would do."""
    monkeypatch.setattr("sitegrid.agent.multiplex._PASSING_MOST", 2)
    for _ in range(2):
        await passed.begin("/watch")
    task, own, _ = await passed.begin("/other")
    assert (await _body(task), own.protocol) == (b"ok", "http/1.1")


async def test_nothing_is_added_to_what_piles_up(upstream: Upstream, passed: Passed) -> None:
    """While the connection takes no more bytes, further requests have one of their own."""
    first, shared, stream = await passed.begin("/first")
    (link,) = upstream._links
    link.pause_writing()
    other, own, _ = await passed.begin("/other")
    assert (await _body(other), own.protocol) == (b"ok", "http/1.1")
    link.resume_writing()
    _, third, _ = await passed.begin("/third")
    assert third is shared
    shared.answer(stream, b"200", end=True)
    assert await _body(first) == b""


async def test_a_download_is_read_without_pauses(passed: Passed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are for events of watches: each is cheaper when it comes with others."""
    monkeypatch.setattr("sitegrid.agent.multiplex.PAUSE", 60.0)
    task, connection, stream = await passed.begin()
    connection.answer(stream, b"200")
    body = (await task).body(20)
    for number in range(3 * FEW):
        connection.send(DATA, 0, stream, b"%d" % number)
        assert await anext(body) == b"%d" % number


async def test_without_http_2_each_has_its_connection(server: ApiServer, passed: Passed) -> None:
    """What the API server does not speak is not insisted on."""
    server.stop()
    server.protocols = ["http/1.1"]
    await server.start()
    for body in (b"one", b"two"):
        task, connection, _ = await passed.begin("/", "POST", [("Content-Length", "3")], body)
        assert await _body(task) == b"ok"
        assert connection.bodies == {0: body}


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("TRACE", "/", []),
        ("GET", "/\xe9", []),
        ("GET", "/", [("x", "\x01")]),
        ("GET", "/", [("x", "\x7f")]),
        ("GET", "/", [("x", " y")]),
        ("GET", "/", [("x(", "y")]),
        ("GET", "/", [("x", "y" * 8192)]),
    ],
)
async def test_what_http_2_cannot_say_exactly_has_its_own_connection(
    passed: Passed, method: str, path: str, headers: Any
) -> None:
    """It is for the API server to judge, which must not end the others' connection over it."""
    asking = passed._upstream.pass_on(method, path, [MINE, *headers], b"", 20)
    with contextlib.suppress(UpstreamError):  # some of it the test's server cannot read either
        (await asking).close()
    assert passed._server.connections[-1].protocol == "http/1.1"
    assert not any(c.requests for c in passed._server.connections if c.protocol == "h2")


async def test_header_values_with_bytes_beyond_ascii_arrive(passed: Passed) -> None:
    """They are legal in either HTTP."""
    task, connection, stream = await passed.begin("/", "GET", [("x", "\xe9\t\xff")])
    assert connection.requests[stream][b"x"] == b"\xe9\t\xff"
    connection.answer(stream, b"200", end=True)
    assert await _body(task) == b""


async def test_a_new_authority_is_used_at_once(server: ApiServer, passed: Passed, objects: Any) -> None:
    """No request goes over a connection that the present authority has not vouched for."""
    former, old, stream = await passed.begin()
    server.stop_listening()
    server.renew()
    server.publish()
    await server.start()
    task, connection, number = await passed.begin()
    assert connection is not old
    for each, reply, place in ((old, former, stream), (connection, task, number)):
        each.answer(place, b"200", b"ok", end=True)
        assert await _body(reply) == b"ok"
    await objects.eventually(lambda: old.ended)


OK = (b":status", b"200")


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ([OK, (b"content-length", b"3")], b"four"),
        ([OK, (b"content-length", b"5")], b"four"),
        ([OK, (b"content-length", b"4"), (b"content-length", b"5")], b"four"),
        ([OK, (b"content-length", b"four")], b"four"),
        ([OK, (b"x", b"a\r\nSet-Cookie: b")], b""),
        ([OK, (b"x\r\n", b"a")], b""),
        ([OK, (b"X", b"a")], b""),
        ([OK, OK], b""),
        ([(b":status", b"20")], b""),
        ([(b":status", b"101")], b""),
        ([(b"x", b"y")], b""),
        ([], b""),
    ],
)
async def test_an_answer_that_could_be_read_in_two_ways_is_an_error(passed: Passed, head: Any, body: bytes) -> None:
    """Length, headers and status are checked before a client sees them; others on the connection go on."""
    other, *_ = await passed.begin("/other")
    task, connection, stream = await passed.begin("/broken")
    connection.head(stream, *head)
    connection.send(DATA, 1, stream, body)
    with pytest.raises(UpstreamError):
        await _body(task)
    connection.answer(1, b"200", b"ok", end=True)
    assert await _body(other) == b"ok"


@pytest.mark.parametrize(
    ("method", "heads", "status"),
    [
        ("HEAD", [[OK, (b"content-length", b"100")]], 200),
        ("GET", [[(b":status", b"304"), (b"content-length", b"100")]], 304),
        ("DELETE", [[(b":status", b"204")]], 204),
        ("GET", [[(b":status", b"103"), (b"x", b"hint")], [OK]], 200),
    ],
)
async def test_answers_without_a_body(passed: Passed, method: str, heads: Any, status: int) -> None:
    """What their headers say of a body is not waited for; informational ones are followed by the real one."""
    task, connection, stream = await passed.begin("/", method)
    for number, head in enumerate(heads, 1):
        connection.head(stream, *head, end=number == len(heads))
    assert await _body(task) == b""
    assert (await task).status == status
    assert not (await task).header(b"x")


async def test_what_is_too_long_does_not_reach_the_client(passed: Passed, objects: Any) -> None:
    """Behind the answer's end a client would take it for another answer; its window is given back."""
    task, connection, stream = await passed.begin()
    connection.head(stream, OK, (b"content-length", b"4"))
    connection.send(DATA, 0, stream, b"fourmore")
    reply = await task
    with pytest.raises(UpstreamError, match="longer than it says"):
        await anext(reply.body(20))
    for _ in range(5 << 20 >> 14):
        connection.send(DATA, 0, stream, b"x" * MAX_FRAME)
        await objects.eventually(lambda: min(connection.window, connection.windows[stream]) >= MAX_FRAME)


async def test_trailers_are_no_part_of_the_body(passed: Passed) -> None:
    """They are left out, as they are of answers by HTTP/1.1."""
    task, connection, stream = await passed.begin()
    connection.answer(stream, b"200", b"body")
    connection.head(stream, (b"x", b"trailer"), end=True)
    assert await _body(task) == b"body"
    assert not (await task).header(b"x")


async def test_a_client_is_answered_over_it(http2_site: Any, server: ApiServer) -> None:
    """Only what is meant for the other end is passed on, either way, and a short body with what announces it."""
    asking = asyncio.create_task(
        http2_site.request(
            "PUT",
            "/lease",
            {"TE": "trailers", "Keep-Alive": "5", "X-Hop": "1", "Impersonate-User": "a", **MY},
            b"body",
        )
    )
    connection, stream = await server.asked(b"/lease")
    assert connection.bodies[stream] == b"body"
    names = {name for name in connection.requests[stream] if not name.startswith(b":")}
    assert names == {b"x-hop", b"impersonate-user", b"content-length", b"authorization"}
    connection.head(stream, OK, (b"transfer-encoding", b"chunked"), (b"content-length", b"2"), (b"x", b"y"))
    connection.send(DATA, 1, stream, b"ok")
    status, headers, body = await asking
    assert (status, body, headers["x"], headers["content-length"]) == (200, b"ok", "y", "2")
    assert "transfer-encoding" not in headers


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /x HTTP/1.1\r\nAuthorization: a\r\nContent-Length: 16385\r\n\r\n" + b"x" * 16385,
        b"POST /x HTTP/1.1\r\nAuthorization: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nAuthorization: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_streams_have_connections_of_their_own(http2_site: Any, server: ApiServer, request_: bytes) -> None:
    """Upgrades, and bodies that are large or of unknown length, which others would have to wait behind.

    So have requests without a credential, after which the API server ends the connection.
    """
    reader, _ = await http2_site.raw(request_.replace(b"\r\n", b"\r\nHost: localhost\r\n", 1))
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    connection, _ = await server.asked(b"/x")
    assert connection.protocol == "http/1.1"


async def test_a_client_that_waits_to_be_told_sends_its_body(http2_site: Any, server: ApiServer) -> None:
    """Expect: 100-continue is the agent's to answer, and is not passed on."""
    reader, writer = await http2_site.raw(
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: a\r\n"
        b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ok")
    connection, stream = await server.asked(b"/x")
    assert connection.bodies[stream] == b"ok"
    assert b"expect" not in connection.requests[stream]


async def test_a_client_that_is_gone_ends_its_request_only(http2_site: Any, server: ApiServer, objects: Any) -> None:
    """The API server is told to stop; others on the connection are answered."""
    _, writer = await http2_site.raw(b"GET /gone HTTP/1.1\r\nHost: localhost\r\nAuthorization: a\r\n\r\n")
    reader, _ = await http2_site.raw(b"GET /stays HTTP/1.1\r\nHost: localhost\r\nAuthorization: a\r\n\r\n")
    connection, gone = await server.asked(b"/gone")
    _, stays = await server.asked(b"/stays")
    writer.transport.abort()
    await objects.eventually(lambda: connection.cancelled == [gone])
    connection.answer(stays, b"200", b"ok", end=True)
    assert (await reader.readuntil(b"ok\r\n0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_does_not_read_stops_only_itself(http2_site: Any, server: ApiServer) -> None:
    """The API server may send no more for it; everybody else is answered."""
    await http2_site.raw(b"GET /slow HTTP/1.1\r\nHost: localhost\r\nAuthorization: a\r\n\r\n")
    connection, stream = await server.asked(b"/slow")
    connection.answer(stream, b"200")
    (client,) = http2_site.server._places.connections
    while client._writable.is_set() or connection.windows[stream] >= MAX_FRAME:
        if connection.windows[stream] >= MAX_FRAME:
            connection.send(DATA, 0, stream, b"x" * MAX_FRAME)
        await asyncio.sleep(0)
    other = asyncio.create_task(http2_site.request("GET", "/other", MY))
    _, second = await server.asked(b"/other")
    connection.answer(second, b"200", b"ok", end=True)
    assert (await other)[0] == 200


async def test_half_an_answer_ends_with_the_clients_connection(http2_site: Any, server: ApiServer) -> None:
    """What breaks off cannot be taken for whole."""
    reader, _ = await http2_site.raw(b"GET /half HTTP/1.1\r\nHost: localhost\r\nAuthorization: a\r\n\r\n")
    connection, stream = await server.asked(b"/half")
    connection.answer(stream, b"200", b"part")
    await reader.readuntil(b"part")
    connection.send(RST, 0, stream, b"\0\0\0\2")
    with contextlib.suppress(ConnectionError):
        assert b"0\r\n\r\n" not in await reader.read()


@pytest.mark.cluster
async def test_a_real_api_server_is_asked_so(cluster: Any) -> None:
    """Writes, reads, an error, and a watch that goes on beside them, on one connection."""
    upstream = Upstream(from_kubeconfig(str(cluster.kubeconfig("agent-token"))))
    headers = [("authorization", "Bearer admin-token"), ("accept", "application/json")]
    path = "/api/v1/namespaces/default/configmaps"

    async def ask(method: str, name: str = "", content: Any = None, media_type: str = "application/json") -> Any:
        body = b"" if content is None else json.dumps(content).encode()
        described = [("content-type", media_type), ("content-length", str(len(body)))] if body else []
        reply = await upstream.pass_on(method, path + name, headers + described, body, 20)
        return reply.status, json.loads(await reply.read_all(1 << 20, 20) or b"null")

    try:
        watch = await upstream.pass_on("GET", f"{path}?watch=true&fieldSelector=metadata.name=p", headers, b"", 20)
        large = {"metadata": {"name": "p"}, "data": {"x": "y" * 60_000}}
        assert (await ask("POST", content=large))[0] == 201
        assert (await ask("GET", "/p"))[1]["data"] == large["data"]
        assert (await ask("HEAD", "/p"))[1] is None
        patched = await ask("PATCH", "/p", {"data": {"x": "z"}}, "application/merge-patch+json")
        assert (patched[0], patched[1]["data"]) == (200, {"x": "z"})
        assert (await ask("DELETE", "/p", {"kind": "DeleteOptions", "apiVersion": "v1"}))[0] == 200
        assert (await ask("GET", "/p"))[0] == 404
        events = b""
        async for chunk in watch.body(20):
            events += chunk
            if b'"DELETED"' in events:
                break
        watch.close()
        assert [json.loads(line)["type"] for line in events.splitlines()] == ["ADDED", "MODIFIED", "DELETED"]
        assert len(upstream._links) == 1
    finally:
        upstream.close()
