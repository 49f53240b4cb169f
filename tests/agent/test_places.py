"""Nobody without an accepted credential takes a place from those who have one, whatever there is to share."""

from __future__ import annotations

import asyncio
import contextlib
import json
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.agent import hub, places
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.places import PASSED, SERVED, Places, greediest
from sitegrid.connections.follow import GRIDS, Follower, Heard, Synced
from sitegrid.wire.labels import GRID_UNIQ_KEY, MANAGED_BY, SERVICE_NAME

NOBODY = ""
KNOWN = {"Authorization": "Bearer clients-token"}
NEW = {"Authorization": "Bearer new-token"}
WRONG = {"Authorization": "Bearer wrong-token"}
WATCH = "?watch=true"


class Client:
    """A connection that only remembers what became of it."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.place = ""
        self.cut = False

    @property
    def resting(self) -> bool:
        """Tell whether no request is being served."""
        return not self.place

    def abort(self) -> None:
        """Cut it off."""
        self.cut = True


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Places:
    """Give places for eight connections: two are for newcomers, two requests may be of nobody, one of them passed."""
    for name, value in {
        "MAX_CONNECTIONS": 8,
        "NEWCOMERS": 2,
        "MAX_STRANGERS": 5,
        "MAX_UNAUTHENTICATED": 2,
        "MAX_UNAUTHENTICATED_PASSED": 1,
    }.items():
        monkeypatch.setattr(places, name, value)
    return Places(Metrics(), lambda identity: identity != NOBODY)


def come(among: Places, identity: str, place: str = "") -> Client:
    """Return a new connection that was let in, with a place if it was to have one."""
    client = Client(identity)
    assert among.enter(client)
    if place:
        assert among.take(client, place)
    return client


def test_those_at_rest_give_way_first_and_nobodys_before_others(few: Places) -> None:
    """Each newcomer ends the connection that can be missed most; at last there is none."""
    busy, resting = [come(few, "a", SERVED) for _ in range(5)], come(few, "a")
    watching, silent = come(few, NOBODY, SERVED), come(few, NOBODY)
    for victim in (silent, watching, resting):
        come(few, "b", "" if victim is not resting else SERVED)
        assert victim.cut or victim is not silent
    assert silent.cut
    assert watching.cut
    assert not any(client.cut for client in busy)


def test_strangers_are_fewer_than_all(few: Places) -> None:
    """Connections of nobody known end one another, long before all places are taken."""
    known = come(few, "a")
    strangers = [come(few, NOBODY) for _ in range(7)]
    assert [client.cut for client in strangers] == [True] * 2 + [False] * 5
    assert not known.cut


def test_who_has_most_gives_way_to_who_has_less(few: Places) -> None:
    """A client that takes all places loses them one by one to another, until they have alike; nobody gets any."""
    greedy = [come(few, "greedy", SERVED) for _ in range(6)]
    more = Client("greedy")
    assert few.enter(more)
    assert not few.take(more, SERVED)
    modest = [come(few, "modest", SERVED) for _ in range(3)]
    assert [client.cut for client in greedy] == [True] * 3 + [False] * 3
    more = Client("modest")
    assert few.enter(more)
    assert not few.take(more, SERVED)
    assert not any(client.cut for client in modest)


@pytest.mark.parametrize(("wanted", "most"), [(SERVED, 2), (PASSED, 1)])
def test_nobody_has_few_requests_at_a_time(few: Places, wanted: str, most: int) -> None:
    """Requests of nobody known are limited, those to the API server more; what is over counts no more."""
    clients = [Client(NOBODY) for _ in range(5)]
    assert all(few.enter(client) for client in clients)
    assert [few.take(client, wanted) for client in clients] == [True] * most + [False] * (5 - most)
    few.give_back(clients[0])
    assert few.take(clients[4], wanted)


@given(st.lists(st.tuples(st.sampled_from(["come", "take", "pass", "rest", "go"]), st.integers(0, 11)), max_size=200))
def test_whatever_happens_the_known_keep_what_they_have(steps: list[tuple[str, int]]) -> None:
    """Of a known client's requests only one that has more is ended for another; nobody's never number too many."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "MAX_CONNECTIONS": 8,
            "NEWCOMERS": 2,
            "MAX_STRANGERS": 5,
            "MAX_UNAUTHENTICATED": 2,
        }.items():
            patch.setattr(places, name, value)
        among = Places(Metrics(), lambda identity: identity != NOBODY)
        clients = [Client((NOBODY, "a", "b")[number % 3]) for number in range(12)]
        for step, number in steps:
            client = clients[number]
            there = client in among.connections
            before = [each.identity for each in clients if each.place and not each.cut and each in among.connections]
            if step == "come" and not there:
                client.cut, client.place = False, ""
                among.enter(client)
            elif step in ("take", "pass") and there and not client.place:
                among.take(client, SERVED if step == "take" else PASSED)
            elif step == "rest" and there:
                among.give_back(client)
            elif step == "go" and there:
                among.leave(client)
            else:
                continue
            ended = [each for each in clients if each.cut and each.place]
            for each in ended:
                if each.identity != NOBODY:
                    assert step in ("take", "pass")
                    assert before.count(each.identity) > before.count(client.identity)
                    assert client.identity != NOBODY
                each.place = ""
            held = [each.identity for each in among.connections if each.place]
            assert held.count(NOBODY) <= 2
            assert len(among.connections) <= 8
            assert sum(each.identity == NOBODY for each in among.connections) <= 5
            assert len(held) <= 6 or NOBODY in held


