"""The agent's disk: old or new, whole or told as lost, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import random
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitegrid.agent.snapshot import ESSENTIAL, Directory, Document, Record, Snapshotter

SLICES = "discovery.k8s.io/v1/endpointslices?labelSelector=tkeedge.io/unit in (a,b)|protobuf"
OLD = Document(SLICES, [Record("default/a", "7", b"old"), Record("default/b", "8", b"")], "8", {"units": "a,b"})
NEW = Document(SLICES, [Record("default/a", "9", b"new" * 50_000)], "9", {"units": "a,b", "更": "新"})
OTHER = Document("v1/services|protobuf", [Record("default/s", "3", b"other")], "3")


class Counts(dict[str, int]):
    """Counts reasons as the agent's metrics do."""

    def __call__(self, reason: str) -> None:
        """Count `reason`."""
        self[reason] = self.get(reason, 0) + 1


class Crash(BaseException):
    """The process is gone: nothing after it happens."""


class System:
    """Stands between the directory and the system calls that change something, and breaks one of them."""

    CALLS = ("open", "write", "fsync", "fchmod", "rename", "unlink", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fail_at = -1
        self.error: BaseException = Crash()
        self.dead = False
        for name in self.CALLS:
            monkeypatch.setattr(os, name, functools.partial(self._call, name, getattr(os, name)))

    def _call(self, name: str, real: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if self.dead:
            raise self.error
        self.calls.append(name)
        if len(self.calls) - 1 != self.fail_at:
            return real(*arguments, **keywords)
        self.dead = isinstance(self.error, Crash)
        if name == "write":  # A write that fails or is interrupted may have written a part.
            real(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])
        raise self.error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The directory of snapshots, not yet there."""
    return tmp_path / "agent" / "snapshots"


def load(path: Path, counts: Counts | None = None) -> dict[str, Document]:
    """Return what a restarted agent finds."""
    documents = list(Directory(path, count=counts if counts is not None else Counts()).load())
    assert len({document.name for document in documents}) == len(documents)
    return {document.name: document for document in documents}


def files(path: Path) -> list[Path]:
    """Return the documents' files."""
    return sorted(path.glob("*.snapshot"))


texts = st.text(st.characters(exclude_categories=()), max_size=20)
documents = st.builds(
    Document,
    name=texts,
    records=st.lists(st.builds(Record, texts, texts, st.binary(max_size=300)), max_size=20),
    resource_version=texts,
    metadata=st.dictionaries(texts, texts, max_size=4),
)


@settings(deadline=None, max_examples=40)  # Each one syncs to a real disk.
@given(st.lists(documents, max_size=5, unique_by=lambda document: document.name))
def test_what_was_written_is_loaded(tmp_path_factory: pytest.TempPathFactory, written: list[Document]) -> None:
    """Every document comes back as it was, any text and any bytes."""
    path = tmp_path_factory.mktemp("snapshots")
    counts = Counts()
    directory = Directory(path, count=counts)
    assert all([directory.write(document) for document in written])
    assert load(path, counts) == {document.name: document for document in written}
    assert directory.size() == sum(document.size for document in written)
    assert not counts


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents, data=st.data())
def test_any_change_of_a_file_loses_it(
    tmp_path_factory: pytest.TempPathFactory, document: Document, data: st.DataObject
) -> None:
    """Bytes replaced, put in or taken out anywhere: the document is lost, never different."""
    path = tmp_path_factory.mktemp("snapshots")
    Directory(path).write(document)
    [file] = files(path)
    whole = file.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    changed = whole[:start] + data.draw(st.binary(max_size=12)) + whole[end:]
    file.write_bytes(changed)
    counts = Counts()
    assert load(path, counts) == ({document.name: document} if changed == whole else {})
    assert sum(counts.values()) == (changed != whole)


