"""Protobuf read the plain way, for tests: `sitegrid.wire.protobuf` is held against this, never against itself.

Used by ``tests/wire`` and the clients of ``tests/agent/faults``. Broken messages raise IndexError, KeyError or
AssertionError.
"""

from __future__ import annotations


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at `position` and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return number, wire type and bytes of each field, as a decoder with a schema reads them."""
    found = []
    position = 0
    while position < len(data):
        tag, begin = read_varint(data, position)
        if tag & 7 == 0:
            position = read_varint(data, begin)[1]
        else:
            length, begin = ({1: 8, 5: 4}[tag & 7], begin) if tag & 7 != 2 else read_varint(data, begin)
            position = begin + length
        found.append((tag >> 3, tag & 7, data[begin:position]))
        assert position <= len(data)
    return found
