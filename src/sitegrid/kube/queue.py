"""The work queue: which keys need work, each at most once at a time.

Handlers add keys, workers `get` them and call `done`. The contracts are client-go's (util/workqueue): a key added
many times is handed out once; a key added while it is under work is handed out again after `done`, never at the same
time; `add_after` keeps the earliest time; `add_rate_limited` delays a key longer with each failure until `forget`. A
key says only *what* to look at, never what happened to it. Held by ``tests/kube/test_queue.py``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from sitegrid.kube.clock import Clock, LoopClock, Timer

K = TypeVar("K", bound=Hashable)


class ShutDown(Exception):
    """The queue was shut down and is empty."""


class WorkQueue(Generic[K]):
    """Keys to work on, first in first out. Not thread-safe: used from one event loop."""

    def __init__(self, *, base_delay: float = 0.005, max_delay: float = 300.0, clock: Clock | None = None) -> None:
        """Make a queue whose n-th failure in a row of a key delays it ``base_delay * 2**(n-1)`` seconds."""
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._clock = clock or LoopClock()
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, tuple[float, Timer]] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._shutting_down = False

    def __len__(self) -> int:
        """Return how many keys wait to be handed out now."""
        return len(self._ready)

    def add(self, key: K) -> None:
        """Have `key` worked on, once, however often it is added before that. Ignored after `shut_down`."""
        if self._shutting_down or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._ready.append(key)
            self._wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Add `key` `seconds` from now; if it is waiting already, the earlier of both times counts."""
        if self._shutting_down:
            return
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.time() + seconds
        if waiting := self._timers.get(key):
            if waiting[0] <= due:
                return
            waiting[1].cancel()
        self._timers[key] = (due, self._clock.call_later(seconds, lambda: self._fire(key)))

    def add_rate_limited(self, key: K) -> None:
        """Add `key` after a delay that doubles with each call until `forget`."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # The exponent is bounded: 2.0**1024 overflows.
        self.add_after(key, min(self._max_delay, self._base_delay * 2.0 ** min(failures, 60)))

    def forget(self, key: K) -> None:
        """Let the next failure of `key` count as its first. Does not take it from the queue."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Return how often `key` was added rate-limited since it was last forgotten."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """Wait for a key and take it; `done` must follow. Raises ShutDown when there will be none any more."""
        while not self._ready:
            if self._shutting_down:
                raise ShutDown
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except BaseException:
                # Cancelled: a wake-up that was meant for us must reach another worker.
                if getter in self._getters:
                    self._getters.remove(getter)
                elif self._ready:
                    self._wake()
                raise
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """Tell that the work on `key` is over; if it was added meanwhile, it is handed out again."""
        self._processing.discard(key)
        if key in self._dirty:
            self._ready.append(key)
            self._wake()

    def shut_down(self) -> None:
        """Take no more keys; workers get those already waiting to be handed out, then ShutDown."""
        self._shutting_down = True
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        while self._getters:
            self._wake()

    def _fire(self, key: K) -> None:
        del self._timers[key]
        self.add(key)

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return
