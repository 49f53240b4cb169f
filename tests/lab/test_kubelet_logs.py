"""What is read of containers' logs, without a cluster; `test_kubectl.py` has it through real kubectl."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sitegrid.lab.kubelet import logs, responder
from sitegrid.lab.kubelet.logs import LogError, LogOptions, begin, log_path, parse_options

NOW = datetime(2026, 11, 22, 12, 0, 10, tzinfo=UTC)


def stamp(second: int) -> bytes:
    """Return the time of a line."""
    return b"2026-11-22T12:00:%02d.123456789Z" % second


LINES = b"".join(stamp(second) + b" line %d\n" % second for second in range(4))


async def text(log: Path, options: LogOptions) -> bytes:
    """Return what is read of a log that nobody writes any more."""
    return b"".join([part async for part in logs.read(log, options, lambda: False)])


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, b"line 0\nline 1\nline 2\nline 3\n"),
        ({"tailLines": "2"}, b"line 2\nline 3\n"),
        ({"tailLines": "0"}, b""),
        ({"tailLines": "9"}, b"line 0\nline 1\nline 2\nline 3\n"),
        ({"sinceTime": "2026-11-22T13:00:02+01:00"}, b"line 2\nline 3\n"),
        ({"sinceSeconds": "8"}, b"line 2\nline 3\n"),
        ({"sinceSeconds": "8", "tailLines": "3"}, b"line 2\nline 3\n"),
        ({"limitBytes": "9"}, b"line 0\nli"),
        ({"tailLines": "1", "timestamps": "true"}, stamp(3) + b" line 3\n"),
        ({"follow": "true", "limitBytes": "7"}, b"line 0\n"),
        ({"follow": "true", "previous": "false"}, b"line 0\nline 1\nline 2\nline 3\n"),
    ],
    ids=str,
)
async def test_options_choose_lines(tmp_path: Path, query: dict[str, str], wanted: bytes) -> None:
    """Each option of PodLogOptions chooses as with the real kubelet."""
    log = tmp_path / "log"
    log.write_bytes(LINES)
    assert await text(log, parse_options(query, NOW)) == wanted


@pytest.mark.parametrize(
    "query",
    [
        {"tailLines": "-1"},
        {"limitBytes": "0"},
        {"sinceTime": "noon"},
        {"follow": "maybe"},
        {"sinceSeconds": "9" * 20},
    ],
    ids=str,
)
def test_value_that_is_not_legal(query: dict[str, str]) -> None:
    """It is refused by name."""
    with pytest.raises(LogError, match=f"{next(iter(query))}.*no legal value"):
        parse_options(query, NOW)


def test_option_that_is_not_known() -> None:
    """It is refused instead of ignored."""
    with pytest.raises(LogError, match="'stream'"):
        parse_options({"stream": "Stderr"}, NOW)


async def test_line_without_a_time_has_that_of_the_line_before(tmp_path: Path) -> None:
    """The words of a crash, which no log wrote, are not lost."""
    log = tmp_path / "log"
    log.write_bytes(LINES + b"Traceback\n")
    query = {"sinceSeconds": "7", "timestamps": "true"}
    assert await text(log, parse_options(query, NOW)) == stamp(3) + b" line 3\n" + stamp(3) + b" Traceback\n"


async def test_older_file_comes_first(tmp_path: Path) -> None:
    """What a container wrote before its log was replaced is still shown."""
    (tmp_path / "log.1").write_bytes(LINES)
    (tmp_path / "log").write_bytes(stamp(4) + b" line 4\n")
    assert await text(tmp_path / "log", LogOptions(tail_lines=2)) == b"line 3\nline 4\n"


async def test_follower_gets_each_line_once_over_replaced_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that are written while it reads come, whole and in order, until the container has ended."""
    monkeypatch.setattr(logs, "FOLLOW_SECONDS", 0)
    log, heard = tmp_path / "log", b""
    log.write_bytes(LINES)
    steps: list[Callable[[], object]] = [
        lambda: append(log, b"half "),
        lambda: append(log, b"line\n"),
        lambda: append(log, b"last\n"),
        lambda: log.rename(tmp_path / "log.1"),
        lambda: append(log, b"first\n"),
        lambda: append(log, b"end\n"),
    ]

    def running() -> bool:
        steps.pop(0)()
        return bool(steps)

    async for part in logs.read(log, LogOptions(follow=True, tail_lines=1), running):
        heard += part
    assert heard == b"line 3\nhalf line\nlast\nfirst\nend\n"


def append(log: Path, data: bytes) -> None:
    """Write to a log as a container does."""
    with log.open("ab") as file:
        file.write(data)


def test_two_runs_are_kept(tmp_path: Path) -> None:
    """The log of the run before stays at a restart, older ones go, other containers' stay."""
    other = log_path(tmp_path, "c.d", 0)
    other.touch()
    for run in range(12):
        log = begin(tmp_path, "c", run)
        log.touch()
        log.with_name(log.name + responder.OLDER).touch()
    kept = {log_path(tmp_path, "c", run).name + end for run in (10, 11) for end in ("", responder.OLDER)}
    assert {path.name for path in tmp_path.iterdir()} == {other.name, *kept}


async def test_log_is_bounded(tmp_path: Path) -> None:
    """A container that writes for ever has two files of the limit, with the last lines, none of them cut."""
    log = tmp_path / "log"
    program = f"""
import sys; sys.path.insert(0, {os.fspath(Path(responder.__file__).parent)!r})
import responder; responder.LOG_LIMIT = 1000
log = responder.Log()
for number in range(100): log.write(f"line {{number}}")
"""
    with log.open("ab") as file:
        writer = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", program, stderr=file)
        assert await writer.wait() == 0
    assert 1000 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000
    numbers = [int(line.removeprefix(b"line ")) for line in (await text(log, LogOptions())).splitlines()]
    assert numbers == list(range(numbers[0], 100))
