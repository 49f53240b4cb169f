"""One container's life: restarts, probes, taking over. Real processes without ports."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab.kubelet import containers
from sitegrid.lab.kubelet.record import RUNNING, TERMINATED, WAITING, ContainerRecord
from sitegrid.lab.kubelet.runner import ContainerRunner, CrashBackoff

CONFIG = {"namespace": "n", "pod": "p", "node": "x", "image": "i", "labelsFile": "", "ports": []}


class Bench:
    """Runs container runners and waits for states of their records."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tasks: list[asyncio.Task[None]] = []
        self.runners: list[ContainerRunner] = []
        self._changes = asyncio.Event()

    def runner(
        self,
        record: ContainerRecord | None = None,
        *,
        policy: str = "Always",
        argv: list[str] | None = None,
        backoff: CrashBackoff | None = None,
        **container: Any,
    ) -> ContainerRunner:
        """Return a runner that is not started."""
        runner = ContainerRunner(
            {"name": "c", **container},
            record or ContainerRecord(),
            argv=argv or containers.responder_argv(json.dumps(CONFIG), None),
            address="127.0.0.1",
            restart_policy=policy,
            grace=30,
            directory=self.directory,
            changed=self._changes.set,
            backoff=backoff,
        )
        self.runners.append(runner)
        return runner

    def start(self, runner: ContainerRunner) -> asyncio.Task[None]:
        """Start a runner."""
        task = asyncio.create_task(runner.run())
        self.tasks.append(task)
        return task

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a change makes `condition` true."""
        while not condition():
            self._changes.clear()
            await self._changes.wait()

    async def leave(self) -> None:
        """End the runners, not their processes: what a kubelet's end does."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Return a bench; what still runs at the end is stopped."""
    found = Bench(tmp_path)
    yield found
    await found.leave()
    for runner in found.runners:
        if runner.process is not None and not runner.process.exited.is_set():
            await runner.stop(0)


def test_crash_backoff_doubles_from_the_second_restart() -> None:
    """The first restart is at once, then 10 s doubling up to the cap."""
    backoff = CrashBackoff()
    assert [backoff.delay(1) for _ in range(7)] == [0, 10, 20, 40, 80, 160, 300]


def test_crash_backoff_forgets_after_a_long_run() -> None:
    """A container that ran for twice the cap begins anew."""
    backoff = CrashBackoff()
    backoff.delay(1)
    assert backoff.delay(601) == 0


async def test_container_without_probe_is_ready_when_it_runs(bench: Bench) -> None:
    """Running means ready where no probe says otherwise."""
    runner = bench.runner()
    bench.start(runner)
    await bench.until(lambda: runner.record.ready)
    assert (runner.record.state, runner.record.started, runner.record.restart_count) == (RUNNING, True, 0)


async def test_startup_probe_holds_readiness_back(bench: Bench) -> None:
    """Until the startup probe succeeds the container is neither started nor ready."""
    runner = bench.runner(startupProbe={"tcpSocket": {"port": "none"}, "failureThreshold": 1000})
    bench.start(runner)
    await bench.until(lambda: runner.record.state == RUNNING or runner.record.pid > 0)
    assert not runner.record.started
    assert not runner.record.ready


async def test_process_that_dies_is_started_again(bench: Bench) -> None:
    """The restart is counted, and the run before is remembered."""
    runner = bench.runner()
    bench.start(runner)
    await bench.until(lambda: runner.record.ready)
    assert runner.process is not None
    runner.process.signal(signal.SIGKILL)
    await bench.until(lambda: runner.record.restart_count == 1 and runner.record.ready)
    assert runner.record.last["exitCode"] == 137


async def test_failed_liveness_probe_restarts(bench: Bench) -> None:
    """The container is stopped gracefully and started again."""
    runner = bench.runner(livenessProbe={"tcpSocket": {"port": "none"}, "failureThreshold": 1})
    bench.start(runner)
    await bench.until(lambda: runner.record.restart_count == 1)
    assert runner.record.last["exitCode"] == 0


@pytest.mark.parametrize(
    ("policy", "exit_code", "restarts"),
    [("Never", 1, False), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Always", 0, True)],
)
async def test_restart_policy(bench: Bench, policy: str, exit_code: int, restarts: bool) -> None:
    """Whether a container that ended starts again depends on policy and exit code."""
    argv = [sys.executable, "-I", "-S", "-c", f"raise SystemExit({exit_code})"]
    runner = bench.runner(policy=policy, argv=argv)
    task = bench.start(runner)
    if restarts:
        await bench.until(lambda: runner.record.restart_count > 0 and runner.record.reason == "CrashLoopBackOff")
        assert runner.record.state == WAITING
    else:
        await task
        assert (runner.record.state, runner.record.exit_code) == (TERMINATED, exit_code)


async def test_taking_over_changes_nothing(bench: Bench) -> None:
    """The next kubelet's runner leaves process, restart count, start time and readiness as they are (I8)."""
    probe = {"tcpSocket": {"port": "none"}, "failureThreshold": 1000}
    first = bench.runner()
    bench.start(first)
    await bench.until(lambda: first.record.ready)
    await bench.leave()
    assert first.process is not None
    first.process.forget()
    first.process = None
    before = repr(first.record)
    second = bench.runner(first.record, readinessProbe=probe)
    second.take_over()
    assert second.process is not None
    bench.start(second)
    await bench.until(lambda: second.record.started)
    assert repr(second.record) == before


async def test_process_that_died_unseen_is_started_again(bench: Bench) -> None:
    """A container whose process ended while no kubelet ran starts again, and that is counted."""
    record = ContainerRecord(state=RUNNING, pid=1, start_ticks=1, started_at="2026-01-01T00:00:00Z")
    runner = bench.runner(record)
    runner.take_over()
    bench.start(runner)
    await bench.until(lambda: runner.record.ready)
    assert (record.restart_count, record.last["exitCode"]) == (1, containers.UNKNOWN_EXIT_CODE)
