"""Times pure functions: the best of several rounds, which is the one that others on the machine disturbed least."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

ROUNDS: Final = 7


def best(function: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the CPU seconds of this thread that `function` takes, without the cyclic garbage collector."""
    times = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            began = time.thread_time()
            function()
            times.append(time.thread_time() - began)
    finally:
        gc.enable()
    return min(times)
