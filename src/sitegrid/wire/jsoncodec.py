"""JSON, as a `Codec`: objects are kept as compact bytes, not as dicts.

For clients that ask for it, kubectl and curl among them; kube-proxy and CoreDNS speak protobuf. Invariant: as of
`codec`. Held by ``tests/wire/test_codec.py`` and, on recorded answers, ``tests/wire/test_recorded.py``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

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
from sitegrid.wire.frames import Frames, LineFrames
from sitegrid.wire.resources import SERVICES, Resource
from sitegrid.wire.servicepatch import ServicePatch, patch_json
from sitegrid.wire.status import Status

_LIST_END: Final = b"]}\n"


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
        key = object_key(_text(meta.get("namespace")), _text(meta.get("name")))
        rv = version_number(_text(meta.get("resourceVersion")))
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
            rv = version_number(_text(meta.get("resourceVersion")))
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
        rv = version_number(_text(meta.get("resourceVersion")))
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

    def with_version(self, item: Item, rv: int) -> Item:
        """Return the item under another resourceVersion."""
        body = _load(item.raw)
        body["metadata"] = {**_dict(body.get("metadata")), "resourceVersion": str(rv)}
        return Item(item.key, rv, dump(body))

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
        self, resource: Resource, items: Collection[Item], rv: int, continue_token: str = "", remaining: int = 0
    ) -> tuple[int, Iterator[bytes]]:
        """Return the length of a List body and its pieces, each of which is made when it is asked for."""
        meta: dict[str, Any] = {"resourceVersion": str(rv)}
        if continue_token:
            meta["continue"] = continue_token
            if remaining:
                meta["remainingItemCount"] = remaining
        kind, version = resource.kind.encode(), resource.api_version.encode()
        head = b'{"kind":"%sList","apiVersion":"%s","metadata":%s,"items":[' % (kind, version, dump(meta))
        length = len(head) + sum(len(item.raw) for item in items) + max(0, len(items) - 1) + len(_LIST_END)
        return length, _list_pieces(head, items)


def _list_pieces(head: bytes, items: Iterable[Item]) -> Iterator[bytes]:
    yield head
    for number, item in enumerate(items):
        if number:
            yield b","
        yield item.raw
    yield _LIST_END


JSON: Final[Codec] = JsonCodec()
