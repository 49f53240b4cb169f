"""The host's way to the lab's API server.

`Lab.up` opens a listening socket on the host's loopback and the supervisor inherits it: a socket keeps its network
namespace, so the supervisor accepts host connections although it lives in namespaces without any link to the host,
and joins each to the API server inside. Two labs never collide, since the kernel picks the port. Held by
``tests/lab/test_lab.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

_CHUNK: Final = 1 << 16


class Gateway:
    """Joins every connection that `listener` accepts to 127.0.0.1:`port` in the supervisor's namespace."""

    def __init__(self, listener: socket.socket, port: int) -> None:
        self._listener = listener
        self._port = port
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await asyncio.start_server(self._join, sock=self._listener)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, then close the other side; a broken side ends both copies of its connection."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            writer.close()
