"""Reads and edits Kubernetes protobuf without a schema: finds spans, copies everything that it does not know.

A message is walked once, field by field; only the few fields that the agent decides by are decoded, and an edit
copies the rest byte for byte, so fields of newer API versions survive. The envelope is ``k8s\\0`` and a
`runtime.Unknown` (apimachinery pkg/runtime/generated.proto); field numbers are those of meta/v1, core/v1 and
discovery/v1 generated.proto. Used by `sitegrid.wire.codec`.

Invariant: truncated, overlong or contradictory bytes raise `ProtobufError`; nothing is guessed, so nothing that was
not understood is passed on (I1). Held by ``tests/wire/test_protobuf.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from sitegrid.wire.frames import length_frame

MAGIC: Final = b"k8s\x00"

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

_MAX_VARINT_BYTES: Final = 10


class ProtobufError(ValueError):
    """The bytes are not the message that they should be."""


class Field(NamedTuple):
    """One field: `tag` is where its tag begins, `start:stop` its value (for BYTES without the length)."""

    number: int
    wire_type: int
    tag: int
    start: int
    stop: int


_field: Final = tuple.__new__
"""Makes a `Field` in half the time of calling it: there is one for every field of every message."""


class Meta(NamedTuple):
    """What is read of an ObjectMeta; `resource_version` is as sent."""

    name: str
    namespace: str
    resource_version: str
    labels: dict[str, str]
    annotations: dict[str, str]


Spans = tuple[int, ...]
"""Where an object has its metadata: its tag, start and stop, then tag and stop of each label."""


class Envelope(NamedTuple):
    """What is read of a runtime.Unknown."""

    api_version: str
    kind: str
    raw: bytes


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the varint at `position` and the position behind it. Raises `ProtobufError`."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if position >= end:
            raise ProtobufError("truncated varint")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 64:
                raise ProtobufError("varint of more than 64 bits")
            return value, position
    raise ProtobufError("varint of more than 10 bytes")


def write_varint(value: int) -> bytes:
    """Return `value` (not negative) as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_bytes(number: int, value: bytes) -> bytes:
    """Return field `number` with a string, bytes or message value."""
    length = len(value)
    if number < 16 and length < 0x80:
        return bytes((number << 3 | BYTES, length)) + value
    return write_head(number, length) + value


def write_head(number: int, length: int) -> bytes:
    """Return what stands before the `length` bytes of field `number`."""
    return write_varint(number << 3 | BYTES) + write_varint(length)


def write_int(number: int, value: int) -> bytes:
    """Return field `number` with an integer value (not negative)."""
    return write_varint(number << 3 | VARINT) + write_varint(value)


def fields(data: bytes, start: int = 0, end: int | None = None) -> list[Field]:
    """Return the fields of the message in `data[start:end]`. Raises `ProtobufError`, also for groups and field 0.

    Tags and lengths of one byte, which nearly all are, are read in place: a call for each would be most of the cost
    of an event. An index behind `data` ends up as "truncated", one behind `end` fails the check of `position`.
    """
    stop = len(data) if end is None else end
    position = start
    found: list[Field] = []
    try:
        while position < stop:
            tag = position
            key = data[position]
            position += 1
            if key > 0x7F:
                key, position = read_varint(data, tag, stop)
            number, wire_type = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise ProtobufError(f"illegal field number {number}")
            value = position
            if wire_type == BYTES:
                length = data[position]
                if length > 0x7F:
                    length, value = read_varint(data, position, stop)
                else:
                    value += 1
                position = value + length
            elif wire_type == VARINT:
                if data[position] > 0x7F:
                    _, position = read_varint(data, position, stop)
                else:
                    position += 1
            elif wire_type == FIXED64:
                position += 8
            elif wire_type == FIXED32:
                position += 4
            else:
                raise ProtobufError(f"wire type {wire_type} is not used by Kubernetes")
            if position > stop:
                raise ProtobufError("truncated field")
            found.append(_field(Field, (number, wire_type, tag, value, position)))
    except IndexError:
        raise ProtobufError("truncated field") from None
    return found


def text(data: bytes, field: Field) -> str:
    """Return a string field. Raises `ProtobufError` when it is not one or not UTF-8."""
    if field.wire_type != BYTES:
        raise ProtobufError(f"field {field.number} is not a string")
    try:
        return data[field.start : field.stop].decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(f"field {field.number} is not UTF-8") from error


def only_message(data: bytes, number: int, start: int = 0, end: int | None = None) -> Field | None:
    """Return the one message field `number`, None without one. Raises when there are several (they would merge)."""
    found = None
    for field in fields(data, start, end):
        if field[0] == number:
            if found is not None or field.wire_type != BYTES:
                raise ProtobufError(f"field {number} is repeated or not a message")
            found = field
    return found


def _strings(data: bytes, numbers: tuple[int, ...], start: int, end: int) -> dict[int, str]:
    found: dict[int, str] = {}
    for field in fields(data, start, end):
        if field.number in numbers:
            found[field.number] = text(data, field)
    return found


