"""Gives back to the system what is no longer needed.

A connection that has ended is garbage that refers to itself, 25 KB of it, and an agent at rest makes too few objects
for Python's collector to look. And glibc keeps what was freed, as holes: half a megabyte after a start, more after
reconnections and bursts. So both are seen to once a minute, which takes a few milliseconds. Where the C library is
another one, holes stay. Called by `run`. Held by ``tests/agent/test_allocator.py``.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from typing import Final

SECONDS: Final = 60.0

_LIBC: Final = ctypes.CDLL(None)
_trim: Final = getattr(_LIBC, "malloc_trim", None)
_mallopt: Final = getattr(_LIBC, "mallopt", None)
_M_ARENA_MAX: Final = -8  # malloc.h


def share_one_heap() -> None:
    """Have threads that are started from now on, which write to the disk, use the heap that there is.

    Each would get one of its own, and keep what it once used of it.
    """
    if _mallopt is not None:
        _mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give back whatever is not needed now."""
    gc.collect()
    if _trim is not None:
        _trim(0)


async def keep_small() -> None:
    """Do so now, and for ever."""
    while True:
        give_back()
        await asyncio.sleep(SECONDS)
