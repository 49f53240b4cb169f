from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec
import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.kube.backoff import Backoff
from sitegrid.kube.client import Client
from sitegrid.kube.config import Config
from sitegrid.kube.reflector import Reflector
from sitegrid.kube.resources import CONFIGMAPS
from sitegrid.kube.store import Store

Object = dict[str, Any]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


class Scripted(Protocol):
    """The scripted server of conftest."""

    requests: list[tuple[str, str, dict[str, str]]]

    def then_json(self, body: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""

    def then_stream(self, *chunks: bytes, hang: bool = False, abort: bool = False) -> None:
        """Answer with chunks."""

    async def wait_for_requests(self, count: int) -> None:
        """Wait."""


class Typed(msgspec.Struct, frozen=True, gc=False):
    """A partial type that is strict about `data`."""

    metadata: ObjectMeta
    data: dict[str, str] = {}


def obj(name: str, version: int, uid: str | None = None, **more: Any) -> Object:
    """Return an object of namespace `ns`."""
    metadata = {"name": name, "namespace": "ns", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, **more}


def event(kind: str, body: Object) -> bytes:
    """Return one framed watch event."""
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def bookmark(version: int, *, end: bool = False) -> bytes:
    """Return a bookmark, or that which ends the initial events."""
    metadata: Object = {"resourceVersion": str(version)}
    if end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return event("BOOKMARK", {"metadata": metadata, "data": None})


def error(code: int, reason: str = "") -> bytes:
    """Return an ERROR event."""
    return event("ERROR", status(code, reason))


def status(code: int, reason: str = "", **more: Any) -> Object:
    """Return a Status."""
    return {"kind": "Status", "code": code, "reason": reason, "message": f"scripted {code}", **more}


def page(version: int, *items: Object, token: str = "") -> Object:
    """Return one page of a list."""
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": [*items]}


def reflect(client: Client, store: Store[Any], **more: Any) -> Reflector[Any]:
    """Return a reflector whose failures cost no time."""
    return Reflector(client, CONFIGMAPS, store, backoff=Backoff(initial=0.001, cap=0.001), **more)


@asynccontextmanager
async def running(reflector: Reflector[Any]) -> AsyncIterator[asyncio.Task[None]]:
    """Run a reflector; it must still run at the end."""
    task = asyncio.create_task(reflector.run())
    try:
        yield task
        assert not task.done(), "a reflector ends only by cancellation"
    finally:
        task.cancel()
        await asyncio.wait([task])


def record(store: Store[Object]) -> list[tuple[str, str]]:
    """Return a list that gets each change as (kind, name)."""
    changes: list[tuple[str, str]] = []

    def handler(old: Object | None, new: Object | None) -> None:
        kind = "add" if old is None else "delete" if new is None else "change"
        changes.append((kind, ((new or old) or {})["metadata"]["name"]))

    store.add_handler(handler)
    return changes


def watches(server: Scripted) -> list[str]:
    """Return the resourceVersion of each resumed watch that was asked for."""
    return [query["resourceVersion"] for _, _, query in server.requests if "resourceVersion" in query]


async def test_it_starts_with_a_streaming_list(client: Client, server: Scripted) -> None:
    """The first request asks for one as client-go does; the store is filled and synced only when it is complete."""
    store: Store[Object] = Store()
    reflector = reflect(client, store, namespace="ns", label_selector="a=b", field_selector="metadata.name!=x")
    server.then_stream(event("ADDED", obj("a", 5)), event("ADDED", obj("b", 3)), bookmark(9, end=True), hang=True)
    async with running(reflector):
        await reflector.synced.wait()
        assert store.keys() == [("ns", "a"), ("ns", "b")]
    method, path, query = server.requests[0]
    assert (method, path) == ("GET", "/api/v1/namespaces/ns/configmaps")
    assert 300 <= int(query.pop("timeoutSeconds")) <= 600
    assert query == {
        "watch": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
        "labelSelector": "a=b",
        "fieldSelector": "metadata.name!=x",
    }


async def test_an_incomplete_streaming_list_changes_nothing(
    client: Client, server: Scripted, eventually: Eventually
) -> None:
    """Cut off in the middle, it is begun again; nothing of the first attempt is seen."""
    store: Store[Object] = Store()
    changes = record(store)
    reflector = reflect(client, store)
    server.then_stream(event("ADDED", obj("half", 5)), abort=True)
    server.then_stream(event("ADDED", obj("whole", 6)), bookmark(9, end=True), hang=True)
    async with running(reflector):
        await reflector.synced.wait()
        await eventually(lambda: changes)
    assert changes == [("add", "whole")]


async def test_changes_among_the_initial_events_count(client: Client, server: Scripted) -> None:
    """The server may send changes before the end of the initial events; the last state is what is stored."""
    store: Store[Object] = Store()
    reflector = reflect(client, store)
    server.then_stream(
        event("ADDED", obj("a", 1)),
        event("ADDED", obj("b", 2)),
        event("MODIFIED", obj("a", 6)),
        event("DELETED", obj("b", 7)),
        bookmark(7, end=True),
        hang=True,
    )
    async with running(reflector):
        await reflector.synced.wait()
        assert store.list() == [obj("a", 6)]


@pytest.mark.parametrize("code", [400, 405, 406, 415, 422])
async def test_it_falls_back_to_pages_and_a_watch(client: Client, server: Scripted, code: int) -> None:
    """A server that refuses streaming lists is listed page by page, then watched from the list's version."""
    store: Store[Object] = Store()
    reflector = reflect(client, store)
    server.then_json(status(code), code)
    server.then_json(page(8, obj("a", 1), token="more"))
    server.then_json(page(8, obj("b", 2)))
    async with running(reflector):
        await server.wait_for_requests(4)
        assert reflector.synced.is_set()
        assert store.keys() == [("ns", "a"), ("ns", "b")]
    queries = [query for _, _, query in server.requests]
    assert queries[1] == {"limit": "500"}
    assert queries[2] == {"limit": "500", "continue": "more"}
    assert queries[3]["resourceVersion"] == "8"
    assert queries[3]["allowWatchBookmarks"] == "true"
    assert "sendInitialEvents" not in queries[3]


async def test_pages_that_expire_are_listed_in_one(client: Client, server: Scripted) -> None:
    """410 in the middle of the pages: the whole collection is asked for at once, and nothing is stored twice."""
    store: Store[Object] = Store()
    reflector = reflect(client, store, streaming=False)
    server.then_json(page(8, obj("old", 1), token="more"))
    server.then_json(status(410, "Expired"), 410)
    server.then_json(page(20, obj("new", 15)))
    async with running(reflector):
        await reflector.synced.wait()
        assert store.keys() == [("ns", "new")]
    assert [query for _, _, query in server.requests][2] == {}


async def test_a_server_that_ignores_streaming_lists_is_listed(client: Client, server: Scripted) -> None:
    """Events without an end of the initial ones do not leave the store unsynced for ever."""
    store: Store[Object] = Store()
    reflector = reflect(client, store, initial_events_timeout=1.0)
    server.then_stream(event("ADDED", obj("a", 1)), hang=True)
    server.then_json(page(8, obj("a", 1)))
    async with running(reflector):
        await reflector.synced.wait()
    assert server.requests[1][2] == {"limit": "500"}


@pytest.mark.parametrize("abort", [False, True])
async def test_a_watch_resumes_from_the_last_version(client: Client, server: Scripted, abort: bool) -> None:
    """After the end of a watch and after a cut, the next one begins where the last event was; nothing is listed."""
    store: Store[Object] = Store()
    changes = record(store)
    reflector = reflect(client, store)
    server.then_stream(bookmark(5, end=True), event("ADDED", obj("a", 6)), abort=abort)
    server.then_stream(event("MODIFIED", obj("a", 8)), event("DELETED", obj("a", 9)), abort=abort)
    async with running(reflector):
        await server.wait_for_requests(3)
    assert watches(server) == ["6", "9"]
    assert changes == [("add", "a"), ("change", "a"), ("delete", "a")]
    assert reflector.lists == 1


async def test_a_watch_resumes_from_a_bookmark(client: Client, server: Scripted) -> None:
    """Bookmarks move the version on while nothing of ours changes, so that it does not expire."""
    reflector = reflect(client, Store[Object]())
    server.then_stream(bookmark(5, end=True), bookmark(77))
    async with running(reflector):
        await server.wait_for_requests(2)
    assert watches(server) == ["77"]


async def test_without_bookmarks_it_resumes_from_the_list(client: Client, server: Scripted) -> None:
    """A server that sends no bookmarks is watched from what was seen."""
    reflector = reflect(client, Store[Object](), streaming=False)
    server.then_json(page(8))
    server.then_stream()
    async with running(reflector):
        await server.wait_for_requests(3)
    assert watches(server) == ["8", "8"]


@pytest.mark.parametrize("as_event", [True, False])
async def test_expiry_lists_anew_and_tells_what_vanished(
    client: Client, server: Scripted, as_event: bool, eventually: Eventually
) -> None:
    """410 as an event or an answer: the store serves the old content until the new is complete, then is replaced."""
    store: Store[Object] = Store()
    reflector = reflect(client, store)
    server.then_stream(event("ADDED", obj("gone", 1)), event("ADDED", obj("stays", 2)), bookmark(5, end=True))
    if as_event:
        server.then_stream(error(410, "Expired"))
    else:
        server.then_json(status(410, "Expired"), 410)
    server.then_stream(event("ADDED", obj("stays", 2)), hang=True)
    async with running(reflector):
        await reflector.synced.wait()
        changes = record(store)
        changes.clear()
        await server.wait_for_requests(3)
        assert len(store) == 2, "the old content is served while listing"
        assert changes == []
    server.then_stream(
        event("ADDED", obj("stays", 2)), event("ADDED", obj("new", 8)), bookmark(9, end=True), hang=True
    )
    async with running(reflector):
        await eventually(lambda: reflector.lists == 2)
    assert changes == [("delete", "gone"), ("add", "new")]


async def test_an_error_event_other_than_410_lists_anew(client: Client, server: Scripted) -> None:
    """An unknown failure of the stream could have lost something, so everything is got again (I6)."""
    reflector = reflect(client, Store[Object]())
    server.then_stream(bookmark(5, end=True), error(500, "InternalError"))
    server.then_stream(bookmark(6, end=True), hang=True)
    async with running(reflector):
        await server.wait_for_requests(2)
    assert "sendInitialEvents" in server.requests[1][2]


@pytest.mark.parametrize("code", [401, 403, 429, 502, 503, 504])
async def test_a_passing_refusal_keeps_the_version(client: Client, server: Scripted, code: int) -> None:
    """An overloaded server or a proxy in front of none is not asked for everything again."""
    reflector = reflect(client, Store[Object]())
    server.then_stream(bookmark(5, end=True))
    server.then_json(status(code), code)
    async with running(reflector):
        await server.wait_for_requests(3)
    assert watches(server) == ["5", "5"]


async def test_a_server_restored_from_a_backup_is_listed(
    client: Client, server: Scripted, eventually: Eventually
) -> None:
    """Our version is from its lost future; the older state becomes ours."""
    store: Store[Object] = Store()
    reflector = reflect(client, store)
    server.then_stream(event("ADDED", obj("a", 50)), bookmark(60, end=True))
    cause = {"causes": [{"reason": "ResourceVersionTooLarge"}]}
    server.then_json(status(504, "Timeout", details=cause), 504)
    server.then_stream(
        event("ADDED", obj("a", 20)), bookmark(30, end=True), event("MODIFIED", obj("a", 31)), hang=True
    )
    async with running(reflector):
        await server.wait_for_requests(3)
        await eventually(lambda: store.list() == [obj("a", 31)])


async def test_an_object_that_cannot_be_decoded_is_not_skipped(
    client: Client, server: Scripted, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    """It is named in the log and everything is listed again; the store goes on serving what it has (I6)."""
    store: Store[Typed] = Store()
    reflector = reflect(client, store, object_type=Typed)
    server.then_stream(
        event("ADDED", obj("a", 1, data={"k": "v"})), bookmark(5, end=True), event("MODIFIED", obj("a", 6, data=[]))
    )
    server.then_stream(event("ADDED", obj("a", 7, data={"k": "w"})), bookmark(8, end=True), hang=True)
    with caplog.at_level(logging.ERROR):
        async with running(reflector):
            await server.wait_for_requests(2)
            await eventually(lambda: reflector.lists == 2)
    assert "sendInitialEvents" in server.requests[1][2]
    assert '"name": "a"' in caplog.text
    assert [found.data for found in store.list()] == [{"k": "w"}]


async def test_a_missing_type_is_a_state_that_ends(client: Client, server: Scripted) -> None:
    """404 sets `missing`; when the CRD has come, the store is synced and `missing` is over."""
    reflector = reflect(client, Store[Object]())
    server.then_json(status(404, "NotFound"), 404)
    server.then_json(status(404, "NotFound"), 404)
    async with running(reflector):
        await server.wait_for_requests(3)
        assert reflector.missing
        assert not reflector.synced.is_set()
    server.then_stream(bookmark(5, end=True), hang=True)
    async with running(reflector):
        await reflector.synced.wait()
        assert not reflector.missing


async def test_an_unreachable_server_is_asked_again(eventually: Eventually, server: Scripted) -> None:
    """A refused connection is no reason to end."""
    store: Store[Object] = Store()
    async with Client(Config(server="http://127.0.0.1:1")) as client:
        reflector = reflect(client, store)
        async with running(reflector):
            await eventually(lambda: reflector._backoff._failures > 3)
    assert not reflector.synced.is_set()


async def test_a_failure_that_repeats_is_told_once(
    client: Client, server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """A day without an API server is one line for each resource, and the next outage another one."""
    refusal = {"kind": "Status", "code": 503, "reason": "ServiceUnavailable", "message": "away"}
    for _ in range(3):
        server.then_json(refusal, 503)
    server.then_stream(event("ADDED", obj("a", 1)), bookmark(2, end=True))
    for _ in range(2):
        server.then_json(refusal, 503)
    with caplog.at_level(logging.WARNING, "sitegrid"):
        async with running(reflect(client, Store[Object]())):
            await server.wait_for_requests(7)
    assert [record.message for record in caplog.records if "away" in record.message] == [
        "/api/v1/configmaps: 503 ServiceUnavailable: away"
    ] * 2


async def test_a_server_that_fails_after_each_list_is_not_hammered(client: Client, server: Scripted) -> None:
    """Success between failures does not make the delays start again."""
    backoff = Backoff(initial=0.001, cap=0.004, jitter=lambda: 1.0)
    reflector = Reflector(client, CONFIGMAPS, Store[Object](), backoff=backoff)
    for _ in range(4):
        server.then_stream(bookmark(5, end=True), error(410, "Expired"))
    async with running(reflector):
        await server.wait_for_requests(5)
    assert backoff._failures == 4


async def test_watches_that_end_at_once_are_failures(client: Client, server: Scripted) -> None:
    """A server that ends every watch as soon as it is open is approached ever more slowly."""
    backoff = Backoff(initial=0.001, cap=0.004, jitter=lambda: 1.0)
    reflector = Reflector(client, CONFIGMAPS, Store[Object](), backoff=backoff)
    server.then_stream(bookmark(5, end=True))
    for _ in range(3):
        server.then_stream()
    async with running(reflector):
        await server.wait_for_requests(5)
    assert backoff._failures == 4


async def test_a_failing_handler_loses_no_event(client: Client, server: Scripted, eventually: Eventually) -> None:
    """The store and the other handlers go on, and nothing is listed again."""
    store: Store[Object] = Store()

    def fail(old: Object | None, new: Object | None) -> None:
        raise RuntimeError("broken handler")

    store.add_handler(fail)
    changes = record(store)
    reflector = reflect(client, store)
    server.then_stream(bookmark(5, end=True), event("ADDED", obj("a", 6)), event("ADDED", obj("b", 7)), hang=True)
    async with running(reflector):
        await eventually(lambda: len(changes) == 2)
    assert reflector.lists == 1


async def test_large_objects_in_odd_chunks_arrive_whole(
    client: Client, server: Scripted, eventually: Eventually
) -> None:
    """An event of more than 1 MB, cut at odd places, is one change."""
    store: Store[Object] = Store()
    reflector = reflect(client, store)
    body = event("ADDED", obj("big", 6, data={"k": "é" * 700_000})) + event("ADDED", obj("small", 7))
    cuts = [body[start : start + 65_537] for start in range(0, len(body), 65_537)]
    server.then_stream(bookmark(5, end=True), *cuts, hang=True)
    async with running(reflector):
        await eventually(lambda: len(store) == 2)
    assert len((store.get("ns", "big") or {})["data"]["k"]) == 700_000


async def test_a_silent_connection_is_given_up(
    client: Client, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that is silent beyond the time the server was asked for is dead: it is resumed on a new connection."""
    monkeypatch.setattr("sitegrid.kube.reflector.WATCH_SECONDS", (0.01, 0.01))
    monkeypatch.setattr("sitegrid.kube.client.WATCH_GRACE", 1.0)
    reflector = reflect(client, Store[Object]())
    server.then_stream(bookmark(5, end=True), hang=True)
    async with running(reflector):
        await server.wait_for_requests(2)
    assert watches(server) == ["5"]
