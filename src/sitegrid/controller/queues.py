"""The keys of the work: which grids to look at, and which Services' slices.

Two queues with workers of their own, so that an endpoint's change never waits behind a rollout.
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


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues of one time of leading."""

    grids: WorkQueue[GridKey] = field(default_factory=lambda: WorkQueue(base_delay=0.1, max_delay=60.0))
    slices: WorkQueue[ServiceKey] = field(default_factory=lambda: WorkQueue(base_delay=0.05, max_delay=60.0))

    def shut_down(self) -> None:
        """Take no more keys."""
        self.grids.shut_down()
        self.slices.shut_down()
