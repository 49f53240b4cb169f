"""A view: what one kind of client request sees, merged from a grid's objects and everything else.

A view of what is not guarded is the plain source of a client's credential and nothing else. Others read up to three
sources. *plain* holds what is no grid's, filtered with the client's own selectors, by the API server or, where they
only leave something out, here, so that all such views share one source. *slices* holds unit slices of the node's
units, *services* grids' Services of its keys; they are shown with rewritten labels, or made into Endpoints, and only
then held against the client's selectors. Whatever happens (an event, a relist, a relabelled node), the view works out
anew what a client should see under one key and compares that with what it saw: so what stayed is never touched, and
the order in which the sources speak does not matter.

Slices that somebody has written for a grid's Service, or that Kubernetes mirrors from such Endpoints, are without our
labels. They are of no unit: by the names of grids' Services they are told from others, and not shown.

What clients were told is in the view's `EventLog`, which says from which resourceVersions they can go on. Of a grid's
slices only the present state is ever sent, also from the log, and a deleted one without its endpoints.

Invariant: I1 (only slices of current units are in `items`). Held by ``tests/agent/test_view.py`` and
``tests/agent/test_closure.py``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from sitegrid.agent.eventlog import LOG_BYTES, EventLog, Place
from sitegrid.agent.followed import Followed
from sitegrid.agent.handwritten import GRIDS_SERVICES, Handwritten
from sitegrid.agent.node import NodeUnits
from sitegrid.agent.patches import PatchedServices, Patches
from sitegrid.agent.source import Refused, Source, SourceKey
from sitegrid.wire.codec import Codec, Item
from sitegrid.wire.endpoints import make_endpoints
from sitegrid.wire.labels import (
    ALIASES,
    GRID_UNIQ_KEY,
    MANAGED_BY,
    SERVICE_NAME,
    SITEGRID,
    UNIT,
    UNIT_SERVICE_NAME,
)
from sitegrid.wire.protobuf import ProtobufError
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES, Resource
from sitegrid.wire.rewrite import grid_service_labels, of_grid, unit_slice_labels
from sitegrid.wire.selectors import FieldSelector, LabelSelector

_log = logging.getLogger(__name__)

READY_TIMEOUT: Final = 10.0
"""Seconds that a request waits for the first complete state before it is 503."""
_SNAPSHOTS: Final = 4
"""Paged lists that one view keeps open at a time for authenticated clients, and as many for others."""
_SHARE_OF_LOG: Final = 8
"""The part of a log (1/8) that a view may fill which no authenticated client wants."""


class Client(Protocol):
    """A client's connection."""

    identity: str

    def abort(self) -> None:
        """Cut it off."""
        ...


