"""The view's log, without any network: sources are stood in for by plain objects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.agent.source import SourceKey
from sitegrid.agent.view import View, ViewKey
from sitegrid.wire.codec import Item
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.labels import GRID_UNIQ_KEY, MANAGED_BY, SITEGRID, UNIT, UNIT_SERVICE_NAME
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES, Resource


class StubSource:
    """A source whose state a test sets."""

    def __init__(self, key: SourceKey) -> None:
        self.key = key
        self.objects: dict[str, Item] = {}
        self.rv = 1
        self.synced = self.listed = True
        self.refusal = None
        self.listeners: list[Any] = []

    def put(self, item: Item) -> None:
        """Add or change an object."""
        self.objects[item.key] = item
        self.rv = max(self.rv, item.rv)
        self._tell(item.key, None)

    def delete(self, key: str, rv: int) -> None:
        """Delete an object."""
        item = self.objects.pop(key, None)
        if item is not None:
            self.rv = max(self.rv, rv)
            self._tell(key, Item(key, rv, item.raw))

    def _tell(self, key: str, deleted: Item | None) -> None:
        for listener in self.listeners:
            listener.source_changed(self, key, deleted)


class StubNode:
    """A node whose units a test sets."""

    def __init__(self, *units: str) -> None:
        self.known = True
        self.units = frozenset(units)
        self.keys = frozenset(unit.partition(".")[0] for unit in units)


class Stage:
    """A view between stub sources."""

    def __init__(self, resource: Resource = ENDPOINTSLICES) -> None:
        self.node = StubNode("zone.u1")
        self.sources: dict[SourceKey, StubSource] = {}
        key = ViewKey(resource, "", "", "", JSON)
        self.view = View(key, self.node, self._acquire, lambda source: None)  # type: ignore[arg-type]

    def _acquire(self, key: SourceKey) -> Any:
        if key not in self.sources:
            self.sources[key] = StubSource(key)
        return self.sources[key]

    @property
    def plain(self) -> StubSource:
        """Return the source of what is no grid's."""
        return next(source for key, source in self.sources.items() if key.labels.startswith("!"))

    def move(self, *units: str) -> None:
        """Have the node in other units from now on."""
        self.node.units, self.node.keys = StubNode(*units).units, StubNode(*units).keys
        self.view.units_changed()

    @property
    def grid(self) -> StubSource:
        """Return the source of the present units' slices."""
        return next(s for k, s in self.sources.items() if all(unit in k.labels for unit in (*self.node.units, UNIT)))


def _item(name: str, rv: int, unit: str = "") -> Item:
    labels = {UNIT: unit, UNIT_SERVICE_NAME: "web", GRID_UNIQ_KEY: "zone", MANAGED_BY: SITEGRID} if unit else {}
    meta = {"name": name, "namespace": "ns", "resourceVersion": str(rv), "labels": labels}
    return JSON.item(json.dumps({"metadata": meta, "endpoints": []}).encode())


def _state(events: list[bytes], state: dict[str, int]) -> dict[str, int]:
    for data in events:
        event = json.loads(data)
        meta = event["object"]["metadata"]
        if event["type"] == "DELETED":
            state.pop(meta["name"], None)
        else:
            state[meta["name"]] = int(meta["resourceVersion"])
    return state


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["plain", "grid", "delete-plain", "delete-grid", "bookmark", "units"]), st.integers(0, 2)
    ),
    max_size=30,
)


@given(OPERATIONS, st.integers(1, 8))
def test_every_resume_converges(operations: list[tuple[str, int]], lag: int) -> None:
    """From every resourceVersion that was ever exposed, with the state a client had then, replay ends at the truth.

    The grid's resourceVersions lag behind the plain ones, as two watches do.
    """
    stage = Stage()
    rv = 100
    exposed = [(stage.view.expose_rv(), {item.key[3:]: item.rv for item in stage.view.items.values()})]
    for operation, number in operations:
        rv += 1
        if operation == "plain":
            stage.plain.put(_item(f"p{number}", rv))
        elif operation == "grid":
            stage.grid.put(_item(f"g{number}", rv - lag, "zone.u1"))
        elif operation == "delete-plain":
            stage.plain.delete(f"ns/p{number}", rv)
        elif operation == "delete-grid":
            stage.grid.delete(f"ns/g{number}", rv - lag)
        elif operation == "units":
            stage.node.units = frozenset({"zone.u1"} if number else {"zone.u2"})
            stage.view.units_changed()
        else:
            stage.plain.rv = rv
        exposed.append((stage.view.expose_rv(), {item.key[3:]: item.rv for item in stage.view.items.values()}))
    truth = {item.key[3:]: item.rv for item in stage.view.items.values()}
    for seen_rv, state in exposed:
        position = stage.view.log.position(seen_rv)
        assert position is not None
        assert _state(stage.view.log.read(position), dict(state)) == truth


