"""Processes of a lab: started, watched, restarted and reaped.

The supervisor is process 1 of the lab's process namespace, so it must also reap the orphans that end in its lap (pods
outlive their kubelet on purpose). One `Reaper` collects every exit; nobody else may call `waitpid` for long-running
children. A `Process` restarts what crashes, with a growing delay, until it is told to stop; only the process itself
is signalled, never its children. Held by ``tests/lab/test_processes.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

LOG_LIMIT: Final = 16 << 20
"""Bytes of one log file; what is older is kept once, beside it."""
STOP_TIMEOUT: Final = 10.0
"""Seconds between SIGTERM and SIGKILL."""

_RESTART_DELAYS: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
_STABLE_AFTER: Final = 10.0
"""Seconds after which a crash is a new one and not the last one's continuation."""


class Reaper:
    """Collects the exit of every child of this process, known or orphaned."""

    def __init__(self) -> None:
        self._exits: dict[int, asyncio.Future[int]] = {}

    def install(self) -> None:
        """Begin to reap, on the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def spawn(self, argv: Sequence[str], env: Mapping[str, str], log: int) -> tuple[int, asyncio.Future[int]]:
        """Start `argv` with both outputs on the descriptor `log`; return its pid and its future exit code.

        Raises OSError where it cannot be started.
        """
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(env), start_new_session=True
        )
        exited = asyncio.get_running_loop().create_future()
        self._exits[process.pid] = exited
        # Popen must not wait for it as well.
        process.returncode = 0
        return process.pid, exited

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            exited = self._exits.pop(pid, None)
            if exited is not None and not exited.done():
                exited.set_result(os.waitstatus_to_exitcode(status))


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run under a name such as ``kube-proxy@node12``."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]


class Process:
    """One supervised process. `start` begins supervision; `stop` ends it; a crash is followed by a restart."""

    def __init__(self, spec: ProcessSpec, log: Path, reaper: Reaper) -> None:
        self.spec = spec
        self.log = log
        self.pid: int | None = None
        self.restarts = 0
        """Starts after the first one that nobody asked for."""
        self.changing = asyncio.Lock()
        """Held around `stop` and `start` by who calls them on request, so that requests do not mix."""
        self._reaper = reaper
        self._exited: asyncio.Future[int] | None = None
        self._former: tuple[int, asyncio.Future[int]] | None = None
        """Who was replaced and has not been ended."""
        self._task: asyncio.Task[None] | None = None

    @property
    def wanted(self) -> bool:
        """Whether it is supervised, running at this moment or not."""
        return self._task is not None

    def start(self) -> None:
        """Start it, unless it is supervised already."""
        if self._task is None:
            self._task = asyncio.create_task(self._supervise(), name=self.spec.name)

    async def stop(self, *, by_force: bool = False) -> None:
        """End it, by force after `STOP_TIMEOUT` or at once; returns when it is gone."""
        number = signal.SIGKILL if by_force else signal.SIGTERM
        await self._end_former(number)
        if await self._unsupervise() and self.pid is not None and self._exited is not None:
            await _end(self.pid, self._exited, number)
            self.pid = None

    async def replace(self) -> None:
        """Start another one beside it, to which it hands over; it stands by until the next `replace` or `stop`."""
        await self._end_former(signal.SIGTERM)
        if await self._unsupervise() and self.pid is not None and self._exited is not None:
            self._former = self.pid, self._exited
        self.pid = None
        self.start()

    async def _end_former(self, number: int) -> None:
        former, self._former = self._former, None
        if former is not None:
            await _end(*former, number)

    async def _unsupervise(self) -> bool:
        """Start it no more when it ends; tell whether it was supervised."""
        task, self._task = self._task, None
        if task is None:
            return False
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return True

    def signal(self, number: int) -> None:
        """Send the signal `number`, if it runs. Its pid is ours until reaped, so it cannot hit another process."""
        if self.pid is not None and self._exited is not None and not self._exited.done():
            os.kill(self.pid, number)

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        crashes = 0
        while True:
            started = loop.time()
            with open_log(self.log) as log:
                try:
                    self.pid, self._exited = self._reaper.spawn(self.spec.argv, self.spec.env, log.fileno())
                except OSError as error:
                    log.write(f"cannot start {self.spec.argv[0]}: {error}\n".encode())
            if self.pid is not None and self._exited is not None:
                code = await asyncio.shield(self._exited)
                self.pid = None
                with open_log(self.log) as log:
                    log.write(f"[lab] {self.spec.name} ended with {code}; it will be started again\n".encode())
            if loop.time() - started > _STABLE_AFTER:
                crashes = 0
            await asyncio.sleep(_RESTART_DELAYS[min(crashes, len(_RESTART_DELAYS) - 1)])
            crashes += 1
            self.restarts += 1


async def _end(pid: int, exited: asyncio.Future[int], number: int) -> None:
    """End a process with a signal, after `STOP_TIMEOUT` by force; returns when it is gone."""
    if not exited.done():
        os.kill(pid, number)
    try:
        await asyncio.wait_for(asyncio.shield(exited), STOP_TIMEOUT)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        await exited


def open_log(path: Path) -> BinaryIO:
    """Open the log at `path` unbuffered for appending, so that several writers never overwrite each other."""
    return path.open("ab", buffering=0)


def trim_logs(directory: Path, limit: int = LOG_LIMIT) -> None:
    """Empty each log over `limit` bytes after keeping a copy beside it; writers go on at the new beginning."""
    for path in directory.glob("*.log"):
        if path.stat().st_size > limit:
            path.with_suffix(".log.1").write_bytes(path.read_bytes())
            os.truncate(path, 0)
