"""What `Lab.up` orders and the supervisor carries out, handed over as a JSON file.

It stays in the state directory while the lab lives, so that every later command knows how the lab was started.
Held by ``tests/lab/test_config.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sitegrid.lab.sites import Node


@dataclass(frozen=True, slots=True)
class LabConfig:
    """The supervisor's orders, written by `Lab.up` as JSON."""

    name: str
    binaries: Mapping[str, str]
    """Path of each binary of the control plane, by its name."""
    port: int
    """The host's port of the API server."""
    nodes: Sequence[Node]
    controller: bool
    agents: bool
    user_namespace: bool
    """Whether the lab has a user namespace of its own, being started without root."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment of every process."""

    def write(self, path: Path) -> None:
        """Write it to `path`."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> LabConfig:
        """Read what `write` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        document["nodes"] = [Node(**node) for node in document["nodes"]]
        return cls(**document)