class ViewKey(NamedTuple):
    """What a client asks for; equal requests share one view."""

    resource: Resource
    namespace: str
    labels: str
    fields: str
    codec: Codec
    identity: str = ""
    """Whose credential is used for what is no grid's; empty for the agent's own (Services and EndpointSlices). With
    none, a view of Endpoints has those of grids only."""

    @property
    def name(self) -> str:
        """Return a text that no other key has, in any agent."""
        path = self.resource.path(self.namespace)
        return "\n".join((path, self.labels, self.fields, self.codec.media_type, self.identity))

    @property
    def guarded(self) -> bool:
        """Tell whether grids have objects among these."""
        return self.resource in (ENDPOINTSLICES, SERVICES, ENDPOINTS)

    def plain_source(self) -> SourceKey | None:
        """Return what to ask the API server for: the client's selection without anything of a grid."""
        labels, fields = self.labels, self.fields
        if self.guarded:
            if self.resource is ENDPOINTS and not self.identity:
                return None
            if self.selects_here:
                labels = fields = ""
            labels = f"{labels},!{GRID_UNIQ_KEY}" if labels else f"!{GRID_UNIQ_KEY}"
        return SourceKey(self.resource, self.namespace, labels, fields, self.codec, identity=self.identity)

    @property
    def selects_here(self) -> bool:
        """Tell whether what is no grid's is asked for as a whole and selected here, from one source for many clients.

        So for selections of all namespaces that only leave something out: kube-proxy's (no other proxy's Services,
        nothing headless) and CoreDNS's. Two sources would have nearly everything twice, on the WAN too. Selections
        that name what they want may be small, and fields that the API server does not know it has to refuse.
        """
        if self.namespace or self.resource not in (SERVICES, ENDPOINTSLICES):
            return False
        labels, fields = LabelSelector(self.labels), FieldSelector(self.fields)
        return (
            all(requirement.operator in ("!", "notin") for requirement in labels.requirements)
            and not any(equal for _, equal, _ in fields.terms)
            and fields.field_labels <= self.resource.field_labels
        )

    def services_source(self, keys: Iterable[str]) -> SourceKey | None:
        """Return what to ask for to know grids' Services of unique `keys`; None where there are none, or no need.

        Endpoints need those of all keys: what has the name of a grid's Service is not shown where that is not. Slices
        need what kube-proxy's Services are made of.
        """
        values = ",".join(sorted(keys))
        if self.resource is ENDPOINTS:
            return GRIDS_SERVICES
        if not values or not self.guarded:
            return None
        labels = f"{GRID_UNIQ_KEY} in ({values})"
        if self.resource is ENDPOINTSLICES:
            return SourceKey(SERVICES, "", labels, "", PROTOBUF)
        return SourceKey(SERVICES, self.namespace, labels, "", self.codec)

    def slices_source(self, units: Iterable[str]) -> SourceKey | None:
        """Return what to ask for to know the slices of `units`; None where they are not needed, or there are none.

        Endpoints are made from the same slices, in all namespaces, that kube-proxy has the agent keep.
        """
        ids = ",".join(sorted(units))
        if not ids or self.resource not in (ENDPOINTSLICES, ENDPOINTS):
            return None
        labels = f"{UNIT} in ({ids}),{MANAGED_BY}={SITEGRID}"
        if self.resource is ENDPOINTS:
            return SourceKey(ENDPOINTSLICES, "", labels, "", PROTOBUF, last_counts=True)
        return SourceKey(ENDPOINTSLICES, self.namespace, labels, "", self.codec, last_counts=True)


class _GridItem(Item):
    """An item of a grid as a client sees it: unlike others it may be shown only while it is current.

    `everywhere` is a Service without what its unit has different, where it has.
    """

    __slots__ = ("everywhere",)

    def __init__(self, item: Item, everywhere: Item | None = None) -> None:
        super().__init__(item.key, item.rv, item.raw)
        self.everywhere = everywhere


def _service_key(item: Item, labels: Mapping[str, str]) -> str:
    """Return the key of the Service whose slice `item` is by its labels."""
    return f"{item.key.partition('/')[0]}/{labels.get(SERVICE_NAME, '')}"


