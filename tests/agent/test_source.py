"""What reaches clients when the API server or the way to it misbehaves: nothing false, and in the end everything."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from sitegrid.agent.metrics import Metrics
from sitegrid.agent.reply import Reply
from sitegrid.agent.source import Source, SourceKey, _last_states
from sitegrid.agent.wan import Wan
from sitegrid.wire import protobuf
from sitegrid.wire.codec import Item
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTSLICES


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect at once: the pauses are not what these tests are about."""
    monkeypatch.setattr("sitegrid.agent.source._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("sitegrid.agent.source._LONGEST_PAUSE", 0.01)


@pytest.fixture
async def watch(site: Any, api: Any, objects: Any) -> Any:
    """Give a watch of all slices; two plain ones and one of the own unit exist."""
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    api.put(objects.slices, objects.plain("b", "10.9.0.2"))
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    names, stream = await site.list_and_watch(objects.slices)
    assert names == ["a", "b", "web-zone.u1"]
    return stream


async def _reconnected(site: Any, api: Any, objects: Any) -> None:
    await objects.eventually(lambda: len(api.watchers) == 4)


async def test_a_cut_connection_is_resumed(site: Any, api: Any, objects: Any, watch: Any) -> None:
    """The client's watch stays open; it hears of what happened meanwhile and of nothing else."""
    api.cut()
    api.put(objects.slices, objects.plain("a", "10.9.0.3"))
    assert await watch.summary(1) == [("MODIFIED", "a")]
    resumed = [target for _, target, _ in api.requests if "resourceVersion=" in target and "watch=true" in target]
    assert resumed


async def test_lost_history_is_listed_anew(site: Any, api: Any, objects: Any, watch: Any) -> None:
    """After 410 the client gets the difference: deletions that nobody saw, and changes, but nothing that stayed."""
    await api.stop()
    api.expired_below = 10**9
    api.delete(objects.slices, "b")
    api.put(objects.slices, objects.plain("a", "10.9.0.3"))
    await api.start()
    assert sorted(await watch.summary(2)) == [("DELETED", "b"), ("MODIFIED", "a")]
    assert site.metrics.get("relists_total") > 0


async def test_an_unreachable_api_server_changes_nothing(site: Any, api: Any, objects: Any, watch: Any) -> None:
    """While the WAN is down LIST and new WATCH are answered from memory, and no deletion is told."""
    await api.stop()
    await objects.eventually(lambda: site.metrics.get("upstream_failures_total", "unreachable") > 6)
    names, second = await site.list_and_watch(objects.slices)
    assert names == ["a", "b", "web-zone.u1"]
    await api.start()
    api.put(objects.slices, objects.plain("c", "10.9.0.4"))
    assert await watch.summary(1) == [("ADDED", "c")]
    assert await second.summary(1) == [("ADDED", "c")]


async def test_a_restarted_api_server_loses_nobody(site: Any, api: Any, objects: Any, watch: Any) -> None:
    """Stop, start, stop, start: the next change arrives once."""
    for _ in range(2):
        await api.stop()
        await api.start()
        await _reconnected(site, api, objects)
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2"))
    api.put(objects.slices, objects.plain("c", "10.9.0.4"))
    assert sorted(await watch.summary(2)) == [("ADDED", "c"), ("MODIFIED", "web-zone.u1")]


async def test_a_silent_api_server_is_noticed(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that says nothing, not even bookmarks, is given up and made anew."""
    monkeypatch.setattr("sitegrid.agent.source.SILENCE", 0.2)
    await site.names(objects.slices)
    before = len(api.requests)
    await objects.eventually(lambda: len(api.requests) >= before + 3)
    assert await site.names(objects.slices) == []


async def test_data_that_were_set_back_are_listed_anew(
    site: Any, api: Any, objects: Any, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restored API server takes a watch from a version that it has not reached, and is silent until it has."""
    monkeypatch.setattr("sitegrid.agent.source.SILENCE", 0.3)
    await api.stop()
    api.rv = 10
    api.delete(objects.slices, "b")
    await api.start()
    assert await watch.summary(1) == [("DELETED", "b")]
    assert site.metrics.get("upstream_failures_total", "silent") > 0


async def test_a_server_without_streaming_lists_is_listed(site: Any, api: Any, objects: Any) -> None:
    """A refused streaming list falls back to LIST and WATCH."""
    api.streaming_lists = False
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    names, watch = await site.list_and_watch(objects.slices)
    assert names == ["a"]
    await _reconnected(site, api, objects)
    api.put(objects.slices, objects.plain("b", "10.9.0.2"))
    assert await watch.summary(1) == [("ADDED", "b")]


async def test_a_server_that_ignores_streaming_lists_is_listed(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A streaming list whose end never comes is given up for a LIST."""
    monkeypatch.setattr("sitegrid.agent.source.SILENCE", 0.05)
    monkeypatch.setattr(type(api), "_event", _without_end(type(api)._event))
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    assert await site.names(objects.slices) == ["a"]


def _without_end(event: Any) -> Any:
    """Return an encoder of events that sends JSON bookmarks without the annotation that ends initial events."""

    def encode(watcher: Any, event_type: str, obj: dict[str, Any]) -> bytes:
        if event_type == "BOOKMARK" and not watcher.binary:
            obj["metadata"].pop("annotations", None)
        encoded: bytes = event(watcher, event_type, obj)
        return encoded

    return staticmethod(encode)


@pytest.mark.parametrize(
    "data",
    [
        b"not json\n",
        b'{"type":"ADDED","object":{"metadata":{"name":"x"}}}\n',
        b'{"type":"WEIRD","object":{}}\n',
        b'{"type":"ERROR","object":{"code":500,"message":"x"}}\n',
        b'{"type":"ADDED","object":null}\n',
    ],
)
async def test_nonsense_is_not_passed_on(site: Any, api: Any, objects: Any, watch: Any, data: bytes) -> None:
    """An event that is not understood ends the upstream watch, never the client's, and nothing of it is sent."""
    api.send_raw(objects.slices, data)
    failed = ("undecodable", "unreachable")
    await objects.eventually(lambda: any(site.metrics.get("upstream_failures_total", reason) for reason in failed))
    api.put(objects.slices, objects.plain("c", "10.9.0.4"))
    assert await watch.summary(1) == [("ADDED", "c")]


async def test_the_two_streams_may_come_in_any_order(site: Any, api: Any, objects: Any, watch: Any) -> None:
    """An object that becomes a grid's is shown once, whichever stream speaks first."""
    api.hold("!tkeedge.io/grid-uniq-key")
    becomes = objects.unit("zone.u1", "10.1.0.9")
    becomes["metadata"]["name"] = "a"
    api.put(objects.slices, becomes)
    assert await watch.summary(1) == [("MODIFIED", "a")]
    api.release()
    api.put(objects.slices, objects.plain("c", "10.9.0.4"))
    assert await watch.summary(1) == [("ADDED", "c")]


async def test_a_client_that_resumes_between_the_streams_misses_nothing(
    site: Any, api: Any, objects: Any, watch: Any
) -> None:
    """An event of the slower stream has an older resourceVersion than the client knows, and is told all the same."""
    api.hold("intkeedge.io/unit")
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2"))
    api.put(objects.slices, objects.plain("c", "10.9.0.4"))
    event = await watch.next()
    assert event["object"]["metadata"]["name"] == "c"
    watch.close()
    api.release()
    resumed = await site.watch(objects.slices, resourceVersion=event["object"]["metadata"]["resourceVersion"])
    assert await resumed.summary(1) == [("MODIFIED", "web-zone.u1")]


async def test_equal_questions_share_one_source(site: Any, api: Any, objects: Any, watch: Any) -> None:
    """Further clients of the same view cost no further upstream watch."""
    before = len(api.requests)
    for _ in range(3):
        await site.list_and_watch(objects.slices)
    assert len(api.requests) == before


async def test_a_refusal_is_tried_again(site: Any, api: Any, objects: Any) -> None:
    """While the API server refuses the agent, clients get 503; when it stops, they are served."""
    api.refusals[objects.services] = (403, b'{"kind":"Status","code":403,"message":"no"}')
    status, _ = await site.get(objects.services)
    assert status == 503
    del api.refusals[objects.services]
    for _ in range(100):
        status, _ = await site.get(objects.services)
        if status == 200:
            break
    assert status == 200


async def test_what_the_api_server_has_against_the_question_is_passed_on(site: Any, api: Any, objects: Any) -> None:
    """A 400 for the client's own selectors reaches the client as it was said."""
    api.refusals[objects.services] = (400, b'{"kind":"Status","code":400,"message":"field label not supported: x"}')
    status, body = await site.get(objects.services, fieldSelector="x=y")
    assert (status, body["message"]) == (400, "field label not supported: x")


async def test_bookmarks_move_the_resource_version(site: Any, api: Any, objects: Any, watch: Any) -> None:
    """What is not older than the API server's latest bookmark is in memory."""
    api.rv += 1000
    api.bookmark()
    names = await site.names(objects.slices, resourceVersion=api.rv, resourceVersionMatch="NotOlderThan")
    assert names == ["a", "b", "web-zone.u1"]


class _Recorded(Reply):
    """An answer whose whole body arrives at once."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.status, self.headers = 200, [(b"content-type", b"application/json")]
        self._chunks, self._head_done = [body], True

    async def _more(self) -> None:
        await asyncio.Event().wait()

    def close(self) -> None:
        """Do nothing."""


class _Told:
    """What a source's listener is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.progress = 0

    def source_changed(self, source: Source, key: str, deleted: Any) -> None:
        """Note the object's state, 0 where it is gone."""
        self.events.append((key, 0 if deleted is not None else source.objects[key].rv))

    def source_progressed(self, source: Source) -> None:
        """Count."""
        self.progress += 1


@pytest.mark.parametrize(
    ("last_counts", "told"),
    [
        (False, [("a", 2), ("b", 3), ("a", 4), ("b", 0), ("c", 6), ("c", 7)]),
        (True, [("a", 4), ("b", 0), ("c", 7)]),
    ],
)
async def test_states_that_arrive_together(objects: Any, last_counts: bool, told: list[tuple[str, int]]) -> None:
    """Where only the last one counts it is told once, a deletion always; elsewhere every event is told."""

    def event(kind: str, name: str, rv: int) -> bytes:
        return json.dumps({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(rv)}}}).encode()

    end = {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}
    lines = [json.dumps({"type": "BOOKMARK", "object": {"metadata": end}}).encode()]
    lines += [event("ADDED", "a", 2), event("ADDED", "b", 3), event("MODIFIED", "a", 4)]
    lines += [event("DELETED", "b", 5), event("ADDED", "c", 6), event("MODIFIED", "c", 7)]

    class Upstream:
        wan = Wan()

        async def server(self, **more: Any) -> object:
            return None

        async def ask(self, *args: Any, **more: Any) -> Reply:
            return _Recorded(b"\n".join(lines) + b"\n")

    key = SourceKey(ENDPOINTSLICES, "", "", "", JSON, last_counts=last_counts)
    source: Any = Source(key, cast(Any, Upstream()), Metrics())
    listener = _Told()
    source.listeners.append(listener)
    source.start()
    await objects.eventually(lambda: source.rv == 7)
    source.stop()
    assert listener.events == told
    assert listener.progress


def test_states_that_are_over_are_not_read() -> None:
    """Of an object's events only the last is decoded, but none is passed over that a deletion follows."""

    def frame(event: str, rv: int) -> bytes:
        kind, _, name = event.partition(" ")
        texts = ((1, name), (2, ""), (3, "ns"), (6, str(rv)))
        meta = b"".join(protobuf.write_bytes(number, text.encode()) for number, text in texts)
        return PROTOBUF.render_event(ENDPOINTSLICES, kind, Item("", rv, protobuf.write_bytes(1, meta)))[4:]

    order = ["ADDED a", "MODIFIED b", "MODIFIED a", "DELETED a", "ADDED a", "MODIFIED b", "MODIFIED a", "MODIFIED c"]
    frames = [frame(event, rv) for rv, event in enumerate(order, start=10)]
    for known in frames:
        PROTOBUF.change(known)
    assert [frames.index(kept) for kept in _last_states(frames, PROTOBUF)] == [1, 2, 3, 5, 6, 7]
