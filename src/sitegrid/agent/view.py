"""A view: what one kind of client request sees, merged from a grid's objects and everything else.

A view of what is not guarded (it has an `identity`) is the plain source of that client's credential and nothing else.

A view reads two sources. *plain* holds what is no grid's, filtered by the API server with the client's own selectors.
*grid* holds unit slices of the node's units (or grid Services); they are shown with rewritten labels, and only then
held against the client's selectors. Whatever happens (an event, a relist, a relabelled node), the view works out anew
what a client should see under one key and compares that with what it saw: so what stayed is never touched, and the
order in which the two sources speak does not matter.

What clients were told is kept in a bounded log. The resourceVersion of a list or bookmark is a *place* in that log: a
number of this view's own, far above the API server's, so that it is never mistaken for what another view, or an agent
before this one, told. An event has its object's resourceVersion. Those of the two streams are not in order, so a
client that resumes from one is served from the *earliest* place at which it can have seen it: it may hear something
again, it never misses anything. What is not known for certain to have been told by this view is 410, and the client
lists anew.

Of a grid's slices only the present state is ever sent, also from the log, and a deleted one without its endpoints.

Invariants: I1 (only slices of current units are in `items`), I6 (a reader that fell behind the log is told so,
and gets no gap). Held by ``tests/agent/test_view.py`` and ``tests/agent/test_closure.py``.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from sitegrid.agent.node import NodeUnits
from sitegrid.agent.patches import PatchedServices, Patches
from sitegrid.agent.source import Refused, Source, SourceKey
from sitegrid.wire.codec import Codec, Item
from sitegrid.wire.labels import GRID_UNIQ_KEY, MANAGED_BY, SITEGRID, UNIT
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES, Resource
from sitegrid.wire.rewrite import grid_service_labels, of_grid, unit_slice_labels
from sitegrid.wire.selectors import FieldSelector, LabelSelector

PLACES: Final = 1 << 62
"""From here on resourceVersions are places in logs. A view's begin at a random multiple of 2**32: no other's do."""
LOG_EVENTS: Final = 1000
LOG_BYTES: Final = 1024 * 1024
"""What the log of one view may hold, in rendered bytes (an object itself costs as much again); the older half goes
when it holds more. A burst of 10,000 events left 5.5 MB resident when this was four times as much."""
_SNAPSHOTS: Final = 4
"""Paged lists that one view keeps open at a time."""


class ViewKey(NamedTuple):
    """What a client asks for; equal requests share one view."""

    resource: Resource
    namespace: str
    labels: str
    fields: str
    codec: Codec
    identity: str = ""
    """Whose credential it is read with; empty for what is guarded, which is read with the agent's."""

    def plain_source(self) -> SourceKey:
        """Return what to ask the API server for: the client's selection without anything of a grid."""
        if self.identity:
            return SourceKey(
                self.resource, self.namespace, self.labels, self.fields, self.codec, identity=self.identity
            )
        labels = f"{self.labels},!{GRID_UNIQ_KEY}" if self.labels else f"!{GRID_UNIQ_KEY}"
        return SourceKey(self.resource, self.namespace, labels, self.fields, self.codec)

    def grid_source(self, units: Iterable[str]) -> SourceKey | None:
        """Return what to ask the API server for a grid's objects; None when there is nothing to be shown."""
        if self.resource is not ENDPOINTSLICES:
            return SourceKey(self.resource, self.namespace, GRID_UNIQ_KEY, "", self.codec)
        ids = ",".join(sorted(units))
        if not ids:
            return None
        return SourceKey(self.resource, self.namespace, f"{UNIT} in ({ids}),{MANAGED_BY}={SITEGRID}", "", self.codec)


class _GridItem(Item):
    """An item of a grid as a client sees it: unlike others it may be shown only while it is current."""

    __slots__ = ()


class Reader(Protocol):
    """Who reads the log: `position` is the place up to which it was given events."""

    position: int

    def fell_behind(self) -> None:
        """The place is gone: what follows it cannot be given any more."""


class _Event:
    """One entry of the log: `data` is the rendered event."""

    __slots__ = ("data", "grid", "item", "key", "type")

    def __init__(self, event_type: str, key: str, item: Item, grid: bool, data: bytes) -> None:
        self.type = event_type
        self.key = key
        self.item = item
        self.grid = grid
        self.data = data


