"""A TLS server that speaks HTTP/2 frame by frame, as each test wants it.

Used by the tests of what the agent asks over HTTP/2 (``tests/agent/test_multiplex.py``, ``test_passing.py``): what
arrives is kept, and nothing is answered but what the test says. HTTP/1.1 requests are answered with `ok`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import struct
from pathlib import Path
from typing import Any

from sitegrid.agent.credentials import Credentials, from_kubeconfig
from sitegrid.lab.pki import Authority
from sitegrid.wire.hpack import Decoder, Encoder

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8


class Connection:
    """One connection that the server has: what it was asked, and the way to answer."""

    def __init__(self, writer: asyncio.StreamWriter, whole: list[tuple[Connection, int]], *, mute: bool) -> None:
        tls = writer.get_extra_info("ssl_object")
        self.resumed: bool = tls.session_reused
        self.protocol: str = tls.selected_alpn_protocol()
        self.certificate = tls.getpeercert()
        self.requests: dict[int, dict[bytes, bytes]] = {}
        """Of each stream, or of the one HTTP/1.1 request, which has none: 0."""
        self.bodies: dict[int, bytes] = {}
        self._whole = whole
        self.pings = 0
        self.cancelled: list[int] = []
        self.ended = False
        self.mute = mute
        """Whether pings are left unanswered."""
        self.window = 65535
        self.windows: dict[int, int] = {}
        self._first_window = 65535
        self.writer = writer
        self._encoder = Encoder()

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        """Send one frame."""
        head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
        self.writer.write(head + payload)
        if kind == DATA:
            self.window -= len(payload)
            self.windows[stream] -= len(payload)

    def head(self, stream: int, *headers: tuple[bytes, bytes], end: bool = False) -> None:
        """Send headers, or trailers."""
        block = self._encoder.encode([(name, value, False) for name, value in headers])
        self.send(HEADERS, 5 if end else 4, stream, block)

    def answer(self, stream: int, status: bytes, body: bytes = b"", *, end: bool = False) -> None:
        """Answer a request."""
        self.head(stream, (b":status", status))
        self.send(DATA, 1 if end else 0, stream, body)

    async def _serve_http_1(self, reader: asyncio.StreamReader) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        headers = {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines)}
        method, path, _ = first.split()
        self.requests[0] = {b":method": method, b":path": path, **headers}
        self.bodies[0] = await reader.readexactly(int(headers.get(b"content-length", 0)))
        if headers.get(b"transfer-encoding") == b"chunked":
            self.bodies[0] = await reader.readuntil(b"0\r\n\r\n")
        self._whole.append((self, 0))
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def serve(self, reader: asyncio.StreamReader, settings: bytes) -> None:
        """Take requests until the connection ends; HTTP/1.1 ones are answered with `ok`."""
        if self.protocol != "h2":
            await self._serve_http_1(reader)
            return
        await reader.readexactly(24)
        self.send(SETTINGS, 0, 0, settings)
        decoder = Decoder()
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            stream = int.from_bytes(head[5:], "big")
            if head[3] == HEADERS:
                self.requests[stream] = dict(decoder.decode(payload))
                self.bodies[stream] = b""
                self.windows[stream] = self._first_window
            elif head[3] == DATA:
                self.bodies[stream] += payload
            elif head[3] == RST:
                self.cancelled.append(stream)
            elif head[3] == WINDOW and not stream:
                self.window += int.from_bytes(payload, "big")
            elif head[3] == WINDOW:
                self.windows[stream] += int.from_bytes(payload, "big")
            elif head[3] == SETTINGS and not head[4]:
                self._first_window = dict(struct.iter_unpack(">HI", payload))[4]
            elif head[3] == PING and not head[4]:
                self.pings += 1
                if not self.mute:
                    self.send(PING, 1, 0, payload)
            if head[3] in (HEADERS, DATA) and head[4] & 1:
                self._whole.append((self, stream))


class ApiServer:
    """A TLS server for 127.0.0.1 whose certificate, made in its directory, is the authority as well."""

    def __init__(self, directory: Path, certificates: Any, port: int) -> None:
        self.directory = directory
        self._certificates = certificates
        self.connections: list[Connection] = []
        self.whole: list[tuple[Connection, int]] = []
        """Requests in the order in which they were there whole."""
        self.protocols = ["h2", "http/1.1"]
        self.mute = False
        self.settings = b""
        """The payload of its SETTINGS."""
        self.user: dict[str, str] = {"tokenFile": "token"}
        """The agent's in its kubeconfig."""
        self.clients = Authority()
        """That of the certificates which it asks its clients for."""
        self.port = port
        self._server: asyncio.Server | None = None
        (directory / "server").mkdir()
        (directory / "token").write_text("first")
        self.renew()
        self.publish()

    def renew(self) -> None:
        """Get another certificate, of another authority."""
        self._certificates(self.directory / "server")

    def publish(self) -> None:
        """Put the present authority where the agent reads it."""
        shutil.copy(self.directory / "server" / "tls.crt", self.directory / "new.crt")
        (self.directory / "new.crt").rename(self.directory / "ca.crt")

    async def asked(self, path: bytes) -> tuple[Connection, int]:
        """Return the connection and stream of the one request for `path`, once it is there."""
        async with asyncio.timeout(20):
            while True:
                for connection, stream in self.whole:
                    if connection.requests[stream][b":path"] == path:
                        return connection, stream
                await asyncio.sleep(0.005)

    async def start(self) -> None:
        """Listen on `port`, which is reserved for it."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.directory / "server" / "tls.crt", self.directory / "server" / "tls.key")
        context.set_alpn_protocols(self.protocols)
        context.load_verify_locations(cadata=self.clients.pair.certificate.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        self._server = await asyncio.start_server(self._client, "127.0.0.1", self.port, ssl=context)

    def stop_listening(self) -> None:
        """Take no further connections."""
        if self._server is not None:
            self._server.close()

    def stop(self) -> None:
        """End it with all its connections."""
        self.stop_listening()
        for connection in self.connections:
            # The transport of a TLS connection that was lost has nothing to abort any more, and says so badly.
            with contextlib.suppress(AttributeError):
                connection.writer.transport.abort()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer, self.whole, mute=self.mute)
        self.connections.append(connection)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await connection.serve(reader, self.settings)
        connection.ended = True
        writer.close()

    def credentials(self) -> Credentials:
        """Return the agent's account at it."""
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [
                {
                    "name": "c",
                    "cluster": {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": "ca.crt"},
                }
            ],
            "users": [{"name": "u", "user": self.user}],
        }
        (self.directory / "kubeconfig").write_text(json.dumps(config))
        return from_kubeconfig(str(self.directory / "kubeconfig"))
