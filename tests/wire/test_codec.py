from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.wire.codec import Codec, CodecError, Item
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES
from sitegrid.wire.status import Status


def _json_slice(name: str = "n", rv: str = "5", **labels: str) -> dict[str, Any]:
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": "ns", "resourceVersion": rv, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": None,
    }


def _item(codec: Codec, encode: Any, **labels: str) -> Item:
    if codec is JSON:
        return codec.item(json.dumps(_json_slice(**labels)).encode())
    return codec.item(encode.body("EndpointSlice", encode.slice("n", "ns", "5", labels)))


CODECS = pytest.mark.parametrize("codec", [JSON, PROTOBUF], ids=["json", "protobuf"])


@CODECS
def test_an_item_has_key_version_and_labels(codec: Codec, encode: Any) -> None:
    """The facts that decide about an object are read alike from both representations."""
    item = _item(codec, encode, a="b")
    assert (item.key, item.rv, codec.labels(item)) == ("ns/n", 5, {"a": "b"})
    assert codec.field_values(ENDPOINTSLICES, item) == {"metadata.name": "n", "metadata.namespace": "ns"}


@CODECS
@pytest.mark.parametrize("event_type", ["ADDED", "MODIFIED", "DELETED"])
def test_an_event_that_is_rendered_is_read_back(codec: Codec, event_type: str, encode: Any) -> None:
    """Events go out in the framing in which they come in."""
    item = _item(codec, encode, a="b")
    (frame,) = codec.frames().feed(codec.render_event(ENDPOINTSLICES, event_type, item))
    change = codec.change(frame)
    assert change.item is not None
    assert (change.type, change.item.key, change.item.rv, change.item.raw) == (event_type, "ns/n", 5, item.raw)


@CODECS
@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("resource", [ENDPOINTSLICES, SERVICES])
def test_a_bookmark_is_read_back(codec: Codec, end: bool, resource: Any) -> None:
    """Bookmarks carry a resourceVersion, and the end of the initial events."""
    (frame,) = codec.frames().feed(codec.render_bookmark(resource, 77, initial_events_end=end))
    change = codec.change(frame)
    assert (change.type, change.rv, change.initial_events_end) == ("BOOKMARK", 77, end)


@CODECS
def test_an_error_event_is_read_back(codec: Codec) -> None:
    """A Status inside a watch carries its code and message."""
    (frame,) = codec.frames().feed(codec.render_error(Status(410, "too old")))
    change = codec.change(frame)
    assert (change.type, change.code, change.message) == ("ERROR", 410, "too old")


@CODECS
def test_a_list_is_read_back(codec: Codec, encode: Any) -> None:
    """A LIST body has its items, resourceVersion and continue token."""
    items = [_item(codec, encode, a="b"), _item(codec, encode)]
    found = codec.item_list(b"".join(codec.render_list(ENDPOINTSLICES, items, 9, "next", 3)[1]))
    assert [item.raw for item in found.items] == [item.raw for item in items]
    assert (found.rv, found.continue_token) == (9, "next")


@CODECS
def test_labels_are_replaced(codec: Codec, encode: Any) -> None:
    """Key and resourceVersion stay, the labels are the new ones, the old item is untouched."""
    item = _item(codec, encode, a="b", c="d")
    changed = codec.with_labels(item, {"e": "f"})
    assert (changed.key, changed.rv, codec.labels(changed)) == ("ns/n", 5, {"e": "f"})
    assert codec.labels(item) == {"a": "b", "c": "d"}


@CODECS
def test_a_slice_without_endpoints_has_no_address(codec: Codec, encode: Any) -> None:
    """Nothing of the endpoints is left in the bytes."""
    item = _item(codec, encode)
    assert b"10.0.0.1" in item.raw
    assert b"10.0.0.1" not in codec.without_endpoints(item).raw


@CODECS
@given(data=st.binary(max_size=100))
def test_hostile_bytes_are_a_codec_error(codec: Codec, data: bytes) -> None:
    """Nothing but `CodecError` comes out of bytes that are not what they should be."""
    for read in (codec.change, codec.item_list, codec.item):
        with pytest.raises(CodecError):
            read(data)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"metadata":{"name":"","resourceVersion":"1"}}',
        b'{"metadata":{"name":"a","resourceVersion":"x"}}',
        b'{"metadata":{"name":"a","resourceVersion":"%s"}}' % (b"9" * 5000),
        b'{"metadata":{"name":"a","resourceVersion":"1"},"n":1e999}',
        b'{"metadata":{"name":"a","resourceVersion":"1"},"n":NaN}',
        b'{"metadata":{"name":"a","resourceVersion":"1","labels":{"a":1}}}',
        b'{"metadata":{"name":"a","resourceVersion":"1","labels":["a"]}}',
        b'{"metadata":{"name":"\\ud800","resourceVersion":"1"}}',
        b'{"metadata":[]}',
        b"null",
    ],
)
def test_odd_json_is_a_codec_error(body: bytes) -> None:
    """Deep nesting, wrong types, lone surrogates and missing names are refused."""
    with pytest.raises(CodecError):
        JSON.item(body)


@pytest.mark.parametrize(("raw", "value"), [("1", "\u00e9<&>"), ("2", "\u2028"), ("3", '"\\')])
def test_json_text_survives(raw: str, value: str) -> None:
    """Any text means the same after it went through the codec."""
    item = JSON.item(json.dumps(_json_slice(rv=raw, a=value)).encode())
    assert json.loads(JSON.render_object(ENDPOINTSLICES, item)) == _json_slice(rv=raw, a=value)


def test_a_services_fields_are_read_from_protobuf(encode: Any) -> None:
    """clusterIP and type can be selected by, as the API server allows."""
    spec = encode.blob(1, b"") + encode.blob(3, "None") + encode.blob(4, "ClusterIP")
    body = encode.body("Service", encode.blob(1, encode.meta("s", "ns")) + encode.blob(2, spec), "v1")
    values = PROTOBUF.field_values(SERVICES, PROTOBUF.item(body))
    assert (values["spec.clusterIP"], values["spec.type"]) == ("None", "ClusterIP")
