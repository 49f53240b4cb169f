"""SuperEdge's `states`: by unit, and bounded."""

from __future__ import annotations

from typing import Any

import msgspec

from sitegrid.api.status import GridStatus, UnitState
from sitegrid.grid.observed import Workload
from sitegrid.grid.superedge import MAX_BYTES, with_states


def _child(**status: Any) -> Workload:
    return msgspec.convert({"metadata": {}, "status": status}, Workload)


def _status(*units: str) -> GridStatus:
    return GridStatus(units=len(units), unit_states=[UnitState(unit, "Ready") for unit in units])


def test_states_are_what_superedge_reports() -> None:
    """Replicas, ready replicas and the condition Available of each unit that has a child."""
    conditions = [
        {"type": "Progressing", "status": "True"},
        {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "none"},
    ]
    children = {"hz": _child(replicas=2, readyReplicas=1, conditions=conditions), "bj": None}
    status = with_states(_status("bj", "hz"), children)
    assert status.states == {"hz": {"replicas": 2, "readyReplicas": 1, "conditions": conditions[1:]}}
    assert status.units == 2


def test_states_are_bounded() -> None:
    """Thousands of units leave the object small; those that are not ready, the first ones, are kept."""
    units = [f"unit-{number}" for number in range(5000)]
    message = "Deployment has minimum availability."
    available = {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": message}
    child = _child(replicas=2, readyReplicas=2, conditions=[available])
    status = with_states(_status(*units), dict.fromkeys(units, child))
    assert len(msgspec.json.encode(status.states)) <= MAX_BYTES
    assert "unit-0" in status.states
    assert len(status.states) > 300