def test_a_file_cut_off_anywhere_is_lost(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A torn file costs its document, at every length, counted and logged each time, and no other document."""
    directory = Directory(path)
    directory.write(OLD)
    [file] = files(path)
    directory.write(OTHER)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        counts = Counts()
        caplog.clear()
        assert load(path, counts) == {OTHER.name: OTHER}
        assert counts == {"damaged": 1}
        assert file.name in caplog.text


def test_a_flipped_byte_anywhere_loses_the_document(path: Path) -> None:
    """Every byte of the file is under the checksum, and no wrong length is believed."""
    Directory(path).write(OLD)
    [file] = files(path)
    whole = file.read_bytes()
    for index in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            file.write_bytes(whole[:index] + bytes([whole[index] ^ flip]) + whole[index + 1 :])
            counts = Counts()
            assert load(path, counts) == {}
            assert sum(counts.values()) == 1


def test_another_format_is_not_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of a newer agent is left alone and told about; the next write replaces it."""
    directory = Directory(path)
    directory.write(OLD)
    [file] = files(path)
    whole = file.read_bytes()
    file.write_bytes(whole[:8] + (2).to_bytes(4, "big") + whole[12:])
    counts = Counts()
    assert load(path, counts) == {}
    assert counts == {"format": 1}
    assert "its format is 2, and this agent reads 1" in caplog.text
    assert file.exists()
    directory.write(OLD)
    assert load(path) == {OLD.name: OLD}


def test_a_file_under_another_name_is_lost(path: Path) -> None:
    """A copied file does not become a second document of the same name."""
    directory = Directory(path)
    directory.write(OLD)
    [file] = files(path)
    file.with_name("0" * 32 + ".snapshot").write_bytes(file.read_bytes())
    counts = Counts()
    assert load(path, counts) == {OLD.name: OLD}
    assert counts == {"damaged": 1}


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink"])
def test_what_is_no_file_is_not_opened(path: Path, kind: str) -> None:
    """A FIFO does not hang the start, and a link leads nowhere; the other documents are loaded."""
    directory = Directory(path)
    directory.write(OLD)
    directory.write(OTHER)
    odd = next(file for file in files(path) if b"old" in file.read_bytes())
    target = path / "elsewhere"
    odd.rename(target)
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "directory":
        odd.mkdir()
    else:
        odd.symlink_to(target)
    counts = Counts()
    assert load(path, counts) == {OTHER.name: OTHER}
    assert sum(counts.values()) == 1


@pytest.mark.parametrize("document", [OLD, OTHER], ids=["replace", "add"])
@pytest.mark.parametrize(
    "error",
    [Crash(), *(OSError(code, os.strerror(code)) for code in (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT))],
    ids=lambda error: errno.errorcode[error.errno or 0] if isinstance(error, OSError) else "crash",
)
def test_a_failure_at_any_system_call_leaves_old_or_new(
    path: Path, monkeypatch: pytest.MonkeyPatch, document: Document, error: BaseException
) -> None:
    """Crash or error at each step of a write: the document is the old or the new one, and True means the new one."""
    new = NEW if document is OLD else OTHER
    Directory(path).write(OLD)
    for step in range(1000):
        with monkeypatch.context() as patch:
            system = System(patch)
            system.fail_at, system.error = step, error
            counts = Counts()
            written = False
            with contextlib.suppress(Crash):
                written = Directory(path, count=counts).write(new)
        found = load(path)
        assert found.pop(OLD.name) in ((OLD, NEW) if new is NEW else (OLD,))
        assert found in ({}, {OTHER.name: OTHER})
        assert not list(path.glob("*.tmp"))
        if len(system.calls) <= step:
            assert written
            assert load(path)[new.name] == new
            break
        if isinstance(error, OSError):
            # Only closing the directory to others may fail without a word: it may belong to another account.
            assert not written
            assert counts == {"unwritable": 1}
        Directory(path).write(OLD)
        Directory(path).remove(OTHER.name)
    else:
        pytest.fail("the write never ended")
    assert {"open", "write", "fsync", "fchmod", "rename"} <= set(system.calls)


def test_the_order_of_a_write_survives_a_power_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced before it gets its name and the directory after, or a power cut would empty it."""
    Directory(path).write(OLD)
    with monkeypatch.context() as patch:
        system = System(patch)
        Directory(path).write(OTHER)
    assert [call for call in system.calls if call in ("write", "fsync", "rename")] == [
        "write",
        "fsync",
        "rename",
        "fsync",
    ]


def test_a_new_directory_is_synced_into_its_parents(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that a power cut takes the directory with all its synced files."""
    with monkeypatch.context() as patch:
        system = System(patch)
        Directory(path).write(OLD)
    made = system.calls.index("write")
    assert system.calls[:made].count("fsync") == 2  # the directory's parent, and its parent


def test_a_full_disk_is_told_once_and_counted_always(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line when it fills up, one when it goes read-only instead, one when it works again."""
    caplog.set_level(logging.INFO, "sitegrid")
    counts = Counts()
    directory = Directory(path, count=counts)
    directory.write(OLD)
    for code, text in ((errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")):
        caplog.clear()
        for _ in range(3):
            with monkeypatch.context() as patch:
                system = System(patch)
                system.error, system.fail_at = OSError(code, os.strerror(code)), 3
                assert not directory.write(NEW)
            assert system.calls[3] == "write"
            assert not list(path.glob("*.tmp"))  # A half file would keep the disk full.
        assert [text in record.message for record in caplog.records] == [True]
    assert counts == {"unwritable": 6}
    assert load(path) == {OLD.name: OLD}
    caplog.clear()
    assert directory.write(NEW)
    assert directory.write(OLD)
    assert ["can be written again" in record.message for record in caplog.records] == [True]


def test_a_failure_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The parts of a document's name are lines; a log's readers, people and programs, take a line for a message."""
    (tmp_path / "file").touch()
    Directory(tmp_path / "file").write(Document("/api/v1/services\nkey=value\n\n", [], "1"))
    assert [str(tmp_path / "file") in record.message for record in caplog.records] == [True]
    assert "\n" not in caplog.records[0].message


def test_a_full_disk_is_told_once_for_all_documents(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node has dozens of documents, and one disk: one line when it fills up, one when all is written."""
    directory = Directory(path)
    with monkeypatch.context() as patch:
        for document in (NEW, OTHER):
            system = System(patch)
            system.error, system.fail_at = OSError(errno.ENOSPC, "No space left on device"), 3
            assert not directory.write(document)
    assert directory.write(OTHER)
    assert [str(path) in record.message for record in caplog.records] == [True]
    assert directory.write(NEW)
    assert [record.message for record in caplog.records][1:] == [f"snapshots in {path} can be written again"]


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file where the directory should be: nothing is loaded or written, everything is counted, nothing raises."""
    path = tmp_path / "snapshots"
    path.write_text("mine")
    counts = Counts()
    directory = Directory(path, count=counts)
    assert list(directory.load()) == []
    assert not directory.write(OLD)
    assert not directory.remove(OLD.name)
    assert not directory.retain([])
    assert directory.size() == 0
    assert counts == {"unreadable": 1, "unwritable": 3}
    assert path.read_text() == "mine"


def test_an_error_while_reading_costs_one_document(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad block under one file leaves the others."""
    directory = Directory(path)
    directory.write(OLD)
    directory.write(OTHER)
    bad = next(file.name for file in files(path) if b"old" in file.read_bytes())
    real = os.open

    def broken(name: Any, *arguments: Any, **keywords: Any) -> int:
        if name == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(name, *arguments, **keywords)

    counts = Counts()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", broken)
        assert load(path, counts) == {OTHER.name: OTHER}
    assert counts == {"unreadable": 1}


def test_a_first_start_finds_nothing(path: Path) -> None:
    """No directory is no failure, and loading makes none."""
    counts = Counts()
    assert load(path, counts) == {}
    assert not counts
    assert not path.exists()


def test_a_document_over_the_limit_is_refused_and_others_go_on(path: Path) -> None:
    """The limit is on all together; the refused document keeps its last content."""
    counts = Counts()
    directory = Directory(path, max_bytes=(OLD.size + OTHER.size) * 4 // 3 + 1, count=counts)
    assert directory.write(OLD)
    assert not directory.write(NEW)
    assert counts == {"too large": 1}
    assert directory.write(OTHER)
    assert directory.write(OLD)  # Its old file does not count against it.
    assert not directory.write(Document("one more", []))
    assert counts == {"too large": 2}
    assert load(path) == {OLD.name: OLD, OTHER.name: OTHER}


def test_the_essential_ones_have_room_of_their_own(path: Path) -> None:
    """However much the others are and grow to, a new essential document still fits."""
    directory = Directory(path, max_bytes=100_000)
    for size in range(1000, 100_000, 1000):
        for name in "ab":
            directory.write(Document(name, [Record("default/a", "1", b"x" * size)]))
    assert directory.size() > 80_000
    assert not directory.write(Document("c", [Record("default/a", "1", b"x" * 9_000)]))
    assert directory.write(Document("c", [Record("default/a", "1", b"x" * 9_000)], metadata={ESSENTIAL: "yes"}))


def test_new_documents_leave_room_for_what_is_there(path: Path) -> None:
    """Whoever makes up questions, and so documents, does not keep the others from being renewed."""
    directory = Directory(path, max_bytes=2 * NEW.size)
    assert directory.write(OLD)
    number = 0
    while directory.write(Document(f"made up {number}", [Record("default/a", "1", b"x" * 20_000)])):
        number += 1
    assert number
    assert directory.write(Document(OLD.name, [Record("default/a", "9", b"y" * 40_000)]))


def test_a_document_over_the_limit_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It differs in size at every attempt, and that is not news."""
    directory = Directory(path, max_bytes=OLD.size)
    for count in range(3):
        assert not directory.write(Document(SLICES, [Record("a", "1", bytes(1000 + count))]))
    assert len(caplog.records) == 1


def test_no_more_than_the_limit_is_loaded(path: Path) -> None:
    """Files over the limit (it was lowered, or they are not ours) do not fill the memory."""
    directory = Directory(path)
    directory.write(OLD)
    directory.write(NEW)
    directory.write(OTHER)
    counts = Counts()
    assert [document.name for document in Directory(path, max_bytes=1000, count=counts).load()] == [OTHER.name]
    assert counts == {"too large": 1}


def test_writing_and_loading_hold_one_copy(path: Path) -> None:
    """Records are streamed in both directions: 16 MB need no second 16 MB."""
    records = [
        Record(f"default/{number}", str(number), random.Random(number).randbytes(1000)) for number in range(16_000)
    ]
    directory = Directory(path)
    document = Document(SLICES, records)
    tracemalloc.start()
    try:
        assert directory.write(document)
        _, writing = tracemalloc.get_traced_memory()
        assert writing < 1_000_000
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        [loaded] = directory.load()
        _, reading = tracemalloc.get_traced_memory()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reading - after < 1_000_000
    assert before < 1_000_000
    assert loaded == document


def test_remove(path: Path) -> None:
    """A removed document is gone, others stay, and removing what is not there is no failure."""
    counts = Counts()
    directory = Directory(path, count=counts)
    directory.write(OLD)
    directory.write(OTHER)
    assert directory.remove(OLD.name)
    assert directory.remove(OLD.name)
    assert load(path) == {OTHER.name: OTHER}
    assert not counts


def test_retain_removes_what_is_not_wanted(path: Path) -> None:
    """A former unit's document and a damaged one go; the wanted one and foreign files stay."""
    directory = Directory(path)
    for document in (OLD, OTHER):
        directory.write(document)
    (path / ("0" * 32 + ".snapshot")).write_bytes(b"damaged")
    (path / "notes.txt").write_text("mine")
    assert directory.retain([OTHER.name, "not there"])
    assert load(path) == {OTHER.name: OTHER}
    assert len(files(path)) == 1
    assert (path / "notes.txt").exists()


def test_leftovers_go_and_foreign_files_stay(path: Path) -> None:
    """A start removes interrupted writes of ours, and touches nothing else."""
    Directory(path).write(OLD)
    [file] = files(path)
    leftover = file.with_name(f"{file.name}.0123456789abcdef.tmp")
    leftover.write_bytes(b"half")
    foreign = ["x.tmp", "x.snapshot", "lost+found", f"{file.name}.tmp", f"{file.name}.bak", ".hidden"]
    for name in foreign:
        (path / name).write_text(name)
    counts = Counts()
    assert load(path, counts) == {OLD.name: OLD}
    assert not leftover.exists()
    assert [(path / name).read_text() for name in foreign] == foreign
    assert not counts


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_modes(path: Path, umask: int) -> None:
    """Whatever the umask, only the agent's account can read what is cached: it may be secrets."""
    path.parent.mkdir()
    previous = os.umask(umask)
    try:
        path.mkdir(mode=0o755)
        path.chmod(0o755)
        assert Directory(path).write(OLD)
    finally:
        os.umask(previous)
    [file] = files(path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_made_directory_is_closed_to_others(path: Path) -> None:
    """It is 0700 from its first moment."""
    Directory(path).write(OLD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


WRITER = """
import sys
from pathlib import Path
from sitegrid.agent.snapshot import Directory, Document, Record
directory = Directory(Path(sys.argv[1]))
generation = int(sys.argv[2])
while True:
    generation += 1
    for name in ("a", "b"):
        records = [Record(str(n), str(generation), b"%d" % generation * 2000) for n in range(generation % 7 + 20)]
        assert directory.write(Document(name, records, str(generation)))
        print(name, generation, flush=True)
"""


def test_killed_at_random_instants(path: Path) -> None:
    """kill -9 of a writer, again and again: both documents are whole, and no older than what it had written."""
    acknowledged = {"a": 0, "b": 0}
    generation = 0
    chance = random.Random(1)
    for _ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(generation)], stdout=subprocess.PIPE, text=True
        )
        with writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(chance.randint(2, 12))]
            for _ in range(chance.randint(0, 20_000)):
                pass  # A different instant of the write each time; whichever it is, the outcome must be whole.
            writer.kill()
            lines += writer.stdout.readlines()
        # The last line may have been cut off as well.
        for line in (line for line in lines if line.endswith("\n")):
            name, number = line.split()
            acknowledged[name] = int(number)
        counts = Counts()
        found = load(path, counts)
        assert not counts
        assert not list(path.glob("*.tmp"))
        for name, document in found.items():
            restored = int(document.resource_version)
            assert restored >= acknowledged[name]
            assert len(document.records) == restored % 7 + 20
            assert {record.data for record in document.records} == {b"%d" % restored * 2000}
            generation = max(generation, restored)
        assert set(found) == {"a", "b"}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Disk(Directory):
    """A directory that notes what is written, and can be slow or full."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.log: list[str] = []
        self.full = False
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.busy = threading.Event()
        self.idle = threading.Event()

    def write(self, document: Document) -> bool:
        """Write; the first versions of all documents wait for the gate to be open."""
        self.busy.set()
        if document.resource_version == "1":
            assert self.open_gate.wait(60)
        self.log.append(f"write {document.name} {document.resource_version}")
        written = not self.full and super().write(document)
        self.idle.set()
        return written

    def remove(self, name: str) -> bool:
        """Note and remove."""
        self.log.append(f"remove {name}")
        return not self.full and super().remove(name)


@pytest.fixture
def disk(path: Path) -> Disk:
    """The directory under the snapshotter."""
    return Disk(path)


@pytest.fixture
def clock() -> Clock:
    """The snapshotter's time."""
    return Clock()


@pytest.fixture
def snapshotter(disk: Disk, clock: Clock) -> Snapshotter:
    """A snapshotter that writes every 2 s and 1000 bytes a second at most."""
    return Snapshotter(disk, interval=2.0, bytes_per_second=1000, clock=clock)


def version(name: str, number: int, size: int = 0) -> Callable[[], Document]:
    """Return what makes the document `name` in its version `number`."""
    return lambda: Document(name, [Record("r", "1", bytes(size))], str(number))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or task does."""
    while not condition():  # noqa: ASYNC110 - the condition is another thread's
        await asyncio.sleep(0.001)


async def test_changes_are_coalesced(snapshotter: Snapshotter, disk: Disk, clock: Clock) -> None:
    """A burst is one write, 2 s after its first change, with the last state."""
    for number in range(100):
        snapshotter.changed("a", version("a", number))
        clock.now += 0.01
    assert await snapshotter.step() == pytest.approx(1.0)
    assert disk.log == []
    clock.now += 1.001
    await snapshotter.step()
    assert disk.log == ["write a 99"]


async def test_a_busy_document_is_written_once_per_interval(
    snapshotter: Snapshotter, disk: Disk, clock: Clock
) -> None:
    """Changed all the time, written every 2 s."""
    for number in range(100):
        snapshotter.changed("a", version("a", number))
        clock.now += 0.1
        await snapshotter.step()
    assert 4 <= len(disk.log) <= 5


async def test_a_large_document_waits_as_its_size_demands(snapshotter: Snapshotter, disk: Disk, clock: Clock) -> None:
    """20 kB at 1000 bytes a second: 20 s to the next write, while a small one goes on every 2 s."""
    snapshotter.changed("big", version("big", 0, 20_000))
    clock.now += 2
    await snapshotter.step()
    for number in range(1, 11):
        snapshotter.changed("big", version("big", number, 20_000))
        snapshotter.changed("small", version("small", number))
        clock.now += 2
        assert await snapshotter.step() <= 2.0
    assert disk.log == ["write big 0", *(f"write small {number}" for number in range(1, 11))]
    clock.now += 1
    await snapshotter.step()
    assert disk.log[-1] == "write big 10"


async def test_names_of_documents_are_not_held_for_ever(path: Path, clock: Clock) -> None:
    """There is no end of names, since clients make them up, and each may be as long as a request."""
    snapshotter = Snapshotter(Directory(path), interval=2.0, clock=clock)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100):
            name = f"{number}".ljust(20_000)
            snapshotter.changed(name, version(name, number))
            clock.now += 2
            await snapshotter.step()
        assert tracemalloc.get_traced_memory()[0] - before < 500_000
    finally:
        tracemalloc.stop()


async def test_nothing_changed_nothing_written(snapshotter: Snapshotter, disk: Disk, clock: Clock) -> None:
    """At rest the disk rests."""
    snapshotter.changed("a", version("a", 1))
    await snapshotter.flush()
    for _ in range(100):
        clock.now += 100
        await snapshotter.step()
    assert await snapshotter.flush()
    assert disk.log == ["write a 1"]


async def test_a_change_during_a_write_is_written_after_it(
    snapshotter: Snapshotter, disk: Disk, clock: Clock
) -> None:
    """What is being written does not count for what comes meanwhile, and the loop is free while the disk is slow."""
    disk.open_gate.clear()
    snapshotter.changed("a", version("a", 1, 20_000))
    writing = asyncio.create_task(snapshotter.flush())
    await until(disk.busy.is_set)
    snapshotter.changed("a", version("a", 2))
    disk.open_gate.set()
    assert await writing
    clock.now += 19
    await snapshotter.step()
    assert disk.log == ["write a 1"]  # Its size still counts.
    clock.now += 2
    await snapshotter.step()
    assert disk.log == ["write a 1", "write a 2"]


async def test_a_full_disk_is_tried_again_with_the_last_state(
    snapshotter: Snapshotter, disk: Disk, clock: Clock, path: Path
) -> None:
    """Every 30 s, not every 2 s; the other documents are tried on their own."""
    disk.full = True
    snapshotter.changed("a", version("a", 1))
    assert not await snapshotter.flush()
    for number in range(2, 17):
        snapshotter.changed("a", version("a", number))
        await snapshotter.step()
        clock.now += 2
    assert disk.log == ["write a 1"]
    disk.full = False
    await snapshotter.step()
    assert disk.log == ["write a 1", "write a 16"]
    assert load(path)["a"].resource_version == "16"


async def test_what_failed_is_written_without_a_further_change(
    snapshotter: Snapshotter, disk: Disk, clock: Clock, path: Path
) -> None:
    """A disk that was full for a moment does not leave an old state for ever."""
    disk.full = True
    snapshotter.changed("a", version("a", 1))
    await snapshotter.flush()
    disk.full = False
    clock.now += 30
    await snapshotter.step()
    assert load(path)["a"].resource_version == "1"


async def test_removed(snapshotter: Snapshotter, disk: Disk, clock: Clock, path: Path) -> None:
    """A removal is not delayed, and takes the unwritten change with it."""
    snapshotter.changed("a", version("a", 1, 50_000))
    await snapshotter.flush()
    snapshotter.changed("a", version("a", 2))
    snapshotter.removed("a")
    await snapshotter.step()
    assert disk.log == ["write a 1", "remove a"]
    assert load(path) == {}
    snapshotter.changed("a", version("a", 3))
    clock.now += 2
    await snapshotter.step()
    assert load(path)["a"].resource_version == "3"


async def test_removed_while_it_is_written(snapshotter: Snapshotter, disk: Disk, path: Path) -> None:
    """The removal comes after the write, and at once."""
    disk.open_gate.clear()
    snapshotter.changed("a", version("a", 1, 50_000))
    writing = asyncio.create_task(snapshotter.flush())
    await until(disk.busy.is_set)
    snapshotter.removed("a")
    disk.open_gate.set()
    await writing
    await snapshotter.step()
    assert load(path) == {}


async def test_a_removal_that_failed_is_tried_again(
    snapshotter: Snapshotter, disk: Disk, clock: Clock, path: Path
) -> None:
    """A document of a unit that the node has left does not come back at the next start."""
    snapshotter.changed("a", version("a", 1))
    await snapshotter.flush()
    disk.full = True
    snapshotter.removed("a")
    await snapshotter.step()
    disk.full = False
    clock.now += 30
    await snapshotter.step()
    assert load(path) == {}


async def test_an_owner_that_fails_costs_only_its_document(
    snapshotter: Snapshotter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in one `make_document`, or a document that cannot be encoded, is logged; the others are written."""

    def fail() -> Document:
        raise KeyError("mistake")

    snapshotter.changed("bad", fail)
    snapshotter.changed("worse", lambda: Document("worse", [Record("r", "1", None)]))  # type: ignore[arg-type]
    snapshotter.changed("good", version("good", 1))
    assert not await snapshotter.flush()
    assert list(load(path)) == ["good"]
    assert "snapshot bad failed" in caplog.text
    assert "snapshot worse failed" in caplog.text


async def test_run_writes_by_itself_and_what_is_left_when_stopped(disk: Disk, path: Path) -> None:
    """Changes reach the disk while it runs, and the last ones when it is cancelled."""
    snapshotter = Snapshotter(disk, interval=0.01)
    task = asyncio.create_task(snapshotter.run())
    snapshotter.changed("a", version("a", 1))
    await until(disk.idle.is_set)
    assert set(load(path)) == {"a"}
    patient = Snapshotter(disk, interval=3600)
    second = asyncio.create_task(patient.run())
    patient.changed("b", version("b", 1))
    await asyncio.sleep(0)
    for each in (task, second):
        each.cancel()
        with pytest.raises(asyncio.CancelledError):
            await each
    assert set(load(path)) == {"a", "b"}


async def test_stopped_during_a_write_the_newer_state_wins(disk: Disk, clock: Clock, path: Path) -> None:
    """The write under way ends first, is not repeated, and what changed meanwhile is written after it."""
    snapshotter = Snapshotter(disk, interval=0.0, clock=clock)
    disk.open_gate.clear()
    task = asyncio.create_task(snapshotter.run())
    snapshotter.changed("a", version("a", 1))
    snapshotter.changed("b", version("b", 2))
    await until(disk.busy.is_set)
    snapshotter.changed("a", version("a", 2))
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done
    disk.open_gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert disk.log[0] == "write a 1"
    assert sorted(disk.log[1:]) == ["write a 2", "write b 2"]
    assert load(path)["a"].resource_version == "2"


def test_stopped_with_its_loop(disk: Disk, path: Path) -> None:
    """The end of the event loop, which cancels everything, is an end like any other."""

    async def main() -> None:
        snapshotter = Snapshotter(disk, interval=0.0)
        task = asyncio.create_task(snapshotter.run())
        disk.open_gate.clear()
        snapshotter.changed("a", version("a", 1))
        await until(disk.busy.is_set)
        snapshotter.changed("a", version("a", 2))
        asyncio.get_running_loop().call_later(0.01, disk.open_gate.set)
        assert not task.done()

    asyncio.run(main())
    assert disk.log == ["write a 1", "write a 2"]
    assert load(path)["a"].resource_version == "2"
