"""Reads one's own writes: a store as it is once our own writes have come back.

Between a write and its event the store has the former state; planning on that would write again, or make a child a
second time. So what the API server answered to a write stands in for the store's object until the store has caught up
(resourceVersions are ordered, KEP-5504). Held by ``tests/controller/test_written.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, Protocol, TypeVar

from sitegrid.api.meta import ObjectMeta
from sitegrid.kube.objects import is_older
from sitegrid.kube.store import Key, Store

EXPIRY: Final = 60.0
"""Seconds after which a write that never showed up is forgotten: it was undone while the watch was down."""


class Object(Protocol):
    """An observed object."""

    @property
    def metadata(self) -> ObjectMeta:
        """Its metadata."""


T = TypeVar("T", bound=Object)
Index = Callable[[T], Iterable[str]]


class Written(Generic[T]):
    """The objects of `store`, or the newer ones that we have written, also by the named `indexes`."""

    def __init__(
        self,
        store: Store[T],
        indexes: Mapping[str, Index[T]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._indexes = dict(indexes or {})
        self._clock = clock
        self._written: dict[Key, tuple[T, float]] = {}
        self._deleted: dict[Key, tuple[str, float]] = {}
        for name, function in self._indexes.items():
            store.add_index(name, function)
        store.add_handler(self._observed)

    def __bool__(self) -> bool:
        return bool(self._written) or len(self.store) > 0

    def wrote(self, obj: T) -> None:
        """Note what the API server answered to a write."""
        key = (obj.metadata.namespace, obj.metadata.name)
        self._deleted.pop(key, None)
        stored = self.store.get(*key)
        if stored is None or self._behind(stored, obj):
            self._written[key] = (obj, self._clock() + EXPIRY)

    def deleted(self, metadata: ObjectMeta) -> None:
        """Note that the API server deleted an object, or begins to."""
        key = (metadata.namespace, metadata.name)
        self._written.pop(key, None)
        self._deleted[key] = (metadata.uid, self._clock() + EXPIRY)

    def get(self, namespace: str, name: str) -> T | None:
        """Return the newest known state of one object."""
        return self._newest((namespace, name), self.store.get(namespace, name))

    def by_index(self, name: str, value: str) -> list[T]:
        """Return the newest known states of the objects for which the index `name` gives `value`."""
        function = self._indexes[name]
        keys = {(obj.metadata.namespace, obj.metadata.name): obj for obj in self.store.by_index(name, value)}
        for key, (obj, _) in self._written.items():
            if key not in keys and value in function(obj):
                keys[key] = obj
        found = (self._newest(key, self.store.get(*key)) for key in keys)
        return [obj for obj in found if obj is not None and value in function(obj)]

    def _newest(self, key: Key, stored: T | None) -> T | None:
        now = self._clock()
        gone = self._deleted.get(key)
        if gone is not None:
            if stored is not None and stored.metadata.uid == gone[0] and now < gone[1]:
                return None
            del self._deleted[key]
        written = self._written.get(key)
        if written is None:
            return stored
        if now < written[1] and (stored is None or self._behind(stored, written[0])):
            return written[0]
        del self._written[key]
        return stored

    def _observed(self, old: T | None, new: T | None) -> None:
        """Forget a write that the store now has, or whose object it knows to be deleted."""
        seen = new or old
        if seen is None:
            return
        key = (seen.metadata.namespace, seen.metadata.name)
        if new is None or (key in self._deleted and self._deleted[key][0] != new.metadata.uid):
            self._deleted.pop(key, None)
        written = self._written.get(key)
        if written is None:
            return
        same = written[0].metadata.uid == seen.metadata.uid
        if (new is None and same) or (new is not None and not self._behind(new, written[0])):
            del self._written[key]

    @staticmethod
    def _behind(stored: T, written: T) -> bool:
        return is_older(stored.metadata.resource_version, written.metadata.resource_version)
