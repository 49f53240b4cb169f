"""What SuperEdge does with its grids: `states` by unit, bounded, and the grid's metadata on children."""

from __future__ import annotations

from typing import Any

import msgspec

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.status import GridStatus, UnitState
from sitegrid.api.superedge import SuperEdgeDeploymentGrid, SuperEdgeServiceGrid
from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.kinds import SUPEREDGE_DEPLOYMENT
from sitegrid.grid.observed import Workload
from sitegrid.grid.overrides import Unit
from sitegrid.grid.service import wanted_service
from sitegrid.grid.superedge import MAX_BYTES, with_states
from sitegrid.grid.workload import WantedChild, wanted_child


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


def _labelled(kind: type[Any]) -> Any:
    grid = msgspec.convert({"metadata": {}, "spec": {"gridUniqKey": "zone", "template": {}}}, kind)
    labels = {"team": "edge", "superedge.io/fed": "no", "service.kubernetes.io/service-proxy-name": "other"}
    notes = {
        "lb.example/id": "1",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        "tkeedge.io/adopted": "x",
    }
    grid.metadata = ObjectMeta(name="web", namespace="default", uid="u", labels=labels, annotations=notes)
    return grid


def test_service_gets_the_grids_labels_and_annotations() -> None:
    """As in SuperEdge, for load balancers and monitoring; what closes the Service cannot be said there."""
    metadata = wanted_service(_labelled(SuperEdgeServiceGrid))["metadata"]
    assert metadata["labels"]["team"] == "edge"
    assert metadata["labels"]["service.kubernetes.io/service-proxy-name"] == "sitegrid"
    assert "superedge.io/fed" not in metadata["labels"]
    assert metadata["annotations"] == {"lb.example/id": "1"}


def test_child_gets_the_grids_labels() -> None:
    """As in SuperEdge; its pods do not, or they would restart."""
    made = wanted_child(SUPEREDGE_DEPLOYMENT, _labelled(SuperEdgeDeploymentGrid), Unit("zone", "hz"))
    assert isinstance(made, WantedChild)
    assert made.manifest["metadata"]["labels"]["team"] == "edge"
    assert made.manifest["metadata"]["labels"]["tkeedge.io/unit"] == "zone.hz"
    assert "team" not in str(made.manifest["spec"])


def test_our_own_grids_copy_nothing() -> None:
    """A label of one of our grids is about the grid."""
    metadata = wanted_service(_labelled(ServiceGrid))["metadata"]
    assert "team" not in metadata["labels"]
    assert "annotations" not in metadata


def test_changed_labels_make_the_child_anew() -> None:
    """Labels change no generation, and are seen all the same."""
    grid, other = _labelled(SuperEdgeDeploymentGrid), _labelled(SuperEdgeDeploymentGrid)
    assert Blueprint(SUPEREDGE_DEPLOYMENT, grid).is_for(other)
    other.metadata.labels["team"] = "core"
    assert not Blueprint(SUPEREDGE_DEPLOYMENT, grid).is_for(other)


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
