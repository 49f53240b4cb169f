"""The observed state: every object of one reflector, with indexes, and handlers that hear of each change.

A reflector writes, everybody else reads. Objects in the store are shared: never change one. Invariants: an object
never goes back to an older resourceVersion of the same uid (except when a relist replaces everything, as after a
restore from a backup); each change is told to every handler once, after the store holds it; objects that vanished
while nobody watched are told as deletes. Held by ``tests/kube/test_store.py``.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from sitegrid.kube.objects import Identity, identity, is_older

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace ("" for cluster-scoped objects) and name."""
Handler = Callable[[T | None, T | None], None]


class _Index(Generic[T]):
    """Objects by the values that a function finds in them."""

    def __init__(self, name: str, function: Callable[[T], Iterable[str]]) -> None:
        self._name = name
        self._function = function
        self.keys: dict[str, dict[Key, None]] = {}
        self._values: dict[Key, tuple[str, ...]] = {}

    def set(self, key: Key, obj: T) -> None:
        try:
            values = tuple(self._function(obj))
        except Exception:
            # One odd object must not stop all others; it is found under no value.
            log.exception("index %s cannot read %s/%s", self._name, *key)
            values = ()
        if values != self._values.get(key, ()):
            self.discard(key)
            self._values[key] = values
            for value in values:
                self.keys.setdefault(value, {})[key] = None

    def discard(self, key: Key) -> None:
        for value in self._values.pop(key, ()):
            if (keys := self.keys.get(value)) is not None:
                keys.pop(key, None)
                if not keys:
                    del self.keys[value]


class Store(Generic[T]):
    """Objects by namespace and name. Not thread-safe: used from one event loop."""

    def __init__(self) -> None:
        self._objects: dict[Key, T] = {}
        self._indexes: dict[str, _Index[T]] = {}
        self._handlers: builtins.list[Handler[T]] = []

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str | None, name: str) -> T | None:
        """Return the object or None; `namespace` is None or "" for cluster-scoped ones."""
        return self._objects.get((namespace or "", name))

    def keys(self) -> builtins.list[Key]:
        """Return (namespace, name) of every object."""
        return [*self._objects]

    def by_index(self, name: str, value: str) -> builtins.list[T]:
        """Return the objects for which the index `name` gave `value`; KeyError if there is no such index."""
        return [self._objects[key] for key in self._indexes[name].keys.get(value, ())]

    def index_values(self, name: str) -> builtins.list[str]:
        """Return all values of the index `name` that some object has."""
        return [*self._indexes[name].keys]

    def add_index(self, name: str, function: Callable[[T], Iterable[str]]) -> None:
        """Index all objects, now and later, by the values that `function` returns for each."""
        if name in self._indexes:
            raise ValueError(f"index {name!r} exists")
        index = self._indexes[name] = _Index(name, function)
        for key, obj in self._objects.items():
            index.set(key, obj)

    def add_handler(self, handler: Handler[T]) -> None:
        """Call `handler(old, new)` synchronously after every change; what is stored already is told as new at once.

        `old` is None for an added object, `new` for a deleted one. A name that was deleted and made again (another
        uid) is told as both. An exception is logged; it stops neither other handlers nor the reflector.
        """
        self._handlers.append(handler)
        for obj in [*self._objects.values()]:
            _call(handler, None, obj)

    def set(self, obj: T) -> bool:
        """Store an added or modified object; False if the store knows a newer version of it, or this one."""
        who = identity(obj)
        old = self._objects.get(who.key)
        if old is not None and not _supersedes(who, identity(old)):
            return False
        self._put(who.key, obj)
        self._tell(old, obj)
        return True

    def delete(self, obj: T) -> bool:
        """Remove the object whose last state is `obj`; False if the store knows nothing or something newer."""
        who = identity(obj)
        old = self._objects.get(who.key)
        if old is None or is_older(who.resource_version, identity(old).resource_version):
            return False
        self._remove(who.key)
        self._tell(old, None)
        return True

    def replace(self, objects: Iterable[T]) -> None:
        """Make `objects` the whole content, older or not; then tell the differences, deletes first."""
        wanted = {identity(obj).key: obj for obj in objects}
        changes: builtins.list[tuple[T | None, T | None]] = []
        for key in [key for key in self._objects if key not in wanted]:
            changes.append((self._remove(key), None))
        for key, obj in wanted.items():
            old = self._objects.get(key)
            if old is not None and identity(old)[2:] == identity(obj)[2:]:
                continue
            self._put(key, obj)
            changes.append((old, obj))
        for old, new in changes:
            self._tell(old, new)

    def list(self) -> builtins.list[T]:
        """Return every object."""
        return [*self._objects.values()]

    def _put(self, key: Key, obj: T) -> None:
        self._objects[key] = obj
        for index in self._indexes.values():
            index.set(key, obj)

    def _remove(self, key: Key) -> T:
        for index in self._indexes.values():
            index.discard(key)
        return self._objects.pop(key)

    def _tell(self, old: T | None, new: T | None) -> None:
        if old is not None and new is not None and identity(old).uid != identity(new).uid:
            self._tell(old, None)
            old = None
        for handler in self._handlers:
            _call(handler, old, new)


def _supersedes(new: Identity, old: Identity) -> bool:
    if new.uid != old.uid:
        # A name made again: only a late event of the former object is older than what is stored.
        return not is_older(new.resource_version, old.resource_version)
    return new.resource_version != old.resource_version and not is_older(new.resource_version, old.resource_version)


def _call(handler: Handler[T], old: T | None, new: T | None) -> None:
    try:
        handler(old, new)
    except Exception:
        log.exception("a handler failed; the change is in the store")
