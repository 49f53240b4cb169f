"""The interface behind which the two representations are that the agent speaks: `jsoncodec` and `protobufcodec`.

An `Item` is one object as it is kept: raw bytes without the type (a list item's form), its key and resourceVersion;
where there may be many they are packed. A
codec turns watch frames and lists into items, reads the few facts that decide what a client sees, edits labels, and
renders events and lists.

Invariant: what a codec cannot read exactly raises `CodecError`, so that nothing undecodable is passed on (I1).
Held by ``tests/wire/test_codec.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from sitegrid.wire import protobuf
from sitegrid.wire.frames import Frames
from sitegrid.wire.packed import Packer
from sitegrid.wire.resources import Resource
from sitegrid.wire.servicepatch import ServicePatch
from sitegrid.wire.status import Status

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends a streaming list (KEP-3157)."""
_DIGITS: Final = 20
"""What a number of 64 bits may have."""


class CodecError(ValueError):
    """The bytes are not what they should be; nothing of them may be used."""


class Item:
    """One object: `key` is namespace/name (or name), `rv` its resourceVersion, `raw` its bytes without the type."""

    __slots__ = ("_packer", "_stored", "key", "labels", "rv", "spans")

    def __init__(
        self,
        key: str,
        rv: int,
        raw: bytes,
        labels: dict[str, str] | None = None,
        spans: protobuf.Spans = (),
    ) -> None:
        self.key = key
        self.rv = rv
        self._stored = raw
        self._packer: Packer | None = None
        self.labels = labels
        self.spans = spans

    @property
    def raw(self) -> bytes:
        """The object's bytes."""
        return self._stored if self._packer is None else self._packer.unpack(self._stored)

    @property
    def size(self) -> int:
        """The bytes that it is kept in."""
        return len(self._stored)

    def pack(self, packer: Packer) -> None:
        """Keep it small from now on, and read it anew whenever something of it is asked for.

        To be called in the turn of the event loop in which the item was made: another thread may read it afterwards.
        """
        packed = packer.pack(self._stored) if self._packer is None else None
        if packed is not None:
            self._stored, self._packer = packed, packer
            self.labels, self.spans = None, ()


class Change(NamedTuple):
    """A watch event: ADDED, MODIFIED or DELETED with an item, BOOKMARK with `rv`, or ERROR with `code`."""

    type: str
    item: Item | None = None
    rv: int = 0
    initial_events_end: bool = False
    code: int = 0
    message: str = ""


class ItemList(NamedTuple):
    """A LIST response, or one page of it."""

    items: list[Item]
    rv: int
    continue_token: str


class Codec(Protocol):
    """One representation."""

    media_type: str
    stream_media_type: str

    def frames(self) -> Frames:
        """Return a decoder for one watch response."""
        ...

    def change(self, frame: bytes) -> Change:
        """Return the event in `frame`. Raises `CodecError`."""
        ...

    def peek_name(self, frame: bytes) -> bytes | None:
        """Return what names the object of an ADDED or MODIFIED event, None where that takes as long as reading it."""
        ...

    def item_list(self, body: bytes) -> ItemList:
        """Return what a LIST answered. Raises `CodecError`."""
        ...

    def item(self, body: bytes) -> Item:
        """Return the object that a GET answered. Raises `CodecError`."""
        ...

    def labels(self, item: Item) -> dict[str, str]:
        """Return the item's labels."""
        ...

    def field_values(self, resource: Resource, item: Item) -> dict[str, str]:
        """Return the values that a `fieldSelector` of `resource` may ask for."""
        ...

    def with_labels(self, item: Item, labels: Mapping[str, str]) -> Item:
        """Return the item with `labels` instead of its own."""
        ...

    def with_version(self, item: Item, rv: int) -> Item:
        """Return the item under another resourceVersion."""
        ...

    def annotation(self, item: Item, name: str) -> str:
        """Return an annotation's value, empty where the item does not have it."""
        ...

    def with_patch(self, item: Item, patch: ServicePatch, rv: int) -> Item:
        """Return a Service with what is different of it in a site, and its resourceVersion. Raises `CodecError`."""
        ...

    def without_endpoints(self, item: Item) -> Item:
        """Return an EndpointSlice or Endpoints with no endpoint in it."""
        ...

    def render_object(self, resource: Resource, item: Item) -> bytes:
        """Return the item as the body of a GET."""
        ...

    def render_event(self, resource: Resource, event_type: str, item: Item) -> bytes:
        """Return the item as a watch event, framed."""
        ...

    def render_bookmark(self, resource: Resource, rv: int, *, initial_events_end: bool) -> bytes:
        """Return a bookmark event, framed."""
        ...

    def render_error(self, status: Status) -> bytes:
        """Return an ERROR event, framed."""
        ...

    def render_status(self, status: Status) -> bytes:
        """Return a Status as a body."""
        ...

    def render_list(
        self, resource: Resource, items: Collection[Item], rv: int, continue_token: str = "", remaining: int = 0
    ) -> tuple[int, Iterator[bytes]]:
        """Return the length of a List body and its pieces, each of which is made when it is asked for."""
        ...


def object_key(namespace: str, name: str) -> str:
    """Return the key of an object. Raises `CodecError` where it has no name."""
    if not name:
        raise CodecError("object without a name")
    return f"{namespace}/{name}" if namespace else name


def version_number(text: str) -> int:
    """Return a resourceVersion as a number. Raises `CodecError` where it is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise CodecError(f"resourceVersion {text[:_DIGITS]!r} is not a number")
    return int(text)
