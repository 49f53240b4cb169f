from __future__ import annotations

import os
from pathlib import Path

import pytest

from sitegrid.lab.errors import LabError
from sitegrid.lab.layout import Layout, labs_directory, try_lock


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a_b", "-a", "a-", "a" * 41])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    """A name that could leave the directory, or make too long a path, is refused."""
    with pytest.raises(LabError, match="lab name"):
        Layout.of(name, tmp_path)


def test_directory_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$SITEGRID_LAB_DIR wins over XDG's state directory, and that over the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("SITEGRID_LAB_DIR", raising=False)
    assert labs_directory() == tmp_path / "home" / ".local/state/sitegrid/labs"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert labs_directory() == tmp_path / "state/sitegrid/labs"
    monkeypatch.setenv("SITEGRID_LAB_DIR", str(tmp_path / "labs"))
    assert labs_directory() == tmp_path / "labs"


def test_lock_has_one_holder(tmp_path: Path) -> None:
    """The second gets nothing until the first lets go."""
    first = try_lock(tmp_path / "lock")
    assert first is not None
    assert try_lock(tmp_path / "lock") is None
    os.close(first)
    second = try_lock(tmp_path / "lock")
    assert second is not None
    os.close(second)


def test_lock_of_a_removed_file_does_not_count(tmp_path: Path) -> None:
    """Who waits on a file that `down` has removed meanwhile must not believe to hold the lab's lock."""
    path = tmp_path / "lock"
    first = try_lock(path)
    assert first is not None
    path.unlink()
    second = try_lock(path)
    assert second is not None
    assert os.fstat(second).st_ino == path.stat().st_ino
    os.close(first)
    os.close(second)
