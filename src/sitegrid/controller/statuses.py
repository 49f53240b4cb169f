"""Writes the status of grids: only what changed, and no more often than a few times a second per grid (invariant I7).

The first change is written at once; those that follow closely are written together. Held by
``tests/controller/passes``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from sitegrid.api.grids import ServiceGrid
from sitegrid.api.nodeunits import NodeGroup, NodeGroupStatus, NodeUnit, NodeUnitStatus
from sitegrid.api.status import GridStatus, ServiceGridStatus
from sitegrid.api.workloads import WorkloadGrid
from sitegrid.controller.cluster import decode
from sitegrid.controller.writer import Writer
from sitegrid.controller.written import Written
from sitegrid.kube.resources import Resource

MIN_INTERVAL: Final = 0.4
"""Seconds between two writes of one grid's status, where nothing else is said."""

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

    async def write(self, resource: Resource, grids: Written[G], grid: G, status: Status) -> float:
        """Write `status` where it differs from the grid's; return in how many seconds to come again, 0 for never."""
        if status == grid.status:
            return 0.0
        now = self._clock()
        wait = self._last.get(grid.metadata.uid, float("-inf")) + self._interval - now
        if wait > 0:
            return wait
        self._last[grid.metadata.uid] = now
        answer = await self._writer.status(resource, grid.metadata, msgspec.to_builtins(status))
        grids.wrote(decode(answer, type(grid)))
        return 0.0

    def forget(self, uid: str) -> None:
        """Forget a grid that is gone."""
        self._last.pop(uid, None)
