"""Kubernetes' protobuf, as a `Codec`: objects are never decoded as a whole, only looked into and cut.

What kube-proxy and CoreDNS ask for, and what the agent asks the API server for. Invariant: as of `codec`. Held by
``tests/wire/test_codec.py`` and, on recorded answers, ``tests/wire/test_recorded.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from sitegrid.wire import protobuf
from sitegrid.wire.codec import (
    INITIAL_EVENTS_END,
    Change,
    Codec,
    CodecError,
    Item,
    ItemList,
    object_key,
    version_number,
)
from sitegrid.wire.frames import Frames, LengthFrames, length_frame
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES, Resource
from sitegrid.wire.servicepatch import ServicePatch, patch_protobuf
from sitegrid.wire.status import Status


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
            object_key(meta.namespace, meta.name), version_number(meta.resource_version), raw, meta.labels, spans
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
                return Change(kind, None, version_number(meta.resource_version), end)
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
            return ItemList([self._item(raw) for raw in items], version_number(rv), continue_token)
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

    def with_version(self, item: Item, rv: int) -> Item:
        """Return the item under another resourceVersion."""
        return Item(item.key, rv, protobuf.with_version(item.raw, str(rv)), item.labels)

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
        self, resource: Resource, items: Collection[Item], rv: int, continue_token: str = "", remaining: int = 0
    ) -> tuple[int, Iterator[bytes]]:
        """Return the length of a List body and its pieces, each of which is made when it is asked for.

        meta/v1 ListMeta: resourceVersion = 2, continue = 3, remainingItemCount = 4.
        """
        meta = protobuf.write_bytes(1, b"") + protobuf.write_bytes(2, str(rv).encode())
        meta += protobuf.write_bytes(3, continue_token.encode())
        if remaining:
            meta += protobuf.write_int(4, remaining)
        meta = protobuf.write_bytes(1, meta)
        sizes = (len(item.raw) for item in items)
        body = len(meta) + sum(len(protobuf.write_head(2, size)) + size for size in sizes)
        head = protobuf.wrap_head(resource.api_version, f"{resource.kind}List", body)
        return len(head) + body + len(protobuf.ENVELOPE_END), _list_pieces(head + meta, items)


def _list_pieces(begin: bytes, items: Iterable[Item]) -> Iterator[bytes]:
    yield begin
    for item in items:
        raw = item.raw
        yield protobuf.write_head(2, len(raw))
        yield raw
    yield protobuf.ENVELOPE_END


def _read_status(raw: bytes) -> tuple[int, str]:
    """Return code and message of a Status (meta/v1 Status.message = 3, code = 6)."""
    code, message = 500, ""
    for field in protobuf.fields(raw):
        if field.number == 6 and field.wire_type == protobuf.VARINT:
            code = protobuf.read_varint(raw, field.start, field.stop)[0]
        elif field.number == 3:
            message = protobuf.text(raw, field)
    return code, message


PROTOBUF: Final[Codec] = ProtobufCodec()
