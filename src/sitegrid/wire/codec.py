"""The two representations that the agent speaks, JSON and protobuf, behind one interface.

An `Item` is one object as it is kept: raw bytes without the type (a list item's form), its key and resourceVersion. A
codec turns watch frames and lists into items, reads the few facts that decide what a client sees, edits labels, and
renders events and lists. Protobuf is never decoded as a whole; JSON is kept as compact bytes, not as dicts.

Invariant: what a codec cannot read exactly raises `CodecError`, so that nothing undecodable is passed on (I1).
Held by ``tests/wire/test_codec.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from sitegrid.wire import protobuf
from sitegrid.wire.frames import Frames, LengthFrames, LineFrames, length_frame
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES, Resource
from sitegrid.wire.servicepatch import ServicePatch, patch_json, patch_protobuf
from sitegrid.wire.status import Status

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends a streaming list (KEP-3157)."""


_DIGITS: Final = 20
"""What a number of 64 bits may have."""


class CodecError(ValueError):
    """The bytes are not what they should be; nothing of them may be used."""


class Item:
    """One object: `key` is namespace/name (or name), `rv` its resourceVersion, `raw` its bytes without the type."""

    __slots__ = ("key", "labels", "raw", "rv", "spans")

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
        self.raw = raw
        self.labels = labels
        self.spans = spans


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
        self, resource: Resource, items: Iterable[Item], rv: int, continue_token: str = "", remaining: int = 0
    ) -> list[bytes]:
        """Return the pieces of a List body; the items' bytes are not copied."""
        ...


def _key(namespace: str, name: str) -> str:
    if not name:
        raise CodecError("object without a name")
    return f"{namespace}/{name}" if namespace else name


def _resource_version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise CodecError(f"resourceVersion {text[:_DIGITS]!r} is not a number")
    return int(text)


