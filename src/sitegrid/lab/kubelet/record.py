"""What the kubelet knows about a pod that runs, on disk: a restarted kubelet reads it and takes the pod over.

The worker owns a record and saves it after each change; `manager` loads all at start. The pod object is part of it,
so that a kubelet that starts while the WAN is cut goes on probing and restarting.

Invariant: a record on disk is whole (written aside, then renamed), so a kubelet killed at any instant loses at most
the last change. Held by ``tests/lab/test_kubelet_record.py``.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_log = logging.getLogger(__name__)

FILE_NAME: Final = "record.json"

WAITING: Final = "waiting"
RUNNING: Final = "running"
TERMINATED: Final = "terminated"


@dataclass(slots=True)
class ContainerRecord:
    """One container; field meanings are those of core/v1 ContainerStatus, times are RFC 3339 in UTC."""

    state: str = WAITING
    reason: str = "ContainerCreating"
    message: str = ""
    pid: int = 0
    start_ticks: int = 0
    """With `pid` names the process for good: its start time from ``/proc/PID/stat``."""
    started_at: str = ""
    finished_at: str = ""
    exit_code: int = 0
    started: bool = False
    ready: bool = False
    restart_count: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    """``lastState.terminated`` of the run before this one."""


@dataclass(slots=True)
class PodRecord:
    """One pod: the object as last seen, its address, and its containers."""

    pod: dict[str, Any]
    address: str
    started_at: str
    sandbox_ready: bool = False
    """The network is complete; where this is unset a restarted kubelet makes it again."""
    containers: dict[str, ContainerRecord] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        """The pod's uid."""
        uid: str = self.pod["metadata"]["uid"]
        return uid

    def save(self, directory: Path) -> None:
        """Write the record into the pod's `directory`."""
        aside = directory / f".{FILE_NAME}"
        aside.write_text(json.dumps(dataclasses.asdict(self)))
        aside.replace(directory / FILE_NAME)


def load(directory: Path) -> PodRecord | None:
    """Return the record in a pod's `directory`; None where there is none or it cannot be read."""
    try:
        data = json.loads((directory / FILE_NAME).read_text())
        containers = {name: ContainerRecord(**fields) for name, fields in data.pop("containers").items()}
        return PodRecord(containers=containers, **data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("record in %s is not usable: %s", directory, error)
        return None