def test_what_stayed_is_not_told() -> None:
    """A second unit's source holding the same slice again causes no event."""
    stage = Stage()
    stage.grid.put(_item("g", 5, "zone.u1"))
    end = stage.view.log.end
    both = frozenset({"zone.u1", "zone.u2"})
    key = stage.view.key.slices_source(both)
    assert key is not None
    stage._acquire(key).objects["ns/g"] = _item("g", 5, "zone.u1")
    stage.node.units = both
    stage.view.units_changed()
    assert stage.view.log.end == end
    assert "ns/g" in stage.view.items


def test_units_that_come_back_are_shown_again() -> None:
    """Away and back before the other unit's source has synced: the own slices return."""
    stage = Stage()
    stage.grid.put(_item("g", 5, "zone.u1"))
    pending = stage.view.key.slices_source({"zone.u2"})
    assert pending is not None
    stage._acquire(pending).synced = stage._acquire(pending).listed = False
    stage.node.units = frozenset({"zone.u2"})
    stage.view.units_changed()
    assert "ns/g" not in stage.view.items
    stage.node.units = frozenset({"zone.u1"})
    stage.view.units_changed()
    assert "ns/g" in stage.view.items


def test_a_forgotten_resource_version_is_never_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the log no longer reaches back to where a version was first told, it is 410 for good."""
    monkeypatch.setattr("sitegrid.agent.eventlog.LOG_EVENTS", 4)
    stage = Stage()
    stage.plain.rv = 1000
    rv = stage.view.expose_rv()
    for number in range(20):
        stage.plain.put(_item("p", 100 + number))
    assert stage.view.expose_rv() > rv
    assert stage.view.log.position(rv) is None


def test_what_is_told_after_the_log_was_overrun_can_be_resumed_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst under one resourceVersion (a relabelled node) must not send clients from 410 to LIST to 410."""
    monkeypatch.setattr("sitegrid.agent.eventlog.LOG_EVENTS", 4)
    stage = Stage()
    stage.plain.rv = 1000
    stage.view.expose_rv()
    for number in range(20):
        stage.plain.put(_item("p", 100 + number))
    assert stage.view.log.position(stage.view.expose_rv()) == stage.view.log.end


def test_a_slice_that_went_and_came_back_unread_was_modified() -> None:
    """A client that had the slice all the time is not told that it is new."""
    stage = Stage()
    stage.grid.put(_item("g", 5, "zone.u1"))
    position = stage.view.log.end
    stage.grid.delete("ns/g", 6)
    stage.plain.put(_item("g", 7))
    (event,) = [json.loads(data) for data in stage.view.log.read(position)]
    assert (event["type"], event["object"]["metadata"]["resourceVersion"]) == ("MODIFIED", "7")


def test_a_source_that_is_not_synced_makes_no_view() -> None:
    """Until every source has answered there is no state to show."""
    stage = Stage()
    assert stage.view.ready
    unsynced = StubSource(stage.plain.key)
    unsynced.synced = False
    view = View(stage.view.key, stage.node, lambda key: unsynced, lambda source: None)  # type: ignore[arg-type, return-value]
    assert not view.ready


def test_a_version_of_an_agent_before_is_not_resumed_from() -> None:
    """A fresh view deletes what a client has under an old version: that version stands for no place in its log."""
    stage = Stage()
    stage.plain.put(_item("p", 90))
    fresh = View(stage.view.key, stage.node, stage._acquire, lambda source: None)  # type: ignore[arg-type]
    stage.grid.put(_item("g", 80, "zone.u1"))
    fresh.expose_rv()
    assert fresh.log.position(80) is None
    stage.node.units = frozenset()
    fresh.units_changed()
    assert "ns/g" not in fresh.items
    assert fresh.log.position(80) is None