def test_the_greediest_is_another() -> None:
    """Of equal ones nobody is greedy."""
    assert greediest("a", []) is None
    assert greediest("a", ["a", "b"]) is None
    assert greediest("a", ["a", "a", "b"]) is None
    assert greediest("b", ["a", "a", "b"]) == "a"


# At an agent.
async def ask(site: Any, path: str, headers: dict[str, str]) -> tuple[asyncio.StreamReader, int]:
    """Send a GET on a connection of its own; return what follows its head, and the status."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    reader, _ = await site.raw("\r\n".join(lines).encode() + b"\r\n\r\n")
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
    return reader, int(head.split(b" ")[1])


async def statuses(site: Any, paths: list[str], headers: dict[str, str]) -> list[int]:
    """Return the statuses of GETs that are all open at a time; 0 for one whose connection ended."""

    async def status(path: str) -> int:
        with contextlib.suppress(ConnectionError, EOFError):
            return (await ask(site, path, headers))[1]
        return 0

    return await asyncio.gather(*(status(path) for path in paths))


@pytest.mark.parametrize("headers", [{}, WRONG], ids=["none", "wrong"])
async def test_watches_of_nobody_keep_no_one_out(site: Any, api: Any, objects: Any, headers: dict[str, str]) -> None:
    """While a process without an accepted credential holds all that it gets, a known client's watches hear all."""
    api.unknown.add(WRONG["Authorization"])
    found = await statuses(site, [objects.slices + WATCH] * 300, headers)
    # Not how many there ever were: the oldest one goes where nobody is at rest, and the next one has its place.
    await objects.eventually(lambda: 0 < site.metrics.get("watchers") <= places.MAX_UNAUTHENTICATED)
    assert 429 in found
    assert site.metrics.get("refused_clients_total") >= found.count(429)
    for _ in range(3):
        names, watch = await site.list_and_watch(objects.slices)
        api.put(objects.slices, objects.plain(f"a{len(names)}", "10.9.0.1"))
        assert await watch.summary(1) == [("ADDED", f"a{len(names)}")]


async def test_a_client_that_is_not_known_yet_is_asked_about(site: Any, api: Any, objects: Any) -> None:
    """Where all places of nobody are taken, a token that the API server accepts gets one, and another does not."""
    api.unknown.add(WRONG["Authorization"])
    await statuses(site, [objects.slices + WATCH] * 100, {})
    assert (await site.request("GET", objects.slices, WRONG))[0] == 429
    status, headers, _ = await site.request("GET", objects.slices, {})
    assert (status, headers["retry-after"]) == (429, "1")
    assert (await site.request("GET", objects.slices, NEW))[0] == 200
    asked = [headers["authorization"] for _, target, headers in api.requests if target == "/version"]
    assert asked == [WRONG["Authorization"], NEW["Authorization"]]
    assert (await site.request("GET", objects.slices, WRONG))[0] == 429
    assert len([1 for _, target, _ in api.requests if target == "/version"]) == 2


async def test_selections_of_nobody_keep_no_one_out(site: Any, objects: Any) -> None:
    """However many selections somebody makes up, a known client gets its own, for which theirs end."""
    made_up = [f"{objects.slices}{WATCH}&labelSelector=made-up%3D{number}" for number in range(64)]
    found = await statuses(site, made_up, {})
    assert 0 < found.count(200) <= hub.MAX_UNAUTHENTICATED
    for number in range(64):
        await site.watch(objects.slices, labelSelector=f"mine={number}")
    assert site.metrics.get("views") == 64
    assert await statuses(site, made_up[:3], {}) == [429] * 3


