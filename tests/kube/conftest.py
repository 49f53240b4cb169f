"""Fixtures of the kube tests: a fake clock, a misbehaving API server, and a real one (etcd + kube-apiserver)."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sitegrid.kube.client import Client
from sitegrid.kube.config import Config
from tests.support.controlplane import ApiServer


class FakeTimer:
    """A call that `FakeClock.advance` makes."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Make the call not happen."""
        self.cancelled = True


class FakeClock:
    """A clock that moves only by `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()

    def time(self) -> float:
        """Return the fake time."""
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        """Call `callback` when the time has advanced by `delay`."""
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self.now + delay, next(self._order), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Move the time, making each call at its moment and letting coroutines run in between."""
        end = self.now + seconds
        await self.settle()
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, due)
            if not timer.cancelled:
                timer.callback()
                await self.settle()
        self.now = end
        await self.settle()

    @staticmethod
    async def settle() -> None:
        """Let every coroutine that can run do so (fakes answer without I/O)."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that moves only by `advance`."""
    return FakeClock()


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ScriptedServer:
    """An HTTP server that gives prepared answers, one per request, and notes the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and query of each request, in order."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.peers: list[object] = []
        """Address and port that each request came from."""
        self.url = ""
        self._answers: list[Answer] = []
        self._changed = asyncio.Condition()

    def then(self, *answers: Answer) -> None:
        """Answer the next requests so; when all are used up, requests hang."""
        self._answers.extend(answers)

    def then_json(self, body: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer the next request with a JSON document."""
        data = json.dumps(body).encode()

        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(body=data, status=status, headers=headers, content_type="application/json")

        self.then(answer)

    def then_stream(self, *chunks: bytes, hang: bool = False, abort: bool = False) -> None:
        """Answer the next request with these chunks; then end the answer, leave it open, or cut the connection."""

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.content_type = "application/json"
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
                await asyncio.sleep(0)
            if abort and request.transport is not None:
                request.transport.abort()
            if hang:
                await asyncio.Event().wait()
            await response.write_eof()
            return response

        self.then(answer)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one request."""
        async with self._changed:
            self.requests.append((request.method, request.path, dict(request.query)))
            self.headers.append(dict(request.headers))
            self.bodies.append(await request.read())
            self.peers.append(request.transport and request.transport.get_extra_info("peername"))
            answer = self._answers.pop(0) if self._answers else None
            self._changed.notify_all()
        if answer is None:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")
        return await answer(request)

    async def wait_for_requests(self, count: int) -> None:
        """Return when at least `count` requests have come."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A scripted server on a free loopback port."""
    scripted = ScriptedServer()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield scripted
    await runner.cleanup()


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[Client]:
    """A client of the scripted server."""
    async with Client(Config(server=server.url)) as opened:
        yield opened


Eventually = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Wait until a condition of this process's own state holds; the test's time limit ends a vain wait."""

    async def wait(condition: Callable[[], object]) -> None:
        while not condition():  # noqa: ASYNC110 - the conditions are plain state without an event of their own
            await asyncio.sleep(0.005)

    return wait


class ControlPlane(ApiServer):
    """etcd and kube-apiserver, and how its administrator reaches them."""

    def __init__(self, directory: Path) -> None:
        self._token = secrets.token_hex(16)
        super().__init__(directory, {self._token: ("admin", "system:masters")})

    @property
    def config(self) -> Config:
        """How to reach the API server as a cluster administrator."""
        return Config(server=self.url, ca=self.ca.read_bytes(), token=self._token)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real etcd and kube-apiserver for the session."""
    directory = tmp_path_factory.mktemp("control-plane")
    plane = ControlPlane(directory)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> AsyncIterator[Client]:
    """A client of the real API server."""
    async with Client(control_plane.config) as opened:
        yield opened


@pytest.fixture
async def namespace(cluster: Client) -> str:
    """A fresh namespace on the real API server; it goes away with the control plane."""
    path = "/api/v1/namespaces"
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "kube-"}}
    name: str = (await cluster.request("POST", path, body=body))["metadata"]["name"]
    return name
