"""The directory of documents: one file each, replaced as a whole.

A document is written to a new file beside the old one, which is synced, renamed over it, and the directory synced. So
a power cut or kill -9 at any instant leaves the old content or the new one. A file that cannot be understood
costs that document and no other: it is counted and logged, and stays for a look until its document is
written again or `retain` sweeps. A disk that is full or read-only is counted at every attempt and logged when it
starts and when it ends, once for all documents; the last content stays.

Nothing here raises because of the disk. Files are 0600 and the directory 0700: they may hold secrets. Files of other
names are never touched. Called by the agent's start (`load`, `retain`) and by `snapshotter`, in any thread. Held by
``tests/agent/test_snapshot.py`` (a failure and a crash injected at every system call, a writer killed at random).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Final

from sitegrid.agent.snapshot.document import (
    MAX_BYTES,
    DamagedError,
    Document,
    FormatError,
    Record,
    decode,
    encode,
)

_log = logging.getLogger(__name__)

_DOCUMENT: Final = re.compile(r"[0-9a-f]{32}\.snapshot")
_TEMPORARY: Final = re.compile(r"[0-9a-f]{32}\.snapshot\.[0-9a-f]{16}\.tmp")
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A symbolic link is not followed, and a FIFO that somebody put in place does not block the start.
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def _ignore(reason: str) -> None:
    """Count nothing."""


class TooLargeError(Exception):
    """The document would take the directory over its limit."""


class Directory:
    """Documents under `path`, at most `max_bytes` together (while one is replaced, its old file comes on top).

    `count` is called, from any thread, with the reason of each failure: ``damaged`` (a file is torn or corrupt),
    ``format`` (of another version), ``unreadable``, ``too large`` (to write or to read) and ``unwritable``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 128 * 1024 * 1024,
        count: Callable[[str], None] = _ignore,
    ) -> None:
        if not 0 < max_bytes <= MAX_BYTES:
            raise ValueError(f"max_bytes must be between 1 and {MAX_BYTES}")
        self.path = os.path.abspath(path)
        self.max_bytes = max_bytes
        self._count = count
        self._lock = threading.Lock()
        # Document name → how its last change failed: what has been logged is not logged again for another one.
        self._failures: dict[str, str] = {}

    def load(self, take: Callable[[Record], None] | None = None) -> Iterator[Document]:
        """Yield every whole document, and remove what interrupted writes have left.

        For the start, before anything is written. One document at a time is in memory; each name comes once. With
        `take`, documents come without their records, as of `read`.
        """
        try:
            directory = os.open(self.path, _OPEN)
        except FileNotFoundError:
            return
        except OSError as error:
            self._lost("", "unreadable", error)
            return
        try:
            yield from self._load(directory, take)
        finally:
            os.close(directory)

    def read(self, name: str, take: Callable[[Record], None] | None = None) -> Document | None:
        """Return the document `name`; None where there is none, or (that is told) no whole one.

        With `take`, each record is given to that as it is read, and the document comes without them: they count only
        if it does.
        """
        try:
            directory = os.open(self.path, _OPEN)
        except OSError:
            return None
        try:
            file = _file_name(name)
            os.stat(file, dir_fd=directory, follow_symlinks=False)
            loaded = self._read(directory, file, self.max_bytes, take)
        except OSError:
            return None
        finally:
            os.close(directory)
        return loaded[0] if loaded is not None else None

    def write(self, document: Document) -> bool:
        """Replace the document of that name; True once the new content would survive a power cut.

        Where it fails the last content stays, however old: offline it is worth more than none.
        """
        return self._change(document.name, lambda directory: self._replace(directory, document))

    def remove(self, name: str) -> bool:
        """Remove the document `name`, if there is one; True once it is gone for good."""

        def unlink(directory: int) -> None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_file_name(name), dir_fd=directory)
                os.fsync(directory)

        return self._change(name, unlink)

    def retain(self, names: Collection[str]) -> bool:
        """Remove all documents but those in `names`, and what cannot be understood; True once they are gone for good.

        For the moment after a start when it is known what is still wanted: former units' data must not pile up.
        """
        kept = {_file_name(name) for name in names}

        def sweep(directory: int) -> None:
            superfluous = [name for name in _ours(directory) if name not in kept]
            for name in superfluous:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)
            if superfluous:
                os.fsync(directory)

        return self._change("", sweep)

    def size(self) -> int:
        """Return the bytes of all documents on the disk; 0 where that cannot be found out."""
        try:
            directory = os.open(self.path, _OPEN)
        except OSError:
            return 0
        try:
            return sum(_ours(directory).values())
        except OSError:
            return 0
        finally:
            os.close(directory)

    def _load(self, directory: int, take: Callable[[Record], None] | None) -> Iterator[Document]:
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            self._lost("", "unreadable", error)
            return
        budget = self.max_bytes
        for name in names:
            if _TEMPORARY.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)
            elif _DOCUMENT.fullmatch(name):
                loaded = self._read(directory, name, budget, take)
                if loaded is not None:
                    budget -= loaded[1]
                    yield loaded[0]

    def _read(
        self, directory: int, name: str, budget: int, take: Callable[[Record], None] | None
    ) -> tuple[Document, int] | None:
        """Return the document in the file `name` and its size, or None after telling why not."""
        try:
            return _read_file(directory, name, budget, take)
        except DamagedError as error:
            self._lost(name, "damaged", error)
        except FormatError as error:
            self._lost(name, "format", error)
        except TooLargeError as error:
            self._lost(name, "too large", error)
        except OSError as error:
            self._lost(name, "unreadable", error)
        return None

    def _lost(self, name: str, reason: str, error: Exception) -> None:
        self._count(reason)
        why = (error.strerror if isinstance(error, OSError) else None) or error
        _log.error("%s is not used: %s", f"{self.path}/{name}", why)

    def _change(self, name: str, change: Callable[[int], None]) -> bool:
        """Run `change` on the open directory, one at a time: the last one called is the last on the disk."""
        with self._lock:
            try:
                directory = open_directory(self.path)
                try:
                    change(directory)
                finally:
                    os.close(directory)
            except TooLargeError as error:
                self._failed(name, "too large", str(error))
            except OSError as error:
                self._failed(name, "unwritable", error.strerror or str(error))
            else:
                if self._failures.pop(name, None) is not None and not self._failures:
                    _log.warning("snapshots in %s can be written again", self.path)
                return True
        return False

    def _failed(self, name: str, reason: str, message: str) -> None:
        self._count(reason)
        # The message of a document that is too large names a size that differs every time.
        state = reason if reason == "too large" else message
        told = state in self._failures.values()
        self._failures[name] = state
        if not told:
            _log.error("snapshots in %s cannot be written, the last ones stay: %s", self.path, message)

    def _replace(self, directory: int, document: Document) -> None:
        name = _file_name(document.name)
        sizes = _ours(directory)
        others = sum(size for other, size in sizes.items() if other != name)
        # The last quarter is for what is there to grow: documents of questions that a client makes up leave it. An
        # eighth no other document than the essential ones may have.
        back = 0 if document.essential else 8 if name in sizes else 4
        allowed = self.max_bytes - (self.max_bytes // back if back else 0)
        if (size := document.size) > allowed - others:
            raise TooLargeError(f"it has {size} bytes, others {others}, and {allowed} are allowed")
        # Random, because where a file system knows no locks two agents may write here for a moment.
        temporary = f"{name}.{secrets.token_hex(8)}.tmp"
        try:
            _write_file(directory, temporary, document)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)


