from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitegrid.wire import protobuf
from sitegrid.wire.protobuf import ProtobufError
from tests.support.kubeproto import parse

LABELS = st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=5)


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_varints_survive_a_round_trip(value: int) -> None:
    """A varint is read as it was written, and all of it is read."""
    data = protobuf.write_varint(value)
    assert protobuf.read_varint(data + b"\xff", 0, len(data)) == (value, len(data))


@given(name=st.text(min_size=1), namespace=st.text(), labels=LABELS)
def test_metadata_is_read(encode: Any, name: str, namespace: str, labels: dict[str, str]) -> None:
    """Name, namespace, resourceVersion and labels are those that were encoded."""
    meta = protobuf.read_meta(encode.slice(name, namespace, "42", labels))
    assert meta == (name, namespace, "42", labels, {})


@given(old=LABELS, new=LABELS, unknown=st.binary(max_size=30))
def test_new_labels_leave_the_rest_alone(
    encode: Any, old: dict[str, str], new: dict[str, str], unknown: bytes
) -> None:
    """Replacing labels changes labels; every other field, known or not, keeps its bytes and its order."""
    tail = encode.blob(2, "endpoint") + encode.blob(99, unknown) + encode.number(1000, 7)

    def message(labels: dict[str, str]) -> bytes:
        meta: bytes = encode.meta("n", "ns", "7", labels, extra=encode.blob(77, unknown))
        return bytes(encode.blob(1, meta) + tail)

    changed = protobuf.with_labels(message(old), new)
    assert protobuf.read_meta(changed).labels == new
    assert protobuf.with_labels(changed, {}) == protobuf.with_labels(message({}), {})
    assert changed.endswith(tail)


def test_large_annotations_are_not_held_in_memory(encode: Any) -> None:
    """Reading objects leaves nothing of them behind, whatever is in their annotations (a whole manifest often is)."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100):
            entry = encode.blob(1, "kubectl.kubernetes.io/last-applied-configuration")
            entry += encode.blob(2, f"{number}".ljust(20_000))
            assert protobuf.read_meta(encode.blob(1, encode.meta("a", extra=encode.blob(12, entry)))).name == "a"
        assert tracemalloc.get_traced_memory()[0] - before < 500_000
    finally:
        tracemalloc.stop()


def test_the_last_of_repeated_map_keys_counts(encode: Any) -> None:
    """A label that is encoded twice has the value that a Go client would read."""
    labels = encode.meta("n", labels={"a": "1"}, extra=encode.blob(11, encode.blob(1, "a") + encode.blob(2, "2")))
    assert protobuf.read_meta(encode.blob(1, labels)).labels == {"a": "2"}


def test_truncation_anywhere_in_the_envelope_is_an_error(
    encode: Any, every_truncation: Callable[[bytes], list[bytes]]
) -> None:
    """However many bytes of a body are missing: it is never taken for a whole object."""
    body = encode.body("EndpointSlice", encode.slice("n", labels={"a": "b"}))
    for cut in every_truncation(body[: -len(encode.blob(3, "") + encode.blob(4, ""))]):
        with pytest.raises(ProtobufError):
            protobuf.unwrap(cut)


def test_truncation_inside_metadata_is_an_error(
    encode: Any, every_truncation: Callable[[bytes], list[bytes]]
) -> None:
    """However many bytes of an object's first field are missing: no metadata is read from it."""
    message = encode.blob(1, encode.meta("n", labels={"a": "b"}))
    for cut in every_truncation(message):
        with pytest.raises(ProtobufError):
            protobuf.read_meta(cut)


def test_truncation_of_a_watch_event_is_an_error(
    encode: Any, every_truncation: Callable[[bytes], list[bytes]]
) -> None:
    """However many bytes of an event are missing: no object is read from it."""
    for cut in every_truncation(encode.event("ADDED", encode.body("EndpointSlice", encode.slice("n")))):
        with pytest.raises(ProtobufError):
            protobuf.read_event(cut)


