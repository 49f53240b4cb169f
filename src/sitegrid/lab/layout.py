"""Where a lab keeps its files, and the lock that tells whether it lives.

The supervisor holds a lock on ``lock`` for its whole life and the kernel drops it with the process, so a state
directory whose lock is free belongs to a lab that is gone, however it went. Shared by `lab.py` (host side) and the
supervisor. Held by ``tests/lab/test_lab.py``.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sitegrid.lab.errors import LabError

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


def labs_directory() -> Path:
    """Return the directory of all labs' state: $SITEGRID_LAB_DIR, else in the XDG one. Raises `LabError`."""
    explicit = os.environ.get("SITEGRID_LAB_DIR")
    if explicit:
        return Path(explicit).absolute()
    state = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(state) if state else Path("~/.local/state").expanduser()).absolute() / "sitegrid" / "labs"
    except RuntimeError as error:
        raise LabError("there is no home directory; set SITEGRID_LAB_DIR to a directory for labs") from error


def lab_names() -> list[str]:
    """Return the names of all labs of this user that have a directory, running or not. Raises `LabError`."""
    directory = labs_directory()
    if not directory.is_dir():
        return []
    return sorted(path.name for path in directory.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one lab, below `root`."""

    root: Path

    @classmethod
    def of(cls, name: str, directory: Path | None = None) -> Layout:
        """Return the layout of the lab `name` below `directory` (default: `labs_directory`); raises `LabError`."""
        if not _NAME.fullmatch(name):
            raise LabError(f"lab name {name!r}: use lower-case letters, digits and '-', at most 40 characters")
        return cls((directory.absolute() if directory is not None else labs_directory()) / name)

    @property
    def kubeconfig(self) -> Path:
        """The user's: cluster administrator, by the host's loopback."""
        return self.root / "kubeconfig"

    @property
    def config(self) -> Path:
        """The supervisor's orders (`LabConfig`)."""
        return self.root / "lab.json"

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.root / "control.sock"

    @property
    def lock(self) -> Path:
        """Locked while the lab lives."""
        return self.root / "lock"

    @property
    def pid(self) -> Path:
        """The supervisor's process id as the host sees it."""
        return self.root / "pid"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.root / "logs"

    @property
    def audit_log(self) -> Path:
        """What sitegrid's accounts have written, noted by the API server: a JSON object (audit.k8s.io/v1) a line."""
        return self.logs / "audit.jsonl"

    @property
    def pki(self) -> Path:
        """Certificates and keys of the control plane."""
        return self.root / "pki"

    @property
    def nodes(self) -> Path:
        """One directory per node."""
        return self.root / "nodes"

    def node(self, name: str) -> Path:
        """Return the directory of one node."""
        return self.nodes / name

    def agent_data(self, node: str) -> Path:
        """Return the directory where the node's agent keeps what it knows."""
        return self.node(node) / "agent-data"

    def pods(self, node: str) -> Path:
        """Return the directory where the node's kubelet keeps one directory per pod."""
        return self.node(node) / "pods"


def try_lock(path: Path) -> int | None:
    """Lock the file at `path`, made if missing; return the descriptor that holds the lock, None if another does.

    Raises OSError where the directory is gone.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between open and lock another `down` may have removed the file: then this lock protects nothing.
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)
