"""What SuperEdge's users read in a grid's status: `states`, the status of each unit's workload by unit.

Called by `sitegrid.grid.status` for grids whose status has it. As in SuperEdge: replicas, ready replicas, and the
condition Available. Bounded like our own list of units, whose order it has. Held by ``tests/grid/test_superedge.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sitegrid.api.status import GridStatus
from sitegrid.api.superedge import StatedGridStatus
from sitegrid.grid.observed import Workload

MAX_BYTES = 96 * 1024
"""Largest `states`, in bytes of JSON."""


def with_states(status: GridStatus, children: Mapping[str, Workload | None]) -> StatedGridStatus:
    """Return `status` with the states of the units that it shows, as many as there is room for."""
    fields = {name: getattr(status, name) for name in GridStatus.__struct_fields__}
    return StatedGridStatus(**fields, states=_bounded((unit.name for unit in status.unit_states), children))


def _bounded(units: Iterable[str], children: Mapping[str, Workload | None]) -> dict[str, dict[str, Any]]:
    states: dict[str, dict[str, Any]] = {}
    size = 0
    for unit in units:
        child = children.get(unit)
        if child is None:
            continue
        state = _state(child)
        size += len(msgspec.json.encode({unit: state}))
        if size > MAX_BYTES:
            break
        states[unit] = state
    return dict(sorted(states.items()))


def _state(child: Workload) -> dict[str, Any]:
    status = child.status
    counts = {"replicas": status.replicas, "readyReplicas": status.ready_replicas}
    available = [msgspec.to_builtins(item) for item in status.conditions if item.type == "Available"]
    return {**counts, **({"conditions": available} if available else {})}
