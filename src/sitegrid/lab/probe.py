"""HTTP probes from inside a node, without a process per probe.

A socket stays in the network namespace where it was made, so a short-lived thread enters the node's namespace, makes
one, and the supervisor's loop uses it from outside. Used by `readiness.py`. Held by ``tests/lab/test_lab.py``.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h; os.setns exists from Python 3.12 on only
_libc = ctypes.CDLL(None, use_errno=True)


def socket_in(netns: Path) -> socket.socket:
    """Return a TCP socket of the network namespace at `netns`; raises OSError."""
    result: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            with netns.open("rb") as file:
                if _libc.setns(file.fileno(), _CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
            result.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    made = result[0]
    if isinstance(made, OSError):
        raise made
    return made


async def http_status(port: int, path: str, *, netns: Path | None = None, timeout: float = 2.0) -> int | None:
    """Return the status of ``GET path`` at 127.0.0.1:`port` in `netns`, None without one in `timeout` seconds."""
    try:
        made = socket_in(netns) if netns is not None else socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return None
    made.setblocking(False)
    try:
        return await asyncio.wait_for(_get(made, port, path), timeout)
    except (OSError, TimeoutError, ValueError, IndexError):
        return None
    finally:
        made.close()


async def _get(connection: socket.socket, port: int, path: str) -> int:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", port))
    await loop.sock_sendall(connection, f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = b""
    while b"\r\n" not in head:
        data = await loop.sock_recv(connection, 1024)
        if not data:
            break
        head += data
    return int(head.split(b" ", 2)[1])
