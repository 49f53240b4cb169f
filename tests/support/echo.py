"""Both ends of a request that is passed through: a server that can be upgraded, and a relay from pipes to a socket.

Run by path inside a lab's pods and nodes, so it needs the standard library only:
``echo.py serve PORT`` answers ``/echo`` with 101 (whatever protocol was asked for), greets, and repeats each line in
capitals until it reads ``bye``; ``/stream`` sends a line at once and another one when somebody has asked for
``/next``. What it hears of connections' ends is told on stdout. ``echo.py relay HOST PORT CA`` joins stdin and stdout
to a TLS connection, and ends with it. Both end when their stdin does.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import select
import socket
import ssl
import sys
import threading

_NEXT = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer any path."""
        if self.path == "/echo" and "Upgrade" in self.headers:
            self._echo()
        elif self.path == "/stream":
            self._stream()
        else:
            _NEXT.set()
            self.send_response(404 if self.path == "/none" else 200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"ok\n")

    def _echo(self) -> None:
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", self.headers["Upgrade"])
        self.end_headers()
        self.wfile.write(b"welcome\n")
        self.close_connection = True
        for line in self.rfile:
            if line == b"bye\n":
                return
            self.wfile.write(line.upper())
        print("the client closed", flush=True)

    def _stream(self) -> None:
        _NEXT.clear()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"4\r\none\n\r\n")
        _NEXT.wait()
        self.wfile.write(b"4\r\ntwo\n\r\n0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of single requests."""


def serve(port: int) -> None:
    """Serve until killed."""
    server = http.server.ThreadingHTTPServer(("", port), Handler)
    print("serving", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


def relay(host: str, port: int, ca: str) -> None:
    """Copy both ways, in one thread as OpenSSL needs it, until either side ends."""
    context = ssl.create_default_context(cafile=ca)
    raw = socket.create_connection((host, port))
    with contextlib.suppress(ConnectionError), context.wrap_socket(raw, server_hostname=host) as connection:
        connection.setblocking(False)
        while True:
            ready, _, _ = select.select([0, connection.fileno()], [], [])
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    return
                connection.sendall(data)
            # A record may hold nothing for us.
            with contextlib.suppress(ssl.SSLWantReadError):
                data = connection.recv(65536)
                if not data:
                    return
                os.write(1, data)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        relay(sys.argv[2], int(sys.argv[3]), sys.argv[4])
