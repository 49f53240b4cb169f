"""As much of SPDY/3.1 as ``kubectl port-forward`` speaks: the server's side of a session, without I/O.

`portforward` feeds it the bytes that kubectl sends through its WebSocket and sends what it makes. Sources: the SPDY/3
draft (draft-mbelshe-httpbis-spdy-00), and what the clients' library (github.com/moby/spdystream) does of it: no flow
control, no settings, no streams that the server opens. Invariant: frames are told in order however their bytes are
split, and what is no SPDY is a `SpdyError`. Held by ``tests/lab/test_kubelet_spdy.py``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY = 1, 2, 3, 6, 7
_FIN: Final = 1
_VERSION: Final = 0x8003
_STREAM_ID: Final = 0x7FFFFFFF
_MAX_FRAME: Final = 1 << 20
_MAX_HEADERS: Final = 64 * 1024

_WORDS: Final = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age "
    "allow authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TEXT: Final = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    b"403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    b"text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY: Final = b"".join(struct.pack(">I", len(w)) + w.replace("_", " ").encode() for w in _WORDS.split()) + _TEXT
"""What both ends' header compression knows from the start (section 2.6.10.1)."""


class SpdyError(Exception):
    """Bytes that are no SPDY; the session is over."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The client has opened a stream."""

    stream: int
    headers: dict[str, str]
    last: bool
    """The client will send nothing on it."""


@dataclass(frozen=True, slots=True)
class Data:
    """The client has sent something on a stream, or (`last`) its end."""

    stream: int
    data: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The client wants no more of a stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class Ping:
    """The client wants these bytes back."""

    answer: bytes


Event = Opened | Data | Reset | Ping


class Session:
    """One session; `receive` what comes, and send what the other methods return."""

    def __init__(self) -> None:
        self._buffer = b""
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self.ended = False
        """The client has said that it is going."""

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take bytes and tell what they mean; raises `SpdyError`."""
        self._buffer += data
        while len(self._buffer) >= 8 and not self.ended:
            first, second = struct.unpack_from(">II", self._buffer)
            flags, size = second >> 24, second & 0xFFFFFF
            if size > _MAX_FRAME:
                raise SpdyError(f"a frame of {size} bytes")
            if len(self._buffer) < 8 + size:
                return
            payload, self._buffer = self._buffer[8 : 8 + size], self._buffer[8 + size :]
            if not first >> 31:
                yield Data(first, payload, bool(flags & _FIN))
            elif first >> 16 != _VERSION:
                raise SpdyError("another version than 3")
            elif event := self._control(first & 0xFFFF, flags, payload):
                yield event

    def reply(self, stream: int) -> bytes:
        """Return what accepts a stream."""
        headers = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control_frame(_SYN_REPLY, struct.pack(">I", stream) + headers)

    def data(self, stream: int, data: bytes, *, last: bool = False) -> bytes:
        """Return what sends `data` (fewer than 16 MB) on a stream, as the last that is sent with `last`."""
        return struct.pack(">II", stream, last << 24 | len(data)) + data

    def _control(self, kind: int, flags: int, payload: bytes) -> Event | None:
        try:
            if kind == _SYN_STREAM:  # stream, associated stream, priority and slot, headers
                return Opened(_stream(payload), self._headers(payload[10:]), bool(flags & _FIN))
            if kind == _RST_STREAM:
                return Reset(_stream(payload))
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(f"frame {kind}: {error}") from error
        if kind == _PING:
            return Ping(_control_frame(_PING, payload))
        if kind == _GOAWAY:
            self.ended = True
        return None

    def _headers(self, compressed: bytes) -> dict[str, str]:
        """Read a block of headers: their number, then each name and value after its length."""
        block = self._inflate.decompress(compressed, _MAX_HEADERS)
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"more than {_MAX_HEADERS} bytes of headers")
        words, position = [], 4
        for _ in range(2 * min(_MAX_HEADERS, *struct.unpack_from(">I", block))):
            (length,) = struct.unpack_from(">I", block, position)
            words.append(block[position + 4 : position + 4 + length].decode())
            position += 4 + length
        return dict(zip(words[::2], words[1::2], strict=True))


def _stream(payload: bytes) -> int:
    (stream,) = struct.unpack_from(">I", payload)
    return int(stream) & _STREAM_ID


def _control_frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">HHI", _VERSION, kind, len(payload)) + payload
