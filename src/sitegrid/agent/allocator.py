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

_trim: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)


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
