"""A controller on a real API server killed after a number of writes, and started again until it is at rest."""

from __future__ import annotations

import asyncio
from typing import Any

from sitegrid.controller.cluster import Cluster
from sitegrid.controller.manager import Manager
from sitegrid.controller.metrics import Metrics
from sitegrid.controller.statuses import HOLD as STATUS_HELD
from sitegrid.kube.client import Client
from sitegrid.kube.config import load_config
from tests.support.controlplane import CONTROLLER_USER


class _Crash(BaseException):
    """The process is dead."""


class _Mortal:
    """The client, until a number of writes took effect; then every call is death."""

    def __init__(self, client: Client, writes_left: int) -> None:
        self._client = client
        self._left = writes_left
        self._one_at_a_time = asyncio.Lock()
        self.dead = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        """Read, while alive."""
        self._alive()
        return getattr(self._client, name)

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        """Write, and perhaps die of it."""
        return await self._write(self._client.create, *args, **kwargs)

    async def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Write, and perhaps die of it."""
        return await self._write(self._client.apply, *args, **kwargs)

    async def patch(self, *args: Any, **kwargs: Any) -> Any:
        """Write, and perhaps die of it."""
        return await self._write(self._client.patch, *args, **kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> Any:
        """Write, and perhaps die of it."""
        return await self._write(self._client.delete, *args, **kwargs)

    async def _write(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        async with self._one_at_a_time:  # or several would be under way when the first one kills
            self._alive()
            answer = await method(*args, **kwargs)
            self._left -= 1
            if self._left == 0:
                self.dead.set()
            self._alive()
            return answer

    def _alive(self) -> None:
        if self.dead.is_set():
            raise _Crash


class _NoEvents:
    """Drops events."""

    def event(self, *args: Any, **kwargs: Any) -> None:
        """Drop it."""


async def _live(plane: Any, writes: int, at_rest: Any) -> bool:
    """Run one life of a controller; True if `writes` writes killed it, False where it came to rest before."""
    async with Client(load_config(str(plane.kubeconfig(CONTROLLER_USER)))) as client:
        cluster = Cluster()
        api: Any = _Mortal(client, writes)
        metrics = Metrics()
        tasks = [asyncio.create_task(reflector.run()) for reflector in cluster.reflect(client)]
        tasks.append(asyncio.create_task(cluster.optional.run(client)))
        lead = asyncio.create_task(Manager(cluster, api, _NoEvents(), metrics).lead())
        rest = asyncio.create_task(at_rest(metrics, api.dead))
        await asyncio.wait([lead, rest, asyncio.create_task(api.dead.wait())], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, lead, rest):
            task.cancel()
        await asyncio.gather(*tasks, lead, rest, return_exceptions=True)
        return bool(api.dead.is_set())


async def lives_until_rest(world: Any, wait_for: Any, complete: Any) -> int:
    """Let controllers live until one writes nothing any more; return how many died of their first write."""

    async def stays_complete(metrics: Metrics, dead: asyncio.Event) -> None:
        def looked_and_complete() -> bool:
            looked = any(sample.value for metric in metrics.passes.collect() for sample in metric.samples)
            return dead.is_set() or (looked and bool(complete()))

        await asyncio.to_thread(wait_for, looked_and_complete, "the wanted state", dump=world.dump)
        await asyncio.sleep(STATUS_HELD + 1)  # a life that writes within this time is not at rest

    lives = 0
    while await _live(world.plane, 1, stays_complete):
        lives += 1
        assert lives < 60, world.dump()
    assert complete()
    return lives
