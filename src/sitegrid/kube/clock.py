"""Time as an argument, so that tests of minutes take none.

The queue, the leader election and the event recorder ask a `Clock`; `LoopClock` is the real one. Held by
``tests/kube/test_queue.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """What `Clock.call_later` returns."""

    def cancel(self) -> None:
        """Make the call not happen."""


class Clock(Protocol):
    """Monotonic time and one-shot timers; an event loop's own two methods."""

    def time(self) -> float:
        """Return seconds since some moment."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, `delay` seconds from now."""


class LoopClock:
    """The running event loop's clock."""

    def time(self) -> float:
        """Return the loop's monotonic time in seconds."""
        return asyncio.get_running_loop().time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` from the loop after `delay` seconds."""
        return asyncio.get_running_loop().call_later(delay, callback)


async def sleep(clock: Clock, seconds: float) -> None:
    """Return after `seconds` of `clock`."""
    done = asyncio.get_running_loop().create_future()
    timer = clock.call_later(seconds, lambda: None if done.done() else done.set_result(None))
    try:
        await done
    finally:
        timer.cancel()
