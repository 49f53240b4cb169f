"""Programs that tests run beside themselves: none outlives the test run, however that ends.

Used by the fixtures that run a control plane, an agent, a controller or a client. The kernel ends them with the
thread that started them (prctl(2), PR_SET_PDEATHSIG), so start them from the main thread. Held by
``tests/lab/test_ended_run.py``.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def start(argv: Sequence[str | Path], log: Path | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Start a program as `subprocess.Popen` does with `options`; `log` gets what it writes, after what is there."""
    if log is None:
        return subprocess.Popen(argv, preexec_fn=_die_with_parent, **options)
    with log.open("ab") as file:
        return subprocess.Popen(argv, stdout=file, stderr=file, preexec_fn=_die_with_parent, **options)


@contextmanager
def running(argv: Sequence[str | Path], log: Path | None = None, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, see `start`, for as long as the block lasts; it is ended at once."""
    process = start(argv, log, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
