"""Processes of containers: start one in a namespace, watch it end, signal it, find it again after a restart.

The worker calls it. A process has a session of its own and outlives the kubelet; it is then a child of the lab's
PID 1. Pidfds do the watching, because they also work for processes that are not our children, and cannot hit
another process that got the same number.

Invariant: there is no process without a record. The child waits for ``g`` before it does anything and ends where
that does not come; the caller saves its record between `spawn` and `release`.
Held by ``tests/lab/test_kubelet_containers.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from sitegrid.lab.kubelet import responder

UNKNOWN_EXIT_CODE: Final = 137
"""Exit code of a process that was not our child (the kubelet's own choice for ContainerStatusUnknown)."""


class StartError(Exception):
    """The process ended before it was serving."""


def responder_argv(config: str, netns: Path | None) -> list[str]:
    """Return the command line of a responder with `config`, in `netns` or in the caller's own namespace."""
    argv = [sys.executable, "-I", "-S", str(Path(responder.__file__).resolve()), config]
    return ["nsenter", f"--net={netns}", "--", *argv] if netns else argv


def start_ticks(pid: int) -> int:
    """Return when the live process `pid` started, in clock ticks since boot; 0 where there is none (or a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat[stat.rindex(")") + 2 :].split()  # the name, in parentheses, may hold anything
    return 0 if fields[0] in "ZX" else int(fields[19])


class Process:
    """A running container process. `exited` is set once, with `exit_code`."""

    def __init__(self, pid: int, channel: socket.socket | None = None) -> None:
        self.pid = pid
        self.start_ticks = start_ticks(pid)
        self.exited = asyncio.Event()
        self.exit_code = UNKNOWN_EXIT_CODE
        self._channel = channel
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    async def release(self) -> None:
        """Let a spawned process go on, and return when it serves; raise `StartError` where it ends instead."""
        assert self._channel is not None
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError):
                await loop.sock_sendall(self._channel, b"g")
                if await loop.sock_recv(self._channel, 1) == b"r":
                    return
            await self.exited.wait()
            raise StartError(f"exit code {self.exit_code}")
        finally:
            self._channel.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where the process has ended."""
        if not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def stop(self, grace: float) -> None:
        """SIGTERM, at most `grace` seconds, SIGKILL; return when the process has ended."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self.exited.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.exited.wait()

    def forget(self) -> None:
        """Stop watching and leave the process alone (the kubelet ends)."""
        if not self.exited.is_set():
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self._channel is not None:
            self._channel.close()

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):  # taken over: PID 1 reaps it
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            if result is not None:
                self.exit_code = result.si_status + (0 if result.si_code == os.CLD_EXITED else 128)
        os.close(self._pidfd)
        self.exited.set()


async def wait_ended(pid: int, ticks: int) -> None:
    """Return when the process of a record has ended, also where that was before; it is not reaped."""
    try:
        pidfd = os.pidfd_open(pid)
    except (ProcessLookupError, ValueError):
        return
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    try:
        if start_ticks(pid) == ticks:
            loop.add_reader(pidfd, readable.set)
            await readable.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def spawn(argv: list[str], log: Path) -> Process:
    """Start `argv` with stderr appended to `log`; it waits until `Process.release`."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        pid = os.posix_spawnp(
            argv[0],
            argv,
            {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1),
                (os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            ],
            setsid=True,
            setsigmask=(),
        )
    return Process(pid, ours)


def take_over(pid: int, ticks: int) -> Process | None:
    """Return the process of a record; None where it has ended (its number may be another's by now)."""
    if not ticks or start_ticks(pid) != ticks:
        return None
    try:
        process = Process(pid)
    except ProcessLookupError:
        return None
    if process.start_ticks != ticks or select.select([process._pidfd], [], [], 0)[0]:
        process.forget()
        return None
    return process
