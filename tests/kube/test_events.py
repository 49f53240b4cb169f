from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, cast

import pytest

from sitegrid.kube.client import Client
from sitegrid.kube.clock import Clock
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.kube.events import EventRecorder
from sitegrid.kube.resources import Resource

Object = dict[str, Any]
GRID = {
    "apiVersion": "example.test/v1",
    "kind": "Grid",
    "metadata": {"name": "g", "namespace": "ns", "uid": "u", "resourceVersion": "5"},
}


class Advancing(Clock, Protocol):
    """The fake clock of conftest."""

    async def advance(self, seconds: float) -> None:
        """Move the time."""


class FakeEvents:
    """Stands in for a Client: keeps Events."""

    def __init__(self) -> None:
        self.created: dict[str, Object] = {}
        self.patches: list[Object] = []
        self.failures: list[Exception] = []
        self.lose_answer = False

    async def create(self, resource: Resource, obj: Object) -> Object:
        """Create an Event."""
        if self.failures:
            raise self.failures.pop(0)
        name = obj["metadata"]["name"]
        if name in self.created:
            raise ApiError(409, "AlreadyExists")
        self.created[name] = obj
        if self.lose_answer:
            self.lose_answer = False
            raise Unreachable("cut off")
        return obj

    async def patch(self, resource: Resource, name: str, patch: Object, namespace: str | None = None) -> Object:
        """Change an Event."""
        if name not in self.created:
            raise ApiError(404, "NotFound")
        self.patches.append(patch)
        return {**self.created[name], **patch}

    @property
    def events(self) -> list[Object]:
        """All Events, in order."""
        return [*self.created.values()]


@asynccontextmanager
async def recording(events: FakeEvents, clock: Clock, **more: Any) -> AsyncIterator[EventRecorder]:
    """Run a recorder."""
    recorder = EventRecorder(cast(Client, events), component="sitegrid", instance="one", clock=clock, **more)
    task = asyncio.create_task(recorder.run())
    yield recorder
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


def tell(recorder: EventRecorder, note: str = "made", regarding: Object = GRID) -> None:
    """Record one event."""
    recorder.event(regarding, type="Normal", reason="Created", action="Create", note=note)


async def test_an_event_says_who_what_and_why(clock: Advancing) -> None:
    """All fields that the API wants are there."""
    events = FakeEvents()
    async with recording(events, clock) as recorder:
        tell(recorder)
        await clock.advance(0)
    (event,) = events.events
    assert event["metadata"]["name"].startswith("g.")
    assert event["metadata"]["namespace"] == "ns"
    assert event["regarding"] == {
        "apiVersion": "example.test/v1",
        "kind": "Grid",
        "namespace": "ns",
        "name": "g",
        "uid": "u",
        "resourceVersion": "5",
    }
    assert event["eventTime"].endswith("Z")
    assert (event["reportingController"], event["reportingInstance"]) == ("sitegrid", "one")
    assert (event["type"], event["reason"], event["action"], event["note"]) == ("Normal", "Created", "Create", "made")


