"""A client that keeps one connection open: ``python -I -S <this file> tcp|udp HOST PORT``.

For each line on standard input it sends one request to a lab's stand-in and prints one JSON object: ``node`` and
``pod`` of who answered, and ``port``, the own port of the socket, which tells whether it was the same connection. Or
``error``; a broken TCP connection is given up then, and the next request makes a new one, as HTTP clients do. A
datagram without an answer is sent again from the same socket with the next line. Used by
``tests/e2e/test_connections.py``.
"""

from __future__ import annotations

import json
import socket
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT = 2.0
"""Seconds for one request."""


def ask_http(connection: HTTPConnection) -> dict[str, object]:
    """Send a GET on the connection, a new one if there is none."""
    try:
        connection.request("GET", "/")
        port = connection.sock.getsockname()[1]
        answer = json.loads(connection.getresponse().read())
    except (OSError, HTTPException) as error:
        connection.close()
        return {"error": type(error).__name__}
    return {"node": answer["node"], "pod": answer["pod"], "port": port}


def ask_udp(connection: socket.socket) -> dict[str, object]:
    """Send a datagram from the one socket."""
    try:
        connection.send(b"?")
        answer = json.loads(connection.recv(65536))
    except OSError as error:
        return {"error": type(error).__name__}
    return {"node": answer["node"], "pod": answer["pod"], "port": connection.getsockname()[1]}


def main(protocol: str, host: str, port: int) -> None:
    """Answer lines until there are no more."""
    if protocol == "udp":
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.settimeout(TIMEOUT)
        datagrams.connect((host, port))
    else:
        connection = HTTPConnection(host, port, timeout=TIMEOUT)
    for _ in sys.stdin:
        print(json.dumps(ask_udp(datagrams) if protocol == "udp" else ask_http(connection)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
