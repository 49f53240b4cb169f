"""Whether the API server can be reached: what every connection to it has shown.

`Upstream` tells it of each success and failure; who serves clients asks it, so that a request that cannot succeed is
refused at once instead of hanging until TCP gives up. Neither `up` nor `down` means that nobody knows yet.

Invariant: it is down from a failed connection until the next successful one, and says so to its listeners at every
change. Held by ``tests/agent/test_wan.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import socket
import struct
import weakref
from collections.abc import Callable
from typing import Final

_log = logging.getLogger(__name__)

_PATIENCE: Final = 0.7
"""Seconds that a client waits for a connection at least; together with all else an answer comes within one second."""
_LONGEST_PATIENCE: Final = 10.0
_JITTER: Final = 1.0
"""Seconds over which reconnections are spread once the WAN is back."""
_LAST_ACK: Final = struct.Struct("=56xI")
"""Where linux/tcp.h, struct tcp_info, has tcpi_last_ack_recv, in milliseconds."""


class Wan:
    """The state of the way to the API server; `reason` says why it is down."""

    def __init__(self) -> None:
        self.up = False
        self.down = False
        self.reason = ""
        self.patience = _PATIENCE
        """Seconds that a client's connection may take: four times the last ones', which slow links need."""
        self.listeners: list[Callable[[], None]] = []
        self._back = asyncio.Event()
        self._guessed = False
        self._connections: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()

    def follow(self, connection: asyncio.BaseTransport) -> None:
        """Know a TCP connection to the API server, for as long as it is there."""
        self._connections.add(connection)

    def late(self, seconds: float) -> bool:
        """Hear that something took longer than `seconds`; tell whether the API server is heard all the same.

        Then the link is thin or loses packets, and who is next waits longer.
        """
        alive = any(silence(connection) < seconds / 2 for connection in self._connections)
        if alive:
            self.patience = min(2 * self.patience, _LONGEST_PATIENCE)
        return alive

    def reached(self, seconds: float) -> None:
        """Hear that a connection was made in `seconds`. One that was quick does not make a slow link a quick one."""
        self.patience = min(max(_PATIENCE, 4 * seconds, self.patience / 2), _LONGEST_PATIENCE)
        if self.down:
            _log.warning("the API server can be reached again")
        changed, self.up, self.down = not self.up, True, False
        self._back.set()
        if changed:
            self._tell()

    def lost(self, reason: str, *, guessed: bool = False) -> None:
        """Hear that no connection could be made; a reason that is `guessed` gives way to the first that is known."""
        if not self.down or (self._guessed and not guessed):
            _log.warning("the API server cannot be reached: %s", reason)
            self._guessed = guessed
        self.reason = reason
        changed, self.up, self.down = not self.down, False, True
        self._back.clear()
        if changed:
            self._tell()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()

    async def pause(self, seconds: float) -> None:
        """Wait `seconds`; less where the WAN is down and comes back, but never in step with others."""
        if self.down:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._back.wait()
                    await asyncio.sleep(random.uniform(0, _JITTER))
        else:
            await asyncio.sleep(seconds)


def silence(connection: asyncio.BaseTransport) -> float:
    """Return for how many seconds nothing has come from the API server's machine, acknowledgements included."""
    if connection.is_closing():
        return math.inf
    info = connection.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK.size)
    milliseconds: int = _LAST_ACK.unpack(info)[0]
    return milliseconds / 1000
