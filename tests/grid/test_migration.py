"""What becomes of each object when SuperEdge's children are taken over, and given back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.superedge import SiteNodeUnit, SuperEdgeDeploymentGrid, SuperEdgeServiceGrid
from sitegrid.grid.adoption import ADOPTED
from sitegrid.grid.kinds import SUPEREDGE_DEPLOYMENT
from sitegrid.grid.migration import Row, give_back, take_services, take_sites, take_workloads
from sitegrid.grid.units import Units, units_of

NODES = [("n1", {"zone": "hz"}), ("n2", {"zone": "NodeUnit1"})]


def _units(key: str) -> Units:
    return units_of(key, NODES)


def _entry(manager: str, operation: str = "Update", **fields: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": {}, **fields}


def _child(name: str, uid: str | None = "uid-web", kind: str = "Deployment", **metadata: Any) -> dict[str, Any]:
    owner = {"apiVersion": "superedge.io/v1", "kind": "DeploymentGrid", "name": "web", "uid": uid, "controller": True}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": "7",
            "labels": {"superedge.io/grid-selector": "web"},
            "ownerReferences": [owner] if uid else [],
            "managedFields": [
                _entry("application-grid-controller"),
                _entry("kube-controller-manager"),
                _entry("kube-controller-manager", subresource="status"),
            ],
            **metadata,
        },
        "spec": {"template": {}},
    }


def _taken(make_grid: Any, *children: dict[str, Any]) -> dict[str, Row]:
    grid = make_grid("web", kind=SuperEdgeDeploymentGrid)
    return {row.name: row for row in take_workloads(SUPEREDGE_DEPLOYMENT, [grid], _units, children)}


def test_child_is_taken_over_by_one_patch(make_grid: Any) -> None:
    """Our labels and the mark, only if it is as it was read; SuperEdge owns no field any more, Kubernetes its own."""
    row = _taken(make_grid, _child("web-hz"))["web-hz"]
    assert (row.action, row.unit) == ("take over", "hz")
    assert row.patch is not None
    metadata = row.patch["metadata"]
    assert (metadata["uid"], metadata["resourceVersion"]) == ("uid-web-hz", "7")
    assert metadata["labels"] == {"tkeedge.io/grid": "web", "tkeedge.io/unit": "zone.hz"}
    assert [entry["manager"] for entry in metadata["managedFields"]] == [
        "kube-controller-manager",
        "kube-controller-manager",
        "sitegrid",
    ]
    assert "spec" not in row.patch


@pytest.mark.parametrize(
    ("child", "why"),
    [
        (_child("web-hz", uid="other"), "controlled by DeploymentGrid web"),
        (_child("web-hz", uid=None), "controlled by nobody"),
        (_child("web-NodeUnit1"), "sitegrid calls it web-nodeunit1-"),
        (_child("web-gone"), "its unit has no nodes"),
        (_child("web-gone", uid="gone"), "its grid is gone"),
    ],
)
def test_what_cannot_be_taken_over_is_left_with_the_reason(make_grid: Any, child: dict[str, Any], why: str) -> None:
    """Nothing is done to it, and the user reads why."""
    row = _taken(make_grid, child)[child["metadata"]["name"]]
    assert (row.action, row.patch) == ("leave", None)
    assert why in row.why


def test_what_is_missing_is_made(make_grid: Any) -> None:
    """A unit without a child gets one by sitegrid's controller."""
    rows = _taken(make_grid)
    assert {row.action for row in rows.values() if row.kind == "Deployment"} == {"make"}


def test_template_that_cannot_be_is_left(make_grid: Any) -> None:
    """A problem of the unit's own is told in its words."""
    grid = make_grid("web", kind=SuperEdgeDeploymentGrid, defaultTemplateName="nosuch")
    rows = {row.name: row for row in take_workloads(SUPEREDGE_DEPLOYMENT, [grid], _units, [_child("web-hz")])}
    assert rows["web-hz"].action == "leave"
    assert "TemplateMissing" in rows["web-hz"].why


def _service_grid() -> SuperEdgeServiceGrid:
    grid = msgspec.convert({"metadata": {}, "spec": {"gridUniqKey": "zone", "template": {}}}, SuperEdgeServiceGrid)
    grid.metadata = ObjectMeta(name="web", namespace="default", uid="uid-web")
    return grid


