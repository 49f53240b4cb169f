"""The containers' logs: a file per run in the pod's directory, and what ``kubectl logs`` reads of it.

The runner begins a file at each start of a container, which the container's process writes and keeps short
(`responder.Log`); `server` reads it for the API server. A container's last run and the one before are kept, as by
the real kubelet, and so is what a run wrote before its file was replaced. Meanings of the options are core/v1
PodLogOptions' (k8s.io/cri-client/pkg/logs: the tail is taken first, and the limit counts what is sent).

Invariant: a follower gets every line once, in order, also over a replaced file. Held by
``tests/lab/test_kubelet_logs.py``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from sitegrid.lab.kubelet.responder import OLDER

FOLLOW_SECONDS: Final = 0.2
"""Between two looks at a log that is followed."""

_STAMP: Final = len("2006-01-02T15:04:05.000000000Z")
_FLAGS: Final = {"true": True, "false": False}


class LogError(Exception):
    """A request that cannot be answered; the message says why."""


def log_path(directory: Path, container: str, run: int) -> Path:
    """Return the log of a container's `run` (its restart count then) in the pod's `directory`."""
    return directory / f"{container}.{run}.log"


def begin(directory: Path, container: str, run: int) -> Path:
    """Return the log for a new run, and remove what is older than the run before."""
    for path in directory.glob(f"{container}.*.log*"):
        number = path.name[len(container) + 1 :].partition(".")[0]
        if number.isdigit() and int(number) < run - 1:
            path.unlink(missing_ok=True)
    return log_path(directory, container, run)


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What of a log is wanted; fields as in core/v1 PodLogOptions."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: bytes = b""
    """The first time wanted, written as in a log."""
    limit_bytes: int | None = None


def parse_options(query: Mapping[str, str], now: datetime) -> LogOptions:
    """Return the options in a request's `query`; raises `LogError` for one that is unknown or has no legal value."""
    options: dict[str, bool | int | bytes] = {}
    for name, value in query.items():
        try:
            match name:
                case "follow" | "previous" | "timestamps":
                    options[name] = _FLAGS[value]
                case "tailLines":
                    options["tail_lines"] = _number(value, 0)
                case "limitBytes":
                    options["limit_bytes"] = _number(value, 1)
                case "sinceSeconds":
                    options["since"] = _stamp(now - timedelta(seconds=_number(value, 1)))
                case "sinceTime":
                    options["since"] = _stamp(datetime.fromisoformat(value))
                case _:
                    raise LogError(f"the lab's kubelet does not know the log option {name!r}")
        except (KeyError, ValueError, OverflowError):
            raise LogError(f"log option {name}: {value!r} is no legal value") from None
    return LogOptions(**options)  # type: ignore[arg-type]  # each by its name


def _number(text: str, least: int) -> int:
    number = int(text)
    if number < least:
        raise ValueError(text)
    return number


def _stamp(time: datetime) -> bytes:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z").encode()


async def read(log: Path, options: LogOptions, running: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """Yield what `options` want of `log`; a follower goes on until `running` says that the container has ended."""
    reader, chosen = _Reader(log), _Filter(options)
    try:
        lines = reader.lines()
        if options.tail_lines is not None:
            lines = lines[max(0, len(lines) - options.tail_lines) :]
        yield chosen.take(lines)
        ended = not options.follow
        while not ended and not chosen.full:
            await asyncio.sleep(FOLLOW_SECONDS)
            ended = not running()  # asked first: then everything that it wrote is there
            if data := chosen.take(reader.lines()):
                yield data
    finally:
        reader.close()


class _Reader:
    """Reads the whole lines of a log that another process writes and replaces."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("rb")
        self._begun = False
        self._left = b""

    def lines(self) -> list[bytes]:
        """Return the lines since the last call, at the first call all that are kept."""
        data = self._left
        if not self._begun:
            self._begun = True
            data += self._older()
        while (newer := self._newer()) is not None:
            data += self._file.read()
            self._file.close()
            self._file = newer
        *lines, self._left = (data + self._file.read()).split(b"\n")
        return lines

    def _older(self) -> bytes:
        try:
            with Path(f"{self._path}{OLDER}").open("rb") as older:
                return b"" if _inode(older) == _inode(self._file) else older.read()
        except FileNotFoundError:
            return b""

    def _newer(self) -> BinaryIO | None:
        """Return the file that is in place of the one that is open; none yet, and none where the pod is gone."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return None
        if _inode(file) != _inode(self._file):
            return file
        file.close()
        return None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _inode(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_ino


class _Filter:
    """Makes of lines with their times what is to be sent."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._left = options.limit_bytes
        self._stamp = b""

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._left == 0

    def take(self, lines: list[bytes]) -> bytes:
        """Return what is to be sent of `lines`; one without a time (of a crash) has that of the line before."""
        out = []
        for line in lines:
            text = line
            if line[_STAMP - 1 : _STAMP + 1] == b"Z ":
                self._stamp, text = line[:_STAMP], line[_STAMP + 1 :]
            if self._stamp >= self._options.since:
                out.append(self._stamp + b" " + text if self._options.timestamps else text)
        data = b"".join(line + b"\n" for line in out)
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data
