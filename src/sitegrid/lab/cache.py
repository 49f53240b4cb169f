"""The cache of built and installed programs, outside the checkout and shared by all labs of a user.

`binaries.py` and `toolchain.py` keep their results here. Invariant: under its final name a directory is whole or
absent, however its maker ended, and two makers of the same directory do the work once. Held by
``tests/lab/test_binaries.py``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sitegrid.lab.errors import LabError


def cache_directory() -> Path:
    """Return sitegrid's cache: $SITEGRID_CACHE, else below the XDG cache directory. Raises `LabError`."""
    explicit = os.environ.get("SITEGRID_CACHE")
    if explicit:
        return Path(explicit).absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path("~/.cache").expanduser()).absolute() / "sitegrid"
    except RuntimeError as error:
        raise LabError("there is no home directory; set SITEGRID_CACHE to a directory for the cache") from error


@contextlib.contextmanager
def locked(directory: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of the cached `directory`; calls `waiting` where another process has it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def replaced(directory: Path) -> Iterator[Path]:
    """Yield a temporary directory that takes the place of `directory` at the end; the caller holds the lock.

    What an ended predecessor has left is removed. Programs that run from the old directory go on: their files stay
    open.
    """
    _sweep(directory)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if directory.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
            directory.rename(old / "old")
        temporary.rename(directory)
    finally:
        _sweep(directory)


def _sweep(directory: Path) -> None:
    for leftover in directory.parent.glob(f".{directory.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)
