"""The log of what clients of one view were told, and the resourceVersions from which they can go on.

What a list or a bookmark tells as its resourceVersion is a *place* in this log: a number of this log's own, far above
the API server's, so that it is never mistaken for what another view, or an agent before this one, told. An event has
its object's resourceVersion. Those of a view's streams are not in order, so a client that resumes from one is served
from the *earliest* place at which it can have seen it: it may hear something again, it never misses anything. What is
not known for certain to have been told from this log is not resumed from.

The log holds every object once, and renders it for each client that reads it. It is bounded; a reader that fell
behind what is left is told so, and gets no gap (I6). Of a grid's objects only the last state is ever given (I1).

`View` appends, `serve` reads. Held by ``tests/agent/test_view.py`` and the state machine of ``tests/agent/faults``.
"""

from __future__ import annotations

import random
from typing import Final, NamedTuple, Protocol

from sitegrid.wire.codec import Codec, Item
from sitegrid.wire.resources import Resource

PLACES: Final = 1 << 62
"""From here on resourceVersions are places in logs. A log's begin at a random multiple of 2**32: no other's do."""
LOG_EVENTS: Final = 500
LOG_BYTES: Final = 512 * 1024
"""What one log may hold, in bytes of objects; the older half goes when it holds more. A burst of 10,000 events left
5.5 MB resident when this was many times as much."""


class Place(NamedTuple):
    """What a view that ends leaves to the next agent's: the `rv` that clients were told last, and of what state."""

    rv: int
    digest: bytes


class Reader(Protocol):
    """Who reads the log: `position` is the place up to which it was given events."""

    position: int

    def fell_behind(self) -> None:
        """The place is gone: what follows it cannot be given any more."""


class _Event(NamedTuple):
    type: str
    key: str
    item: Item
    grid: bool


class EventLog:
    """The events of one view, oldest first; a position counts all events that there ever were."""

    def __init__(self, resource: Resource, codec: Codec) -> None:
        self.readers: set[Reader] = set()
        self.limit = LOG_BYTES
        """Bytes of objects that it may hold."""
        self.lost_rv = 0
        """The newest resourceVersion that can no longer be resumed from, since its place is forgotten."""
        self._resource = resource
        self._codec = codec
        self._events: list[_Event] = []
        self._bytes = 0
        self._start = 0
        self._marks: dict[int, int] = {}
        self._places = PLACES + (random.getrandbits(30) << 32)
        self._adopted: int | None = None

    @property
    def end(self) -> int:
        """Return the position behind the last event."""
        return self._start + len(self._events)

    @property
    def place(self) -> int:
        """Return the resourceVersion that stands for `end`."""
        return self._places + self.end

    def append(self, event_type: str, key: str, item: Item, *, grid: bool) -> None:
        """Add an event; `grid` says that `item` is a grid's."""
        self._events.append(_Event(event_type, key, item, grid))
        self._bytes += len(item.raw)

    def trim(self) -> None:
        """Forget the older half when there is too much, and the resourceVersions that only it could serve."""
        if len(self._events) <= LOG_EVENTS and self._bytes <= self.limit:
            return
        half = len(self._events) // 2 + 1
        self._bytes -= sum(len(event.item.raw) for event in self._events[:half])
        del self._events[:half]
        self._start += half
        for rv, position in list(self._marks.items()):
            if position >= self._start:
                break
            del self._marks[rv]
            self.lost_rv = max(self.lost_rv, rv)
        for reader in [reader for reader in self.readers if reader.position < self._start]:
            reader.fell_behind()

    def mark(self, rv: int) -> None:
        """Note that clients may have seen `rv` of the API server's at `end`; the first place stays.

        A resourceVersion whose first place is forgotten is never noted again: its clients would get a gap.
        """
        if rv > self.lost_rv:
            self._marks.setdefault(rv, self.end)

    def adopt(self, rv: int) -> None:
        """Let clients go on from `rv`: an agent before this one told it of the state that this log begins with."""
        self._adopted = rv

    def position(self, rv: int) -> int | None:
        """Return where a client that has seen `rv` has to go on; None when that is not known (any more)."""
        if rv == self._adopted:
            return None if self._start else 0
        if rv < PLACES:
            return self._marks.get(rv)
        position = rv - self._places
        return position if self._start <= position <= self.end else None

    def read(self, position: int) -> list[bytes]:
        """Return the rendered events since `position`, which is in the log, up to `end`.

        Of several events of one key, a grid's among them, only the last is given, so that no state is sent that is
        over; its type says whether the client had the object at `position`.
        """
        events = self._events[position - self._start :]
        grid = {event.key for event in events if event.grid}
        first: dict[str, _Event] = {}
        last: dict[str, _Event] = {}
        for event in events:
            first.setdefault(event.key, event)
            last[event.key] = event
        out = []
        for event in events:
            kind = event.type
            if event.key in grid:
                if event is not last[event.key]:
                    continue
                # A deletion is told even of what came in between: who resumes may have heard of that already.
                if kind != "DELETED":
                    kind = "ADDED" if first[event.key].type == "ADDED" else "MODIFIED"
            out.append(self._codec.render_event(self._resource, kind, event.item))
        return out
