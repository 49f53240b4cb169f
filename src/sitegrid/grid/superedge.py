"""What SuperEdge does with its grids and ours do not: `states` in the status, and the grid's metadata on children.

`states` is the status of each unit's workload by unit: replicas, ready replicas, and the condition Available; bounded
like our own list of units, whose order it has. A grid's labels are copied to its children, a ServiceGrid's
annotations to its Service, where load balancers and monitoring look for them. Called by `sitegrid.grid.status`,
`workload` and `service`; held by ``tests/grid/test_superedge.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.status import GridStatus
from sitegrid.api.superedge import SUPEREDGE, StatedGridStatus
from sitegrid.api.workloads import WorkloadGrid
from sitegrid.grid.observed import Workload
from sitegrid.wire.labels import GROUP

_NOT_COPIED_LABELS: Final = (f"{SUPEREDGE}/", f"{GROUP}/", "service.kubernetes.io/", "endpointslice.kubernetes.io/")
"""What SuperEdge and we set ourselves, and what closes Services."""
_NOT_COPIED_ANNOTATIONS: Final = (f"{SUPEREDGE}/", f"{GROUP}/", "kubectl.kubernetes.io/")

MAX_BYTES: Final = 96 * 1024
"""Largest `states`, in bytes of JSON."""


def copied_labels(grid: WorkloadGrid | ServiceGrid) -> dict[str, str]:
    """Return the labels of `grid` that its children get: those of SuperEdge's grids, of our own none."""
    return _copied(grid, grid.metadata.labels, _NOT_COPIED_LABELS)


def copied_annotations(grid: ServiceGrid) -> dict[str, str]:
    """Return the annotations of `grid` that its Service gets: those of SuperEdge's grids, of our own none."""
    return _copied(grid, grid.metadata.annotations, _NOT_COPIED_ANNOTATIONS)


def _copied(grid: WorkloadGrid | ServiceGrid, found: dict[str, str], others: tuple[str, ...]) -> dict[str, str]:
    if grid.GROUP != SUPEREDGE:
        return {}
    return {key: value for key, value in found.items() if not key.startswith(others)}


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
