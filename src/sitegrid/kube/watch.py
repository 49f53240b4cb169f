"""Sans-I/O: bytes of a watch response in, watch events out.

A watch body is JSON documents, one per line, cut into chunks wherever the network likes; an object may be larger than
many chunks. Used by `sitegrid.kube.client` for every watch. Invariant: each complete line becomes exactly one event,
in order, in time linear in the bytes. Held by ``tests/kube/test_watch.py``.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec

from sitegrid.kube.errors import ApiError, DecodeError
from sitegrid.kube.objects import identity

T = TypeVar("T")

ADDED: Final = "ADDED"
MODIFIED: Final = "MODIFIED"
DELETED: Final = "DELETED"
BOOKMARK: Final = "BOOKMARK"
ERROR: Final = "ERROR"

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends a streaming list (KEP-3157)."""
MAX_LINE: Final = 64 * 1024 * 1024
"""Bytes; far beyond what etcd stores. A peer that never ends its line must not take all memory."""


class WatchEvent(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """One change, or a BOOKMARK, which has no object: only how far the stream has come."""

    type: str
    object: T | None
    resource_version: str
    initial_events_end: bool = False


class _RawEvent(msgspec.Struct, frozen=True, gc=False):
    type: str
    object: msgspec.Raw


class _BookmarkMeta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    resource_version: str
    annotations: dict[str, str] | None = None


class _Bookmark(msgspec.Struct, frozen=True, gc=False):
    metadata: _BookmarkMeta


class WatchDecoder(Generic[T]):
    """Decodes one watch response; feed it every chunk."""

    def __init__(self, object_type: type[T]) -> None:
        self._object = msgspec.json.Decoder(object_type)
        self._event = msgspec.json.Decoder(_RawEvent)
        # Bookmarks carry an otherwise empty object ("endpoints":null) that a strict partial type would refuse.
        self._bookmark = msgspec.json.Decoder(_Bookmark)
        self._parts: list[bytes] = []
        self._pending = 0
        self.error: ApiError | None = None
        """Set by an ERROR event, which ends the stream; the events before it have been returned."""

    def feed(self, chunk: bytes) -> list[WatchEvent[T]]:
        """Return the events that `chunk` completes, until an ERROR event, which sets `error`.

        Raises DecodeError when a line is not a watch event of this type of object.
        """
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._parts:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts.clear()
            self._pending = 0
        if rest:
            self._parts.append(rest)
            self._pending += len(rest)
            if self._pending > MAX_LINE:
                raise DecodeError(f"watch event longer than {MAX_LINE} bytes")
        events: list[WatchEvent[T]] = []
        for line in lines:
            if self.error is not None:
                break
            if line and not line.isspace():
                event = self._decode(line)
                if event is not None:
                    events.append(event)
        return events

    def _decode(self, line: bytes) -> WatchEvent[T] | None:
        try:
            raw = self._event.decode(line)
            if raw.type in (ADDED, MODIFIED, DELETED):
                obj = self._object.decode(raw.object)
                return WatchEvent(raw.type, obj, identity(obj).resource_version)
            if raw.type == BOOKMARK:
                metadata = self._bookmark.decode(raw.object).metadata
                end = (metadata.annotations or {}).get(INITIAL_EVENTS_END) == "true"
                return WatchEvent(BOOKMARK, None, metadata.resource_version, end)
            if raw.type == ERROR:
                self.error = ApiError.from_status(msgspec.json.decode(raw.object, type=dict[str, Any]))
                return None
        except (msgspec.DecodeError, KeyError, AttributeError) as error:
            raise DecodeError(f"watch event cannot be decoded: {error}: {line[:300]!r}") from error
        raise DecodeError(f"unknown watch event type {raw.type!r}")