async def test_who_selects_most_gives_way(site: Any, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known client that has all views open loses one to another known one, and gets no more itself."""
    monkeypatch.setattr("sitegrid.agent.hub.MAX_VIEWS", 3)
    first, *_ = [await site.watch(objects.slices, labelSelector=f"mine={number}") for number in range(3)]
    assert (await site.get(objects.slices, labelSelector="mine=3"))[0] == 429
    site.hub.authentication.heard(NEW["Authorization"], 200)
    assert (await site.request("GET", objects.slices + "?labelSelector=other", NEW))[0] == 200
    with pytest.raises((EOFError, asyncio.IncompleteReadError, ConnectionError)):
        await first.next()


async def test_the_helper_that_ends_connections_needs_no_token(site: Any, api: Any, objects: Any) -> None:
    """`sitegrid connections` gets both its watches, of which it has grids' objects only, beside a node's clients."""
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    watches = [await site.watch(path) for path in (objects.slices, "/api/v1/services") for _ in range(3)]
    heard: SimpleQueue[Heard] = SimpleQueue()
    followers = [Follower("127.0.0.1", site.port, resource, heard) for resource in GRIDS]
    for follower in followers:
        follower.start()
    try:
        await objects.eventually(lambda: heard.qsize() == 3)
        told = {heard.get() for _ in range(3)}
        assert {each.resource for each in told if isinstance(each, Synced)} == set(GRIDS)
        assert site.metrics.get("watchers") == len(watches) + len(followers)
    finally:
        for follower in followers:
            await asyncio.to_thread(follower.stop)


async def test_the_helper_has_its_watches_without_a_wan_too(start_agent: Any, api: Any, objects: Any) -> None:
    """An agent that starts again while the WAN is down answers `sitegrid connections` from its disk."""
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    for _ in range(2):
        async with start_agent() as site:
            heard: SimpleQueue[Heard] = SimpleQueue()
            followers = [Follower("127.0.0.1", site.port, resource, heard) for resource in GRIDS]
            for follower in followers:
                follower.start()
            try:
                await objects.eventually(lambda heard=heard: heard.qsize() == 3)
            finally:
                for follower in followers:
                    await asyncio.to_thread(follower.stop)
        await api.stop()


async def test_passed_requests_of_nobody_are_few(site: Any, api: Any) -> None:
    """Somebody's requests that the API server does not answer leave the others theirs."""
    api.silent = True
    for _ in range(40):
        await site.raw(b"GET /apis/x/v1/slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
    _, status = await ask(site, "/apis/x/v1/slow", {})
    assert status == 429
    api.silent = False
    assert (await site.request("GET", "/apis/x/v1/quick", KNOWN))[0] == 200


async def test_a_large_selection_is_for_known_clients(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody known asks for is not kept where it is much: it is 429, and a known client gets it whole."""
    monkeypatch.setattr("sitegrid.agent.source.MAX_SMALL", 600)
    for number in range(50):
        api.put(objects.slices, objects.plain(f"n{number}", f"10.9.0.{number}", many="yes", **{str(number): "x"}))
    assert (await site.request("GET", objects.slices + "?labelSelector=7", {}))[0] == 200
    assert (await site.request("GET", objects.slices + "?labelSelector=many", {}))[0] == 429
    assert (await site.request("GET", objects.slices, {}))[0] == 200  # that is there anyway
    assert len(await site.names(objects.slices, labelSelector="many")) == 50


async def test_the_services_of_all_grids_are_no_clients_selection(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, slices written by hand are held against them, whoever reads slices first."""
    monkeypatch.setattr("sitegrid.agent.source.MAX_SMALL", 600)
    for number in range(50):
        meta = {"name": f"web{number}", "namespace": "default", "labels": {GRID_UNIQ_KEY: "other", str(number): "x"}}
        api.put(objects.services, {"kind": "Service", "apiVersion": "v1", "metadata": meta})
    for name, service in (("of-a-grid", "web7"), ("of-none", "mine")):
        labels = {SERVICE_NAME: service, MANAGED_BY: "somebody"}
        api.put(objects.slices, objects.plain(name, "10.9.0.1", **labels))
    status, _, body = await site.request("GET", objects.slices, {})
    assert status == 200
    assert [item["metadata"]["name"] for item in json.loads(body)["items"]] == ["of-none"]


async def test_what_nobody_known_asks_for_goes_soon(site: Any, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its view and its sources end with its last client; a known client's stay a while."""
    monkeypatch.setattr("sitegrid.agent.hub.SHORT_LINGER", 0.01)
    await site.names(objects.slices, labelSelector="mine")
    assert (await site.request("GET", objects.slices + "?labelSelector=made-up", {}))[0] == 200
    await objects.eventually(lambda: [key.labels for key in site.hub._views] == ["mine"])


async def test_pages_of_nobody_leave_others_their_lists(site: Any, api: Any, objects: Any) -> None:
    """A paged list of a known client can be continued, however many somebody else begins."""
    for number in range(3):
        api.put(objects.slices, objects.plain(f"n{number}", "10.9.0.1"))
    _, page = await site.get(objects.slices, limit=1)
    for _ in range(10):
        assert (await site.request("GET", objects.slices + "?limit=1", {}))[0] == 200
    status, rest = await site.get(objects.slices, **{"continue": page["metadata"]["continue"]})
    assert (status, len(rest["items"])) == (200, 2)
