from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sitegrid.agent.options import ListOptions
from sitegrid.agent.request import Disconnected
from sitegrid.agent.serve import send_list


@pytest.fixture(autouse=True)
def scene(api: Any, objects: Any) -> None:
    """Three plain slices and one of the own unit."""
    for name in "abc":
        api.put(objects.slices, objects.plain(name, "10.9.0.1"))
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))


async def test_a_streaming_list_ends_with_its_bookmark(site: Any, objects: Any) -> None:
    """Initial events, then a bookmark that says so; its resourceVersion can be resumed from."""
    watch = await site.watch(
        objects.slices, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", allowWatchBookmarks="true"
    )
    events = [await watch.next(bookmarks=True) for _ in range(5)]
    assert [event["type"] for event in events] == ["ADDED"] * 4 + ["BOOKMARK"]
    meta = events[-1]["object"]["metadata"]
    assert meta["annotations"] == {"k8s.io/initial-events-end": "true"}
    await site.watch(objects.slices, resourceVersion=meta["resourceVersion"])


async def test_a_watch_ends_when_it_should(site: Any, objects: Any) -> None:
    """timeoutSeconds ends the response properly, and the connection serves the next request."""
    reader, writer = await site.raw(
        f"GET {objects.slices}?watch=1&timeoutSeconds=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"GET /sitegrid/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"ok\n")


