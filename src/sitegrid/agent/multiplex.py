"""One HTTP/2 connection to the API server: that of all sources, or that of what is passed through.

Seven watches over one connection cost one handshake, one bearer token and one keepalive instead of seven, and hold
one TLS state in memory. TLS is done here, over a plain transport, so that reading can be paused: while events come in
quick succession they are read in batches, since most of the cost of one is that of waking up for it.

What is passed through (a `Passing` connection) is not batched, and its windows are such that answers nobody reads
stop no other one: each may have `_PASSING_WINDOW` bytes unread, and there are at most `_PASSING_MOST` of them.

Called by `sitegrid.agent.upstream`. Invariant: a connection that ends, in whatever way, ends every answer on it with
an `UpstreamError`, and no answer is taken for whole that is shorter or longer than it says. Held by
``tests/agent/test_multiplex.py``, ``tests/agent/test_passing.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from typing import Final, cast

from sitegrid.agent.credentials import HTTP2, ResumingContext
from sitegrid.agent.reply import Reply, Unprocessed, UpstreamError
from sitegrid.agent.wan import silence
from sitegrid.wire.http2 import Event, Http2, Http2Error

BURST: Final = 0.1
"""Seconds between two arrivals below which they are of one burst."""
FEW: Final = 20
"""Arrivals of a burst that are read at once: one change at the API server is a few events, a short list some more."""
PAUSE: Final = 0.3
"""Seconds that arrivals are let gather in a burst: kube-proxy writes rules once a second."""
_UNSENT: Final = 1024 * 1024
"""Bytes that may wait to be sent; requests and answers to pings are small."""
_PASSING_WINDOW: Final = 32 * 1024
"""Bytes of one answer that may be in front of another's first one: 5 s at 50 kbit/s."""
_PASSING_MOST: Final = 64
_PASSING_HEAD: Final = 8 * 1024
"""Bytes of the largest request head that goes with others, so that heads that wait to be sent remain few bytes."""
_BUFFER: Final = memoryview(bytearray(32 * 1024))
"""Where every connection receives: what is in it is taken out at once."""

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

Fields = list[tuple[bytes, bytes, bool]]
"""Header name in lower case, value, and whether it will be repeated: then it is a byte the next time."""


def is_field(name: bytes, value: bytes) -> bool:
    """Tell whether HTTP/2 and HTTP/1.1 understand a header in the same way (RFC 9113, section 8.2.1)."""
    return _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None and value == value.strip(b" \t")