def dump(value: Any) -> bytes:
    """Return compact JSON. Raises ValueError for numbers that JSON does not have, which 1e999 is read as."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _load(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CodecError("not a JSON object")
    return value


def _dict(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CodecError("a JSON object was expected")
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CodecError("a JSON string was expected")
    return value


class JsonCodec:
    """`application/json`."""

    media_type = "application/json"
    stream_media_type = "application/json"

    def frames(self) -> Frames:
        """Return a decoder of newline-delimited events."""
        return LineFrames()

    def _item(self, value: Any) -> Item:
        body = _dict(value)
        body.pop("kind", None)
        body.pop("apiVersion", None)
        meta = _dict(body.get("metadata"))
        labels = _dict(meta.get("labels"))
        if not all(isinstance(text, str) for text in labels.values()):
            raise CodecError("a label is not a string")
        key = _key(_text(meta.get("namespace")), _text(meta.get("name")))
        rv = _resource_version(_text(meta.get("resourceVersion")))
        try:
            return Item(key, rv, dump(body))
        except (ValueError, RecursionError) as error:
            raise CodecError(f"cannot be written as JSON: {error}") from error

    def change(self, frame: bytes) -> Change:
        """Return the event in `frame`. Raises `CodecError`."""
        event = _load(frame)
        kind = _text(event.get("type"))
        body = _dict(event.get("object"))
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            item = self._item(body)
            return Change(kind, item, item.rv)
        if kind == "BOOKMARK":
            meta = _dict(body.get("metadata"))
            annotations = _dict(meta.get("annotations"))
            rv = _resource_version(_text(meta.get("resourceVersion")))
            return Change(kind, None, rv, annotations.get(INITIAL_EVENTS_END) == "true")
        if kind == "ERROR":
            code = body.get("code")
            return Change(kind, code=code if isinstance(code, int) else 500, message=_text(body.get("message")))
        raise CodecError(f"unknown watch event {kind!r}")

    def item_list(self, body: bytes) -> ItemList:
        """Return what a LIST answered. Raises `CodecError`."""
        value = _load(body)
        meta = _dict(value.get("metadata"))
        items = value.get("items") or []
        if not isinstance(items, list) or not _text(value.get("kind")).endswith("List"):
            raise CodecError("not a list")
        rv = _resource_version(_text(meta.get("resourceVersion")))
        return ItemList([self._item(item) for item in items], rv, _text(meta.get("continue")))

    def item(self, body: bytes) -> Item:
        """Return the object that a GET answered. Raises `CodecError`."""
        return self._item(_load(body))

    def labels(self, item: Item) -> dict[str, str]:
        """Return the item's labels."""
        labels: dict[str, str] = _dict(_dict(_load(item.raw).get("metadata")).get("labels"))
        return labels

    def field_values(self, resource: Resource, item: Item) -> dict[str, str]:
        """Return the values that a `fieldSelector` of `resource` may ask for."""
        body = _load(item.raw)
        meta = _dict(body.get("metadata"))
        values = {"metadata.name": _text(meta.get("name")), "metadata.namespace": _text(meta.get("namespace"))}
        if resource is SERVICES:
            spec = _dict(body.get("spec"))
            values |= {"spec.clusterIP": _text(spec.get("clusterIP")), "spec.type": _text(spec.get("type"))}
        return values

    def with_labels(self, item: Item, labels: Mapping[str, str]) -> Item:
        """Return the item with `labels` instead of its own."""
        body = _load(item.raw)
        body["metadata"] = {**_dict(body.get("metadata")), "labels": dict(sorted(labels.items()))}
        return Item(item.key, item.rv, dump(body))

    def annotation(self, item: Item, name: str) -> str:
        """Return an annotation's value, empty where the item does not have it."""
        return _text(_dict(_dict(_load(item.raw).get("metadata")).get("annotations")).get(name))

    def with_patch(self, item: Item, patch: ServicePatch, rv: int) -> Item:
        """Return a Service with what is different of it in a site, and its resourceVersion. Raises `CodecError`."""
        try:
            return Item(item.key, rv, dump(patch_json(_load(item.raw), patch, rv)))
        except ValueError as error:
            raise CodecError(str(error)) from error

    def without_endpoints(self, item: Item) -> Item:
        """Return an EndpointSlice or Endpoints with no endpoint in it."""
        body = _load(item.raw)
        if "endpoints" in body:
            body["endpoints"] = None
        body.pop("subsets", None)
        return Item(item.key, item.rv, dump(body))

    def peek_name(self, frame: bytes) -> bytes | None:
        """Return None: JSON has to be read from its beginning to its end."""
        return None

    def _typed(self, resource: Resource, raw: bytes) -> bytes:
        rest = b"}" if raw == b"{}" else b"," + raw[1:]
        return b'{"kind":"%s","apiVersion":"%s"' % (resource.kind.encode(), resource.api_version.encode()) + rest

    def render_object(self, resource: Resource, item: Item) -> bytes:
        """Return the item as the body of a GET."""
        return self._typed(resource, item.raw) + b"\n"

    def _event(self, event_type: str, body: bytes) -> bytes:
        return b'{"type":"%s","object":' % event_type.encode() + body + b"}\n"

    def render_event(self, resource: Resource, event_type: str, item: Item) -> bytes:
        """Return the item as one line."""
        return self._event(event_type, self._typed(resource, item.raw))

    def render_bookmark(self, resource: Resource, rv: int, *, initial_events_end: bool) -> bytes:
        """Return a bookmark as one line."""
        meta = b'{"metadata":{"resourceVersion":"%d"' % rv
        if initial_events_end:
            meta += b',"annotations":{"%s":"true"}' % INITIAL_EVENTS_END.encode()
        return self._event("BOOKMARK", self._typed(resource, meta + b"}" + resource.bookmark_json + b"}"))

    def render_error(self, status: Status) -> bytes:
        """Return an ERROR event as one line."""
        return self._event("ERROR", status.to_json())

    def render_status(self, status: Status) -> bytes:
        """Return a Status as a body."""
        return status.to_json() + b"\n"

    def render_list(
        self, resource: Resource, items: Iterable[Item], rv: int, continue_token: str = "", remaining: int = 0
    ) -> list[bytes]:
        """Return the pieces of a List body; the items' bytes are not copied."""
        meta: dict[str, Any] = {"resourceVersion": str(rv)}
        if continue_token:
            meta["continue"] = continue_token
            if remaining:
                meta["remainingItemCount"] = remaining
        head = b'{"kind":"%sList","apiVersion":"%s","metadata":' % (
            resource.kind.encode(),
            resource.api_version.encode(),
        )
        pieces = [head + dump(meta) + b',"items":[']
        for item in items:
            pieces += (item.raw, b",")
        # There is none behind the last item.
        return [*(pieces[:-1] if len(pieces) > 1 else pieces), b"]}\n"]


