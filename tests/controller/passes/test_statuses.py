"""When a status is written: settled ones and new problems at once, motion after a moment, all of it in the end."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.status import Condition, GridStatus
from sitegrid.api.workloads import DeploymentGrid
from sitegrid.controller.resources import grid_resource
from sitegrid.controller.statuses import HOLD, MIN_INTERVAL, Statuses
from sitegrid.controller.writer import Writer
from sitegrid.controller.written import Written
from sitegrid.grid.kinds import DEPLOYMENT
from sitegrid.kube.store import Store


class _Grid:
    """One grid whose status was written before, and the time."""

    def __init__(self) -> None:
        self.clock = 100.0
        spec = {"gridUniqKey": "zone", "template": {}}
        self._grid = msgspec.convert({"metadata": {}, "spec": spec}, DeploymentGrid)
        self._grid.metadata = ObjectMeta(name="web", namespace="default", uid="uid-web", generation=1)
        self._grids: Written[Any] = Written(Store())
        self._statuses = Statuses(cast(Writer, self), clock=lambda: self.clock)
        self.written: list[int] = []

    async def status(self, resource: Any, metadata: ObjectMeta, status: dict[str, Any]) -> dict[str, Any]:
        """Take a status, as a Writer does."""
        self.written.append(status["readyUnits"])
        self._grid.status = msgspec.convert(status, GridStatus)
        found = {"name": "web", "namespace": "default", "uid": "uid-web", "resourceVersion": "1"}
        return {"metadata": found, "spec": msgspec.to_builtins(self._grid.spec), "status": status}

    async def write(self, ready: int, *, moving: bool = False, problem: str = "") -> float:
        """Have a status with so many ready units written."""
        degraded = Condition("Degraded", "True" if problem else "False", "Reason", problem, "2026-01-01T00:00:00Z")
        status = GridStatus(observed_generation=1, ready_units=ready, conditions=[degraded])
        resource = grid_resource(DEPLOYMENT)
        return await self._statuses.write(resource, self._grids, self._grid, status, moving=moving)


@pytest.fixture
async def grid() -> _Grid:
    """A grid with a status that says: nothing is ready."""
    found = _Grid()
    assert await found.write(0, moving=True) == 0.0  # the first is written at once, whatever it says
    found.clock += 100.0
    return found


async def test_change_that_settles_soon_is_one_write(grid: _Grid) -> None:
    """What is passed through on the way is not written, what comes out is, at once."""
    assert await grid.write(1, moving=True) == pytest.approx(HOLD)
    grid.clock += 1.0
    assert await grid.write(2, moving=True) == pytest.approx(HOLD - 1.0)
    grid.clock += 0.1
    assert await grid.write(3) == 0.0
    assert grid.written == [0, 3]


async def test_motion_that_goes_on_is_told(grid: _Grid) -> None:
    """However long something is on its way, and however fast it changes, what is known is written in time."""
    for step in range(1, 100):
        await grid.write(step, moving=True)
        grid.clock += 0.1
    assert len(grid.written) == 1 + int(9.9 / HOLD)


async def test_what_came_back_is_no_write(grid: _Grid) -> None:
    """A pod that was not ready for a moment is told nowhere, and the next change has its whole moment again."""
    await grid.write(1, moving=True)
    grid.clock += HOLD - 1
    assert await grid.write(0) == 0.0
    grid.clock += 10
    assert await grid.write(1, moving=True) == pytest.approx(HOLD)
    assert grid.written == [0]


async def test_new_problem_is_told_at_once(grid: _Grid) -> None:
    """While the other units are on their way too; a problem that is known already does not hurry anything."""
    assert await grid.write(1, moving=True, problem="quota") == 0.0
    grid.clock += 10
    assert await grid.write(2, moving=True, problem="quota") == pytest.approx(HOLD)
    assert await grid.write(2, moving=True, problem="other") == 0.0
    assert grid.written == [0, 1, 2]


async def test_settled_statuses_are_spaced_out(grid: _Grid) -> None:
    """What follows closely waits, so that there are never more than a few writes a second."""
    assert await grid.write(1) == 0.0
    assert await grid.write(2) == pytest.approx(MIN_INTERVAL)
    grid.clock += MIN_INTERVAL
    assert await grid.write(2) == 0.0
    assert grid.written == [0, 1, 2]
