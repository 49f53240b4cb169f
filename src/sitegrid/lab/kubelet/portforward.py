"""``kubectl port-forward``'s far side: connections to a pod, as streams of one SPDY session in a WebSocket.

`server` calls it. The protocol is ``portforward.k8s.io`` (k8s.io/client-go/tools/portforward; KEP-4006 for the
WebSocket around it): for each connection kubectl opens two streams with the same request ID, ``error``, which it only
reads, and then ``data``. The pod is asked at its own address, so what listens on the pod's loopback alone cannot be
reached. Held by ``tests/lab/test_kubelet_server.py`` and ``tests/e2e/test_kubectl.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from typing import Final

from aiohttp import WSMsgType, web

from sitegrid.lab.kubelet.spdy import Data, Opened, Ping, Reset, Session, SpdyError

PROTOCOL: Final = "SPDY/3.1+portforward.k8s.io"

CONNECT_SECONDS: Final = 5.0

_CHUNK: Final = 32 * 1024


class Forwarder:
    """Carries the connections of one kubectl to the pod at `address`."""

    def __init__(self, socket: web.WebSocketResponse, address: str) -> None:
        self._socket = socket
        self._address = address
        self._session = Session()
        self._errors: dict[str, int] = {}
        """Error streams by request ID, until their data stream is opened."""
        self._writers: dict[int, asyncio.StreamWriter] = {}
        """Ways to the pod, by data stream."""
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Forward until the client goes; connections of a pod that ends are ended by it."""
        try:
            with contextlib.suppress(ConnectionError):
                await self._receive()
        finally:
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _receive(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.BINARY:
                return
            try:
                for event in self._session.receive(message.data):
                    await self._take(event)
            except SpdyError:
                return
            if self._session.ended:
                return

    async def _take(self, event: Opened | Data | Reset | Ping) -> None:
        """Do what a frame asks for; a pod that does not read holds up all connections of its kubectl."""
        match event:
            case Opened(stream, headers):
                await self._send(self._session.reply(stream))
                await self._open(stream, headers)
            case Data(stream, data, last) if stream in self._writers:
                writer = self._writers[stream]
                with contextlib.suppress(OSError):  # the pod has closed it: `_from_pod` sees that too
                    writer.write(data)
                    await writer.drain()
                    if last:
                        writer.write_eof()
            case Reset(stream) if stream in self._writers:
                self._writers[stream].close()
            case Ping(answer):
                await self._send(answer)

    async def _open(self, stream: int, headers: dict[str, str]) -> None:
        """Take a stream; with the second one of a request, connect to the pod."""
        request, port = headers.get("requestid", ""), headers.get("port", "")
        if headers.get("streamtype") == "error":
            self._errors[request] = stream
            return
        error = self._errors.pop(request, stream)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, self._writers[stream] = await asyncio.open_connection(self._address, int(port))
        except (OSError, ValueError, OverflowError) as fault:  # TimeoutError is an OSError without a number
            number = fault.errno if isinstance(fault, OSError) else errno.EINVAL
            why = os.strerror(number) if number else "no answer"
            await self._end(stream, error, f"cannot connect to port {port} of the pod: {why}")
            return
        task = asyncio.create_task(self._from_pod(stream, error, reader))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _from_pod(self, stream: int, error: int, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(_CHUNK):
                    await self._send(self._session.data(stream, data))
                await self._end(stream, error, "")
        finally:
            self._writers.pop(stream).close()

    async def _end(self, stream: int, error: int, reason: str) -> None:
        """End both streams of a connection, as kubectl waits for."""
        await self._send(self._session.data(stream, b"", last=True))
        await self._send(self._session.data(error, reason.encode(), last=True))

    async def _send(self, frame: bytes) -> None:
        await self._socket.send_bytes(frame)
