"""Reading one's own writes."""

from __future__ import annotations

from typing import Any

import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.controller.written import EXPIRY, Written
from sitegrid.grid.observed import Node
from sitegrid.kube.store import Store


def _node(version: int, uid: str = "u1", **labels: str) -> Node:
    return Node(metadata=ObjectMeta(name="n", uid=uid, resource_version=str(version), labels=labels))


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    """A clock that stands still."""
    return _Clock()


@pytest.fixture
def store() -> Store[Any]:
    """An empty store."""
    return Store()


@pytest.fixture
def written(store: Store[Any], clock: _Clock) -> Written[Any]:
    """Own writes over the store, with an index by the label ``unit``."""
    return Written(store, {"unit": lambda node: [node.metadata.labels.get("unit", "")]}, clock=clock)


def test_write_is_seen_before_its_event(written: Written[Any]) -> None:
    """An object that we made is there, also by index."""
    written.wrote(_node(5, unit="a"))
    assert written.get("", "n") == _node(5, unit="a")
    assert written.by_index("unit", "a") == [_node(5, unit="a")]


def test_newer_of_store_and_write_counts(store: Store[Any], written: Written[Any]) -> None:
    """A late event of an older state does not hide our write; a newer one replaces it."""
    written.wrote(_node(5, unit="a"))
    store.set(_node(4, unit="old"))
    assert written.get("", "n") == _node(5, unit="a")
    assert written.by_index("unit", "old") == []
    store.set(_node(6, unit="theirs"))
    assert written.get("", "n") == _node(6, unit="theirs")
    assert written.by_index("unit", "a") == []


def test_deleted_object_is_gone_before_its_event(store: Store[Any], written: Written[Any]) -> None:
    """What we deleted is not seen any more; a new object of the name is."""
    store.set(_node(4))
    written.deleted(_node(4).metadata)
    assert written.get("", "n") is None
    store.set(_node(7, uid="u2"))
    assert written.get("", "n") == _node(7, uid="u2")


def test_object_that_others_deleted_is_gone(store: Store[Any], written: Written[Any]) -> None:
    """A delete event of what we wrote ends it."""
    store.set(_node(4))
    written.wrote(_node(5))
    store.delete(_node(6))
    assert written.get("", "n") is None


def test_write_that_never_shows_up_is_forgotten(written: Written[Any], clock: _Clock) -> None:
    """An object that was made and deleted while the watch was down does not stay for ever."""
    written.wrote(_node(5))
    clock.now = EXPIRY + 1
    assert written.get("", "n") is None
    assert written.by_index("unit", "") == []


def test_unordered_versions_are_left_to_the_store(store: Store[Any], written: Written[Any]) -> None:
    """Where a server's versions have no order, the store counts."""
    stored = Node(metadata=ObjectMeta(name="n", uid="u1", resource_version="opaque"))
    store.set(stored)
    written.wrote(_node(5))
    assert written.get("", "n") == stored
