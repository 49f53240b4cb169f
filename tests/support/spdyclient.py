"""A client's side of a SPDY/3.1 session, as far as tests of port forwarding need it."""

from __future__ import annotations

import struct
import zlib

from sitegrid.lab.kubelet.spdy import DICTIONARY


class SpdyClient:
    """Makes a client's frames; one session's headers are compressed as one stream, so make them in order."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def control(self, kind: int, payload: bytes) -> bytes:
        """Return a control frame."""
        return struct.pack(">HHI", 0x8003, kind, len(payload)) + payload

    def headers(self, block: bytes) -> bytes:
        """Return the frame that opens stream 1 with these uncompressed bytes as headers."""
        compressed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return self.control(1, struct.pack(">IIH", 1, 0, 0) + compressed)

    def open(self, stream: int, headers: dict[str, str]) -> bytes:
        """Return the frame that opens a stream."""
        words = [word.encode() for pair in headers.items() for word in pair]
        block = struct.pack(">I", len(headers)) + b"".join(struct.pack(">I", len(word)) + word for word in words)
        frame = self.headers(block)
        return frame[:8] + struct.pack(">I", stream) + frame[12:]

    def data(self, stream: int, data: bytes, *, last: bool = False) -> bytes:
        """Return a frame with data."""
        return struct.pack(">II", stream, last << 24 | len(data)) + data
