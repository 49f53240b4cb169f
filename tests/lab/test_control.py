from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab import control
from sitegrid.lab.errors import LabError


async def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if "fail" in request:
        raise LabError(request["fail"])
    return {"echo": request}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """Return a served control socket, in a directory too deep for a socket address."""
    directory = tmp_path / ("deep" * 30)
    directory.mkdir()
    server = await control.serve(directory / "control.sock", _answer)
    yield directory / "control.sock"
    server.close()
    await server.wait_closed()


async def test_request_gets_its_answer(path: Path) -> None:
    """The answer's object comes back, however long the path."""
    assert await asyncio.to_thread(control.ask, path, {"verb": "x"}) == {"echo": {"verb": "x"}}


async def test_failure_comes_back_as_error(path: Path) -> None:
    """A `LabError` in the supervisor is the same `LabError` on the host."""
    with pytest.raises(LabError, match=r"^no such node$"):
        await asyncio.to_thread(control.ask, path, {"fail": "no such node"})


async def test_nonsense_is_answered(path: Path) -> None:
    """A line that is not JSON gets an error, and the server goes on."""

    def send() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection, control._short(path) as name:
            connection.connect(name)
            connection.sendall(b"nonsense\n")
            return connection.makefile("rb").readline()

    assert b"not a request" in await asyncio.to_thread(send)
    assert await asyncio.to_thread(control.ask, path, {}) == {"echo": {}}


async def test_peer_is_the_server(path: Path) -> None:
    """The kernel says who listens."""
    assert await asyncio.to_thread(control.peer_pid, path) == os.getpid()


async def test_socket_is_its_owners(path: Path) -> None:
    """Nobody else may command a lab."""
    assert path.stat().st_mode & 0o777 == 0o600


def test_nobody_listens(tmp_path: Path) -> None:
    """Without a server the caller sees OSError, not a hang."""
    with pytest.raises(FileNotFoundError):
        control.ask(tmp_path / "control.sock", {})