def map_entry(data: bytes, field: Field) -> tuple[str, str]:
    """Return key and value of an entry of a map of strings. Raises `ProtobufError`."""
    if field[1] != BYTES:
        raise ProtobufError("a map entry is a message")
    entry = data[field[3] : field[4]]
    return _known_entry(entry) if len(entry) <= _MAX_KNOWN_ENTRY else _map_entry(entry)


def _map_entry(data: bytes) -> tuple[str, str]:
    entry = _strings(data, (1, 2), 0, len(data))
    return entry.get(1, ""), entry.get(2, "")


_known_entry: Final = lru_cache(maxsize=256)(_map_entry)
"""The labels of a slice are the same ones with every change."""
_MAX_KNOWN_ENTRY: Final = 512
"""Bytes of any label. An annotation may be a whole manifest, and there is no need to hold hundreds of them."""


def read_meta(message: bytes) -> Meta:
    """Return the ObjectMeta (field 1) of an object. Raises `ProtobufError`."""
    return read_object(message)[0]


def read_object(message: bytes) -> tuple[Meta, Spans]:
    """Return the ObjectMeta (field 1) of an object, and where it is for `with_labels`. Raises `ProtobufError`."""
    span = only_message(message, 1)
    if span is None:
        raise ProtobufError("object without metadata")
    found = {1: "", 3: "", 6: ""}
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    spans = [span.tag, span.start, span.stop]
    for field in fields(message, span.start, span.stop):
        number = field[0]
        if number in found:
            found[number] = text(message, field)
        elif number == 11 or number == 12:
            key, value = map_entry(message, field)
            if number == 11:
                labels[key] = value
                spans += (field[2], field[4])
            else:
                annotations[key] = value
    # A truncation in a field behind the metadata is found by `only_message`, which walked the whole message.
    return Meta(found[1], found[3], found[6], labels, annotations), tuple(spans)


def with_labels(message: bytes, labels: Mapping[str, str], spans: Spans = ()) -> bytes:
    """Return the object with `labels` in place of its own, all else copied; `spans` are those of its `read_object`.

    Raises `ProtobufError`.
    """
    tag, start, stop, *own = spans or read_object(message)[1]
    # What stays is copied in runs, not field by field: labels stand side by side, so there are two.
    kept = []
    for label, end in zip(own[::2], own[1::2], strict=True):
        if start < label:
            kept.append(message[start:label])
        start = end
    kept += (message[start:stop], _encoded_labels(tuple(sorted(labels.items()))))
    return message[:tag] + write_bytes(1, b"".join(kept)) + message[stop:]


def with_version(message: bytes, resource_version: str) -> bytes:
    """Return the object with another resourceVersion where it has one, all else copied. Raises `ProtobufError`."""
    tag, start, stop = read_object(message)[1][:3]
    wanted = write_bytes(6, resource_version.encode())
    meta = b"".join(
        wanted if field.number == 6 else message[field.tag : field.stop] for field in fields(message, start, stop)
    )
    return message[:tag] + write_bytes(1, meta) + message[stop:]


@lru_cache(maxsize=256)
def _encoded_labels(labels: tuple[tuple[str, str], ...]) -> bytes:
    """Return the labels of an ObjectMeta; a Service's slices have the same ones with every change."""
    return b"".join(write_bytes(11, write_entry(key, value)) for key, value in labels)


def write_entry(key: str, value: str) -> bytes:
    """Return an entry of a map of strings, without its field."""
    return write_bytes(1, key.encode()) + write_bytes(2, value.encode())


def without_field(message: bytes, number: int) -> bytes:
    """Return the message without any field `number`. Raises `ProtobufError`."""
    return b"".join(message[field.tag : field.stop] for field in fields(message) if field.number != number)


def read_strings(message: bytes, numbers: tuple[int, ...], inside: int) -> dict[int, str]:
    """Return the string fields `numbers` of the message in field `inside`; missing ones are left out."""
    span = only_message(message, inside)
    return {} if span is None else _strings(message, numbers, span.start, span.stop)


def unwrap(data: bytes) -> Envelope:
    """Return what a `k8s\\0` body holds. Raises `ProtobufError`, also for an encoding inside it."""
    if not data.startswith(MAGIC):
        raise ProtobufError("body does not begin with the Kubernetes magic number")
    api_version = kind = ""
    raw: bytes | None = None
    for field in fields(data, len(MAGIC)):
        if field.number == 1:
            if field.wire_type != BYTES:
                raise ProtobufError("typeMeta is not a message")
            types = _strings(data, (1, 2), field.start, field.stop)
            api_version, kind = types.get(1, ""), types.get(2, "")
        elif field.number == 2:
            if raw is not None or field.wire_type != BYTES:
                raise ProtobufError("raw is repeated or not bytes")
            raw = data[field.start : field.stop]
        elif field.number == 3 and text(data, field):
            raise ProtobufError("encoded content is not supported")
    if raw is None:
        raise ProtobufError("body without content")
    return Envelope(api_version, kind, raw)