def test_service_without_owner_gets_one() -> None:
    """Older versions of SuperEdge name no owner; ours does, so that the Service goes with its grid."""
    service = _child("web-svc", uid=None, kind="Service")
    (_, row) = take_services([_service_grid()], [service])
    assert row.action == "take over"
    assert row.patch is not None
    (owner,) = row.patch["metadata"]["ownerReferences"]
    assert (owner["apiVersion"], owner["uid"]) == ("superedge.io/v1", "uid-web")


def test_service_of_nobody_is_left() -> None:
    """A Service that no ServiceGrid wants is left, and told."""
    (row,) = take_services([], [_child("old-svc", uid=None, kind="Service")])
    assert (row.action, row.why) == ("leave", "no ServiceGrid wants it")


def test_node_units_stay_and_tell_what_is_not_done() -> None:
    """They are listed as well, with what sitegrid will not do for them."""
    unit = msgspec.convert({"metadata": {}, "spec": {"autonomyLevel": "L4"}}, SiteNodeUnit)
    unit.metadata = ObjectMeta(name="hz")
    (row,) = take_sites([unit], [])
    assert (row.kind, row.name, row.action) == ("NodeUnit", "hz", "keep")
    assert "no control plane is set up in the unit" in row.why


def test_giving_back_takes_exactly_ours_off() -> None:
    """Labels, notes and ownership of ours; the spec and SuperEdge's labels stay."""
    labels = {"superedge.io/grid-selector": "web", "tkeedge.io/grid": "web", "tkeedge.io/unit": "zone.hz"}
    child = _child("web-hz", labels=labels, annotations={ADOPTED: "mark", "topologyKeys": "[]"})
    child["metadata"]["managedFields"] += [_entry("sitegrid", "Apply"), _entry("sitegrid-released", "Apply")]
    (row,) = give_back([child])
    assert row.action == "give back"
    assert row.patch is not None
    metadata = row.patch["metadata"]
    assert metadata["labels"] == {"tkeedge.io/grid": None, "tkeedge.io/unit": None}
    assert metadata["annotations"] == {ADOPTED: None}
    assert not [entry for entry in metadata["managedFields"] if entry["manager"].startswith("sitegrid")]


def _services(**labels: dict[str, str]) -> list[dict[str, Any]]:
    """Return a Service that was taken over, and the one with its selector."""
    found = {"superedge.io/grid-selector": "web", "tkeedge.io/grid": "web", "tkeedge.io/sites": "web-svc-sites"}
    service = {**_child("web-svc", labels=labels.get("service", found)), "kind": "Service", "spec": {"ports": []}}
    beside = _child("web-svc-sites", labels={"tkeedge.io/grid": "web", "tkeedge.io/sites-of": "web-svc"})
    return [service, {**beside, "kind": "Service", "spec": {"selector": {"app": "web"}}}]


def test_a_service_gets_its_selector_back() -> None:
    """From the one beside it, which is kept until that is done, and goes then."""
    service, beside = give_back(_services())
    assert (service.action, beside.action) == ("give back", "keep")
    assert service.patch is not None
    assert service.patch["spec"] == {"selector": {"app": "web"}}
    assert service.patch["metadata"]["labels"] == {"tkeedge.io/grid": None, "tkeedge.io/sites": None}
    service, beside = give_back(_services(service={"superedge.io/grid-selector": "web"}))
    assert (service.action, beside.action) == ("given back", "delete")
    assert beside.patch is not None
    assert beside.patch["metadata"].keys() == {"uid", "resourceVersion"}


def test_a_service_whose_selector_is_gone_is_left() -> None:
    """SuperEdge would find a Service without endpoints."""
    (row,) = give_back(_services()[:1])
    assert row.action == "leave"
    assert "its selector was on the Service web-svc-sites" in row.why


def test_what_sitegrid_made_is_not_given_back() -> None:
    """Its selector has the unit, which SuperEdge would try to change for ever: the user decides when it may go."""
    (row,) = give_back([_child("web-hz", labels={"tkeedge.io/grid": "web"})])
    assert row.action == "leave"
    assert "delete it when its pods may restart" in row.why
