"""The client's side of HTTP/2 (RFC 9113) for requests with at most a short body, sans-I/O.

The agent's watches share one connection: one handshake, one bearer token and one keepalive for all of them; what it
passes through shares another one. Bytes from the server go into `receive`, which returns what became of the streams;
what is to be sent comes from `take`. A body is given whole with its request, and goes out as the server's windows
allow. Used by `sitegrid.agent.multiplex`.

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
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_HEADER_LIST_SIZE = 1, 2, 3, 4, 6
_NO_ERROR, _REFUSED_STREAM, _CANCEL = 0, 7, 8
_SIZES: Final = {_RST_STREAM: 4, _PING: 8, _WINDOW_UPDATE: 4}
"""Of frames that have one size only."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD: Final = 9
MAX_FRAME: Final = 16384
"""Bytes of the largest frame that either side may send (SETTINGS_MAX_FRAME_SIZE's initial value, and its least)."""
MAX_HEADER_BLOCK: Final = 64 * 1024
_HEADER: Final = 32
"""What a header counts besides its text (section 6.5.2, SETTINGS_MAX_HEADER_LIST_SIZE)."""
_FIRST_WINDOW: Final = 65535
_LARGEST_WINDOW: Final = (1 << 31) - 1
STREAM_WINDOW: Final = 256 * 1024
CONNECTION_WINDOW: Final = 1024 * 1024
"""Bytes that the server may send ahead of what was taken, of one answer and of all: at most so much waits here."""


class Http2Error(ConnectionError):
    """The server does not speak HTTP/2 as it must, or ends the connection."""


class Event(NamedTuple):
    """What became of a stream: its `headers`, a piece of `data`, its end (`done`), or its failure (`error`).

    What is `unprocessed` failed before the server did anything, so that it can be asked for again (section 8.7).
    Stream 0 is the connection: the answer to a ping.
    """

    stream: int
    headers: list[Header] | None = None
    data: bytes = b""
    done: bool = False
    error: str = ""
    unprocessed: bool = False


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


class _Body:
    """What is not sent yet of a request's body, and how much the server takes of it."""

    __slots__ = ("left", "room")

    def __init__(self, left: bytes, room: int) -> None:
        self.left = left
        self.room = room

    def widen(self, more: int) -> bool:
        """Tell whether the window may be that large; settings can make it negative (section 6.9.2)."""
        self.room += more
        return self.room <= _LARGEST_WINDOW


