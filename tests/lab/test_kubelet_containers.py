"""Container processes: handshake, taking over, stopping. No namespaces are needed: these containers have no ports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from sitegrid.lab.kubelet import containers
from sitegrid.lab.kubelet.containers import Process, StartError


def argv() -> list[str]:
    """Return the command line of a container without ports."""
    config = {"namespace": "n", "pod": "p", "node": "x", "image": "i", "labelsFile": "", "ports": []}
    return containers.responder_argv(json.dumps(config), None)


async def start(log: Path) -> Process:
    """Return a running container process."""
    process = containers.spawn(argv(), log)
    await process.release()
    return process


async def test_sigterm_ends_with_exit_code_0(tmp_path: Path) -> None:
    """A container ends by itself when asked to, its exit code is known, and its log tells of its life."""
    process = await start(tmp_path / "log")
    await process.stop(30)
    assert process.exit_code == 0
    lines = [line.partition(" ")[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == ["stand-in for i, ports: none", "SIGTERM: ends when no connection comes any more"]


async def test_stop_kills_after_the_grace_period(tmp_path: Path) -> None:
    """What does not end by itself is killed."""
    process = await start(tmp_path / "log")
    process.signal(signal.SIGSTOP)
    await process.stop(0.01)
    assert process.exit_code == 128 + signal.SIGKILL


async def test_process_has_a_session_of_its_own(tmp_path: Path) -> None:
    """Signals to the kubelet's group do not reach containers."""
    process = await start(tmp_path / "log")
    assert os.getsid(process.pid) == process.pid
    await process.stop(30)


async def test_process_ends_where_the_kubelet_does_before_the_record(tmp_path: Path) -> None:
    """A process that was not released, because the kubelet died, ends by itself: nobody knows of it."""
    process = containers.spawn(argv(), tmp_path / "log")
    assert process._channel is not None
    process._channel.close()
    await process.exited.wait()
    assert process.exit_code == 1


async def test_failing_start_is_told(tmp_path: Path) -> None:
    """A process that ends before it serves is a StartError, and the log says why."""
    process = containers.spawn([sys.executable, "-c", "raise SystemExit('port is taken')"], tmp_path / "log")
    with pytest.raises(StartError):
        await process.release()
    assert process.exit_code == 1
    assert "port is taken" in (tmp_path / "log").read_text()


async def test_taking_over_watches_the_same_process(tmp_path: Path) -> None:
    """After the first watcher is gone, the record's numbers lead to the process, and its end is seen."""
    first = await start(tmp_path / "log")
    first.forget()
    second = containers.take_over(first.pid, first.start_ticks)
    assert second is not None
    await second.stop(30)
    assert second.exited.is_set()


async def test_another_process_of_the_same_number_is_not_taken_over(tmp_path: Path) -> None:
    """The start time tells a process from a later one with its number."""
    process = await start(tmp_path / "log")
    assert containers.take_over(process.pid, process.start_ticks + 1) is None
    await process.stop(30)


async def test_ended_process_is_not_taken_over(tmp_path: Path) -> None:
    """A process that has ended is not there any more, reaped or not."""
    process = await start(tmp_path / "log")
    ticks = process.start_ticks
    process.forget()
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert containers.take_over(process.pid, ticks) is None
    await asyncio.to_thread(os.waitpid, process.pid, 0)
    assert containers.take_over(process.pid, ticks) is None