def test_a_place_is_of_one_view_only() -> None:
    """Equal views of two agents tell different resourceVersions of the same state, and know only their own."""
    stage, other = Stage(), Stage()
    stage.plain.put(_item("p", 90))
    other.plain.put(_item("p", 90))
    rv = stage.view.expose_rv()
    assert stage.view.log.position(rv) == stage.view.log.end
    assert other.view.expose_rv() != rv
    assert other.view.log.position(rv) is None


@pytest.mark.parametrize("listed", [True, False])
def test_an_event_is_resumed_from_where_no_agent_before_can_have_told_it(listed: bool) -> None:
    """What comes after a list is news; what comes after a resumed watch may have been told before, less another."""
    stage = Stage()
    stage.plain.listed = listed
    view = View(stage.view.key, stage.node, stage._acquire, lambda source: None)  # type: ignore[arg-type]
    stage.plain.put(_item("p", 90))
    assert (view.log.position(90) is not None) == listed


def test_a_list_that_is_late_does_not_take_back_what_was_told() -> None:
    """The next units' source was listed before the former's last event: it is read once it has that event."""
    stage = Stage()
    stage.grid.put(_item("g", 5, "zone.u1"))
    both = frozenset({"zone.u1", "zone.u2"})
    key = stage.view.key.slices_source(both)
    assert key is not None
    late, former = stage._acquire(key), stage.grid
    late.listed = False
    stage.node.units = both
    stage.view.units_changed()
    former.put(_item("new", 7, "zone.u1"))
    late.objects["ns/g"], late.listed, late.rv = _item("g", 5, "zone.u1"), True, 6
    stage.view.source_progressed(late)
    assert set(stage.view.items) == {"ns/g", "ns/new"}
    end = stage.view.log.end
    late.put(_item("new", 7, "zone.u1"))
    former.put(_item("old", 8, "zone.u1"))
    assert stage.view.log.end == end
    assert set(stage.view.items) == {"ns/g", "ns/new"}


def _service(name: str, rv: int, key: str) -> Item:
    meta = {"name": name, "namespace": "ns", "resourceVersion": str(rv), "labels": {GRID_UNIQ_KEY: key}}
    return JSON.item(json.dumps({"metadata": meta, "spec": {}}).encode())


def test_services_of_next_keys_do_not_take_back_what_was_told() -> None:
    """Their source was listed before the former's last event: it is read once it has that event, and others' not."""
    stage = Stage(SERVICES)
    former = next(source for key, source in stage.sources.items() if key.labels == f"{GRID_UNIQ_KEY} in (zone)")
    former.put(_service("web", 5, "zone"))
    key = stage.view.key.services_source({"zone", "rack"})
    assert key is not None
    late = stage._acquire(key)
    late.listed = False
    stage.move("zone.u1", "rack.r1")
    former.put(_service("web", 7, "zone"))
    former.put(_service("away", 9, "host"))
    late.objects |= {item.key: item for item in (_service("web", 5, "zone"), _service("other", 4, "rack"))}
    late.listed, late.rv = True, 6
    stage.view.source_progressed(late)
    assert {item.key: item.rv for item in stage.view.items.values()} == {"ns/web": 7}
    late.put(_service("web", 7, "zone"))
    assert {item.key: item.rv for item in stage.view.items.values()} == {"ns/web": 7, "ns/other": 4}
    assert [json.loads(event)["type"] for event in stage.view.log.read(stage.view.log.end - 1)] == ["ADDED"]


def test_services_of_a_lost_key_go_before_the_next_keys_are_known() -> None:
    """A node that changes its keys is closed at once, and opened when the others' Services are listed."""
    stage = Stage(SERVICES)
    former = next(source for key, source in stage.sources.items() if key.labels == f"{GRID_UNIQ_KEY} in (zone)")
    former.put(_service("web", 5, "zone"))
    key = stage.view.key.services_source({"rack"})
    assert key is not None
    stage._acquire(key).listed = False
    stage.move("rack.r1")
    assert not stage.view.items
