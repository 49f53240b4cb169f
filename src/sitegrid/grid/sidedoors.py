"""Finds plain Services that reach a grid's pods past its closure: those whose selector meets the grid's.

Such a Service may be meant (monitoring, a gradual move), so it is told and not touched (I3). Called by the controller
and by ``sitegrid explain``; held by ``tests/grid/test_sidedoors.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.grid.observed import AnyService, Service
from sitegrid.wire.labels import GRID_UNIQ_KEY


def side_doors(grid: ServiceGrid, services: Iterable[Service | AnyService]) -> list[str]:
    """Return the names of plain Services, all of the grid's namespace, that select the pods that `grid` does.

    A selector that says less selects all of them, one that says more, and nothing else, some. Whether there are pods
    that two selectors of which neither says all that the other does have in common is not asked.
    """
    wanted = grid.spec.template.get("selector")
    if not isinstance(wanted, dict) or not wanted:
        return []
    terms = {*wanted.items()}
    found = []
    for service in services:
        selected = {*(service.spec.selector or {}).items()}
        plain = GRID_UNIQ_KEY not in service.metadata.labels and service.metadata.namespace == grid.metadata.namespace
        if plain and selected and (selected <= terms or terms <= selected):
            found.append(service.metadata.name)
    return sorted(found)