async def test_events_of_cluster_scoped_objects_are_in_default(clock: Advancing) -> None:
    """An Event is namespaced, whatever it is about."""
    events = FakeEvents()
    async with recording(events, clock) as recorder:
        tell(recorder, regarding={"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})
        await clock.advance(0)
    assert events.events[0]["metadata"]["namespace"] == "default"


async def test_repetitions_become_a_series(clock: Advancing) -> None:
    """The second is written at once, further ones as a count once a minute, and at rest nothing."""
    events = FakeEvents()
    async with recording(events, clock) as recorder:
        tell(recorder)
        await clock.advance(1)
        tell(recorder)
        await clock.advance(1)
        assert [patch["series"]["count"] for patch in events.patches] == [2]
        for _ in range(50):
            tell(recorder)
            await clock.advance(1)
        assert [patch["series"]["count"] for patch in events.patches] == [2]
        await clock.advance(20)
        assert [patch["series"]["count"] for patch in events.patches] == [2, 52]
        await clock.advance(3600)
    assert len(events.events) == 1
    assert len(events.patches) == 2


async def test_other_notes_are_other_events(clock: Advancing) -> None:
    """Only what is equal in every word is a repetition."""
    events = FakeEvents()
    async with recording(events, clock) as recorder:
        tell(recorder, "one")
        tell(recorder, "two")
        await clock.advance(0)
    assert len(events.events) == 2


async def test_after_a_quiet_time_it_is_a_new_event(clock: Advancing) -> None:
    """What happened an hour ago is not the same occurrence."""
    events = FakeEvents()
    async with recording(events, clock) as recorder:
        tell(recorder)
        await clock.advance(3600)
        tell(recorder)
        await clock.advance(0)
    assert len(events.events) == 2
    assert events.patches == []


async def test_an_unreachable_server_is_tried_again(clock: Advancing) -> None:
    """An outage delays events; an answer that was lost makes no second one."""
    events = FakeEvents()
    events.failures = [Unreachable("down")] * 3
    events.lose_answer = True
    async with recording(events, clock) as recorder:
        tell(recorder)
        await clock.advance(60)
        assert recorder.dropped == 0
    assert len(events.events) == 1


async def test_a_refused_event_is_dropped_and_counted(clock: Advancing, caplog: pytest.LogCaptureFixture) -> None:
    """Refusals (a namespace that is being deleted) are not tried again, but not hidden either."""
    events = FakeEvents()
    events.failures = [ApiError(403, "Forbidden")]
    with caplog.at_level(logging.WARNING):
        async with recording(events, clock) as recorder:
            tell(recorder)
            await clock.advance(60)
            assert recorder.dropped == 1
    assert events.events == []
    assert "1 events were dropped" in caplog.text


async def test_recording_is_bounded_and_never_blocks(clock: Advancing) -> None:
    """While the server is away, what does not fit is dropped and counted; afterwards recording works again."""
    events = FakeEvents()
    events.failures = [Unreachable("down")] * 10
    async with recording(events, clock, max_series=10) as recorder:
        for number in range(100):
            tell(recorder, f"note {number}")
        assert recorder.dropped == 90
        await clock.advance(60)
        assert len(events.events) == 10
        tell(recorder, "afterwards")
        await clock.advance(1)
    assert events.events[-1]["note"] == "afterwards"


async def test_an_expired_event_is_made_anew(clock: Advancing) -> None:
    """The API server forgets Events; a series that goes on then begins again."""
    events = FakeEvents()
    async with recording(events, clock) as recorder:
        tell(recorder)
        await clock.advance(1)
        events.created.clear()
        for _ in range(3):
            tell(recorder)
            await clock.advance(61)
    assert len(events.events) == 1


async def test_long_texts_are_cut(clock: Advancing) -> None:
    """A note or name that the API would refuse is shortened, on a character's border."""
    events = FakeEvents()
    async with recording(events, clock) as recorder:
        tell(recorder, "é" * 2000, {"kind": "Grid", "metadata": {"name": "n" * 253, "namespace": "ns"}})
        await clock.advance(0)
    (event,) = events.events
    assert len(event["note"].encode()) <= 1024
    assert event["note"].startswith("ééé")
    assert len(event["metadata"]["name"]) <= 253


async def test_a_recorder_run_again_loses_nothing(clock: Advancing) -> None:
    """What was being written when the run was cancelled is written by the next run."""
    events = FakeEvents()
    recorder = EventRecorder(cast(Client, events), component="c", instance="i", clock=clock)
    hold = asyncio.Event()
    create = events.create

    async def slow(resource: Resource, obj: Object) -> Object:
        await hold.wait()
        return await create(resource, obj)

    events.create = slow  # type: ignore[method-assign]
    tell(recorder)
    for _ in range(2):
        task = asyncio.create_task(recorder.run())
        await clock.advance(1)
        task.cancel()
        await asyncio.wait([task])
        hold.set()
    assert len(events.events) == 1