class View:
    """What clients of one `ViewKey` see: `items`, once `ready`. Raises `SelectorError` for illegal selectors.

    `left` is what the view of an agent before this one has left: who has its state goes on from there.
    """

    def __init__(
        self,
        key: ViewKey,
        node: NodeUnits,
        acquire: Callable[[SourceKey], Source],
        release: Callable[[Source], None],
        patches: Patches | None = None,
        left: Place | None = None,
    ) -> None:
        self.key = key
        self._left = left
        self.items: dict[str, Item] = {}
        self.ready = False
        self.clients: dict[Client, None] = {}
        self.owner = ""
        """The first authenticated client that asked for it; empty until there is one."""
        self.log = EventLog(key.resource, key.codec)
        self.log.limit = LOG_BYTES // _SHARE_OF_LOG
        self._labels = LabelSelector(key.labels)
        self._fields = FieldSelector(key.fields)
        self._selects_plain = key.selects_here
        self._node = node
        self._release = release
        self._grid_keys: set[str] = set()
        self._service_of: dict[str, str] = {}
        """The key of each unit slice's Service, by the slice's key."""
        self._closed: set[str] = set()
        """Keys of the Services of which a view of slices shows unit slices only."""
        self._first_rv: float = 0
        self._rv = 0
        self._snapshots: tuple[dict[str, tuple[int, list[Item]]], ...] = ({}, {})
        """Rests of paged lists, those of authenticated clients last."""
        self._waiters: list[asyncio.Future[None]] = []
        self._slices = Followed(self, acquire, release, self._slices_switched)
        self._services = Followed(self, acquire, release, self._services_switched)
        self._plain: Source | None = None
        plain = key.plain_source()
        if plain is not None:
            self._plain = acquire(plain)
            self._plain.listeners.append(self)
        self._handwritten = Handwritten(acquire, release, self._judge) if key.resource is ENDPOINTSLICES else None
        self._patches = patches if key.resource is SERVICES else None
        if self._patches is not None:
            self._patches.need()
            self._patches.listeners.append(self)
            self._patched = PatchedServices(self._patches, key.codec)
        self.units_changed()

    def close(self) -> None:
        """Let the sources go."""
        self._slices.close()
        self._services.close()
        if self._plain is not None:
            self._plain.listeners.remove(self)
            self._release(self._plain)
        if self._handwritten is not None:
            self._handwritten.close()
        if self._patches is not None:
            self._patches.listeners.remove(self)
        self._wake()

    def own(self, identity: str) -> None:
        """Be that authenticated client's, too: then it is like any view."""
        self.owner = self.owner or identity
        self.log.limit = LOG_BYTES

    def sources(self) -> list[Source]:
        """Return the sources that it is made of."""
        sources = (self._plain, self._services.source, self._slices.source)
        return [source for source in sources if source is not None]

    # What the node and the sources tell.
    def units_changed(self) -> None:
        """Select for the node's present units: what is not theirs goes now, what is new comes with its source."""
        if not self.key.guarded:
            self._become_ready()
            return
        if not self._node.known:
            return
        self._refresh_grids()
        self._slices.follow(self.key.slices_source(self._node.units), shown=self.ready)
        self._services.follow(self.key.services_source(self._node.keys), shown=self.ready)
        self._become_ready()

    def _grids(self) -> Source | None:
        """Return the source of those objects of grids that are shown here."""
        return (self._slices if self.key.resource is ENDPOINTSLICES else self._services).source

    def _refresh_grids(self) -> None:
        """Work out anew whatever a grid has or had here."""
        if self.ready:
            source = self._grids()
            self._refresh(sorted(self._grid_keys.union(source.objects if source is not None else ())))

    def _slices_switched(self) -> None:
        self._service_of.clear()
        source = self._slices.source
        if source is not None and self.key.resource is not ENDPOINTSLICES:
            for key, item in source.objects.items():
                self._note_service(source, key, item)
        self._refresh_grids()

    def _services_switched(self) -> None:
        if self.key.resource is not ENDPOINTSLICES:
            self._refresh_grids()
        elif self.ready:
            source = self._services.source
            self._refresh(sorted(self._closing(self._closed.union(source.objects if source is not None else ()))))

    def _closing(self, services: Iterable[str]) -> set[str]:
        """Return the slices without our labels of those `services` that became a grid's here, or no longer are."""
        source = self._services.source
        known = source.objects if source is not None else {}
        changed = {service for service in services if (service in known) is not (service in self._closed)}
        self._closed ^= changed
        return self._slices_of(changed)

    def _slices_of(self, services: set[str]) -> set[str]:
        """Return the slices without our labels of `services`."""
        if not services or self._plain is None:
            return set()
        # Labels of what is packed take some microseconds to read.
        namespaces = {service.partition("/")[0] for service in services}
        slices, labels = self._plain.objects.items(), self.key.codec.labels
        near = ((key, item) for key, item in slices if key.partition("/")[0] in namespaces)
        return {key for key, item in near if _service_key(item, labels(item)) in services}

    def _judge(self, services: set[str]) -> None:
        """Show or hide slices that were written by hand for `services`."""
        if self.ready:
            self._refresh(sorted(self._slices_of(services)))
        else:
            self._become_ready()

    def _is_judged(self) -> bool:
        """Tell whether it is known whose those slices are, or will not be known soon: then the others are shown."""
        if self._handwritten is not None and self._plain is not None:
            for item in self._plain.objects.values():
                labels = self.key.codec.labels(item)
                if self._handwritten.may_be_a_grids(_service_key(item, labels), labels):
                    break
        return self._handwritten is None or not self._handwritten.awaited

    def _note_service(self, source: Source, key: str, item: Item | None) -> set[str]:
        """Remember whose slice `key` is from now on; return the keys of the Services that are concerned."""
        concerned = {self._service_of.pop(key, "")}
        if item is not None:
            name = source.key.codec.labels(item).get(UNIT_SERVICE_NAME, "")
            self._service_of[key] = f"{key.partition('/')[0]}/{name}"
            concerned.add(self._service_of[key])
        return concerned - {""}

    def source_changed(self, source: Source, key: str, deleted: Item | None) -> None:
        """Object `key` of a source changed."""
        if source in (self._slices.next, self._services.next):
            self._progress()
            return
        keys = {key}
        self._note(source, source.objects.get(key) or deleted)
        if source is self._slices.source and self.key.resource is not ENDPOINTSLICES:
            keys = self._note_service(source, key, source.objects.get(key))
        elif source is self._services.source and self.key.resource is ENDPOINTSLICES and self.ready:
            keys = self._closing(keys)
        if self.ready:
            self._refresh(sorted(keys), deleted if source.key.resource is self.key.resource else None)
            self._wake()

    def _note(self, source: Source, item: Item | None) -> None:
        """Note that clients hear of an object of the present units or keys, while others' source is waited for."""
        if item is None or not self._switching:
            return
        if source is self._slices.source and source.key.codec.labels(item).get(UNIT) in self._node.units:
            self._slices.note(item.rv)
        elif source is self._services.source and source.key.codec.labels(item).get(GRID_UNIQ_KEY) in self._node.keys:
            self._services.note(item.rv)

    def source_progressed(self, source: Source) -> None:
        """A source synced, was refused, or got a newer resourceVersion."""
        self._progress()
        self._become_ready()

    def _progress(self) -> None:
        self._slices.progress(shown=self.ready)
        self._services.progress(shown=self.ready)

    @property
    def _switching(self) -> bool:
        return self._slices.next is not None or self._services.next is not None

    def services_patched(self, keys: Collection[str]) -> None:
        """Show Services with the patches that are for them now."""
        if self.ready:
            self._refresh(sorted(self._grid_keys.intersection(keys)))
        else:
            self._become_ready()

    def _become_ready(self) -> None:
        known = self._node.known or not self.key.guarded
        known = known and (self._patches is None or self._patches.ready)
        known = known and not self._switching and all(source.synced for source in self.sources())
        if not self.ready and known and self._is_judged():
            self.ready = True
            if not self._take_over():
                self._fill()
            self._first_rv = self._newest_told_before()
        self._wake()

    def _fill(self) -> None:
        """Work out all that a client should see; go on for the clients of an agent before this one, if that is it."""
        self._closed.clear()
        if self.key.resource is ENDPOINTSLICES and self._services.source is not None:
            self._closed.update(self._services.source.objects)
        self.items.clear()
        self._grid_keys.clear()
        for key in {key for source in self.sources() for key in source.objects}:
            item = self._visible(key)
            if item is not None:
                self._remember(key, item)
        if self._left is not None and self._left.digest == self._digest():
            self.log.adopt(self._left.rv)

    def _take_over(self) -> bool:
        """Begin with what the agent before this one has shown last, and log what has changed since.

        Clients come back one after the other, and the first one's sources have gone on by then. False where that is
        not known any more, or was another state than the view's.
        """
        if self._left is None or self.key.resource is ENDPOINTS:
            return False
        before = {source: source.taken_over for source in self.sources() if source.taken_over is not None}
        now = {source: source.objects for source in before}
        for source, objects in before.items():
            source.objects = objects
        try:
            self._fill()
        finally:
            for source, objects in now.items():
                source.objects = objects
        if self.log.position(self._left.rv) is None:
            return False
        for source, objects in before.items():
            keys = [key for key in {*objects, *now[source]} if objects.get(key) is not now[source].get(key)]
            if source is self._services.source and self.key.resource is ENDPOINTSLICES:
                keys = list(self._closing(keys))
            self._refresh(sorted(keys))
        return True

    def place(self) -> Place:
        """Return what the view of a next agent needs to know for clients that were told everything up to now."""
        return Place(self.expose_rv(), self._digest())

    def _digest(self) -> bytes:
        """Return what tells this state from any other.

        What the API server wrote is known by its version; what is made here could be made otherwise by another agent.
        """
        digest = hashlib.sha256()
        for key in sorted(self.items):
            item = self.items[key]
            made = item.raw if isinstance(item, _GridItem) else b""
            digest.update(f"{key}\n{item.rv} {len(made)}\n".encode("utf-8", "surrogatepass"))
            digest.update(made)
        return digest.digest()

    def _newest_told_before(self) -> float:
        """Return the newest of the API server's resourceVersions that others than this view may have told a client.

        What an agent before this one told is older than a list that this one was given. Where there was none, but a
        resumed watch, nothing is known; Services with patches and Endpoints have versions that are made here. A view
        with one source tells its states as the API server does.
        """
        told = self.key.resource is ENDPOINTSLICES and all(source.listed for source in self.sources())
        if self.key.guarded and not told:
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
        plain = self._plain.objects.get(key) if self._plain is not None else None
        if not self.key.guarded:
            return plain
        if plain is not None and not self._shows_plain(plain):
            plain = None
        source = self._grids()
        grid = source.objects.get(key) if source is not None else None
        if self.key.resource is ENDPOINTS:
            return plain if grid is None else self._endpoints(grid)
        # An object that became a grid's (or ceased to be) is in both until both sources spoke: the newer counts.
        if grid is not None and (plain is None or grid.rv >= plain.rv):
            return self._shown(grid)
        return plain

    def _shows_plain(self, item: Item) -> bool:
        """Tell whether an object without a grid's labels is no grid's, and what the client asks for."""
        labels = self.key.codec.labels(item)
        service = _service_key(item, labels)
        if of_grid(labels) or service in self._closed:
            return False
        if self._handwritten is not None and self._handwritten.may_be_a_grids(service, labels):
            return False
        return not self._selects_plain or self._selected(item, labels)

    def _shown(self, item: Item) -> Item | None:
        """Return a grid's object as the client sees it; None if it may not, or did not ask for it."""
        codec = self.key.codec
        labels = codec.labels(item)
        if self.key.resource is ENDPOINTSLICES:
            seen = unit_slice_labels(labels, self._node.units)
        else:
            seen = grid_service_labels(labels, self._node.keys)
        if seen is None or not self._selected(item, seen):
            return None
        if self._patches is None:
            return _GridItem(codec.with_labels(item, seen))
        patched = self._patched.shown(item, labels[GRID_UNIQ_KEY])
        shown = codec.with_labels(patched, seen)
        if patched is item:
            return _GridItem(shown)
        return _GridItem(shown, codec.with_labels(self._patched.without_patch(item, patched.rv), seen))

    def _selected(self, item: Item, labels: dict[str, str]) -> bool:
        """Tell whether the client asks for `item`, shown under `labels`."""
        if not self._labels.matches(labels):
            return False
        fields = self._fields
        return not fields.terms or fields.matches(self.key.codec.field_values(self.key.resource, item))

    def _endpoints(self, service: Item) -> Item | None:
        """Return the Endpoints of a grid's Service, made from the slices that a client may see."""
        labels = grid_service_labels(PROTOBUF.labels(service), self._node.keys)
        if labels is None or self.key.namespace not in ("", service.key.partition("/")[0]):
            return None
        slices = self._unit_slices(service.key)
        rv = max(item.rv for item in (service, *slices))
        made = self._make_endpoints(service, labels, slices, rv)
        old = self.items.get(service.key)
        if made is not None and isinstance(old, _GridItem) and old.raw != made.raw:
            # No change of labels, and no deletion, has a version of its own here.
            same = self._make_endpoints(service, labels, slices, old.rv)
            if same is not None and same.raw == old.raw:
                return old
            made = self._make_endpoints(service, labels, slices, max(rv, old.rv + 1))
        if made is None or not self._selected(made, self.key.codec.labels(made)):
            return None
        return _GridItem(made)

    def _unit_slices(self, service: str) -> list[Item]:
        """Return the slices of the Service with key `service` that a client may see, but for those of other names."""
        source = self._slices.source
        if source is None:
            return []
        codec, objects = source.key.codec, source.objects
        # After a new list some of them are gone already that this view has not been told of yet.
        found = [objects[key] for key, owner in self._service_of.items() if owner == service and key in objects]
        labelled = [(item, codec.labels(item)) for item in found]
        units = self._node.units
        return [item for item, x in labelled if ALIASES not in x and unit_slice_labels(x, units) is not None]

    def _make_endpoints(self, service: Item, labels: dict[str, str], slices: list[Item], rv: int) -> Item | None:
        try:
            return make_endpoints(self.key.codec, service, labels, slices, rv)
        except ProtobufError as error:
            # I1: what cannot be read is not shown.
            _log.error("Endpoints of %s: %s", service.key, error)
            return None

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
                if old is new or (old is not None and old.rv == new.rv and old.raw == new.raw):
                    continue
                self._remember(key, new)
                self._append("ADDED" if old is None else "MODIFIED", key, new)
            elif old is not None:
                del self.items[key]
                self._grid_keys.discard(key)
                self._append("DELETED", key, self._last_state(key, old, deleted))

    def _last_state(self, key: str, old: Item, deleted: Item | None) -> Item:
        """Return what a DELETED event shows: the API server's last state, where that is of the same kind as `old`."""
        if deleted is None:
            plain = self._plain.objects.get(key) if self._plain is not None else None
            if plain is None or isinstance(old, _GridItem):
                return old
            # It is not selected any more: its last state in the selection, under the version of the change
            # (apiserver pkg/storage/cacher/cache_watcher.go, convertToWatchEvent).
            return self.key.codec.with_version(old, plain.rv)
        if not self.key.guarded:
            return deleted
        if isinstance(old, _GridItem):
            return old if self.key.resource is ENDPOINTS else self._shown(deleted) or old
        return old if of_grid(self.key.codec.labels(deleted)) else deleted

    def _append(self, event_type: str, key: str, item: Item) -> None:
        grid = isinstance(item, _GridItem)
        if event_type == "DELETED" and isinstance(item, _GridItem):
            # By the time it is read, these may be another unit's endpoints; no consumer needs them to delete.
            services = self.key.resource is SERVICES
            item = (item.everywhere or item) if services else self.key.codec.without_endpoints(item)
        self.log.append(event_type, key, item, grid=grid)
        self._rv = max(self._rv, item.rv)
        if item.rv > self._first_rv:
            # Who saw an older version saw it before this view was there, and has not heard of what was in between.
            self.log.mark(item.rv)
        self.log.trim()
        self._wake()

    @property
    def rv(self) -> int:
        """Return the newest resourceVersion that the API server has told.

        Where that stands for a place in the log that is forgotten, it is the next one: a client could never resume
        from one that is 410, and would list for ever.
        """
        return max(self._rv, self.log.lost_rv + 1, *(source.rv for source in self.sources()))

    def expose_rv(self) -> int:
        """Return the resourceVersion of the present state, to be told to a client that has that state."""
        if self.key.guarded:
            return self.log.place
        self._rv = self.rv
        self.log.mark(self._rv)
        return self._rv

    async def changed(self) -> None:
        """Wait until something is logged, or a source makes progress."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def wait_ready(self, hopeless: Callable[[], bool]) -> bool:
        """Wait for the first complete state, but not for long; a refusal or no hope for it end the wait."""
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                while not self.ready and self.refusal is None and not hopeless():
                    await self.changed()
        except TimeoutError:
            return False
        return self.ready and self.refusal is None

    @property
    def refusal(self) -> Refused | None:
        """Return why the API server does not answer what the client asks for."""
        return self._plain.refusal if self._plain is not None and not self._plain.synced else None

    # Lists.
    def sorted_items(self) -> list[Item]:
        """Return the items in the API server's order."""
        return [self.items[key] for key in sorted(self.items)]

    def keep_snapshot(self, token: str, rv: int, items: list[Item], *, authenticated: bool) -> None:
        """Keep the rest of a paged list; the oldest such list of clients alike goes when there are too many."""
        snapshots = self._snapshots[authenticated]
        snapshots[token] = (rv, items)
        while len(snapshots) > _SNAPSHOTS:
            del snapshots[next(iter(snapshots))]

    def take_snapshot(self, token: str) -> tuple[int, list[Item]] | None:
        """Return the rest of a paged list; None when it is not kept any more."""
        return next((kept[token] for kept in self._snapshots if token in kept), None)

    def still_shown(self, item: Item) -> bool:
        """Tell whether `item` is what a client should see now (of plain objects any state may be told)."""
        return not isinstance(item, _GridItem) or self.items.get(item.key) is item
