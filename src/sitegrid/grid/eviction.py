"""Which nodes of a unit are lost, so that the unit's other nodes are to run their pods.

The pods of grids tolerate unreachable nodes for ever (`sitegrid.grid.tolerations`), so Kubernetes never moves them.
That is wanted while a whole site is away, and wrong where one of a site's nodes crashed: then they should be replaced
on the nodes that are left. The sign that tells both apart is another node of the same unit that is ready; and it must
have been so for the same time, or the first node to come back after a WAN loss would have its neighbours' pods
deleted. Held by ``tests/grid/test_eviction.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sitegrid.grid.reachability import Reach
from sitegrid.grid.tolerations import NOT_READY, UNREACHABLE
from sitegrid.grid.units import Units

PATIENCE: Final = timedelta(seconds=300)
"""How long a node is given: as Kubernetes does (--default-unreachable-toleration-seconds,
--default-not-ready-toleration-seconds)."""


class LostNode(NamedTuple):
    """A node whose pods are to be replaced."""

    unit: str
    """The unit's value."""
    node: str
    since: datetime
    """Since when it has not been ready."""


class Losses(NamedTuple):
    """The lost nodes of one unique key, and in how many seconds the next one may be (None: by no lapse of time)."""

    lost: list[LostNode]
    wake_in: float | None


def find_lost(
    tolerated: Callable[[str], Collection[str]],
    units: Units,
    unit_of_node: Mapping[str, str],
    reaches: Mapping[str, Reach],
    unready: frozenset[str],
    now: datetime,
) -> Losses:
    """Return the nodes that a workload has lost at `now`.

    `tolerated` gives, by unit, the taints that the user's own tolerations are about: nodes with these are Kubernetes'
    to evict. `unready` are the nodes of `reaches` with Ready Unknown or False.
    """
    lost: list[LostNode] = []
    waits: list[float] = []
    for node in sorted(unready):
        value = unit_of_node.get(node)
        reach = reaches[node]
        if value is None or units[value].suspended:
            continue
        others = [
            reaches[other] for other in units[value].nodes if other in reaches and reaches[other].ready == "True"
        ]
        if not others or (UNREACHABLE if reach.away else NOT_READY) in tolerated(value):
            continue
        witnessed = max(reach.ready_since, min(other.ready_since for other in others))
        left = (PATIENCE - (now - witnessed)).total_seconds()
        if left <= 0:
            lost.append(LostNode(value, node, reach.ready_since))
        else:
            waits.append(left)
    return Losses(lost, min(waits, default=None))
