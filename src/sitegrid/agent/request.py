"""One request of a client, as its connection makes it and handlers read it.

Its body arrives while it is being handled: what is not read yet is bounded, by telling the connection to receive no
more. Made by `http.Connection`. Held by ``tests/agent/test_http.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

STALL_TIMEOUT: Final = 60.0
"""Seconds that a client may leave a finished short answer unread, or a request body unsent."""
_BODY_BUFFER: Final = 64 * 1024


class Disconnected(ConnectionError):
    """The client is gone, or is cut off."""


class Body:
    """A request's body, or what arrives after an upgrade: what there is at a time, then nothing."""

    def __init__(self, flow: Callable[[bool], None]) -> None:
        self._arrived = bytearray()
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._flow = flow

    def feed(self, data: bytes) -> None:
        """Add a piece."""
        self._arrived += data
        if len(self._arrived) > _BODY_BUFFER:
            self._flow(False)
        self._wake()

    def end(self) -> None:
        """Say that there is no more."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self, timeout: float | None = STALL_TIMEOUT) -> bytes:
        """Return what has arrived, empty at the end. Raises `Disconnected` after `timeout` seconds without a byte."""
        while not self._arrived:
            if self._ended:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._waiter, timeout)
            except TimeoutError as error:
                raise Disconnected("request body stalled") from error
        data = bytes(self._arrived)
        self._arrived.clear()
        self._flow(True)
        return data

    @property
    def ended(self) -> bool:
        """Tell whether everything has arrived."""
        return self._ended

    @property
    def finished(self) -> bool:
        """Tell whether everything has arrived and was read."""
        return self._ended and not self._arrived


class Request:
    """One request head and its body; header names are in lower case, `target` is as sent."""

    __slots__ = ("body", "chunked", "complete", "headers", "http10", "keep_alive", "method", "target", "upgrade")

    def __init__(self, body: Body) -> None:
        self.method = ""
        self.target = ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = True
        self.upgrade = False
        self.chunked = False
        self.complete = False
        self.http10 = False
        self.body = body

    def header(self, name: bytes) -> str:
        """Return the values of header `name` (lower case) joined by commas, empty without it."""
        return ",".join(value.decode("latin-1") for key, value in self.headers if key == name)

    @property
    def impersonates(self) -> bool:
        """Tell whether the client asks as somebody else: what is known of its own credential says nothing then."""
        return any(name.startswith(b"impersonate-") for name, _ in self.headers)