def open_directory(path: str) -> int:
    """Return the directory's file descriptor, after making the directory or closing it to others. Raises OSError."""
    try:
        directory = os.open(path, _OPEN)
    except FileNotFoundError:
        _make_directory(os.path.abspath(path))
        directory = os.open(path, _OPEN)
    # A volume's root may belong to another account; the files' own mode keeps them closed then.
    with contextlib.suppress(OSError):
        if stat.S_IMODE(os.fstat(directory).st_mode) & 0o077:
            os.fchmod(directory, 0o700)
    return directory


def _write_file(directory: int, name: str, document: Document) -> None:
    file = os.open(name, _WRITE, 0o600, dir_fd=directory)
    try:
        os.fchmod(file, 0o600)  # A umask may have taken the owner's bits.
        for chunk in encode(document):
            view = memoryview(chunk)
            while view:
                if not (written := os.write(file, view)):
                    raise OSError(errno.EIO, "nothing was written")
                view = view[written:]
        os.fsync(file)
    finally:
        os.close(file)


def _read_file(directory: int, name: str, budget: int, take: Callable[[Record], None] | None) -> tuple[Document, int]:
    """Return the document in the file `name` and the file's size, which may be `budget` at most."""
    file = os.open(name, _READ, dir_fd=directory)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError("it is not a file")
        if status.st_size > budget:
            raise TooLargeError(f"it has {status.st_size} bytes, and {budget} are left")
        with os.fdopen(file, "rb", closefd=False) as stream:
            document = decode(stream, status.st_size, take)
    finally:
        os.close(file)
    if _file_name(document.name) != name:
        raise DamagedError("it is the file of another document")
    return document, status.st_size


def _make_directory(path: str, mode: int = 0o700) -> None:
    """Make the directory so that a power cut cannot take it away again, with all its synced files."""
    parent = os.path.dirname(path)
    if not os.path.exists(parent):
        _make_directory(parent, 0o777)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    directory = os.open(parent, _OPEN)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _file_name(name: str) -> str:
    """Return the file of the document `name`: names hold slashes, and selectors longer than a file name may be."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32] + ".snapshot"


def _ours(directory: int) -> dict[str, int]:
    """Return names and sizes of the documents' files."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if _DOCUMENT.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    found[entry.name] = entry.stat(follow_symlinks=False).st_size
    return found
