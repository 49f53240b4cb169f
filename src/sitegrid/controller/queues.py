"""The keys of the work: which grids to look at, which Services' slices, and which units.

Queues with workers of their own, so that an endpoint's change never waits behind a rollout. Held by
``tests/controller/test_triggers.py`` and ``tests/controller/passes/test_manager.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from sitegrid.kube.queue import WorkQueue


class GridKey(NamedTuple):
    """One grid."""

    kind: str
    namespace: str
    name: str


class ServiceKey(NamedTuple):
    """One Service, whose slices are to be regrouped."""

    namespace: str
    name: str


class UnitKey(NamedTuple):
    """One Node as a member, one NodeUnit (by its unit, whatever its name), a key's NodeGroup, or SuperEdge's, all."""

    kind: str
    unique_key: str
    """Empty for a Node, which may be a member for several keys."""
    name: str

    @property
    def namespace(self) -> str:
        """What comes before the name in the log."""
        return self.unique_key


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues of one time of leading."""

    grids: WorkQueue[GridKey] = field(default_factory=lambda: WorkQueue(base_delay=0.1, max_delay=60.0))
    slices: WorkQueue[ServiceKey] = field(default_factory=lambda: WorkQueue(base_delay=0.05, max_delay=60.0))
    units: WorkQueue[UnitKey] = field(default_factory=lambda: WorkQueue(base_delay=0.1, max_delay=60.0))

    def shut_down(self) -> None:
        """Take no more keys."""
        self.grids.shut_down()
        self.slices.shut_down()
        self.units.shut_down()