class View:
    """What clients of one `ViewKey` see: `items`, once `ready`. Raises `SelectorError` for illegal selectors."""

    def __init__(
        self,
        key: ViewKey,
        node: NodeUnits,
        acquire: Callable[[SourceKey], Source],
        release: Callable[[Source], None],
        patches: Patches | None = None,
    ) -> None:
        self.key = key
        self.items: dict[str, Item] = {}
        self.ready = False
        self.clients = 0
        self.readers: set[Reader] = set()
        self._labels = LabelSelector(key.labels)
        self._fields = FieldSelector(key.fields)
        self._node = node
        self._acquire = acquire
        self._release = release
        self._grid_keys: set[str] = set()
        self._grid_told = 0
        """The newest resourceVersion that was told of a grid's object since the units changed."""
        self._log: list[_Event] = []
        self._log_bytes = 0
        self._log_start = 0
        self._marks: dict[int, int] = {}
        self._lost_rv = 0
        self._first_rv: float = 0
        self._rv = 0
        self._places = PLACES + (random.getrandbits(30) << 32)
        self._snapshots: dict[str, tuple[int, list[Item]]] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._grid: Source | None = None
        self._next_grid: Source | None = None
        self._patches = patches if key.resource is SERVICES else None
        if self._patches is not None:
            self._patches.need()
            self._patches.listeners.append(self)
            self._patched = PatchedServices(self._patches, key.codec)
        self._plain = acquire(key.plain_source())
        self._plain.listeners.append(self)
        self.units_changed()

    def close(self) -> None:
        """Let the sources go."""
        for source in (self._plain, self._grid, self._next_grid):
            self._drop(source)
        if self._patches is not None:
            self._patches.listeners.remove(self)
        self._wake()

    def _drop(self, source: Source | None) -> None:
        if source is not None:
            source.listeners.remove(self)
            self._release(source)

    # What the node and the sources tell.
    def units_changed(self) -> None:
        """Select for the node's present units: what is not theirs goes now, what is new comes with its source."""
        if self.key.identity:
            self._become_ready()
            return
        if not self._node.known:
            return
        if self.ready:
            held = self._grid.objects.keys() if self._grid is not None else ()
            self._refresh(sorted(self._grid_keys.union(held)))
            self._grid_told = 0
        wanted = self.key.grid_source(self._node.units)
        if self._next_grid is not None:
            self._drop(self._next_grid)
            self._next_grid = None
        if wanted is None:
            self._switch(None)
        elif self._grid is None or self._grid.key != wanted:
            source = self._acquire(wanted)
            source.listeners.append(self)
            self._next_grid = source
            self._switch_to_next()
        self._become_ready()

    def _switch_to_next(self) -> None:
        """Read from the next grid source as soon as it lacks nothing that clients were shown.

        What it has from the disk, or what the former source told while this one was listing, may be older.
        """
        source = self._next_grid
        if source is None:
            return
        if (source.listed and source.rv >= self._grid_told) if self.ready else source.synced:
            self._switch(source)

    def _switch(self, source: Source | None) -> None:
        """Read from another grid source from now on, and tell the difference."""
        old, self._grid = self._grid, source
        if source is not None and source is self._next_grid:
            self._next_grid = None
        self._drop(old)
        if self.ready:
            self._refresh(sorted(self._grid_keys | (source.objects.keys() if source is not None else set())))

    def source_changed(self, source: Source, key: str, deleted: Item | None) -> None:
        """Object `key` of a source changed."""
        if source is self._next_grid:
            self._switch_to_next()
        elif self.ready:
            self._refresh((key,), deleted)
            self._wake()

    def source_progressed(self, source: Source) -> None:
        """A source synced, was refused, or got a newer resourceVersion."""
        self._switch_to_next()
        self._become_ready()

    def services_patched(self, keys: Iterable[str]) -> None:
        """Show Services with the patches that are for them now."""
        if self.ready:
            self._refresh(sorted(self._grid_keys.intersection(keys)))
        elif self._grid is not None:
            self._become_ready()

    def _become_ready(self) -> None:
        known = self._node.known or bool(self.key.identity)
        known = known and (self._patches is None or self._patches.ready)
        if not self.ready and known and self._plain.synced and self._next_grid is None:
            self.ready = True
            keys = set(self._plain.objects)
            if self._grid is not None:
                keys |= self._grid.objects.keys()
            for key in keys:
                item = self._visible(key)
                if item is not None:
                    self._remember(key, item)
            self._first_rv = self._newest_told_before()
        self._wake()

    def _newest_told_before(self) -> float:
        """Return the newest of the API server's resourceVersions that others than this view may have told a client.

        What an agent before this one told is older than a list that this one was given. Where there was none, but a
        resumed watch, nothing is known. A view with one source tells its states as the API server does.
        """
        sources = [source for source in (self._plain, self._grid) if source is not None]
        if not self.key.identity and not all(source.listed for source in sources):
            return math.inf
        return max([self.rv, *(item.rv for item in self.items.values())])

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # What a client should see.
    def _visible(self, key: str) -> Item | None:
        """Return what a client should see under `key`."""
        codec = self.key.codec
        plain = self._plain.objects.get(key)
        if self.key.identity:
            return plain
        if plain is not None and of_grid(codec.labels(plain)):
            plain = None
        grid = self._grid.objects.get(key) if self._grid is not None else None
        # An object that became a grid's (or ceased to be) is in both until both sources spoke: the newer counts.
        if grid is not None and (plain is None or grid.rv >= plain.rv):
            return self._shown(grid)
        return plain

    def _shown(self, item: Item) -> Item | None:
        """Return a grid's object as the client sees it; None if it may not, or did not ask for it."""
        codec = self.key.codec
        labels = codec.labels(item)
        if self.key.resource is ENDPOINTSLICES:
            seen = unit_slice_labels(labels, self._node.units)
        else:
            seen = grid_service_labels(labels, self._node.keys)
        if seen is None or not self._labels.matches(seen):
            return None
        if self._fields.terms and not self._fields.matches(codec.field_values(self.key.resource, item)):
            return None
        if self._patches is not None:
            item = self._patched.shown(item, labels[GRID_UNIQ_KEY])
        shown = codec.with_labels(item, seen)
        return _GridItem(shown.key, shown.rv, shown.raw)

    def _remember(self, key: str, item: Item) -> None:
        self.items[key] = item
        if isinstance(item, _GridItem):
            self._grid_keys.add(key)
        else:
            self._grid_keys.discard(key)

    def _refresh(self, keys: Iterable[str], deleted: Item | None = None) -> None:
        """Work out `keys` anew and log what changed; `deleted` is the last state of an object that went."""
        for key in keys:
            old = self.items.get(key)
            new = self._visible(key)
            if new is not None:
                if old is not None and old.rv == new.rv and old.raw == new.raw:
                    continue
                self._remember(key, new)
                self._append("ADDED" if old is None else "MODIFIED", key, new)
            elif old is not None:
                del self.items[key]
                self._grid_keys.discard(key)
                self._append("DELETED", key, self._last_state(old, deleted))

    def _last_state(self, old: Item, deleted: Item | None) -> Item:
        """Return what a DELETED event shows: the API server's last state, where that is of the same kind as `old`."""
        if deleted is None:
            return old
        if self.key.identity:
            return deleted
        if isinstance(old, _GridItem):
            return self._shown(deleted) or old
        return old if of_grid(self.key.codec.labels(deleted)) else deleted

    # The log.
    def _append(self, event_type: str, key: str, item: Item) -> None:
        grid = isinstance(item, _GridItem)
        if grid:
            self._grid_told = max(self._grid_told, item.rv)
        if event_type == "DELETED" and grid and self.key.resource is ENDPOINTSLICES:
            # By the time it is read, these may be another unit's endpoints; no consumer needs them to delete.
            item = self.key.codec.without_endpoints(item)
        data = self.key.codec.render_event(self.key.resource, event_type, item)
        self._log.append(_Event(event_type, key, item, grid, data))
        self._log_bytes += len(data)
        self._rv = max(self._rv, item.rv)
        if item.rv > self._first_rv:
            # Who saw an older version saw it before this view was there, and has not heard of what was in between.
            self._mark(item.rv)
        if len(self._log) > LOG_EVENTS or self._log_bytes > LOG_BYTES:
            self._trim()
        self._wake()

    def _trim(self) -> None:
        """Forget the older half of the log, and the resourceVersions that only it could serve."""
        half = len(self._log) // 2 + 1
        self._log_bytes -= sum(len(event.data) for event in self._log[:half])
        del self._log[:half]
        self._log_start += half
        for rv, position in list(self._marks.items()):
            if position >= self._log_start:
                break
            del self._marks[rv]
            self._lost_rv = max(self._lost_rv, rv)
        for reader in [reader for reader in self.readers if reader.position < self._log_start]:
            reader.fell_behind()

    def _mark(self, rv: int) -> None:
        """Note that clients may have seen `rv` here; the first place stays.

        A resourceVersion whose first place is forgotten is never noted again: its clients would get a gap.
        """
        if rv > self._lost_rv:
            self._marks.setdefault(rv, self.end)

    @property
    def end(self) -> int:
        """Return the place behind the last event."""
        return self._log_start + len(self._log)

    @property
    def rv(self) -> int:
        """Return the newest resourceVersion that the API server has told.

        Where that stands for a place in the log that is forgotten, it is the next one: a client could never resume
        from one that is 410, and would list for ever.
        """
        sources = (self._plain, self._grid)
        return max(self._rv, self._lost_rv + 1, *(source.rv for source in sources if source is not None))

    def expose_rv(self) -> int:
        """Return the resourceVersion of the present state, to be told to a client that has that state."""
        if not self.key.identity:
            return self._places + self.end
        self._rv = self.rv
        self._mark(self._rv)
        return self._rv

    def position(self, rv: int) -> int | None:
        """Return where a client that has seen `rv` has to go on; None when that is not known (any more)."""
        if rv < PLACES:
            return self._marks.get(rv)
        place = rv - self._places
        return place if self._log_start <= place <= self.end and not self.key.identity else None

    def read(self, position: int) -> list[bytes]:
        """Return the rendered events since `position`, which is in the log, up to `end`.

        Of several events of one key, a grid's among them, only the last is given, so that no state is sent that is
        over; its type says whether the client had the object at `position`.
        """
        events = self._log[position - self._log_start :]
        if len(events) < 2:
            return [event.data for event in events]
        grid = {event.key for event in events if event.grid}
        first: dict[str, _Event] = {}
        last: dict[str, _Event] = {}
        for event in events:
            first.setdefault(event.key, event)
            last[event.key] = event
        out = []
        for event in events:
            if event.key not in grid:
                out.append(event.data)
            elif event is last[event.key]:
                # A deletion is told even of what came in between: who resumes may have heard of that already.
                changed = "ADDED" if first[event.key].type == "ADDED" else "MODIFIED"
                if event.type in ("DELETED", changed):
                    out.append(event.data)
                else:
                    out.append(self.key.codec.render_event(self.key.resource, changed, event.item))
        return out

    async def changed(self) -> None:
        """Wait until something is logged, or a source makes progress."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def wait_ready(self, timeout: float, hopeless: Callable[[], bool]) -> bool:
        """Wait at most `timeout` seconds for the first complete state; a refusal or no hope for it end the wait."""
        try:
            async with asyncio.timeout(timeout):
                while not self.ready and self.refusal is None and not hopeless():
                    await self.changed()
        except TimeoutError:
            return False
        return self.ready and self.refusal is None

    @property
    def refusal(self) -> Refused | None:
        """Return why the API server does not answer what the client asks for."""
        return self._plain.refusal if not self._plain.synced else None

    # Lists.
    def sorted_items(self) -> list[Item]:
        """Return the items in the API server's order."""
        return [self.items[key] for key in sorted(self.items)]

    def keep_snapshot(self, token: str, rv: int, items: list[Item]) -> None:
        """Keep the rest of a paged list; the oldest such list goes when there are too many."""
        self._snapshots[token] = (rv, items)
        while len(self._snapshots) > _SNAPSHOTS:
            del self._snapshots[next(iter(self._snapshots))]

    def take_snapshot(self, token: str) -> tuple[int, list[Item]] | None:
        """Return the rest of a paged list; None when it is not kept any more."""
        return self._snapshots.get(token)

    def still_shown(self, item: Item) -> bool:
        """Tell whether `item` is what a client should see now (of plain objects any state may be told)."""
        return not isinstance(item, _GridItem) or self.items.get(item.key) is item