class Stream(Reply):
    """One answer; `bodiless` is one to HEAD, whose headers speak of a body that does not come."""

    def __init__(self, link: Link, number: int, *, bodiless: bool) -> None:
        super().__init__()
        self.number = number
        self._link = link
        self._bodiless = bodiless
        self._missing: int | None = None
        """Bytes of the body that are still to come, where the answer says how many they are."""
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def hear(self, event: Event) -> None:
        """Take what the connection has for this answer."""
        unread = len(event.data)
        try:
            if event.error:
                raise (Unprocessed if event.unprocessed else UpstreamError)(event.error)
            if event.headers is not None and not self._head_done:
                self._begin(event.headers)
            elif event.data and self._error is None:
                self._add(event.data)
                unread = 0
            if event.done:
                self._end()
        except UpstreamError as error:
            self._error = self._error or error
        if unread:
            self._taken(unread)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        (name, status), *self.headers = headers or [(b"", b"")]
        if name != b":status" or len(status) != 3 or not status.isdigit() or status == b"101":
            raise UpstreamError("the API server's answer has no status")
        if not all(is_field(name, value) for name, value in self.headers):
            raise UpstreamError("the API server's answer has malformed headers")
        self.status = int(status)
        # An informational answer is followed by the real one.
        self._head_done = self.status >= 200
        lengths = {value for name, value in self.headers if name == b"content-length"}
        if self._head_done and lengths and not self._bodiless and self.status not in (204, 304):
            if len(lengths) > 1 or not (length := lengths.pop()).isdigit():
                raise UpstreamError("the API server's answer has a malformed length")
            self._missing = int(length)

    def _add(self, data: bytes) -> None:
        if not self._head_done:
            raise UpstreamError("the API server's answer has no head")
        if self._missing is not None:
            self._missing -= len(data)
            if self._missing < 0:
                raise UpstreamError("the API server's answer is longer than it says")
        self._chunks.append(data)

    def _end(self) -> None:
        if not self._head_done:
            raise UpstreamError("the API server's answer has no head")
        if self._missing:
            raise UpstreamError("the API server's answer is shorter than it says")
        self._complete = self._error is None

    async def begins(self, seconds: float) -> bool:
        """Wait at most `seconds` for the head, and tell whether it is there. Raises `UpstreamError`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._head_done:
                    await self._more()
        return self._head_done

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _taken(self, size: int) -> None:
        self._link.took(self.number, size)

    def close(self) -> None:
        """Have the API server stop this answer; the others go on, and what is unread of this one counts no more."""
        self._link.cancel(self.number)
        self._link.took(self.number, sum(map(len, self._chunks)))
        self._chunks.clear()


class Link(asyncio.BufferedProtocol):
    """A connection of sources; `secured` is done when TLS is, and then `protocol` is what the server chose."""

    def __init__(self, context: ResumingContext, server_name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.context = context
        self._tls = context.wrap_multiplexed(self._incoming, self._outgoing, server_name)
        self._http = self._speak()
        self._streams: dict[int, Stream] = {}
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._arrived = 0.0
        self._quick = 0
        self._congested = False
        self._retired = False
        self._pings: list[asyncio.Future[None]] = []
        self._heard = 0
        """How often something has come from the API server."""
        self.protocol = ""
        self.secured: asyncio.Future[None] = self._loop.create_future()

    def _speak(self) -> Http2:
        return Http2()

    @property
    def server(self) -> object:
        """What stands for the process at the other end."""
        return self._tls.server

    @property
    def lasting(self) -> bool:
        """Tell whether requests are made here, if not now then once others are answered."""
        return self._transport is not None and not self._retired and not self._http.ending

    @property
    def usable(self) -> bool:
        """Tell whether another request can be made here now."""
        return self.lasting and not self._http.full

    def open(self, headers: Fields, body: bytes = b"") -> Stream:
        """Send a request, see `Http2.request`, and return its answer."""
        number = self._http.request(headers, body)
        bodiless = (b":method", b"HEAD") in (header[:2] for header in headers)
        stream = self._streams[number] = Stream(self, number, bodiless=bodiless)
        self._flush()
        return stream

    def took(self, number: int, size: int) -> None:
        """Let the API server send `size` bytes more of an answer."""
        self._http.took(number, size)
        self._flush()

    def cancel(self, number: int) -> None:
        """End one answer."""
        if self._streams.pop(number, None) is not None:
            self._http.cancel(number)
            self._flush()
            if self._retired and not self._streams:
                self.close()

    async def answers(self, seconds: float) -> bool:
        """Ask for a sign of life; tell whether it came, False once nothing at all has come for `seconds`.

        A slow link may long be busy with what was asked before, or with a body of ours, which is acknowledged piece
        by piece. Raises `UpstreamError` when the connection ends.
        """
        answer = self._loop.create_future()
        self._pings.append(answer)
        self._http.ping()
        self._flush()
        try:
            while not answer.done():
                heard = self._heard
                await asyncio.wait([answer], timeout=seconds)
                if heard == self._heard and not answer.done() and self._unacknowledged() >= seconds:
                    return False
            answer.result()
            return True
        finally:
            answer.cancel()

    def _unacknowledged(self) -> float:
        """Return for how many seconds the API server's machine has acknowledged nothing."""
        assert self._transport is not None  # or every answer to a ping would be there
        return silence(self._transport)

    def retire(self) -> None:
        """Close the connection with the last answer on it."""
        self._retired = True
        if not self._streams:
            self.close()

    def close(self) -> None:
        """Close the connection; what is open on it ends."""
        self._fail("closed")

    # What the transport calls.
    def pause_writing(self) -> None:
        """Hear that what is sent piles up."""
        self._congested = True

    def resume_writing(self) -> None:
        """Hear that it no longer does."""
        self._congested = False
        self._flush()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin TLS."""
        self._transport = cast(asyncio.Transport, transport)
        self._advance()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received."""
        self._heard += 1
        self._incoming.write(_BUFFER[:nbytes])
        self._advance(drained=nbytes < len(_BUFFER))

    def eof_received(self) -> None:
        """Hear that the API server closed the connection."""
        self._fail("the API server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection is gone."""
        self._fail(str(exc or "") or "the connection to the API server was lost")

    def _advance(self, *, drained: bool = False) -> None:
        try:
            if not self.secured.done():
                self._tls.do_handshake()
                self.protocol = self._tls.selected_alpn_protocol() or ""
                self.secured.set_result(None)
            chunks = []
            with contextlib.suppress(ssl.SSLWantReadError):
                while data := self._tls.read(16384):
                    chunks.append(data)
            if chunks and self._hear(b"".join(chunks)) and drained:
                self._gather()
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, ssl.CertificateError, Http2Error) as error:
            self._write()  # an alert, perhaps
            self._fail(str(error), error)
            return
        self._flush()

    def _hear(self, data: bytes) -> bool:
        """Give `data` to the answers that it is for; tell whether there were bodies in it."""
        bodies = False
        for event in self._http.receive(data):
            if not event.stream:
                self._answered(None)
                continue
            stream = self._streams.get(event.stream)
            if stream is not None:
                if event.done or event.error:
                    del self._streams[event.stream]
                stream.hear(event)
                bodies = bodies or bool(event.data)
        if self._retired and not self._streams:
            self.close()
        return bodies

    def _answered(self, error: UpstreamError | None) -> None:
        pings, self._pings = self._pings, []
        for ping in pings:
            if not ping.done():
                if error is None:
                    ping.set_result(None)
                else:
                    ping.set_exception(error)

    def _gather(self) -> None:
        """In a long burst, read on only when there is more."""
        now = self._loop.time()
        self._quick = self._quick + 1 if now < self._arrived + BURST else 0
        if self._quick > FEW and self._transport is not None:
            self._transport.pause_reading()
            self._resume = self._loop.call_later(PAUSE, self._read_on)
            now += PAUSE
        self._arrived = now

    def _read_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _flush(self) -> None:
        """Send what HTTP/2 has to say, once TLS is there and the server speaks it."""
        if self._transport is None:
            return
        if self.protocol == HTTP2 and (data := self._http.take(bodies=not self._congested)):
            self._tls.write(data)
        self._write()

    def _write(self) -> None:
        if self._transport is not None and self._outgoing.pending:
            self._transport.write(self._outgoing.read())
            if self._transport.get_write_buffer_size() > _UNSENT:
                self._fail("the API server asks for answers and does not read them")

    def _fail(self, reason: str, error: Exception | None = None) -> None:
        """End the connection and everything on it."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._resume is not None:
            self._resume.cancel()
        if not self.secured.done():
            self.secured.set_exception(error or UpstreamError(reason))
        self._answered(UpstreamError(reason))
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.hear(Event(stream.number, error=reason))


class Passing(Link):
    """A connection of what is passed through."""

    def _speak(self) -> Http2:
        # The server is told late what was taken of all answers: as late as of half of them.
        return Http2(_PASSING_WINDOW, 2 * _PASSING_MOST * _PASSING_WINDOW)

    @property
    def usable(self) -> bool:
        """Tell whether another request can be made here now, without waiting for others to be answered or sent."""
        return super().usable and len(self._streams) < _PASSING_MOST and not self._congested

    def fits(self, headers: Fields) -> bool:
        """Tell whether a request can be said here, exactly."""
        return self._http.fits(headers, _PASSING_HEAD) and all(
            is_field(name, value) for name, value, _ in headers if not name.startswith(b":")
        )

    def _gather(self) -> None:
        """Read on: a download is to be fast."""
