"""A command that somebody runs in a pod with ``kubectl exec``: its process, its pipes or terminal, and its end.

`remotecommand` starts it. It is a program of the machine in the pod's network and files (`sandbox.enter_argv`, as
``sitegrid lab exec``), with the rights of the lab, but in a process namespace of its own, so it sees only what it has
started itself. Invariant: with the command, or with the kubelet however that ends, everything that it has started
ends as well. Held by ``tests/lab/test_kubelet_server.py`` and ``tests/e2e/test_kubectl.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, Sequence, Set
from pathlib import Path
from typing import Final

from sitegrid.lab.kubelet.sandbox import enter_argv

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

_CHUNK: Final = 32 * 1024
_TERMINAL_SIZE: Final = struct.Struct("4H")
"""struct winsize: rows, columns and two fields that nobody uses."""

# Process 1 of the namespace. The command is not to be it: the kernel keeps signals, a terminal's Ctrl-C too, from a
# process 1 that does not handle them. The shell is not in the command's session, where it would get such signals
# too, and what it would say itself ("Killed") is not the command's output.
_INIT: Final = 'exec 3>&2 2>/dev/null; (exec "$@" 2>&3 3>&-); exit $?'


def command_argv(pod_dir: Path, argv: Sequence[str], *, tty: bool) -> list[str]:
    """Return the command line that runs `argv` in the pod of `pod_dir`; with `tty`, stdin is its terminal.

    The kernel kills the whole namespace with its first process, that one with `unshare`, and `unshare` with the
    thread that has started it. Raises FileNotFoundError where there is no such pod.
    """
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
        *("/bin/sh", "-c", _INIT, "sh"),
        *("setsid", *(["--ctty"] if tty else []), "--"),
        *enter_argv(pod_dir, argv),
    ]


class Command:
    """A running command; made by `running`."""

    def __init__(self, process: Process, ends: dict[int, _End], *, tty: bool) -> None:
        self._process = process
        self._ends = ends
        self._tty = tty

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, pod_dir: Path, argv: Sequence[str], streams: Set[int], *, tty: bool
    ) -> AsyncGenerator[Command, None]:
        """Run `argv` in the pod of `pod_dir` with those of its `streams` that somebody is at the other end of.

        With `tty` there is one stream for all. The command is ended with the block. Raises FileNotFoundError where
        there is no such pod.
        """
        full = command_argv(pod_dir, argv, tty=tty)
        with contextlib.ExitStack() as ours:
            with contextlib.ExitStack() as theirs:
                ends, files = (_terminal if tty else _pipes)(streams, ours, theirs)
                process = await asyncio.create_subprocess_exec(
                    *full, stdin=files[STDIN], stdout=files[STDOUT], stderr=files[STDERR],
                    cwd="/", env=_environment(pod_dir, tty=tty),
                )  # fmt: skip
            command = cls(process, ends, tty=tty)
            try:
                yield command
            finally:
                command.kill()
                await command._reaped()

    @property
    def outputs(self) -> list[int]:
        """Which of `STDOUT` and `STDERR` can be read; a terminal has the first only."""
        return [number for number in self._ends if number != STDIN]

    async def read(self, output: int) -> bytes:
        """Return what it has written to one of `outputs`, b"" at its end."""
        return await self._ends[output].read()

    async def write(self, data: bytes) -> None:
        """Give it input; returns when it is taken. Input that it does not want is dropped."""
        if STDIN in self._ends:
            with contextlib.suppress(BrokenPipeError):
                await self._ends[STDIN].write(data)

    def end_input(self) -> None:
        """Let it read the end of its input. A terminal has none but what is typed (Ctrl-D)."""
        if STDIN in self._ends and not self._tty:
            self._ends.pop(STDIN).close()

    def resize(self, columns: int, rows: int) -> None:
        """Tell it the size of its terminal; nothing happens where it has none. Raises struct.error over 65535."""
        if self._tty:
            size = _TERMINAL_SIZE.pack(rows, columns, 0, 0)
            fcntl.ioctl(self._ends[STDOUT].descriptor, termios.TIOCSWINSZ, size)

    async def wait(self) -> int:
        """Return its exit code when it has ended, 128 and the signal's number after a signal."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def _reaped(self) -> None:
        """Return when a killed command has ended, which is soon, also where the caller is cancelled meanwhile."""
        waiting = asyncio.ensure_future(self._process.wait())
        while not waiting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(waiting)

    def kill(self) -> None:
        """End it and all that it has started, at once; nothing happens where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


class _End:
    """Our end of a pipe or terminal; asyncio's own streams know none that is read and written."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Return what there is, b"" at the end."""
        readable = asyncio.Event()
        self._loop.add_reader(self.descriptor, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(self.descriptor)
        try:
            return os.read(self.descriptor, _CHUNK)
        except OSError:  # EIO, a terminal's end: nobody has the other side open any more
            return b""

    async def write(self, data: bytes) -> None:
        """Write all of `data`; raises BrokenPipeError where nobody reads."""
        while data:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                await self._writable()

    async def _writable(self) -> None:
        writable = asyncio.Event()
        self._loop.add_writer(self.descriptor, writable.set)
        try:
            await writable.wait()
        finally:
            self._loop.remove_writer(self.descriptor)

    def close(self) -> None:
        """Let go of it; may be called again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


_Opened = tuple[dict[int, _End], dict[int, int]]
"""Our ends and the command's descriptors, by stream."""


def _pipes(streams: Set[int], ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> _Opened:
    ends, files = {}, dict.fromkeys((STDIN, STDOUT, STDERR), DEVNULL)
    for number in streams:
        pipe = os.pipe()
        our, files[number] = reversed(pipe) if number == STDIN else pipe
        theirs.callback(os.close, files[number])
        ends[number] = _End(our)
        ours.callback(ends[number].close)
    return ends, files


def _terminal(_: Set[int], ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> _Opened:
    our, their = os.openpty()
    theirs.callback(os.close, their)
    end = _End(our)
    ours.callback(end.close)
    return {STDIN: end, STDOUT: end}, dict.fromkeys((STDIN, STDOUT, STDERR), their)


def _environment(pod_dir: Path, *, tty: bool) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(pod_dir),  # what a shell leaves there ends with the pod
        "LC_ALL": "C.UTF-8",
        **({"TERM": "xterm"} if tty else {}),
    }
