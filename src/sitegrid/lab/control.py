"""The control socket: how commands on the host talk to a lab's supervisor.

One JSON object per connection and line, one JSON object back: ``{"ok": …}`` or ``{"error": "…"}``. A Unix socket
needs no network, so it works across the lab's namespaces; its peer credentials tell the host the supervisor's process
id, which no file could do safely. Held by ``tests/lab/test_control.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from sitegrid.lab.errors import LabError

_LIMIT: Final = 1 << 20
"""Longest request in bytes."""


async def serve(path: Path, answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> asyncio.Server:
    """Answer requests at `path` with what `answer` returns; a `LabError` of it goes back as an error."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                request = json.loads(await reader.readline())
                reply: dict[str, Any] = {"ok": await answer(request)}
            except LabError as error:
                reply = {"error": str(error)}
            except ValueError as error:
                reply = {"error": f"not a request: {error}"}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(path) as name:
        listener.bind(name)
    path.chmod(0o600)
    return await asyncio.start_unix_server(connected, sock=listener, limit=_LIMIT)


def ask(path: Path, request: dict[str, Any], *, timeout: float | None = None) -> dict[str, Any]:
    """Return the supervisor's answer; raises `LabError` with its message, or OSError where nobody listens.

    `timeout` is in seconds for each step of the exchange.
    """
    with _connect(path) as connection:
        connection.settimeout(timeout)
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as file:
            line = file.readline()
    if not line:
        raise LabError("the lab ended before it answered")
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        raise LabError(reply["error"])
    answer: dict[str, Any] = reply["ok"]
    return answer


def peer_pid(path: Path) -> int:
    """Return the process id, as seen from here, of the supervisor that listens at `path`; raises OSError."""
    with _connect(path) as connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name of `path` that fits into a socket address (107 bytes), however deep the directory is."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
