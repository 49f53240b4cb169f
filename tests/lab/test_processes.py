from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sitegrid.lab.processes import Process, ProcessSpec, Reaper, trim_logs

SLEEP = "import time; print('started', flush=True); time.sleep(1000)"


@pytest.fixture
async def start(tmp_path: Path) -> Callable[[str], Process]:
    """Return a function that supervises a Python one-liner."""
    reaper = Reaper()
    reaper.install()

    def start(code: str) -> Process:
        spec = ProcessSpec("p", [sys.executable, "-c", code], dict(os.environ))
        process = Process(spec, tmp_path / "p.log", reaper)
        process.start()
        return process

    return start


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - processes set no events
            await asyncio.sleep(0.01)


async def test_output_goes_to_the_log(start: Callable[[str], Process]) -> None:
    """Both outputs are in the log."""
    process = start(
        "import sys, time; print('out'); print('err', file=sys.stderr); sys.stdout.flush(); time.sleep(1000)"
    )
    await _until(lambda: process.log.exists() and {"out", "err"} <= set(process.log.read_text().split()))
    await process.stop()


async def test_crash_is_followed_by_a_restart(start: Callable[[str], Process]) -> None:
    """A killed process is there again under another id, and counted."""
    process = start(SLEEP)
    await _until(lambda: process.pid is not None)
    first = process.pid
    process.signal(signal.SIGKILL)
    await _until(lambda: process.pid not in (None, first))
    assert process.restarts == 1
    await process.stop()


async def test_stop_is_not_followed_by_a_restart(start: Callable[[str], Process]) -> None:
    """After `stop` it is gone, stays gone, and `start` brings it back uncounted."""
    process = start(SLEEP)
    await _until(lambda: process.pid is not None)
    pid = process.pid
    await process.stop()
    assert (process.pid, process.wanted) == (None, False)
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    process.start()
    await _until(lambda: process.pid is not None)
    assert process.restarts == 0
    await process.stop()


async def test_stop_forces_what_does_not_listen(
    start: Callable[[str], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM ignored is SIGKILL later."""
    monkeypatch.setattr("sitegrid.lab.processes.STOP_TIMEOUT", 0.05)
    process = start(
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(1000)"
    )
    await _until(lambda: process.log.exists() and "deaf" in process.log.read_text())
    await process.stop()
    assert process.pid is None


async def test_program_that_is_missing_is_said(tmp_path: Path) -> None:
    """A program that cannot be started is a line in the log and a restart later, not an end of supervision."""
    reaper = Reaper()
    reaper.install()
    process = Process(ProcessSpec("p", ["/nosuch"], {}), tmp_path / "p.log", reaper)
    process.start()
    await _until(lambda: process.restarts >= 2)
    assert "cannot start /nosuch" in process.log.read_text()
    await process.stop()


def test_big_logs_are_emptied_and_kept_once(tmp_path: Path) -> None:
    """A log over the limit moves aside whole, a small one stays."""
    (tmp_path / "big.log").write_bytes(b"x" * 11)
    (tmp_path / "small.log").write_bytes(b"y" * 10)
    trim_logs(tmp_path, limit=10)
    assert (tmp_path / "big.log").stat().st_size == 0
    assert (tmp_path / "big.log.1").read_bytes() == b"x" * 11
    assert (tmp_path / "small.log").read_bytes() == b"y" * 10


async def test_replace_keeps_the_former_one_until_the_next_action(start: Callable[[str], Process]) -> None:
    """Another one runs beside it; the next `replace` or `stop` ends it, and only it is not started again."""
    process = start(SLEEP)
    await _until(lambda: process.pid is not None)
    pids = []
    for _ in range(3):
        assert process.pid is not None
        pids.append(process.pid)
        await process.replace()
        await _until(lambda: process.pid not in (None, *pids))
        os.kill(pids[-1], 0)
        for pid in pids[:-1]:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    await process.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[-1], 0)
    assert process.restarts == 0
