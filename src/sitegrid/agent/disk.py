"""The agent's disk: the state of its sources, so that a node can start without the cloud.

The hub asks for what was kept of a source before it starts it and says when one has changed; `snapshot` does the
files. A credential is never written: what was read with one is kept under a keyed hash of it (`identity`): only who
presents the same credential again gets it, and only if the API server once accepted it.

What no client has asked for since the last but one sweep is removed, at a time when the API server can be reached.
The hub says for whom a source is kept: a client may have many documents begun, but not all that there may be, and the
node's essentials are nobody's and are always written.

Invariants: I1 (a source's document is found under exactly what that source asks for, units included); nothing here
raises because of the disk. Held by ``tests/agent/test_offline.py``.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from sitegrid.agent.eventlog import Place
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.snapshot import ESSENTIAL, DamagedError, Directory, Document, Record, Snapshotter
from sitegrid.agent.source import Source, SourceKey, Stored
from sitegrid.wire.codec import Item
from sitegrid.wire.packed import Packer

SWEEP_SECONDS: Final = 3600.0
MAX_DOCUMENTS: Final = 512
"""Most documents that are begun between two sweeps, beside the essential ones: clients can make up any number."""
SHARE: Final = 384
"""Most of them that are begun for one client: more than a kubelet has."""
NODE: Final = ""
"""For whom the node's essentials are kept."""
_ESSENTIAL: Final = {ESSENTIAL: "yes"}
_ACCEPTED: Final = "accepted"
_SALT: Final = "salt"
_SALT_BYTES: Final = 32
_LEFT: Final = "left"
"""The document of what an agent that ended has left to the next one: its views' places, and the sources it knew."""


class _Measured(Directory):
    """A directory that knows when it was last written to."""

    written_at = 0.0

    def write(self, document: Document) -> bool:
        """Write, and note the time."""
        done = super().write(document)
        if done:
            self.written_at = time.time()
        return done


