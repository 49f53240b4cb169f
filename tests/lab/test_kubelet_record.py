"""The pod's record on disk."""

from __future__ import annotations

from pathlib import Path

from sitegrid.lab.kubelet import record
from sitegrid.lab.kubelet.record import ContainerRecord, PodRecord


def example() -> PodRecord:
    """Return a record with something in every part."""
    containers = {"c": ContainerRecord(state=record.RUNNING, pid=7, start_ticks=9, last={"exitCode": 1})}
    pod = {"metadata": {"uid": "u"}}
    return PodRecord(pod=pod, address="10.0.0.2", started_at="t", sandbox_ready=True, containers=containers)


def test_record_comes_back_as_it_was(tmp_path: Path) -> None:
    """What is saved is loaded."""
    example().save(tmp_path)
    assert record.load(tmp_path) == example()


def test_no_record(tmp_path: Path) -> None:
    """A directory without record has none."""
    assert record.load(tmp_path) is None


def test_damaged_record_is_none(tmp_path: Path) -> None:
    """A record cut off at any byte is no record, and stops nobody."""
    example().save(tmp_path)
    path = tmp_path / record.FILE_NAME
    data = path.read_bytes()
    for end in range(0, len(data) - 1, 7):
        path.write_bytes(data[:end])
        assert record.load(tmp_path) is None


def test_kill_while_saving_leaves_the_record_before(tmp_path: Path) -> None:
    """The file aside may be anything: only the renamed one counts."""
    example().save(tmp_path)
    (tmp_path / f".{record.FILE_NAME}").write_text('{"pod":')
    assert record.load(tmp_path) == example()