class Http2:
    """One connection.

    The server may send `stream_window` bytes of each answer ahead of what was taken, `connection_window` of all.
    """

    def __init__(self, stream_window: int = STREAM_WINDOW, connection_window: int = CONNECTION_WINDOW) -> None:
        self._going = False
        self._out = bytearray(_PREFACE)
        self._in = bytearray()
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._next = 1
        self._limit = 100
        self._headers_limit = _LARGEST_WINDOW
        self._streams: dict[int, _Window] = {}
        self._stream_window = stream_window
        self._window = _Window(connection_window)
        self._bodies: dict[int, _Body] = {}
        self._room = self._first_room = _FIRST_WINDOW
        """What the server takes of all bodies, and of one that begins."""
        self._block: tuple[int, bool, bytearray] | None = None
        self._settled = False
        settings = ((_ENABLE_PUSH, 0), (_INITIAL_WINDOW, stream_window))
        self._send(_SETTINGS, 0, 0, b"".join(_number(name, 2) + _number(value) for name, value in settings))
        self._send(_WINDOW_UPDATE, 0, 0, _number(connection_window - _FIRST_WINDOW))

    @property
    def ending(self) -> bool:
        """Tell whether no further request will ever be made here."""
        return self._going or self._next >= 1 << 31

    @property
    def full(self) -> bool:
        """Tell whether the server answers no more requests at a time."""
        return len(self._streams) >= self._limit

    @property
    def idle(self) -> bool:
        """Tell whether no answer is awaited."""
        return not self._streams

    def take(self, *, bodies: bool = True) -> bytes:
        """Return what is to be sent now, of bodies only where they are wanted."""
        if bodies and self._bodies:
            self._send_bodies()
        out, self._out = bytes(self._out), bytearray()
        return out

    def fits(self, headers: Iterable[tuple[bytes, bytes, bool]], limit: int) -> bool:
        """Tell whether `headers` are at most `limit` bytes, and as many as the server wants to see."""
        size = sum(len(name) + len(value) + _HEADER for name, value, _ in headers)
        return size <= min(limit, self._headers_limit)

    def request(self, headers: Iterable[tuple[bytes, bytes, bool]], body: bytes = b"") -> int:
        """Ask, and return the stream's number; headers are (name, value, whether they will be repeated)."""
        stream, self._next = self._next, self._next + 2
        self._streams[stream] = _Window(self._stream_window)
        if body:
            self._bodies[stream] = _Body(body, self._first_room)
        block = self._encoder.encode(headers)
        kind, flags = _HEADERS, 0 if body else _END_STREAM
        while len(block) > MAX_FRAME:
            self._send(kind, flags, stream, block[:MAX_FRAME])
            block, kind, flags = block[MAX_FRAME:], _CONTINUATION, 0
        self._send(kind, flags | _END_HEADERS, stream, block)
        return stream

    def _send_bodies(self) -> None:
        for stream, body in list(self._bodies.items()):
            while body.left and (size := min(self._room, body.room, MAX_FRAME)) > 0:
                piece, body.left = body.left[:size], body.left[size:]
                self._room -= len(piece)
                body.room -= len(piece)
                self._send(_DATA, 0 if body.left else _END_STREAM, stream, piece)
            if not body.left:
                del self._bodies[stream]

    def cancel(self, stream: int) -> None:
        """Have the server stop an answer; what still comes of it is dropped."""
        if self._forget(stream):
            self._send(_RST_STREAM, 0, stream, _number(_CANCEL))

    def _forget(self, stream: int) -> bool:
        """Tell whether an answer was awaited; it no longer is."""
        self._bodies.pop(stream, None)
        return self._streams.pop(stream, None) is not None

    def _answered(self, stream: int) -> None:
        """Take the answer for whole; a server that did not wait for the body does not want it any more."""
        del self._streams[stream]
        if self._bodies.pop(stream, None) is not None:
            self._send(_RST_STREAM, 0, stream, _number(_NO_ERROR))

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
            if self._forget(stream):
                code = _value(payload)
                error = f"the API server ended the answer (code {code})"
                events.append(Event(stream, error=error, unprocessed=code == _REFUSED_STREAM))
        elif kind == _SETTINGS:
            self._settings(flags, payload)
        elif kind == _WINDOW_UPDATE:
            self._widen(events, stream, _value(payload) & _LARGEST_WINDOW)
        elif kind == _PING:
            if flags & _ACK:
                events.append(Event(0, done=True))
            else:
                self._send(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY:
            self._goaway(events, payload)
        elif kind == _PUSH_PROMISE:
            raise Http2Error("the server pushes, which it was told not to")
        # Frames of other kinds are to be ignored.

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
            self._answered(stream)
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
                self._answered(stream)
            events.append(Event(stream, headers, b"", done))

    def _widen(self, events: list[Event], stream: int, more: int) -> None:
        """Take more of bodies. A wrong size ends one stream only, if it is for one (section 6.9)."""
        if not stream:
            self._room += more
            if not more or self._room > _LARGEST_WINDOW:
                raise Http2Error("the server's window is of an impossible size")
        elif (body := self._bodies.get(stream)) is not None and not (body.widen(more) and more):
            self.cancel(stream)
            events.append(Event(stream, error="the API server's window is of an impossible size"))

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
            elif name == _MAX_HEADER_LIST_SIZE:
                self._headers_limit = value
            elif name == _INITIAL_WINDOW:
                self._resize(value)
        self._send(_SETTINGS, _ACK, 0, b"")

    def _resize(self, size: int) -> None:
        """Begin bodies with a window of `size`; those that have begun are counted anew."""
        more, self._first_room = size - self._first_room, size
        if size > _LARGEST_WINDOW or not all([body.widen(more) for body in self._bodies.values()]):
            raise Http2Error("the server's window is of an impossible size")

    def _goaway(self, events: list[Event], payload: bytes) -> None:
        """Make no further requests, and give up those that the server will not answer."""
        self._going = True
        last = _value(payload[:4]) & 0x7FFFFFFF
        for stream in [stream for stream in self._streams if stream > last]:
            self._forget(stream)
            events.append(Event(stream, error="the API server closes the connection", unprocessed=True))


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
