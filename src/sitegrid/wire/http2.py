"""The client's side of HTTP/2 (RFC 9113) for requests without a body, sans-I/O.

The agent's watches share one connection: one handshake, one bearer token and one keepalive for all of them. Bytes
from the server go into `receive`, which returns what became of the streams; what is to be sent comes from `take`.
Used by `sitegrid.agent.multiplex`.

Invariant: what breaks the protocol raises `Http2Error`, after which the connection is of no more use; a server cannot
make us keep more than the windows allow. Held by ``tests/wire/test_http2.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from sitegrid.wire.hpack import Decoder, Encoder, Header, HpackError

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE = 0, 1, 3, 4, 5
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW = 1, 2, 3, 4
_CANCEL: Final = 8
_SIZES: Final = {_RST_STREAM: 4, _PING: 8, _WINDOW_UPDATE: 4}
"""Of frames that have one size only."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD: Final = 9
MAX_FRAME: Final = 16384
"""Bytes of the largest frame that either side may send (SETTINGS_MAX_FRAME_SIZE's initial value)."""
MAX_HEADER_BLOCK: Final = 64 * 1024
_FIRST_WINDOW: Final = 65535
STREAM_WINDOW: Final = 256 * 1024
CONNECTION_WINDOW: Final = 1024 * 1024
"""Bytes that the server may send ahead of what was taken, of one answer and of all: at most so much waits here."""


class Http2Error(ConnectionError):
    """The server does not speak HTTP/2 as it must, or ends the connection."""


class Event(NamedTuple):
    """What became of a stream: its `headers`, a piece of `data`, its end (`done`), or its failure (`error`).

    Stream 0 is the connection: the answer to a ping.
    """

    stream: int
    headers: list[Header] | None = None
    data: bytes = b""
    done: bool = False
    error: str = ""