class Disk:
    """Everything that one agent keeps below `path`; to be made and used in the running loop."""

    def __init__(self, path: str | os.PathLike[str], metrics: Metrics) -> None:
        loop = asyncio.get_running_loop()

        def count(reason: str) -> None:
            # Also called from the thread that writes; the loop may be gone by then.
            if not loop.is_closed():
                loop.call_soon_threadsafe(metrics.add, "snapshot_failures_total", 1, reason)

        self._directory = _Measured(path, count=count)
        self._snapshotter = Snapshotter(self._directory)
        # Every file is looked at once: what is damaged is told now, and not when the WAN is lost.
        for document in self._directory.load(take=lambda record: None):
            at = document.metadata.get("at", "")
            self._directory.written_at = max(self._directory.written_at, float(at) if at.isdecimal() else 0.0)
        self._used: set[str] = set()
        self._begun: dict[str, str] = {}
        """For whom each document was begun since the last sweep."""
        self._salt = self._load_salt()
        self._places: dict[str, Place] = {}
        self._shown: set[str] = set()
        self._load_left()
        metrics.follow("snapshots_unwritten", lambda: self._snapshotter.unwritten)
        metrics.follow("snapshot_bytes", self._directory.size)
        metrics.follow("snapshot_timestamp_seconds", lambda: self._directory.written_at)

    def _load_salt(self) -> bytes:
        found = self._directory.read(_SALT)
        for record in found.records if found is not None else ():
            if len(record.data) == _SALT_BYTES:
                return record.data
        salt = secrets.token_bytes(_SALT_BYTES)
        self._directory.write(Document(_SALT, (Record("", "", salt),), metadata=_ESSENTIAL))
        return salt

    def _load_left(self) -> None:
        found = self._directory.read(_LEFT)
        for record in found.records if found is not None else ():
            if record.version.isdecimal():
                self._places[record.key] = Place(int(record.version), record.data)
            else:
                self._shown.add(record.key)

    def left(self, view: str) -> Place | None:
        """Return what the view of that name of an agent before this one has left."""
        return self._places.get(view)

    def was_shown(self, key: SourceKey) -> bool:
        """Tell whether the last agent that has left anything knew what `key` asks for, up to its end."""
        return _name(key) in self._shown

    async def leave(self, sources: Iterable[SourceKey], places: Mapping[str, Place]) -> None:
        """Write what the next agent needs to go on with the clients of this one, once `run` has ended."""
        records = [Record(name, str(place.rv), place.digest) for name, place in places.items()]
        if not self._snapshotter.unwritten:
            records += (Record(_name(key), "", b"") for key in sources)
        document = Document(_LEFT, records, metadata=_ESSENTIAL)
        await asyncio.get_running_loop().run_in_executor(None, self._directory.write, document)

    def identity(self, authorization: str) -> str:
        """Return the name under which data of the client with this Authorization header are kept."""
        return hmac.digest(self._salt, authorization.encode("latin-1"), "sha256").hex()

    def accepted(self) -> tuple[str, ...]:
        """Return the identities whose credentials the API server had accepted."""
        found = self._directory.read(_ACCEPTED)
        return tuple(record.key for record in found.records) if found is not None else ()

    def keep_accepted(self, identities: Callable[[], Iterable[str]]) -> None:
        """Have them written soon."""

        def document() -> Document:
            return Document(_ACCEPTED, tuple(Record(each, "", b"") for each in identities()), metadata=_ESSENTIAL)

        self._snapshotter.changed(_ACCEPTED, document)

    def load(self, key: SourceKey) -> Stored | None:
        """Return the last state of the source that asks for `key`, if there is a whole one."""
        name = _name(key)
        objects: dict[str, Item] = {}
        packer = Packer()

        def take(record: Record) -> None:
            if not record.version.isdecimal():  # The file may be damaged: its checksum comes last.
                raise DamagedError("a version in it is no number")
            item = objects[record.key] = Item(record.key, int(record.version), record.data)
            if not key.last_counts:
                item.pack(packer)

        document = self._directory.read(name, take)
        if document is None or not document.resource_version.isdecimal():
            return None
        self._used.add(name)
        return Stored(objects, int(document.resource_version), packer)

    def keep(self, source: Source, owner: str) -> None:
        """Have the source's state written soon for the identity `owner`, or as one of the essentials."""
        name = _name(source.key)
        essential = owner == NODE
        if name not in self._used:
            if not essential and self._is_full(owner):
                return
            self._used.add(name)
            if not essential:
                self._begun[name] = owner
        self._snapshotter.changed(name, lambda: _document(name, source, essential=essential))

    def _is_full(self, owner: str) -> bool:
        """Tell whether no more documents are begun for `owner`."""
        if len(self._begun) >= MAX_DOCUMENTS or self._snapshotter.unwritten >= 2 * MAX_DOCUMENTS:
            return True  # a disk that fails is swept no better
        return sum(each == owner for each in self._begun.values()) >= SHARE

    def forget(self, key: SourceKey) -> None:
        """Have what was kept of a source removed, if anything was: it may be shown no more."""
        name = _name(key)
        if name in self._used:
            self._snapshotter.removed(name)

    async def run(self, active: Callable[[], list[SourceKey]], reachable: Callable[[], bool]) -> None:
        """Write and sweep for ever; cancelled, write what is left. `active` are the sources that have users."""
        writer = asyncio.ensure_future(self._snapshotter.run())
        try:
            while True:
                await asyncio.sleep(SWEEP_SECONDS)
                if reachable():
                    await self.sweep(active())
        finally:
            writer.cancel()
            await asyncio.wait([writer])

    async def sweep(self, active: list[SourceKey]) -> None:
        """Remove what is neither of an `active` source nor used since the last sweep."""
        names = {_name(key) for key in active}
        await asyncio.get_running_loop().run_in_executor(
            None, self._directory.retain, {_SALT, _ACCEPTED, *names, *self._used}
        )
        self._used = names
        self._begun.clear()


def _name(key: SourceKey) -> str:
    """Return the name of the document of `key`: equal names, equal questions by the same identity."""
    parts = (key.resource.path(key.namespace), key.labels, key.fields, key.codec.media_type, key.identity)
    return "\n".join((*parts, "metadata" if key.metadata_only else ""))


def _document(name: str, source: Source, *, essential: bool) -> Document:
    records = _Records(source.objects.values())
    metadata = {"at": f"{time.time():.0f}", **(_ESSENTIAL if essential else {})}
    return Document(name, records, str(source.rv), metadata)


class _Records:
    """The records of items as they are now, each made when it is asked for: they are not unpacked all at once."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = tuple(items)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Record]:
        return (Record(item.key, str(item.rv), item.raw) for item in self._items)
