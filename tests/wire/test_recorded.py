"""The scanner and both codecs on what a real API server sent: its JSON is the oracle for its protobuf.

What the scanner made is read by generated classes (`tests.support.kubeproto`), never by the scanner itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.wire.codec import Change, Codec, CodecError, Item
from sitegrid.wire.frames import FrameError
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES, Resource
from sitegrid.wire.servicepatch import ServicePatch, patch_json
from sitegrid.wire.status import Status
from tests.support.kubeproto import as_dict, parse

RECORDED = Path(__file__).parent / "recorded"
LISTS = [("endpointslices-list", ENDPOINTSLICES), ("services-list", SERVICES)]
WATCHES = ["endpointslices-watch", "endpointslices-stream"]


def _read(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def _decode(name: str, data: bytes) -> dict[str, Any]:
    return as_dict(parse(name, data))


def _others(name: str, data: bytes, *paths: str) -> bytes:
    """Return a message without what `paths` name; what the tables do not have is in it, as unknown fields."""
    message = parse(name, data)
    for path in paths:
        *parents, field = path.split(".")
        functools.reduce(getattr, parents, message).ClearField(field)
    found: bytes = message.SerializeToString(deterministic=True)
    return found


def _plain(value: Any) -> Any:
    """Return JSON without what the tables leave out, and without what protobuf cannot tell from nothing."""
    if isinstance(value, dict):
        found = {
            key: _plain(item) for key, item in value.items() if key not in ("managedFields", "creationTimestamp")
        }
        return {key: item for key, item in found.items() if item not in (None, "", [], {}) or key == "empty"}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _slices() -> list[tuple[Item, dict[str, Any]]]:
    """Return each recorded slice in protobuf and as the API server's JSON."""
    items = PROTOBUF.item_list(_read("endpointslices-list.pb")).items
    return list(zip(items, json.loads(_read("endpointslices-list.json"))["items"], strict=True))


@pytest.mark.parametrize(("name", "resource"), LISTS)
def test_both_codecs_read_the_same(name: str, resource: Resource) -> None:
    """Keys, versions, labels and selectable fields of protobuf are those of JSON, as is the list's own version."""
    lists = [codec.item_list(_read(name + suffix)) for codec, suffix in ((JSON, ".json"), (PROTOBUF, ".pb"))]
    found = [
        [(item.key, item.rv, codec.labels(item), codec.field_values(resource, item)) for item in one.items]
        for codec, one in zip((JSON, PROTOBUF), lists, strict=True)
    ]
    assert found[0] == found[1]
    assert len(found[0]) >= 3
    assert (lists[0].rv, lists[0].continue_token) == (lists[1].rv, lists[1].continue_token)


@pytest.mark.parametrize(("codec", "suffix"), [(JSON, ".json"), (PROTOBUF, ".pb")])
@pytest.mark.parametrize(("name", "resource"), LISTS)
def test_a_list_is_rendered_as_it_came(name: str, resource: Resource, codec: Codec, suffix: str) -> None:
    """Reading a list and rendering it gives the API server's bytes."""
    body = _read(name + suffix)
    found = codec.item_list(body)
    length, pieces = codec.render_list(resource, found.items, found.rv)
    assert (b"".join(pieces), length) == (body, len(body))


def _changes(codec: Codec, body: bytes) -> list[tuple[bytes, Change]]:
    decoder = codec.frames()
    frames = decoder.feed(body)
    decoder.close()
    return [(frame, codec.change(frame)) for frame in frames]


@pytest.mark.parametrize("name", WATCHES)
def test_both_codecs_read_the_same_events(name: str) -> None:
    """Types, versions, keys and labels of a protobuf watch are those of the JSON one."""
    found = [
        [
            (c.type, c.rv, c.initial_events_end, c.item and (c.item.key, codec.labels(c.item)))
            for _, c in _changes(codec, _read(name + suffix))
        ]
        for codec, suffix in ((JSON, ".json"), (PROTOBUF, ".pb"))
    ]
    assert found[0] == found[1]
    assert {"BOOKMARK"} <= {event[0] for event in found[0]} or "DELETED" in {event[0] for event in found[0]}


@pytest.mark.parametrize(("codec", "suffix"), [(JSON, ".json"), (PROTOBUF, ".pb")])
@pytest.mark.parametrize("name", WATCHES)
def test_events_are_rendered_as_they_came(name: str, codec: Codec, suffix: str) -> None:
    """Reading a watch and rendering it, bookmarks included, gives the API server's bytes."""
    out = b""
    for _, change in _changes(codec, _read(name + suffix)):
        if change.item is None:
            end = change.initial_events_end
            out += codec.render_bookmark(ENDPOINTSLICES, change.rv, initial_events_end=end)
        else:
            out += codec.render_event(ENDPOINTSLICES, change.type, change.item)
    assert out == _read(name + suffix)


