"""Writes the status of grids: only what changed, and no more often than a few times a second (invariant I7).

A grid's first status is written at once, and so are what is settled and a new problem; what follows closely is
written together. While workloads are in motion a status is held back for a moment, since it is about to say something
else: a change that settles within `HOLD` is one write. Nobody is misled meanwhile: observedGeneration still is the
former one, and a unit that is not ready is told no later than `HOLD` after it was seen. Held by
``tests/controller/passes/test_statuses.py`` and, on a real API server, ``tests/controller/test_overrides.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from sitegrid.api.nodeunits import NodeGroup, NodeGroupStatus, NodeUnit, NodeUnitStatus
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.status import GridStatus, ServiceGridStatus
from sitegrid.api.workloads import WorkloadGrid
from sitegrid.controller.cluster import decode
from sitegrid.controller.writer import Writer
from sitegrid.controller.written import Written
from sitegrid.grid.status import DEGRADED
from sitegrid.kube.resources import Resource

MIN_INTERVAL: Final = 0.4
"""Seconds between two writes of one grid's status, where nothing else is said."""
HOLD: Final = 3.0
"""Seconds that the status of a grid whose workloads are in motion is held back at the most."""

G = TypeVar("G", WorkloadGrid, ServiceGrid, NodeUnit, NodeGroup)
Status = GridStatus | ServiceGridStatus | NodeUnitStatus | NodeGroupStatus


class Statuses:
    """Writes statuses through `writer` and remembers when."""

    def __init__(
        self, writer: Writer, *, interval: float = MIN_INTERVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._writer = writer
        self._interval = interval
        self._clock = clock
        self._last: dict[str, float] = {}
        self._since: dict[str, float] = {}
        """By uid: since when there is something to write that is held back."""

    async def write(
        self, resource: Resource, grids: Written[G], grid: G, status: Status, *, moving: bool = False
    ) -> float:
        """Write `status` where it differs from the grid's; return in how many seconds to come again, 0 for never.

        `moving` tells that it is about to say something else, such as that what is starting now is ready.
        """
        uid = grid.metadata.uid
        if status == grid.status:
            self._since.pop(uid, None)
            return 0.0
        now = self._clock()
        due = self._last.get(uid, float("-inf")) + self._interval
        if moving and grid.status.observed_generation and _problem(status) in (None, _problem(grid.status)):
            due = max(due, self._since.setdefault(uid, now) + HOLD)
        if due > now:
            return due - now
        self._last[uid] = now
        self._since.pop(uid, None)
        answer = await self._writer.status(resource, grid.metadata, msgspec.to_builtins(status))
        grids.wrote(decode(answer, type(grid)))
        return 0.0

    def forget(self, uid: str) -> None:
        """Forget a grid that is gone."""
        self._last.pop(uid, None)
        self._since.pop(uid, None)


def _problem(status: Status) -> tuple[str, str] | None:
    """Return what is wrong, by reason and message; None where nothing is."""
    for condition in status.conditions:
        if condition.type == DEGRADED and condition.status == "True":
            return condition.reason, condition.message
    return None