@given(st.binary(max_size=200))
def test_random_bytes_are_an_error_or_an_object(data: bytes) -> None:
    """Nothing but `ProtobufError` comes out of hostile bytes, and it always comes to an end."""
    for read in (protobuf.read_meta, protobuf.read_event, protobuf.read_list, protobuf.unwrap):
        with contextlib.suppress(ProtobufError):
            read(data)


@given(st.data())
def test_a_damaged_object_is_an_error_or_an_object(encode: Any, data: st.DataObject) -> None:
    """One changed byte anywhere raises nothing but `ProtobufError`."""
    message = bytearray(encode.slice("name", labels={"a": "b"}))
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtobufError):
        protobuf.with_labels(bytes(message), {"c": "d"})
        protobuf.read_meta(bytes(message))


@pytest.mark.parametrize(
    "data",
    [
        b"\x0b\x0c",  # a group
        b"\x02\x00",  # field number 0
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of 2^64-1
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a varint of 11 bytes
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a varint of 70 bits
        b"\x09\x00",  # half a fixed64
    ],
)
def test_illegal_wire_data_is_an_error(data: bytes) -> None:
    """What no Kubernetes component writes is refused."""
    with pytest.raises(ProtobufError):
        list(protobuf.fields(data))


def test_two_metadata_fields_are_an_error(encode: Any) -> None:
    """Go would merge them, so neither alone tells what a client would see."""
    with pytest.raises(ProtobufError):
        protobuf.read_meta(encode.slice("a") + encode.blob(1, encode.meta("b")))


def test_encoded_content_is_an_error(encode: Any) -> None:
    """Content that is compressed or otherwise encoded cannot be looked into."""
    with pytest.raises(ProtobufError):
        protobuf.unwrap(b"k8s\0" + encode.blob(2, b"x") + encode.blob(3, "gzip"))


def test_a_body_is_wrapped_as_the_api_server_does(encode: Any) -> None:
    """The envelope is the one that an independent encoder makes."""
    assert protobuf.wrap("discovery.k8s.io/v1", "EndpointSlice", b"abc") == encode.body("EndpointSlice", b"abc")


def test_an_event_is_written_as_it_is_read(encode: Any) -> None:
    """Writing an event gives what an independent encoder makes, and reading gives it back."""
    frame = protobuf.write_event("ADDED", b"body")
    assert frame == encode.event("ADDED", b"body")
    assert protobuf.read_event(frame) == ("ADDED", b"body")


@given(st.lists(st.binary(max_size=20)))
def test_a_list_gives_its_items_and_place(encode: Any, items: list[bytes]) -> None:
    """resourceVersion, continue token and items of a list are read, in order."""
    meta = encode.blob(2, "99") + encode.blob(3, "token")
    message = encode.blob(1, meta) + b"".join(encode.blob(2, item) for item in items)
    assert protobuf.read_list(message) == ("99", "token", items)


def test_a_field_is_taken_out_whole(encode: Any) -> None:
    """All occurrences of a field go, the others stay."""
    message = encode.blob(1, "a") + encode.blob(2, "b") + encode.blob(2, "c") + encode.blob(3, "d")
    assert protobuf.without_field(message, 2) == encode.blob(1, "a") + encode.blob(3, "d")


@given(
    kinds=st.lists(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), min_size=1, max_size=4),
    raw=st.binary(min_size=1, max_size=300),
    cut=st.integers(min_value=0, max_value=400),
    change=st.integers(min_value=0, max_value=255),
)
def test_a_known_envelope_changes_nothing(kinds: list[str], raw: bytes, cut: int, change: int) -> None:
    """An event is read as if it were the first of its length, also one that differs by a byte from what was read."""

    def anew(frame: bytes) -> tuple[str, bytes] | None:
        with contextlib.suppress(ProtobufError):
            kind, body = protobuf.read_event(frame)
            return kind, protobuf.unwrap(body).raw
        return None

    for kind in kinds:
        frame = protobuf.write_event(kind, protobuf.wrap("v1", "Node", raw))
        assert protobuf.read_watched(frame) == (kind, raw)
        assert protobuf.read_watched(frame) == (kind, raw)
        damaged = bytearray(frame)
        damaged[cut % len(frame)] = change
        with contextlib.suppress(ProtobufError):
            assert protobuf.read_watched(bytes(damaged)) == anew(bytes(damaged))
            continue
        assert anew(bytes(damaged)) is None