@pytest.mark.parametrize(("codec", "suffix"), [(JSON, ".json"), (PROTOBUF, ".pb")])
def test_a_refusal_is_rendered_as_it_came(codec: Codec, suffix: str) -> None:
    """The Status of an object that does not exist is the API server's, byte for byte."""
    message = 'endpointslices.discovery.k8s.io "none" not found'
    status = Status(404, message, name="none", group="discovery.k8s.io", kind="endpointslices")
    assert codec.render_status(status) == _read("endpointslices-not-found" + suffix)


def test_generated_classes_read_what_json_says() -> None:
    """The oracle itself: a recorded slice reads as the API server's JSON of it."""
    for item, truth in _slices():
        assert _plain(_decode("EndpointSlice", item.raw)) == _plain(truth)


@given(labels=st.dictionaries(st.text(max_size=20), st.text(max_size=80), max_size=30))
def test_a_rewritten_slice_differs_in_its_labels_only(labels: dict[str, str]) -> None:
    """Read by generated classes, only the labels of a rewritten slice are others."""
    for item, _ in _slices():
        changed = PROTOBUF.with_labels(item, labels).raw
        assert _decode("EndpointSlice", changed)["metadata"].get("labels", {}) == labels
        assert _others("EndpointSlice", changed, "metadata.labels") == _others(
            "EndpointSlice", item.raw, "metadata.labels"
        )


PATCHES = st.builds(
    ServicePatch,
    st.none() | st.lists(st.sampled_from(["10.1.1.1", "fd00::1"]), unique=True).map(tuple),
    st.dictionaries(st.text(max_size=10), st.text(max_size=200), max_size=3),
    st.dictionaries(
        st.tuples(st.sampled_from([80, 443, 53]), st.sampled_from(["TCP", "UDP"])), st.integers(30000, 32767)
    ),
)


@given(patch=PATCHES, rv=st.integers(1, 2**62))
def test_a_patched_service_differs_in_its_patch_only(patch: ServicePatch, rv: int) -> None:
    """Read by generated classes a patched Service is what it was, merged with the patch as JSON is."""
    for item in PROTOBUF.item_list(_read("services-list.pb")).items:
        changed = PROTOBUF.with_patch(item, patch, rv)
        assert (changed.key, changed.rv, PROTOBUF.labels(changed)) == (item.key, rv, PROTOBUF.labels(item))
        assert _decode("Service", changed.raw) == patch_json(_decode("Service", item.raw), patch, rv)
        differ = ("metadata.resourceVersion", "metadata.annotations", "spec.externalIPs", "spec.ports")
        assert _others("Service", changed.raw, *differ) == _others("Service", item.raw, *differ)


def test_generated_classes_read_what_json_says_of_services() -> None:
    """The oracle itself: each recorded Service reads as the API server's JSON of it."""
    truths = json.loads(_read("services-list.json"))["items"]
    for item, truth in zip(PROTOBUF.item_list(_read("services-list.pb")).items, truths, strict=True):
        found, wanted = _plain(_decode("Service", item.raw)), _plain(truth)
        for port in (*found["spec"].get("ports", ()), *wanted["spec"].get("ports", ())):
            port.pop("targetPort", None)
            port.setdefault("nodePort", 0)
        assert found["metadata"].pop("generation") == 0
        assert found["metadata"] == wanted["metadata"]
        assert found["spec"] == {name: wanted["spec"][name] for name in found["spec"]}
        assert len(found["spec"]) >= 3


def test_an_emptied_slice_differs_in_its_endpoints_only() -> None:
    """Read by generated classes, only the endpoints of an emptied slice are missing, and no address is left in it."""
    for item, _ in _slices():
        emptied = PROTOBUF.without_endpoints(item).raw
        assert not parse("EndpointSlice", emptied).endpoints
        assert _others("EndpointSlice", emptied) == _others("EndpointSlice", item.raw, "endpoints")
        assert b"10." not in emptied


@pytest.mark.parametrize(("name", "resource"), LISTS)
def test_a_truncated_list_is_an_error(
    name: str, resource: Resource, every_truncation: Callable[[bytes], list[bytes]]
) -> None:
    """No beginning of a recorded list is taken for a list (its last four bytes are empty fields)."""
    for cut in every_truncation(_read(name + ".pb")[:-4]):
        with pytest.raises(CodecError):
            PROTOBUF.item_list(cut)


@given(st.data())
def test_a_damaged_recording_is_an_error_or_objects(data: st.DataObject) -> None:
    """Changed, lost and doubled bytes anywhere raise nothing but the errors that a source knows, and end."""
    body = bytearray(_read(data.draw(st.sampled_from(["endpointslices-list.pb", "endpointslices-watch.pb"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(body) - 1))
        length = data.draw(st.integers(0, 5))
        body[position : position + length] = data.draw(st.binary(max_size=5))
    with contextlib.suppress(CodecError, FrameError):
        for item in PROTOBUF.item_list(bytes(body)).items:
            PROTOBUF.with_labels(item, PROTOBUF.labels(item))
    with contextlib.suppress(CodecError, FrameError):
        for _, change in _changes(PROTOBUF, bytes(body)):
            if change.item is not None:
                PROTOBUF.without_endpoints(PROTOBUF.with_labels(change.item, PROTOBUF.labels(change.item)))
