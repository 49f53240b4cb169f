"""The life of one container: start or take over, probe, notice its end, start again by the restart policy.

The worker runs one `ContainerRunner` per container and is told of every change. Rules are the kubelet's: restarts
after 0, 10, 20, … 300 s (pkg/kubelet's CrashLoopBackOff), a failed liveness or startup probe ends the container,
readiness and liveness begin when the startup probe has succeeded.

Invariant: taking over changes neither restart count nor readiness (I8). Held by ``tests/lab/test_kubelet_runner.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sitegrid.lab.kubelet import containers, logs, probes
from sitegrid.lab.kubelet.containers import Process, StartError
from sitegrid.lab.kubelet.record import RUNNING, TERMINATED, WAITING, ContainerRecord
from sitegrid.lab.kubelet.status import terminated, timestamp

_log = logging.getLogger(__name__)

BACKOFF_INITIAL: Final = 10.0
BACKOFF_CAP: Final = 300.0
"""Seconds; the kubelet's own. A container that ran for twice the cap begins anew."""


def utc_now() -> str:
    """Return the time as Kubernetes writes it."""
    return timestamp(datetime.now(UTC))


@dataclass(slots=True)
class CrashBackoff:
    """How long a container waits before its next start."""

    initial: float = BACKOFF_INITIAL
    cap: float = BACKOFF_CAP
    _next: float = 0.0

    def delay(self, ran_for: float) -> float:
        """Return the seconds to wait after a run of `ran_for` seconds: nothing at first, then ever longer."""
        if ran_for > 2 * self.cap:
            self._next = 0.0
        delay, self._next = self._next, min(self.cap, max(self.initial, 2 * self._next))
        return delay


class ContainerRunner:
    """Runs one container of a pod until its restart policy is satisfied; `changed` is called after each change."""

    def __init__(
        self,
        container: Mapping[str, Any],
        record: ContainerRecord,
        *,
        argv: list[str],
        address: str,
        restart_policy: str,
        grace: float,
        directory: Path,
        changed: Callable[[], None],
        backoff: CrashBackoff | None = None,
    ) -> None:
        self.container = container
        self.record = record
        self.process: Process | None = None
        self._argv = argv
        self._address = address
        self._restart_policy = container.get("restartPolicy") or restart_policy
        self._grace = grace
        self._directory = directory
        self._changed = changed
        self._backoff = backoff or CrashBackoff()
        self._unhealthy: asyncio.Future[probes.Probe] | None = None
        self._probes: set[asyncio.Task[None]] = set()

    def take_over(self) -> None:
        """Find the process of the record, if it still runs."""
        self.process = containers.take_over(self.record.pid, self.record.start_ticks)

    async def run(self) -> None:
        """Run until the container has ended for good. Cancelled, it leaves the process alone (see `process`)."""
        loop = asyncio.get_running_loop()
        try:
            if self.process is not None:
                await self._watch(self.process, taken_over=True)
            elif self.record.state == RUNNING:
                self._ended(containers.UNKNOWN_EXIT_CODE)
            while self.record.state != TERMINATED or self._restarts():
                if self.record.state == TERMINATED:
                    await self._back_off(0.0)
                begin = loop.time()
                await self._start_and_watch()
                if self._restarts():
                    await self._back_off(loop.time() - begin)
        finally:
            self._stop_probes()

    async def stop(self, grace: float) -> None:
        """End the process for good, after `run` was cancelled: SIGTERM, at most `grace` seconds, SIGKILL."""
        if self.process is not None:
            await self.process.stop(grace)
            self._ended(self.process.exit_code)
        elif self.record.state != TERMINATED:
            self._ended(self.record.exit_code if self.record.last else containers.UNKNOWN_EXIT_CODE)

    def _restarts(self) -> bool:
        failed = self.record.exit_code != 0
        return self._restart_policy == "Always" or (self._restart_policy == "OnFailure" and failed)

    async def _start_and_watch(self) -> None:
        if self.record.finished_at:
            self.record.restart_count += 1
        log = logs.begin(self._directory, self.container["name"], self.record.restart_count)
        process = self.process = containers.spawn(self._argv, log)
        self.record.pid, self.record.start_ticks = process.pid, process.start_ticks
        self._changed()  # saves the record: only now may the process go on
        try:
            await process.release()
        except StartError:
            self._ended(process.exit_code)
        else:
            await self._watch(process, taken_over=False)

    async def _watch(self, process: Process, *, taken_over: bool) -> None:
        loop = asyncio.get_running_loop()
        record = self.record
        if record.state != RUNNING:  # also one taken over that had not got so far
            taken_over = False
            record.state, record.reason, record.started_at = RUNNING, "", utc_now()
            record.started = record.ready = False
        unhealthy = self._unhealthy = loop.create_future()
        self._begin_probes(taken_over)
        exited = asyncio.ensure_future(process.exited.wait())
        try:
            await asyncio.wait([exited, unhealthy], return_when=asyncio.FIRST_COMPLETED)
        finally:
            exited.cancel()
            self._stop_probes()
        if not process.exited.is_set():
            failed = unhealthy.result()
            _log.info("container %s: %s failed, restarting", self.container["name"], failed.kind)
            record.ready = False
            self._changed()
            await process.stop(self._grace if failed.grace is None else failed.grace)
        self._ended(process.exit_code)

    def _begin_probes(self, taken_over: bool) -> None:
        startup = probes.parse(self.container, probes.STARTUP, self._address)
        if startup is not None and not self.record.started:
            self._probe(startup, None, lambda ok: self._on_started(taken_over) if ok else self._fail(startup))
        else:
            self._on_started(taken_over)

    def _on_started(self, taken_over: bool) -> None:
        self.record.started = True
        readiness = probes.parse(self.container, probes.READINESS, self._address)
        if readiness is None:
            self.record.ready = True
        else:
            self._probe(readiness, self.record.ready if taken_over else None, self._on_readiness)
        liveness = probes.parse(self.container, probes.LIVENESS, self._address)
        if liveness is not None:
            self._probe(liveness, True, lambda ok: None if ok else self._fail(liveness))
        self._changed()

    def _on_readiness(self, ready: bool) -> None:
        if self.record.ready is not ready:
            self.record.ready = ready
            self._changed()

    def _fail(self, probe: probes.Probe) -> None:
        if self._unhealthy is not None and not self._unhealthy.done():
            self._unhealthy.set_result(probe)

    def _probe(self, probe: probes.Probe, first: bool | None, changed: Callable[[bool], None]) -> None:
        started = datetime.fromisoformat(self.record.started_at)
        running_for = (datetime.now(UTC) - started).total_seconds()
        task = asyncio.create_task(probes.watch(probe, first, running_for, changed))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    def _stop_probes(self) -> None:
        for task in self._probes:
            task.cancel()

    def _ended(self, exit_code: int) -> None:
        self.process = None
        record = self.record
        record.state, record.exit_code, record.finished_at = TERMINATED, exit_code, utc_now()
        record.reason = "Error" if exit_code else "Completed"
        record.ready = record.started = False
        self._changed()

    async def _back_off(self, ran_for: float) -> None:
        record = self.record
        delay = self._backoff.delay(ran_for)
        record.last = terminated(record)
        record.state, record.reason = WAITING, "CrashLoopBackOff" if delay else "ContainerCreating"
        record.message = f"back-off {delay:g}s restarting failed container" if delay else ""
        self._changed()
        await asyncio.sleep(delay)
