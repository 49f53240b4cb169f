"""What passes over Services' slices came to, for status and metrics: each unit's endpoints, and who uses another's.

It is written by `sitegrid.controller.slices` and read by `sitegrid.controller.services`, which come at different
times; a change adds the ServiceGrid's key, so that its status follows. All of it is found anew after a restart.
Beside it, for both: which units may use another's. Held by ``tests/controller/passes/test_fallback.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.controller.queues import GridKey, ServiceKey
from sitegrid.grid.endpointcounts import EndpointCount
from sitegrid.grid.fallback import Fallbacks, fallbacks_of
from sitegrid.grid.kinds import qualified
from sitegrid.grid.units import Units


class Outcome(NamedTuple):
    """What the last pass over a Service's slices found."""

    fallbacks: Mapping[str, str]
    """By unit that uses another's endpoints: whose they are."""
    endpoints: Mapping[str, EndpointCount]
    """How many endpoints of its own a unit has; units without any are left out."""


class Outcomes:
    """What ServiceGrids say and, after the first pass over a Service's slices, what became of it."""

    def __init__(self) -> None:
        self.listener: Callable[[GridKey], None] = lambda key: None
        """Is told the ServiceGrid of which something changed."""
        self._found: dict[ServiceKey, Outcome] = {}
        self._said: dict[str, tuple[int, Units, Fallbacks]] = {}

    def of(self, grid: ServiceGrid, units: Units) -> Fallbacks:
        """Return what `grid` says about `units`, found anew only after one of them changed."""
        meta = grid.metadata
        known = self._said.get(meta.uid)
        if known is None or known[0] != meta.generation or known[1] is not units:
            known = self._said[meta.uid] = (meta.generation, units, fallbacks_of(grid, units))
        return known[2]

    def get(self, key: ServiceKey) -> Outcome | None:
        """Return what was found; None where that is not known yet."""
        return self._found.get(key)

    def set(self, key: ServiceKey, grid: ServiceGrid, found: Outcome) -> None:
        """Note what a pass over the slices of `grid`'s Service found."""
        if self._found.get(key) != found:
            self._found[key] = found
            self.listener(GridKey(qualified(grid.GROUP, grid.KIND), grid.metadata.namespace, grid.metadata.name))

    def forget(self, key: ServiceKey) -> None:
        """Forget a Service that is gone, or no grid's."""
        self._found.pop(key, None)

    def forget_grid(self, uid: str) -> None:
        """Forget a ServiceGrid that is gone."""
        self._said.pop(uid, None)

    def total(self) -> int:
        """Return how many units use another's endpoints, counted once for each Service."""
        return sum(len(found.fallbacks) for found in self._found.values())
