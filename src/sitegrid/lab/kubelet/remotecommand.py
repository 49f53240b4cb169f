"""``kubectl exec``'s side of a command: its streams as channels of one WebSocket.

`server` calls it. The protocol is ``v5.channel.k8s.io`` (KEP-4006; k8s.io/apimachinery/pkg/util/remotecommand): each
message is binary and begins with the channel's number, and a message on `_CLOSE` ends the channel that it names.
``v4`` has no such end. The API server passes the WebSocket on as it is, because the Node declares that
this kubelet can do with it (`node.DECLARED_FEATURES`); else it
would speak SPDY, which this kubelet does not. At the end a Status (meta/v1) with the exit code is sent on `_ERROR`.
Held by ``tests/lab/test_kubelet_server.py`` and ``tests/e2e/test_kubectl.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Coroutine
from typing import Any, Final

from aiohttp import WSMsgType, web

from sitegrid.lab.kubelet.command import STDIN, Command

PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_STDIN, _ERROR, _RESIZE, _CLOSE = (bytes([number]) for number in (STDIN, 3, 4, 255))


def exit_status(code: int) -> dict[str, Any]:
    """Return the Status that tells kubectl a command's exit code."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with exit code {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


async def attend(socket: web.WebSocketResponse, command: Command, container_ended: Coroutine[Any, Any, None]) -> None:
    """Carry the streams until the command ends; it is killed where its client or its container ends first."""
    ended = asyncio.create_task(_carry_outputs(socket, command))
    others = [asyncio.create_task(_receive(socket, command)), asyncio.create_task(container_ended)]
    try:
        await asyncio.wait([ended, *others], return_when=asyncio.FIRST_COMPLETED)
        command.kill()
        await ended
        await _send(socket, _ERROR + json.dumps(exit_status(await command.wait())).encode())
    finally:
        for task in (ended, *others):
            task.cancel()
        await asyncio.gather(ended, *others, return_exceptions=True)


async def _carry_outputs(socket: web.WebSocketResponse, command: Command) -> None:
    """Send what the command writes until it has ended and all is sent."""

    async def carry(number: int) -> None:
        while data := await command.read(number):
            await _send(socket, bytes([number]) + data)

    await asyncio.gather(*(carry(number) for number in command.outputs))
    await command.wait()


async def _send(socket: web.WebSocketResponse, message: bytes) -> None:
    """Send a message; nothing happens where nobody hears it any more."""
    with contextlib.suppress(ConnectionError):
        await socket.send_bytes(message)


async def _receive(socket: web.WebSocketResponse, command: Command) -> None:
    """Give the command what the client sends, until that goes."""
    async for message in socket:
        if message.type is not WSMsgType.BINARY:
            return
        channel, data = message.data[:1], message.data[1:]
        if channel == _STDIN:
            await command.write(data)
        elif channel == _RESIZE:
            _resize(command, data)
        elif channel == _CLOSE and data == _STDIN:
            command.end_input()


def _resize(command: Command, data: bytes) -> None:
    try:
        size = json.loads(data)
        command.resize(size["Width"], size["Height"])
    except (ValueError, KeyError, TypeError, struct.error):
        return  # a size that is none changes nothing
