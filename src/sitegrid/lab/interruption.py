"""SIGTERM taken for Ctrl-C, by programs that run a lab only for as long as they live: the demo, benchmarks and tests.

By itself SIGTERM ends a program without its ``finally`` and ``with`` blocks, and so without ending its lab in order.
What no program can catch (SIGKILL) the lab's supervisor notices by itself, see `Lab`. Held by
``tests/lab/test_ended_run.py``.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn


def interrupt_on(*numbers: signal.Signals) -> None:
    """Have these signals raise KeyboardInterrupt wherever the main thread is; call it from that thread."""
    for number in numbers:
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
