"""What grid Services have different in the node's own units: read from the units' slices, merged into what is shown.

The controller writes a patch into a slice of its own (`SERVICE_PATCH`), which comes with the unit slices that
kube-proxy's views are made of: the same source, so no further watch and no byte more. Views of Services ask here for
every grid Service that they show, and are told when a patch came, changed or went.

Where there is any doubt the Service is shown as it is: no unit, an unknown one, two patches, one that cannot be read.
A Service that is shown differently has a higher resourceVersion than before, since client-go takes a change without
one for a resync. Held by ``tests/agent/test_patches.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple, Protocol

from sitegrid.agent.followed import Followed
from sitegrid.agent.node import NodeUnits
from sitegrid.agent.source import Source, SourceKey
from sitegrid.wire.codec import Codec, CodecError, Item
from sitegrid.wire.labels import GRID_UNIQ_KEY, SERVICE_PATCH, UNIT, UNIT_SERVICE_NAME
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.servicepatch import ServicePatch, parse_patch

_log = logging.getLogger(__name__)


class _Found(NamedTuple):
    """One patch: `text` as it was written, of the slice's version `rv`."""

    unit: str
    unique_key: str
    text: str
    rv: int
    patch: ServicePatch


class _Told(NamedTuple):
    """How a Service was shown: its own version and its patch, and the version `rv` that it was given."""

    own_rv: int
    text: str
    rv: int


_NONE: Final = _Found("", "", "", 0, ServicePatch())


class Listener(Protocol):
    """Who shows Services."""

    def services_patched(self, keys: Collection[str]) -> None:
        """Other patches than before are for these Services, or all patches are known for the first time."""


class Patches:
    """The patches of the node's units, once somebody needs them; `source_key` says what to ask for."""

    def __init__(
        self,
        node: NodeUnits,
        source_key: Callable[[Iterable[str]], SourceKey | None],
        acquire: Callable[[SourceKey], Source],
        release: Callable[[Source], None],
    ) -> None:
        self.listeners: list[Listener] = []
        self._node = node
        self._source_key = source_key
        self._needed = False
        self._slices = Followed(self, acquire, release, self._switched)
        self._found: dict[str, dict[str, _Found]] = {}
        """By Service, then by slice."""
        self._service_of: dict[str, str] = {}

    def need(self) -> None:
        """Begin to read, with the first Service that is asked for."""
        if not self._needed:
            self._needed = True
            self.units_changed()

    @property
    def ready(self) -> bool:
        """Whether all patches are known."""
        return self._node.known and self._slices.next is None and (self._source is None or self._source.synced)

    @property
    def _source(self) -> Source | None:
        return self._slices.source

    @property
    def rv(self) -> int:
        """The newest resourceVersion of the slices."""
        return 0 if self._source is None else self._source.rv

    def units_changed(self) -> None:
        """Read the slices of the node's present units; what is of former ones counts no more from now on."""
        if not self._needed or not self._node.known:
            return
        self._slices.follow(self._source_key(self._node.units), shown=self._source is not None)
        self._tell(self._found)

    def current(self, key: str, unique_key: str) -> _Found:
        """Return the patch of a Service for the node's unit; an empty one where there is none for certain."""
        found = [
            item
            for item in self._found.get(key, {}).values()
            if item.unit in self._node.units and item.unique_key == unique_key
        ]
        return found[0] if len(found) == 1 else _NONE

    def source_changed(self, source: Source, key: str, deleted: Item | None) -> None:
        """A slice changed."""
        if source is self._source:
            service = self._read(key)
            if service is not None:
                item = source.objects.get(key) or deleted
                if item is not None and PROTOBUF.labels(item).get(UNIT) in self._node.units:
                    self._slices.note(item.rv)
                self._tell([service])
        self._slices.progress(shown=self._source is not None)

    def source_progressed(self, source: Source) -> None:
        """The slices may be known now."""
        self._slices.progress(shown=self._source is not None)

    def _switched(self) -> None:
        source = self._source
        changed = {self._read(key) for key in {*self._service_of, *(source.objects if source is not None else ())}}
        self._tell({service for service in changed if service is not None})

    def _read(self, key: str) -> str | None:
        """Read the slice `key` anew; return the Service whose patch came, changed or went."""
        item = self._source.objects.get(key) if self._source is not None else None
        found = _patch_in(item) if item is not None else None
        before = self._found.get(self._service_of.get(key, ""), {}).get(key)
        if found is None:
            if before is None:
                return None
            service = self._service_of.pop(key)
            del self._found[service][key]
            return service
        service, patch = found
        if before is not None and before._replace(rv=patch.rv) == patch:
            return None  # the Service keeps its version too
        self._service_of[key] = service
        self._found.setdefault(service, {})[key] = patch
        return service

    def _tell(self, keys: Collection[str]) -> None:
        for listener in tuple(self.listeners):
            listener.services_patched(keys)


class PatchedServices:
    """The Services of one view, as they are shown with their patches."""

    def __init__(self, patches: Patches, codec: Codec) -> None:
        self._patches = patches
        self._codec = codec
        self._told: dict[str, _Told] = {}

    def shown(self, item: Item, unique_key: str) -> Item:
        """Return a grid's Service with its patch; its version rises whenever what is shown is another."""
        found, told = self._patches.current(item.key, unique_key), self._told.get(item.key)
        if not found.patch and told is None:
            return item
        rv = max(item.rv, found.rv)
        if told is not None and told[:2] == (item.rv, found.text):
            rv = told.rv
        elif rv <= (shown := item.rv if told is None else told.rv) and (told is not None or found.patch):
            # It was shown under that version without this patch, or may have been: the node's units have changed.
            rv = max(shown + 1, self._patches.rv)
        self._told[item.key] = _Told(item.rv, found.text, rv)
        if rv == item.rv and not found.patch:
            del self._told[item.key]  # the Service's own version has overtaken all that was shown
            return item
        return _patched(self._codec, item, found.patch, rv)

    def without_patch(self, item: Item, rv: int) -> Item:
        """Return a grid's Service as it is, in a version of at least `rv`, under which it was shown."""
        return _patched(self._codec, item, ServicePatch(), max(item.rv, rv))


def patched_object(patches: Patches, codec: Codec, item: Item, unique_key: str) -> Item:
    """Return a grid's Service that was asked for by itself with its patch."""
    found = patches.current(item.key, unique_key)
    return _patched(codec, item, found.patch, max(item.rv, found.rv)) if found.patch else item


def _patched(codec: Codec, item: Item, patch: ServicePatch, rv: int) -> Item:
    try:
        return codec.with_patch(item, patch, rv)
    except CodecError as error:
        _log.error("services %s: the patch cannot be merged, it is shown without: %s", item.key, error)
        return item


def _patch_in(item: Item) -> tuple[str, _Found] | None:
    """Return the Service's key and the patch in a slice; None where there is none to be understood."""
    labels = PROTOBUF.labels(item)
    if SERVICE_PATCH not in labels or UNIT not in labels:
        return None
    text = PROTOBUF.annotation(item, SERVICE_PATCH)
    patch = parse_patch(text)
    if patch is None:
        _log.error("endpointslices %s: the annotation %s is not understood", item.key, SERVICE_PATCH)
        return None
    service = f"{item.key.partition('/')[0]}/{labels.get(UNIT_SERVICE_NAME, '')}"
    return service, _Found(labels[UNIT], labels.get(GRID_UNIQ_KEY, ""), text, item.rv, patch)