@given(
    name=st.text(min_size=1, max_size=140),
    namespace=st.text(max_size=20),
    other=st.text(min_size=1, max_size=140),
    cut=st.integers(min_value=0, max_value=300),
)
def test_a_peeked_name_is_the_objects(encode: Any, name: str, namespace: str, other: str, cut: int) -> None:
    """Two events with the same answer are about the same object; what is not plain has none; nothing is raised."""

    def peeked(kind: str, name: str) -> bytes | None:
        raw = encode.slice(name, namespace, "42", {})
        frame = protobuf.write_event(kind, protobuf.wrap("discovery.k8s.io/v1", "EndpointSlice", raw))
        protobuf.read_watched(frame)
        protobuf.peek_name(frame[:cut])
        return protobuf.peek_name(frame)

    first = peeked("MODIFIED", name)
    assert first == peeked("ADDED", name)
    assert first is None or (first == peeked("MODIFIED", other)) == (name == other)
    assert peeked("DELETED", name) is None


def _decoded(message: bytes) -> tuple[str, str, str, dict[str, str], dict[str, str]]:
    """Return what a generated class has: of repeated fields and map keys the last counts, messages are merged."""
    meta = parse("AnyObject", message).metadata
    labels, annotations = (
        {entry.key: entry.value for entry in entries} for entries in (meta.labels, meta.annotations)
    )
    return meta.name, meta.namespace, meta.resourceVersion, labels, annotations


@st.composite
def _messages(draw: st.DrawFn, encode: Any) -> bytes:
    """Return objects with repeated, unknown, missing and unordered fields, some of them damaged."""
    word = st.sampled_from(["", "a", "tkeedge.io/unit", "tkeedge.io/grid-uniq-key", "x" * 130])

    def several(make: Callable[[], bytes], most: int) -> list[bytes]:
        return [make() for _ in range(draw(st.integers(0, most)))]

    def text(*numbers: int) -> bytes:
        return bytes(encode.blob(draw(st.sampled_from(numbers)), draw(word)))

    def entry() -> bytes:
        return bytes(
            encode.blob(draw(st.sampled_from([11, 11, 12])), b"".join(several(lambda: text(1, 2, 2, 99), 4)))
        )

    def meta() -> bytes:
        parts = [*several(lambda: text(1, 3, 6, 99), 4), *several(entry, 5)]
        parts += several(lambda: bytes(encode.number(draw(st.sampled_from([1, 7, 11])), 300)), 1)
        return bytes(encode.blob(1, b"".join(draw(st.permutations(parts)))))

    parts = [meta(), *several(lambda: text(2, 3, 4), 3), *several(meta, 1)]
    message = bytearray(b"".join(draw(st.permutations(parts))))
    for _ in range(draw(st.integers(0, 2))):
        message[draw(st.integers(0, len(message) - 1))] = draw(st.integers(0, 255))
    return bytes(message)


@settings(max_examples=600)
@given(st.data())
def test_what_is_read_is_what_generated_classes_have(encode: Any, data: st.DataObject) -> None:
    """Whatever a message looks like: it is an error, or labels and names are those that a client would see."""
    message = data.draw(_messages(encode))
    try:
        meta, spans = protobuf.read_object(message)
    except ProtobufError:
        return
    assert tuple(meta) == _decoded(message)
    changed = _decoded(protobuf.with_labels(message, {"new": "1"}, spans))
    assert changed == (*meta[:3], {"new": "1"}, meta.annotations)