def wrap(api_version: str, kind: str, raw: bytes) -> bytes:
    """Return `raw` as the body that the API server would send (with its empty encoding and content type)."""
    return wrap_head(api_version, kind, len(raw)) + raw + ENVELOPE_END


def wrap_head(api_version: str, kind: str, size: int) -> bytes:
    """Return what stands before an object of `size` bytes in a body; behind it stands `ENVELOPE_END`."""
    types = write_bytes(1, api_version.encode()) + write_bytes(2, kind.encode())
    return MAGIC + write_bytes(1, types) + write_head(2, size)


def read_event(frame: bytes) -> tuple[str, bytes]:
    """Return type and object (a `k8s\\0` body) of a WatchEvent. Raises `ProtobufError`."""
    kind = ""
    body: bytes | None = None
    for field in fields(frame):
        if field.number == 1:
            kind = text(frame, field)
        elif field.number == 2:
            if body is not None or field.wire_type != BYTES:
                raise ProtobufError("object is repeated or not a message")
            raw = only_message(frame, 1, field.start, field.stop)
            if raw is None:
                raise ProtobufError("watch event without object")
            body = frame[raw.start : raw.stop]
    if body is None:
        raise ProtobufError("watch event without object")
    return kind, body


_ENVELOPES: dict[int, tuple[bytes, str]] = {}
"""Of events of each length: what stands before the object, and the event's type."""
_MAX_ENVELOPES: Final = 256
_METADATA: Final = 1 << 3 | BYTES
"""The tag of field 1."""
ENVELOPE_END: Final = b"\x1a\x00\x22\x00"


def read_watched(frame: bytes) -> tuple[str, bytes]:
    """Return type and object (without its `k8s\\0` envelope) of a WatchEvent. Raises `ProtobufError`.

    The envelope of an event is a pure function of its length, its type and the object's: what was understood once is
    only compared.
    """
    known = _ENVELOPES.get(len(frame))
    if known is not None and frame.startswith(known[0]) and frame.endswith(ENVELOPE_END):
        return known[1], frame[len(known[0]) : -len(ENVELOPE_END)]
    kind, body = read_event(frame)
    envelope = unwrap(body)
    if frame == write_event(kind, wrap(*envelope)):
        if len(_ENVELOPES) >= _MAX_ENVELOPES:
            _ENVELOPES.clear()
        _ENVELOPES[len(frame)] = (frame[: -len(envelope.raw + ENVELOPE_END)], kind)
    return kind, envelope.raw


def peek_name(frame: bytes) -> bytes | None:
    """Return what tells the object of an ADDED or MODIFIED event from others; None where that takes more reading.

    Metadata is an object's first field, and begins with name, generateName and namespace, as encoders write them.
    """
    known = _ENVELOPES.get(len(frame))
    if known is None or known[1] not in ("ADDED", "MODIFIED") or not frame.startswith(known[0]):
        return None
    try:
        position = len(known[0])
        if frame[position] != _METADATA:
            return None
        _, begin = read_varint(frame, position + 1, len(frame))
        position = begin
        for tag in (b"\x0a", b"\x12", b"\x1a"):
            length = frame[position + 1]
            if frame[position : position + 1] != tag or length > 0x7F:
                return None
            position += 2 + length
    except (IndexError, ProtobufError):
        return None
    return frame[begin:position]


def write_watched(kind: str, api_version: str, object_kind: str, raw: bytes) -> bytes:
    """Return a WatchEvent of type `kind` around an object, with its length before it as it is in a stream."""
    return _watched_head(kind, api_version, object_kind, len(raw)) + raw + ENVELOPE_END


@lru_cache(maxsize=256)
def _watched_head(kind: str, api_version: str, object_kind: str, size: int) -> bytes:
    """Return what stands before an object of `size` bytes."""
    frame = length_frame(write_event(kind, wrap(api_version, object_kind, bytes(size))))
    return frame[: -size - len(ENVELOPE_END)]


def write_event(kind: str, body: bytes) -> bytes:
    """Return a WatchEvent of type `kind` around a `k8s\\0` body."""
    return write_bytes(1, kind.encode()) + write_bytes(2, write_bytes(1, body))


def read_list(message: bytes) -> tuple[str, str, list[bytes]]:
    """Return resourceVersion, continue token and items of any List message. Raises `ProtobufError`."""
    meta = {2: "", 3: ""}
    items = []
    seen = False
    for field in fields(message):
        if field.number == 1:
            if seen or field.wire_type != BYTES:
                raise ProtobufError("list metadata is repeated or not a message")
            seen = True
            meta |= _strings(message, (2, 3), field.start, field.stop)
        elif field.number == 2:
            if field.wire_type != BYTES:
                raise ProtobufError("list item is not a message")
            items.append(message[field.start : field.stop])
    return meta[2], meta[3], items
