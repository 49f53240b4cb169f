from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.kube.store import Store

Object = dict[str, Any]
Change = tuple[str | None, str | None]


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A typed object."""

    metadata: ObjectMeta


def obj(name: str, version: int, uid: str | None = None, **labels: str) -> Object:
    """Return an object of namespace `ns`."""
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "labels": labels,
        }
    }


def record(store: Store[Object]) -> list[Change]:
    """Return a list to which every change is added, as ``name@version`` of old and new."""
    changes: list[Change] = []

    def text(found: Object | None) -> str | None:
        return None if found is None else f"{found['metadata']['name']}@{found['metadata']['resourceVersion']}"

    store.add_handler(lambda old, new: changes.append((text(old), text(new))))
    return changes


def test_objects_are_found_by_namespace_and_name() -> None:
    """Cluster-scoped objects have no namespace, however that is spelled."""
    store: Store[Object] = Store()
    node = {"metadata": {"name": "n", "resourceVersion": "1"}}
    store.set(node)
    store.set(obj("p", 1))
    assert store.get(None, "n") is node
    assert store.get("", "n") is node
    assert store.get("ns", "p") is not None
    assert store.get("ns", "n") is None
    assert len(store.list()) == len(store) == 2


def test_typed_objects_are_keyed_as_dicts_are() -> None:
    """A Struct's metadata tells its key and version."""
    store: Store[Pod] = Store()
    pod = Pod(ObjectMeta(name="p", namespace="ns", uid="u", resource_version="5"))
    store.set(pod)
    assert store.get("ns", "p") is pod
    assert not store.set(Pod(ObjectMeta(name="p", namespace="ns", uid="u", resource_version="4")))


def test_an_object_never_goes_back() -> None:
    """An older version, compared as a number, and the same version change nothing and are told to nobody."""
    store: Store[Object] = Store()
    store.set(obj("a", 10))
    changes = record(store)
    assert not store.set(obj("a", 9))
    assert not store.set(obj("a", 10))
    assert store.set(obj("a", 100))
    assert changes == [(None, "a@10"), ("a@10", "a@100")]


def test_a_late_event_of_a_former_object_is_ignored() -> None:
    """An event of the object that had the name before does not touch the new one."""
    store: Store[Object] = Store()
    store.set(obj("a", 10, "new"))
    assert not store.delete(obj("a", 9, "old"))
    assert not store.set(obj("a", 8, "old"))
    assert store.get("ns", "a") == obj("a", 10, "new")


def test_a_name_made_again_is_told_as_delete_and_add() -> None:
    """Another uid is another object."""
    store: Store[Object] = Store()
    store.set(obj("a", 1, "old"))
    changes = record(store)
    store.set(obj("a", 5, "new"))
    assert changes == [(None, "a@1"), ("a@1", None), (None, "a@5")]


def test_replace_tells_only_differences_and_vanished_objects() -> None:
    """A relist is told as what happened meanwhile: deletes, adds, changes, and nothing for what stayed."""
    store: Store[Object] = Store()
    for name in ("gone", "same", "changed"):
        store.set(obj(name, 1))
    changes = record(store)
    changes.clear()
    store.replace([obj("same", 1), obj("changed", 3), obj("fresh", 2)])
    assert changes == [("gone@1", None), ("changed@1", "changed@3"), (None, "fresh@2")]
    assert sorted(store.keys()) == [("ns", "changed"), ("ns", "fresh"), ("ns", "same")]


def test_replace_may_go_back() -> None:
    """After a restore from a backup the server's older version is the truth."""
    store: Store[Object] = Store()
    store.set(obj("a", 10))
    store.replace([obj("a", 4)])
    assert store.get("ns", "a") == obj("a", 4)


def test_handlers_see_the_store_after_the_change() -> None:
    """A handler that looks into the store finds what it was told, and all of a replacement."""
    store: Store[Object] = Store()
    seen: list[list[tuple[str, str]]] = []
    store.add_handler(lambda old, new: seen.append(sorted(store.keys())))
    store.replace([obj("a", 1), obj("b", 1)])
    store.delete(obj("a", 2))
    assert seen == [[("ns", "a"), ("ns", "b")]] * 2 + [[("ns", "b")]]


def test_a_failing_handler_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is logged; the others are called and the store has the change."""
    store: Store[Object] = Store()

    def fail(old: Object | None, new: Object | None) -> None:
        raise RuntimeError("broken handler")

    store.add_handler(fail)
    changes = record(store)
    with caplog.at_level(logging.ERROR):
        assert store.set(obj("a", 1))
    assert changes == [(None, "a@1")]
    assert "broken handler" in caplog.text


def test_an_index_follows_every_change() -> None:
    """Objects are found by their present values only: after changes, deletes and replacements."""
    store: Store[Object] = Store()
    store.set(obj("early", 1, zone="z1"))
    store.add_index("zone", lambda found: found["metadata"]["labels"].values())
    store.set(obj("a", 1, zone="z1"))
    store.set(obj("b", 1, zone="z2"))

    def names(value: str) -> list[str]:
        return sorted(found["metadata"]["name"] for found in store.by_index("zone", value))

    assert names("z1") == ["a", "early"]
    store.set(obj("a", 2, zone="z2"))
    assert (names("z1"), names("z2")) == (["early"], ["a", "b"])
    store.delete(obj("b", 2))
    assert names("z2") == ["a"]
    store.replace([obj("c", 3, zone="z3")])
    assert store.index_values("zone") == ["z3"]
    assert names("nowhere") == []


def test_by_index_gives_the_present_object() -> None:
    """A change that leaves the indexed value alone is seen through the index."""
    store: Store[Object] = Store()
    store.add_index("zone", lambda found: found["metadata"]["labels"].values())
    store.set(obj("a", 1, zone="z"))
    store.set(obj("a", 2, zone="z"))
    assert store.by_index("zone", "z") == [obj("a", 2, zone="z")]


def test_an_index_that_fails_at_one_object_keeps_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """The odd object is stored, logged, and found under no value."""
    store: Store[Object] = Store()
    store.add_index("zone", lambda found: [found["metadata"]["labels"]["zone"]])
    with caplog.at_level(logging.ERROR):
        store.set(obj("odd", 1))
    store.set(obj("fine", 1, zone="z"))
    assert store.get("ns", "odd") is not None
    assert len(store.by_index("zone", "z")) == 1
    assert "ns/odd" in caplog.text
