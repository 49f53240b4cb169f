"""One HTTP/2 connection to the API server that all sources share.

Seven watches over one connection cost one handshake, one bearer token and one keepalive instead of seven, and hold
one TLS state in memory. TLS is done here, over a plain transport, so that reading can be paused: while events come in
quick succession they are read in batches, since most of the cost of one is that of waking up for it.

Called by `sitegrid.agent.upstream`. Invariant: a connection that ends, in whatever way, ends every answer on it with
an `UpstreamError`. Held by ``tests/agent/test_multiplex.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final, cast

from sitegrid.agent.credentials import ResumingContext
from sitegrid.agent.reply import Reply, UpstreamError
from sitegrid.wire.http2 import Event, Http2, Http2Error

BURST: Final = 0.1
"""Seconds between two arrivals below which they are of one burst."""
FEW: Final = 20
"""Arrivals of a burst that are read at once: one change at the API server is a few events, a short list some more."""
PAUSE: Final = 0.3
"""Seconds that arrivals are let gather in a burst: kube-proxy writes rules once a second."""
_UNSENT: Final = 1024 * 1024
"""Bytes that may wait to be sent; requests and answers to pings are small."""
_BUFFER: Final = memoryview(bytearray(32 * 1024))
"""Where every connection receives: what is in it is taken out at once."""


class Stream(Reply):
    """One answer."""

    def __init__(self, link: Link, number: int) -> None:
        super().__init__()
        self.number = number
        self._link = link
        self._error = ""
        self._waiter: asyncio.Future[None] | None = None

    def hear(self, event: Event) -> None:
        """Take what the connection has for this answer."""
        if event.error:
            self._error = event.error
        elif event.headers is not None and not self._head_done:
            self.status = _status(event)
            # An informational answer is followed by the real one.
            self._head_done = self.status >= 200
            self.headers = [header for header in event.headers if not header[0].startswith(b":")]
        elif event.data:
            self._chunks.append(event.data)
        self._complete = self._complete or event.done
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> None:
        if self._error:
            raise UpstreamError(self._error)
        if self._complete:
            raise UpstreamError("the API server's answer has no head")
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _taken(self, size: int) -> None:
        self._link.took(self.number, size)

    def close(self) -> None:
        """Have the API server stop this answer; the others go on, and what is unread of this one counts no more."""
        self._link.cancel(self.number)
        self._link.took(self.number, sum(map(len, self._chunks)))
        self._chunks.clear()


def _status(event: Event) -> int:
    text = next((value for name, value in event.headers or () if name == b":status"), b"")
    if len(text) != 3 or not text.isdigit():
        raise Http2Error("an answer without a status")
    return int(text)


class Link(asyncio.BufferedProtocol):
    """The connection; `secured` is done when TLS is, and then `protocol` is what the server chose."""

    def __init__(self, context: ResumingContext, server_name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.context = context
        self._tls = context.wrap_multiplexed(self._incoming, self._outgoing, server_name)
        self._http = Http2()
        self._streams: dict[int, Stream] = {}
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._arrived = 0.0
        self._quick = 0
        self._retired = False
        self._pings: list[asyncio.Future[None]] = []
        self.protocol = ""
        self.secured: asyncio.Future[None] = self._loop.create_future()

    @property
    def usable(self) -> bool:
        """Tell whether another request can be made here."""
        return self._transport is not None and self._http.usable

    def open(self, headers: list[tuple[bytes, bytes, bool]]) -> Stream:
        """Send a request, see `Http2.request`, and return its answer."""
        number = self._http.request(headers)
        stream = self._streams[number] = Stream(self, number)
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

    async def answers(self) -> None:
        """Wait for a sign of life; there may never be one. Raises `UpstreamError` when the connection ends."""
        answer = self._loop.create_future()
        self._pings.append(answer)
        self._http.ping()
        self._flush()
        await answer

    def retire(self) -> None:
        """Close the connection with the last answer on it."""
        self._retired = True
        if not self._streams:
            self.close()

    def close(self) -> None:
        """Close the connection; what is open on it ends."""
        self._fail("closed")

    # What the transport calls.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin TLS."""
        self._transport = cast(asyncio.Transport, transport)
        self._advance()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received."""
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
        """Send what HTTP/2 has to say, once TLS is there."""
        if self._transport is None:
            return
        if self.secured.done() and (data := self._http.take()):
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
