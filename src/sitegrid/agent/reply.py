"""The API server's answer to one request, whichever HTTP brought it: status, headers, the body as a stream.

Made by `sitegrid.agent.upstream` (HTTP/1.1) and `sitegrid.agent.multiplex` (HTTP/2), which say how more of it is
waited for; read by sources and by pass-through. Invariant: what broke off is an `UpstreamError` and never taken for
a whole answer. Held by ``tests/agent/test_upstream.py``, ``tests/agent/test_multiplex.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

HEAD_TIMEOUT: Final = 60.0
"""Seconds for the API server to begin its answer (its own limit for short requests)."""
MAX_HEADERS: Final = 64 * 1024

Headers = list[tuple[bytes, bytes]]


class UpstreamError(ConnectionError):
    """The API server cannot be reached, or did not speak HTTP."""


class Unprocessed(UpstreamError):
    """The API server did nothing with the request, and says so: it can be made again."""


class Silent(UpstreamError):
    """Nothing came for a long time, though the connection is there."""


class Reply:
    """`status` and `headers` are there after `head()`."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self._chunks: list[bytes] = []
        self._head_done = False
        self._complete = False

    async def _more(self) -> None:
        """Wait for anything new. Raises `UpstreamError`."""
        raise NotImplementedError

    def _taken(self, size: int) -> None:
        """Hear that `size` bytes of the body were taken."""

    async def head(self, timeout: float = HEAD_TIMEOUT) -> None:
        """Wait at most `timeout` seconds for status and headers. Raises `UpstreamError`."""
        try:
            async with asyncio.timeout(timeout):
                while not self._head_done:
                    await self._more()
        except TimeoutError as error:
            raise UpstreamError("the API server did not answer in time") from error

    async def body(self, timeout: float | None = None) -> AsyncIterator[bytes]:
        """Yield the body as it comes; each wait may last `timeout` seconds. Raises `UpstreamError`."""
        while True:
            if self._chunks:
                data = b"".join(self._chunks)
                self._chunks.clear()
                self._taken(len(data))
                yield data
                continue
            if self._complete:
                return
            try:
                async with asyncio.timeout(timeout):
                    await self._more()
            except TimeoutError as error:
                raise Silent("the API server fell silent") from error

    async def read_all(self, limit: int, timeout: float) -> bytes:
        """Return the whole body, at most `limit` bytes. Raises `UpstreamError`."""
        data = bytearray()
        async for chunk in self.body(timeout):
            data += chunk
            if len(data) > limit:
                raise UpstreamError(f"the API server's answer has more than {limit} bytes")
        return bytes(data)

    def header(self, name: bytes) -> bytes:
        """Return the value of header `name` (lower case), empty without it."""
        return next((value for key, value in self.headers if key.lower() == name), b"")

    def close(self) -> None:
        """Give the answer up without waiting for anything."""
        raise NotImplementedError