async def test_bookmarks_come_by_themselves(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks for bookmarks gets them; their resourceVersion is good for resuming."""
    monkeypatch.setattr("sitegrid.agent.serve.BOOKMARK_SECONDS", (0.01, 0.02))
    _, body = await site.get(objects.slices)
    watch = await site.watch(
        objects.slices, resourceVersion=body["metadata"]["resourceVersion"], allowWatchBookmarks="true"
    )
    event = await watch.next(bookmarks=True)
    assert event["type"] == "BOOKMARK"
    resumed = await site.watch(objects.slices, resourceVersion=event["object"]["metadata"]["resourceVersion"])
    api.put(objects.slices, objects.plain("d", "10.9.0.4"))
    assert await resumed.summary(1) == [("ADDED", "d")]


async def test_a_slow_client_is_cut_off_and_counted(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that falls behind the log is disconnected; one that reads is not delayed and misses nothing."""
    monkeypatch.setattr("sitegrid.agent.eventlog.LOG_EVENTS", 20)
    _, slow = await site.list_and_watch(objects.slices)
    _, quick = await site.list_and_watch(objects.slices)
    slow._reader._transport.pause_reading()
    big = "x" * 100_000
    names = []
    for number in range(200):
        obj = objects.plain(f"n{number}", "10.9.0.5")
        obj["metadata"]["annotations"] = {"big": big}
        api.put(objects.slices, obj)
        names += await quick.summary(1)
        if site.metrics.get("slow_clients_total"):
            break
    assert names == [("ADDED", f"n{number}") for number in range(len(names))]
    await objects.eventually(lambda: site.metrics.get("slow_clients_total") == 1)


async def test_history_that_left_the_log_is_expired(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that was away for too long gets 410, not a gap."""
    monkeypatch.setattr("sitegrid.agent.eventlog.LOG_EVENTS", 10)
    _, body = await site.get(objects.slices)
    _, watch = await site.list_and_watch(objects.slices)
    for number in range(30):
        api.put(objects.slices, objects.plain(f"n{number}", "10.9.0.5"))
        await watch.summary(1)
    late = await site.watch(objects.slices, resourceVersion=body["metadata"]["resourceVersion"])
    event = await late.next()
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    with pytest.raises(EOFError):
        await late.next()


async def test_a_resumed_client_ends_up_right(site: Any, api: Any, objects: Any) -> None:
    """From any resourceVersion that was ever told, replay leads to the present state."""
    _, watch = await site.list_and_watch(objects.slices)
    events = []
    for number in range(6):
        api.put(objects.slices, objects.plain("abcdef"[number], "10.9.0.7"))
        events.append(await watch.next())
        api.put(objects.slices, objects.unit("zone.u1", f"10.1.0.{number + 2}"))
        events.append(await watch.next())
    api.delete(objects.slices, "a")
    events.append(await watch.next())
    _, body = await site.get(objects.slices)
    now = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in body["items"]}
    for index, start in enumerate(events):
        seen: dict[str, str] = {"a": "?", "b": "?", "c": "?", "web-zone.u1": "?"}
        resumed = await site.watch(objects.slices, resourceVersion=start["object"]["metadata"]["resourceVersion"])
        for event in events[: index + 1]:
            _apply(seen, event)
        async with asyncio.timeout(10):
            while seen != now:
                _apply(seen, await resumed.next())
        resumed.close()


def _apply(state: dict[str, str], event: dict[str, Any]) -> None:
    meta = event["object"]["metadata"]
    if event["type"] == "DELETED":
        state.pop(meta["name"], None)
    else:
        state[meta["name"]] = meta["resourceVersion"]


async def test_a_list_waits_for_what_it_must_know(site: Any, api: Any, objects: Any) -> None:
    """A LIST not older than something newer is answered as soon as the agent has heard of it."""
    await site.names(objects.slices)
    wanted = int(api.rv) + 1
    asked = asyncio.ensure_future(
        site.names(objects.slices, resourceVersion=wanted, resourceVersionMatch="NotOlderThan")
    )
    api.put(objects.slices, objects.plain("d", "10.9.0.4"))
    assert "d" in await asked


async def test_the_future_is_too_large(site: Any, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resourceVersion that does not come is 504 with a time to retry."""
    monkeypatch.setattr("sitegrid.agent.serve.FRESH_TIMEOUT", 0.05)
    status, body = await site.get(objects.slices, resourceVersion=10**9)
    assert (status, body["details"]["retryAfterSeconds"]) == (504, 1)


async def test_a_watch_without_initial_events_begins_now(site: Any, api: Any, objects: Any) -> None:
    """sendInitialEvents=false tells only what happens from now on."""
    watch = await site.watch(objects.slices, sendInitialEvents="false", resourceVersionMatch="NotOlderThan")
    api.put(objects.slices, objects.plain("d", "10.9.0.4"))
    assert await watch.summary(1) == [("ADDED", "d")]


async def test_an_unknown_page_is_expired(site: Any, objects: Any) -> None:
    """A continue token of an earlier life is 410, as for the API server."""
    status, body = await site.get(objects.slices, **{"continue": "x" * 22})
    assert (status, body["reason"]) == (410, "Expired")


async def test_a_watch_ends_with_a_bookmark(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose time is up goes on from there without a list, whatever it was told last."""
    monkeypatch.setattr("sitegrid.agent.serve._SHORT", 0)
    _, body = await site.get(objects.slices)
    rv = body["metadata"]["resourceVersion"]
    watch = await site.watch(objects.slices, resourceVersion=rv, allowWatchBookmarks="true", timeoutSeconds="1")
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2"))
    events = [await watch.next(bookmarks=True), await watch.next(bookmarks=True)]
    assert [event["type"] for event in events] == ["MODIFIED", "BOOKMARK"]
    with pytest.raises(EOFError):
        await watch.next(bookmarks=True)
    resumed = await site.watch(objects.slices, resourceVersion=events[1]["object"]["metadata"]["resourceVersion"])
    api.put(objects.slices, objects.plain("d", "10.9.0.4"))
    assert await resumed.summary(1) == [("ADDED", "d")]


class _Stalled:
    """A client's connection that takes one piece and then stalls until it is let go."""

    def __init__(self) -> None:
        self.length = 0
        self.sent: list[bytes] = []
        self.released = asyncio.Event()
        self.aborted = False

    async def start(self, status: int, headers: Any, *, length: int) -> None:
        self.length = length

    async def send(self, data: bytes, timeout: float) -> None:
        self.sent.append(data)
        await self.released.wait()

    async def finish(self) -> None:
        assert sum(map(len, self.sent)) == self.length

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
async def stalled(site: Any, api: Any, objects: Any) -> AsyncIterator[tuple[_Stalled, asyncio.Task[None]]]:
    """Give the connection of a client that reads no more than the beginning of its list."""
    for number in range(40):
        big = objects.plain(f"n{number}", "10.9.0.5")
        big["metadata"]["annotations"] = {"big": "x" * 10_000}
        api.put(objects.slices, big)
    assert len(await site.names(objects.slices)) == 44
    (view,) = site.hub._views.values()
    connection = _Stalled()
    sending = send_list(view, ListOptions(), connection, site.metrics, authenticated=True)  # type: ignore[arg-type]
    task = asyncio.ensure_future(sending)
    await objects.eventually(lambda: connection.sent)
    yield connection, task
    task.cancel()
    await asyncio.wait([task])


async def test_a_list_is_copied_as_it_is_read(stalled: Any) -> None:
    """Who asks for large lists and does not read them does not fill the agent's memory."""
    connection, task = stalled
    assert len(connection.sent[0]) < 100_000 < connection.length
    connection.released.set()
    await task


async def test_a_list_that_is_over_is_not_sent_on(site: Any, api: Any, objects: Any, stalled: Any) -> None:
    """A client that reads its list so slowly that a slice of it is not to be seen any more is cut off."""
    connection, task = stalled
    (view,) = site.hub._views.values()
    api.put(objects.nodes, objects.node("n1", zone="u9"))
    await objects.eventually(lambda: "default/web-zone.u1" not in view.items)
    connection.released.set()
    with pytest.raises(Disconnected):
        await task
    assert (len(connection.sent), connection.aborted) == (1, True)
    assert site.metrics.get("slow_clients_total") == 1


async def test_a_list_goes_on_while_other_things_change(api: Any, objects: Any, site: Any, stalled: Any) -> None:
    """What is no grid's is shown as it was when the list was made."""
    connection, task = stalled
    (view,) = site.hub._views.values()
    api.put(objects.slices, objects.plain("n0", "10.9.0.6"))
    await objects.eventually(lambda: b"10.9.0.6" in view.items["default/n0"].raw)
    connection.released.set()
    await task
    assert not connection.aborted
