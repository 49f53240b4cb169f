"""Cuts a watch response into events, whatever chunks the network delivers it in.

Both decoders have one method, `feed(data)`, which returns the frames completed by `data`, and `close()`, which raises
if the stream ended inside a frame. JSON watches are one object per line; protobuf watches are a 4-byte big-endian
length and that many bytes (apimachinery pkg/util/framer). Used by the agent's sources.

Invariant: the frames do not depend on the chunking, and a frame above the limit is an error before it is buffered.
Held by ``tests/wire/test_frames.py``.
"""

from __future__ import annotations

from typing import Final, Protocol

MAX_FRAME: Final = 16 * 1024 * 1024
"""Largest frame in bytes. etcd refuses objects above 1.5 MiB; JSON of one may be several times its protobuf."""

_LENGTH: Final = 4


class FrameError(ValueError):
    """The stream is not what its media type says, or a frame is larger than allowed."""


class Frames(Protocol):
    """A decoder of one watch response."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes. Raises `FrameError`."""
        ...

    def close(self) -> None:
        """Say that the stream has ended. Raises `FrameError` when it ended inside a frame."""
        ...


class LineFrames:
    """Newline-delimited JSON."""

    __slots__ = ("_buffer", "_limit", "_scanned")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._scanned = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their newline; empty lines are skipped."""
        self._buffer += data
        frames = []
        start = 0
        # Only what is new can hold a newline: a large event that arrives in many chunks is scanned once.
        newline = self._buffer.find(b"\n", self._scanned)
        while newline >= 0:
            if newline - start > self._limit:
                raise FrameError(f"watch event of more than {self._limit} bytes")
            if newline > start:
                frames.append(bytes(self._buffer[start:newline]))
            start = newline + 1
            newline = self._buffer.find(b"\n", start)
        del self._buffer[:start]
        self._scanned = len(self._buffer)
        if self._scanned > self._limit:
            raise FrameError(f"watch event of more than {self._limit} bytes")
        return frames

    def close(self) -> None:
        """Raise `FrameError` when bytes without a final newline are left."""
        if self._buffer:
            raise FrameError("watch ended inside a JSON event")


class LengthFrames:
    """Frames that begin with their length."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes, without their length."""
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= _LENGTH:
            length = int.from_bytes(self._buffer[start : start + _LENGTH], "big")
            if length > self._limit:
                raise FrameError(f"watch event of {length} bytes, more than {self._limit}")
            end = start + _LENGTH + length
            if end > len(self._buffer):
                break
            frames.append(bytes(self._buffer[start + _LENGTH : end]))
            start = end
        del self._buffer[:start]
        return frames

    def close(self) -> None:
        """Raise `FrameError` when part of a frame is left."""
        if self._buffer:
            raise FrameError("watch ended inside a protobuf event")


def length_frame(payload: bytes) -> bytes:
    """Return `payload` as a frame that begins with its length."""
    return len(payload).to_bytes(_LENGTH, "big") + payload
