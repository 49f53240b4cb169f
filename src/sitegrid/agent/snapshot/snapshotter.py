"""The snapshotter: decides when a changed document is written.

Owners of documents say `changed` as often as they like; that costs a dictionary entry. A document is made and
written `interval` seconds after its first unwritten change, and not sooner after its last write than its size
allows at `bytes_per_second`: flash wears out by bytes, and a cluster's 18 MB of plain slices must not be written
every two seconds. Documents are written one after the other, so there is at most one sync at a time, in a thread, so
that a slow disk delays no client. What failed is tried again; what changed meanwhile is written next.

Invariant: after `flush`, or the end of `run`, the disk has the last state of every changed document, unless the disk
failed (counted and logged by `Directory`). Held by ``tests/agent/test_snapshot.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from sitegrid.agent.snapshot.directory import Directory
from sitegrid.agent.snapshot.document import Document

_log = logging.getLogger(__name__)

_RETRY: Final = 30.0
"""Seconds between attempts at a document that could not be written."""


class _Pending:
    """A document to write, or to remove where there is nothing to make it; `due` is the clock's time for that."""

    def __init__(self, make_document: Callable[[], Document] | None, due: float) -> None:
        self.make_document = make_document
        self.due = due


class _Outcome:
    """What became of a write or removal, known also where nobody waited for it."""

    done = False
    size = 0


class Snapshotter:
    """Writes changed documents to `directory`; for use in one event loop.

    `interval` and `clock` are in seconds. Each document is written at `bytes_per_second` on average at most; the
    default is 22 GB a day in a cluster that never rests.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        interval: float = 2.0,
        bytes_per_second: float = 256 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._interval = interval
        self._bytes_per_second = bytes_per_second
        self._clock = clock
        self._pending: dict[str, _Pending] = {}
        self._not_before: dict[str, float] = {}
        self._saving = False
        self._dirty = asyncio.Event()
        self._lock = asyncio.Lock()

    @property
    def unwritten(self) -> int:
        """How many documents the disk does not have as they are."""
        return len(self._pending) + self._saving

    def changed(self, name: str, make_document: Callable[[], Document]) -> None:
        """Have the document written soon.

        `make_document` is called then, in the event loop; what it returns is read in a thread and must not change any
        more (a tuple or list of records made for it).
        """
        known = self._pending.get(name)
        if known is not None and known.make_document is not None:
            known.make_document = make_document
            return
        due = max(self._clock() + self._interval, self._not_before.get(name, 0.0))
        self._pending[name] = _Pending(make_document, due)
        self._dirty.set()

    def removed(self, name: str) -> None:
        """Have the document removed within `interval`, and forget an unwritten change of it."""
        self._pending[name] = _Pending(None, self._clock())
        self._dirty.set()

    async def run(self) -> None:
        """Write for ever; cancelled, write what is left."""
        try:
            while True:
                await self._dirty.wait()
                await asyncio.sleep(await self.step())
        finally:
            await self.flush()

    async def step(self) -> float:
        """Write what is due, and return the seconds after which there may be more."""
        now = self._clock()
        for name in [name for name, pending in self._pending.items() if pending.due <= now]:
            await self._save(name)
        if not self._pending:
            self._dirty.clear()
            return 0.0
        # No change that comes later is due before `interval` has passed, so nothing needs to interrupt the sleep.
        next_due = min(pending.due for pending in self._pending.values())
        return max(0.0, min(self._interval, next_due - self._clock()))

    async def flush(self) -> bool:
        """Write everything unwritten now; False where the disk failed."""
        results = [await self._save(name) for name in tuple(self._pending)]
        return all(results)

    async def _save(self, name: str) -> bool:
        async with self._lock:
            pending = self._pending.pop(name, None)
            if pending is None:
                return True
            outcome = _Outcome()
            self._saving = True
            try:
                work = self._work(name, pending)
                await _to_its_end(asyncio.get_running_loop().run_in_executor(None, work, outcome))
            except Exception:
                # A mistake in one document's owner must not cost the others their disk.
                _log.exception("snapshot %s failed", name)
            finally:
                self._saving = False
                self._saved(name, pending, outcome)
            return outcome.done

    def _work(self, name: str, pending: _Pending) -> Callable[[_Outcome], None]:
        """Return what is to be done in a thread."""
        if pending.make_document is None:

            def remove(outcome: _Outcome) -> None:
                outcome.done = self._directory.remove(name)

            return remove
        document = pending.make_document()

        def write(outcome: _Outcome) -> None:
            outcome.size = document.size
            outcome.done = self._directory.write(document)

        return write

    def _saved(self, name: str, pending: _Pending, outcome: _Outcome) -> None:
        """Note when the document may be written again, and that it must be if it was not."""
        if outcome.done and pending.make_document is None:
            self._not_before.pop(name, None)
            return
        pause = max(self._interval, outcome.size / self._bytes_per_second, 0.0 if outcome.done else _RETRY)
        now = self._clock()
        not_before = now + pause
        # Names are what clients ask for, without end: those that may be written at once need no note.
        self._not_before = {known: time for known, time in self._not_before.items() if time > now}
        self._not_before[name] = not_before
        newer = self._pending.get(name)
        if newer is not None:
            # A removal has nothing to wait for.
            if newer.make_document is not None:
                newer.due = max(newer.due, not_before)
        elif not outcome.done:
            self._pending[name] = _Pending(pending.make_document, not_before)
            self._dirty.set()


async def _to_its_end(work: asyncio.Future[None]) -> None:
    """Wait for work in a thread, even when cancelled: an older write must not overtake a newer one."""
    try:
        await asyncio.shield(work)
    finally:
        await asyncio.wait([work])