class _Window:
    """What the server may still send, and what was taken of it since it was last told."""

    __slots__ = ("left", "size", "taken")

    def __init__(self, size: int) -> None:
        self.size = self.left = size
        self.taken = 0

    def use(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Http2Error("the server sent more than it may")

    def refill(self, size: int) -> int:
        """Return by how much to tell the server that it may go on; 0 for not yet."""
        self.taken += size
        if self.taken * 2 < self.size:
            return 0
        taken, self.taken = self.taken, 0
        self.left += taken
        return taken


class Http2:
    """One connection; `going` is set when the server takes no further request on it."""

    def __init__(self) -> None:
        self.going = False
        self._out = bytearray(_PREFACE)
        self._in = bytearray()
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._next = 1
        self._limit = 100
        self._streams: dict[int, _Window] = {}
        self._window = _Window(CONNECTION_WINDOW)
        self._block: tuple[int, bool, bytearray] | None = None
        self._settled = False
        settings = ((_ENABLE_PUSH, 0), (_INITIAL_WINDOW, STREAM_WINDOW))
        self._send(_SETTINGS, 0, 0, b"".join(_number(name, 2) + _number(value) for name, value in settings))
        self._send(_WINDOW_UPDATE, 0, 0, _number(CONNECTION_WINDOW - _FIRST_WINDOW))

    @property
    def usable(self) -> bool:
        """Tell whether another request may be made."""
        return not self.going and len(self._streams) < self._limit and self._next < 1 << 31

    @property
    def idle(self) -> bool:
        """Tell whether no answer is awaited."""
        return not self._streams

    def take(self) -> bytes:
        """Return what is to be sent now."""
        out, self._out = bytes(self._out), bytearray()
        return out

    def request(self, headers: Iterable[tuple[bytes, bytes, bool]]) -> int:
        """Ask, and return the stream's number; headers are (name, value, whether they will be repeated)."""
        stream, self._next = self._next, self._next + 2
        self._streams[stream] = _Window(STREAM_WINDOW)
        block = self._encoder.encode(headers)
        kind, flags = _HEADERS, _END_STREAM
        while len(block) > MAX_FRAME:
            self._send(kind, flags, stream, block[:MAX_FRAME])
            block, kind, flags = block[MAX_FRAME:], _CONTINUATION, 0
        self._send(kind, flags | _END_HEADERS, stream, block)
        return stream

    def cancel(self, stream: int) -> None:
        """Have the server stop an answer; what still comes of it is dropped."""
        if self._streams.pop(stream, None) is not None:
            self._send(_RST_STREAM, 0, stream, _number(_CANCEL))

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        self._send(_PING, 0, 0, bytes(8))

    def took(self, stream: int, size: int) -> None:
        """Hear that `size` bytes of an answer were taken, so that the server may send more."""
        if more := self._window.refill(size):
            self._send(_WINDOW_UPDATE, 0, 0, _number(more))
        window = self._streams.get(stream)
        if window is not None and (more := window.refill(size)):
            self._send(_WINDOW_UPDATE, 0, stream, _number(more))

    def receive(self, data: bytes) -> list[Event]:
        """Return what became of the streams. Raises `Http2Error`."""
        self._in += data
        events: list[Event] = []
        position, end = 0, len(self._in)
        while end - position >= _HEAD:
            head = self._in[position : position + _HEAD]
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            if length > MAX_FRAME:
                raise Http2Error("the server's frame is larger than allowed")
            stop = position + _HEAD + length
            if stop > end:
                break
            stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
            self._frame(events, kind, flags, stream, bytes(self._in[position + _HEAD : stop]))
            position = stop
        del self._in[:position]
        return events

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._out += len(payload).to_bytes(3, "big") + bytes((kind, flags)) + _number(stream) + payload

    def _frame(self, events: list[Event], kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self._settled and kind != _SETTINGS:
            raise Http2Error("the server does not speak HTTP/2")
        if self._block is not None and (kind != _CONTINUATION or stream != self._block[0]):
            raise Http2Error("the server's headers are interrupted")
        if len(payload) != _SIZES.get(kind, len(payload)):
            raise Http2Error("a frame of a wrong length")
        if kind == _DATA:
            self._data(events, flags, stream, payload)
        elif kind == _HEADERS:
            self._known(stream)
            payload = _unpadded(flags, payload)[5 if flags & _PRIORITY else 0 :]
            self._headers(events, flags, stream, bool(flags & _END_STREAM), bytearray(payload))
        elif kind == _CONTINUATION:
            if self._block is None:
                raise Http2Error("the server's headers have no beginning")
            _, done, block = self._block
            self._headers(events, flags, stream, done, block + payload)
        elif kind == _RST_STREAM:
            if self._streams.pop(stream, None) is not None:
                events.append(Event(stream, error=f"the API server ended the answer (code {_value(payload)})"))
        elif kind == _SETTINGS:
            self._settings(flags, payload)
        elif kind == _PING:
            if flags & _ACK:
                events.append(Event(0, done=True))
            else:
                self._send(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY:
            self._goaway(events, payload)
        elif kind == _PUSH_PROMISE:
            raise Http2Error("the server pushes, which it was told not to")
        # WINDOW_UPDATE concerns bodies, of which we send none; frames of other kinds are to be ignored.

    def _known(self, stream: int) -> None:
        if not stream & 1 or stream >= self._next:
            raise Http2Error(f"the server answers a request {stream} that was not made")

    def _data(self, events: list[Event], flags: int, stream: int, payload: bytes) -> None:
        self._known(stream)
        size = len(payload)
        self._window.use(size)
        window = self._streams.get(stream)
        if window is None:
            self.took(stream, size)  # cancelled
            return
        window.use(size)
        if flags & _PADDED:
            payload = _unpadded(flags, payload)
            self.took(stream, size - len(payload))
        done = bool(flags & _END_STREAM)
        if done:
            del self._streams[stream]
        events.append(Event(stream, None, payload, done))

    def _headers(self, events: list[Event], flags: int, stream: int, done: bool, block: bytearray) -> None:
        if len(block) > MAX_HEADER_BLOCK:
            raise Http2Error("the API server's answer has too many headers")
        if not flags & _END_HEADERS:
            self._block = (stream, done, block)
            return
        self._block = None
        try:
            # Also those that nobody waits for any more, since they change the table.
            headers = self._decoder.decode(bytes(block))
        except HpackError as error:
            raise Http2Error(f"headers cannot be read: {error}") from error
        if stream in self._streams:
            if done:
                del self._streams[stream]
            events.append(Event(stream, headers, b"", done))

    def _settings(self, flags: int, payload: bytes) -> None:
        self._settled = True
        if flags & _ACK:
            return
        if len(payload) % 6:
            raise Http2Error("settings of a wrong length")
        for place in range(0, len(payload), 6):
            name, value = _value(payload[place : place + 2]), _value(payload[place + 2 : place + 6])
            if name == _HEADER_TABLE_SIZE:
                self._encoder.limit(value)
            elif name == _MAX_STREAMS:
                self._limit = value
        self._send(_SETTINGS, _ACK, 0, b"")

    def _goaway(self, events: list[Event], payload: bytes) -> None:
        """Make no further requests, and give up those that the server will not answer."""
        self.going = True
        last = _value(payload[:4]) & 0x7FFFFFFF
        for stream in [stream for stream in self._streams if stream > last]:
            del self._streams[stream]
            events.append(Event(stream, error="the API server closes the connection"))


def _number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


def _value(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2Error("padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]
