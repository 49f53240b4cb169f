"""What the kubelet answers to the API server: a container's log, a command run in its pod, the pod's ports.

`listener` hands it the connections. Paths and parameters are the kubelet's (pkg/kubelet/server). All that is to be
known of a pod is in its directory, so nothing is asked of the pod's worker. An error is a sentence as plain text,
which kubectl shows. Held by ``tests/lab/test_kubelet_server.py`` and, with real kubectl, by
``tests/e2e/test_kubectl.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from sitegrid.lab.kubelet import containers, logs, portforward, record, remotecommand, sandbox
from sitegrid.lab.kubelet.command import STDERR, STDIN, STDOUT, Command
from sitegrid.lab.kubelet.listener import API_SERVER
from sitegrid.lab.kubelet.record import ContainerRecord, PodRecord

_SHUTDOWN_SECONDS: Final = 0.1
"""That answers may take to end by themselves."""
_TRUE: Final = ("1", "true")


@dataclass(frozen=True, slots=True)
class _Container:
    """The container that a request names, as it is at this moment."""

    directory: Path
    """The pod's."""
    name: str
    state: ContainerRecord

    def running(self) -> bool:
        """Tell whether the process of that moment still runs."""
        return bool(self.state.start_ticks) and containers.start_ticks(self.state.pid) == self.state.start_ticks


class Server:
    """Answers requests about the pods in `pods_dir`; made on the loop."""

    def __init__(self, pods_dir: Path) -> None:
        self._pods_dir = pods_dir
        self._server = web.Server(self._answer, handler_cancellation=True, access_log=None)
        self._answering: set[asyncio.Task[Any]] = set()

    def protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection."""
        return self._server()

    async def close(self) -> None:
        """End every answer, and return when nothing of them is left."""
        answering = list(self._answering)
        await self._server.shutdown(_SHUTDOWN_SECONDS)
        await asyncio.gather(*answering, return_exceptions=True)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            return await self._route(request)
        finally:
            self._answering.discard(task)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if _client(request) != API_SERVER:
            raise _error(403, "only the API server may ask a kubelet")
        match request.path.split("/")[1:]:
            case ["containerLogs", namespace, pod, container] if request.method == "GET":
                return await _logs(request, self._container(namespace, pod, container))
            case ["exec", namespace, pod, container]:
                return await _exec(request, self._container(namespace, pod, container))
            case ["attach", *_]:
                raise _error(400, "a stand-in of the lab has no input or output to attach to; see kubectl logs")
            case ["portForward", namespace, pod]:
                return await _port_forward(request, self._pod(namespace, pod)[1])
        raise _error(404, f"the lab's kubelet does not serve {request.method} {request.path}")

    def _pod(self, namespace: str, name: str) -> tuple[Path, PodRecord]:
        directory = self._pods_dir / sandbox.directory_name(namespace, name)
        found = record.load(directory)
        if found is None:
            raise _error(404, f'pod "{namespace}/{name}" does not run on this node')
        return directory, found

    def _container(self, namespace: str, pod: str, name: str) -> _Container:
        directory, found = self._pod(namespace, pod)
        state = found.containers.get(name)
        if state is None:
            raise _error(
                400, f'container "{name}" in pod "{namespace}/{pod}" is not one that the lab\'s kubelet runs'
            )
        return _Container(directory, name, state)


def _client(request: web.BaseRequest) -> str | None:
    """Return the common name in the client's certificate, which TLS has verified."""
    certificate = request.get_extra_info("peercert") or {}
    names = dict(pair for attributes in certificate.get("subject", ()) for pair in attributes)
    return names.get("commonName")


def _error(status: int, reason: str) -> web.HTTPException:
    """Return the answer that refuses a request."""
    kinds = {400: web.HTTPBadRequest, 403: web.HTTPForbidden, 404: web.HTTPNotFound}
    return kinds[status](text=reason)


def _websocket(request: web.BaseRequest, protocols: Sequence[str]) -> web.WebSocketResponse:
    """Return the answer to a client that wants one of `protocols`; others are refused."""
    wanted = {value.strip() for value in request.headers.get("Sec-WebSocket-Protocol", "").split(",")}
    if wanted.isdisjoint(protocols):
        raise _error(
            400,
            f"the lab's kubelet does this over a WebSocket with {' or '.join(protocols)}; that takes a kubectl from "
            "1.31 on and an API server from 1.36 on",
        )
    return web.WebSocketResponse(protocols=protocols, compress=False)


async def _port_forward(request: web.BaseRequest, pod: PodRecord) -> web.StreamResponse:
    """Carry connections to the pod's ports."""
    socket = _websocket(request, (portforward.PROTOCOL,))
    if not pod.sandbox_ready:
        raise _error(400, "the pod does not run yet")
    await socket.prepare(request)
    await portforward.Forwarder(socket, pod.address).run()
    await socket.close()
    return socket


async def _exec(request: web.BaseRequest, container: _Container) -> web.StreamResponse:
    """Run the command that is asked for, with its streams as channels of a WebSocket."""
    argv = request.query.getall("command", [])
    if not argv:
        raise _error(400, "there is no command to run")
    socket = _websocket(request, remotecommand.PROTOCOLS)
    if not container.running():
        raise _error(400, f'container "{container.name}" does not run: {container.state.reason}')
    flags = (("input", STDIN), ("output", STDOUT), ("error", STDERR))
    streams = {number for flag, number in flags if request.query.get(flag) in _TRUE}
    tty = request.query.get("tty") in _TRUE
    async with Command.running(container.directory, argv, streams, tty=tty) as command:
        await socket.prepare(request)
        await remotecommand.attend(
            socket, command, containers.wait_ended(container.state.pid, container.state.start_ticks)
        )
    await socket.close()
    return socket


async def _logs(request: web.BaseRequest, container: _Container) -> web.StreamResponse:
    """Send what is wanted of a container's log, and with ``follow`` what comes until the container ends."""
    try:
        options = logs.parse_options(request.query, datetime.now(UTC))
    except logs.LogError as error:
        raise _error(400, str(error)) from error
    run = container.state.restart_count - options.previous
    if run < 0:
        raise _error(400, f'previous terminated container "{container.name}" not found')
    running = (lambda: False) if options.previous else container.running
    log = logs.log_path(container.directory, container.name, run)
    async with contextlib.aclosing(logs.read(log, options, running)) as parts:
        try:
            first = await anext(parts)
        except FileNotFoundError:
            raise _error(400, f'container "{container.name}" is waiting to start: {container.state.reason}') from None
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(first)
        async for part in parts:
            await response.write(part)
        await response.write_eof()
    return response
