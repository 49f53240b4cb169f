from __future__ import annotations

import asyncio
from typing import Protocol

import pytest

from sitegrid.kube.clock import Clock
from sitegrid.kube.queue import ShutDown, WorkQueue


class Advancing(Clock, Protocol):
    """The fake clock of conftest."""

    async def advance(self, seconds: float) -> None:
        """Move the time."""


async def test_a_key_added_often_is_handed_out_once() -> None:
    """Adds before `get` are one piece of work; order is first in, first out."""
    queue: WorkQueue[str] = WorkQueue()
    for key in "abab":
        queue.add(key)
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_under_work_is_handed_out_again_only_after_done() -> None:
    """No two workers ever have the same key, and nothing that was added is lost."""
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_get_waits_for_a_key() -> None:
    """A worker sleeps until there is work."""
    queue: WorkQueue[str] = WorkQueue()
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not worker.done()
    queue.add("a")
    assert await worker == "a"


async def test_a_wake_up_is_not_lost_with_a_cancelled_worker() -> None:
    """If the worker that was to get a key is cancelled first, another one gets it."""
    queue: WorkQueue[str] = WorkQueue()
    first = asyncio.create_task(queue.get())
    second = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    assert await second == "a"
    await asyncio.wait([first])
    assert first.cancelled()


async def test_add_after_waits(clock: Advancing) -> None:
    """The key comes when its time has come, not before."""
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add_after("a", 10)
    await clock.advance(9.9)
    assert len(queue) == 0
    await clock.advance(0.2)
    assert await queue.get() == "a"


async def test_add_after_keeps_the_earliest_time(clock: Advancing) -> None:
    """A later wish does not postpone, an earlier one brings forward, and the key comes once."""
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add_after("a", 10)
    queue.add_after("a", 20)
    queue.add_after("b", 20)
    queue.add_after("b", 10)
    await clock.advance(10)
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    queue.done("a")
    queue.done("b")
    await clock.advance(100)
    assert len(queue) == 0


async def test_failures_delay_a_key_ever_longer_up_to_the_cap(clock: Advancing) -> None:
    """Delays double per key until `forget`."""
    queue: WorkQueue[str] = WorkQueue(base_delay=1, max_delay=4, clock=clock)

    async def delay() -> float:
        started = clock.time()
        queue.add_rate_limited("a")
        while not len(queue):
            await clock.advance(0.5)
        queue.done(await queue.get())
        return clock.time() - started

    assert [await delay() for _ in range(5)] == [1, 2, 4, 4, 4]
    assert queue.failures("a") == 5
    queue.forget("a")
    assert await delay() == 1


async def test_very_many_failures_do_not_overflow(clock: Advancing) -> None:
    """The delay stays at the cap for ever."""
    queue: WorkQueue[str] = WorkQueue(max_delay=4, clock=clock)
    for _ in range(2000):
        queue.add_rate_limited("a")
    await clock.advance(4)
    assert await queue.get() == "a"


async def test_shut_down_lets_the_rest_be_done(clock: Advancing) -> None:
    """Keys that are ready are still handed out, waiting workers end, new and delayed keys are not taken."""
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add("a")
    queue.add_after("later", 5)
    queue.shut_down()
    queue.add("b")
    queue.add_after("c", 0)
    await clock.advance(10)
    assert await queue.get() == "a"
    with pytest.raises(ShutDown):
        await queue.get()


async def test_shut_down_wakes_waiting_workers() -> None:
    """No worker waits for ever."""
    queue: WorkQueue[str] = WorkQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.shut_down()
    await asyncio.wait(workers)
    assert all(isinstance(worker.exception(), ShutDown) for worker in workers)