class ProtobufCodec:
    """`application/vnd.kubernetes.protobuf`."""

    media_type = "application/vnd.kubernetes.protobuf"
    stream_media_type = "application/vnd.kubernetes.protobuf;stream=watch"

    def frames(self) -> Frames:
        """Return a decoder of length-delimited events."""
        return LengthFrames()

    def _item(self, raw: bytes) -> Item:
        meta, spans = protobuf.read_object(raw)
        # Read once: a view asks for the labels several times per event. The object itself is read by no one else.
        return Item(
            _key(meta.namespace, meta.name), _resource_version(meta.resource_version), raw, meta.labels, spans
        )

    def change(self, frame: bytes) -> Change:
        """Return the event in `frame`. Raises `CodecError`."""
        try:
            kind, raw = protobuf.read_watched(frame)
            if kind in ("ADDED", "MODIFIED", "DELETED"):
                item = self._item(raw)
                return Change(kind, item, item.rv)
            if kind == "BOOKMARK":
                meta = protobuf.read_meta(raw)
                end = meta.annotations.get(INITIAL_EVENTS_END) == "true"
                return Change(kind, None, _resource_version(meta.resource_version), end)
            if kind == "ERROR":
                code, message = _read_status(raw)
                return Change(kind, code=code, message=message)
        except protobuf.ProtobufError as error:
            raise CodecError(str(error)) from error
        raise CodecError(f"unknown watch event {kind!r}")

    def item_list(self, body: bytes) -> ItemList:
        """Return what a LIST answered. Raises `CodecError`."""
        try:
            envelope = protobuf.unwrap(body)
            if not envelope.kind.endswith("List"):
                raise CodecError("not a list")
            rv, continue_token, items = protobuf.read_list(envelope.raw)
            return ItemList([self._item(raw) for raw in items], _resource_version(rv), continue_token)
        except protobuf.ProtobufError as error:
            raise CodecError(str(error)) from error

    def item(self, body: bytes) -> Item:
        """Return the object that a GET answered. Raises `CodecError`."""
        try:
            return self._item(protobuf.unwrap(body).raw)
        except protobuf.ProtobufError as error:
            raise CodecError(str(error)) from error

    def labels(self, item: Item) -> dict[str, str]:
        """Return the item's labels."""
        return protobuf.read_meta(item.raw).labels if item.labels is None else item.labels

    def field_values(self, resource: Resource, item: Item) -> dict[str, str]:
        """Return the values that a `fieldSelector` of `resource` may ask for."""
        meta = protobuf.read_meta(item.raw)
        values = {"metadata.name": meta.name, "metadata.namespace": meta.namespace}
        if resource is SERVICES:
            try:
                # core/v1 Service.spec = 2; ServiceSpec.clusterIP = 3, type = 4.
                spec = protobuf.read_strings(item.raw, (3, 4), inside=2)
            except protobuf.ProtobufError as error:
                raise CodecError(str(error)) from error
            values |= {"spec.clusterIP": spec.get(3, ""), "spec.type": spec.get(4, "")}
        return values

    def peek_name(self, frame: bytes) -> bytes | None:
        """Return what names the object of an ADDED or MODIFIED event, None where that takes as long as reading it."""
        return protobuf.peek_name(frame)

    def with_labels(self, item: Item, labels: Mapping[str, str]) -> Item:
        """Return the item with `labels` instead of its own."""
        return Item(item.key, item.rv, protobuf.with_labels(item.raw, labels, item.spans))

    def annotation(self, item: Item, name: str) -> str:
        """Return an annotation's value, empty where the item does not have it."""
        return protobuf.read_meta(item.raw).annotations.get(name, "")

    def with_patch(self, item: Item, patch: ServicePatch, rv: int) -> Item:
        """Return a Service with what is different of it in a site, and its resourceVersion. Raises `CodecError`."""
        try:
            return Item(item.key, rv, patch_protobuf(item.raw, patch, rv), item.labels)
        except protobuf.ProtobufError as error:
            raise CodecError(str(error)) from error

    def without_endpoints(self, item: Item) -> Item:
        """Return an EndpointSlice or Endpoints with no endpoint in it (endpoints and subsets are both field 2)."""
        return Item(item.key, item.rv, protobuf.without_field(item.raw, 2))

    def render_object(self, resource: Resource, item: Item) -> bytes:
        """Return the item as the body of a GET."""
        return protobuf.wrap(resource.api_version, resource.kind, item.raw)

    def render_event(self, resource: Resource, event_type: str, item: Item) -> bytes:
        """Return the item as a length-delimited event."""
        return protobuf.write_watched(event_type, resource.api_version, resource.kind, item.raw)

    def render_bookmark(self, resource: Resource, rv: int, *, initial_events_end: bool) -> bytes:
        """Return a bookmark as a length-delimited event."""
        # The API server writes every string of a message, and the zero time, also where there is none.
        meta = b"".join(protobuf.write_bytes(number, b"") for number in range(1, 6))
        meta += protobuf.write_bytes(6, str(rv).encode()) + protobuf.write_int(7, 0) + protobuf.write_bytes(8, b"")
        if initial_events_end:
            entry = protobuf.write_bytes(1, INITIAL_EVENTS_END.encode()) + protobuf.write_bytes(2, b"true")
            meta += protobuf.write_bytes(12, entry)
        raw = protobuf.write_bytes(1, meta)
        if resource is ENDPOINTSLICES:
            raw += protobuf.write_bytes(4, b"")
        body = protobuf.wrap(resource.api_version, resource.kind, raw)
        return length_frame(protobuf.write_event("BOOKMARK", body))

    def render_error(self, status: Status) -> bytes:
        """Return an ERROR event, length-delimited."""
        return length_frame(protobuf.write_event("ERROR", status.to_protobuf()))

    def render_status(self, status: Status) -> bytes:
        """Return a Status as a body."""
        return status.to_protobuf()

    def render_list(
        self, resource: Resource, items: Iterable[Item], rv: int, continue_token: str = "", remaining: int = 0
    ) -> list[bytes]:
        """Return the pieces of a List body (meta/v1 ListMeta: resourceVersion = 2, continue = 3, remaining = 4)."""
        meta = protobuf.write_bytes(1, b"") + protobuf.write_bytes(2, str(rv).encode())
        meta += protobuf.write_bytes(3, continue_token.encode())
        if remaining:
            meta += protobuf.write_int(4, remaining)
        pieces = [protobuf.write_bytes(1, meta)]
        for item in items:
            pieces += (protobuf.write_head(2, len(item.raw)), item.raw)
        return protobuf.wrap_pieces(resource.api_version, f"{resource.kind}List", pieces)


def _read_status(raw: bytes) -> tuple[int, str]:
    """Return code and message of a Status (meta/v1 Status.message = 3, code = 6)."""
    code, message = 500, ""
    for field in protobuf.fields(raw):
        if field.number == 6 and field.wire_type == protobuf.VARINT:
            code = protobuf.read_varint(raw, field.start, field.stop)[0]
        elif field.number == 3:
            message = protobuf.text(raw, field)
    return code, message


JSON: Final[Codec] = JsonCodec()
PROTOBUF: Final[Codec] = ProtobufCodec()
