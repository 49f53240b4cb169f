"""SuperEdge's NodeUnits and NodeGroups as ours."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import NodeGroup, NodeUnit
from sitegrid.api.superedge import SiteNodeGroup, SiteNodeUnit
from sitegrid.grid.sites import FROM_SITE, Sites, translate


def _unit(name: str, labels: dict[str, str] | None = None, **spec: Any) -> SiteNodeUnit:
    unit = msgspec.convert({"metadata": {}, "spec": spec}, SiteNodeUnit)
    unit.metadata = ObjectMeta(name=name, uid=f"uid-{name}", labels=labels or {})
    return unit


def _group(name: str, **spec: Any) -> SiteNodeGroup:
    group = msgspec.convert({"metadata": {}, "spec": spec}, SiteNodeGroup)
    group.metadata = ObjectMeta(name=name, uid=f"uid-{name}")
    return group


def _specs(sites: Sites) -> dict[str, Any]:
    """Return the specs of what is wanted, by key and unit or by the key of a NodeGroup."""
    found = {}
    for manifest in sites.wanted.values():
        spec = dict(manifest["spec"])
        name = "=".join(value for value in (spec.pop("gridUniqKey"), spec.pop("unit", "")) if value)
        found[name] = spec
    return found


def test_labels_of_membership() -> None:
    """A NodeUnit's nodes get its name as SuperEdge has it, and for each NodeGroup the group's name with the unit."""
    unit = _unit("hz", type="edge", nodes=["n2", "n1"], selector={"matchLabels": {"region": "east"}})
    sites = translate([unit], [_group("zone", nodeUnits=["hz"]), _group("other")])
    members = {"nodes": ["n1", "n2"], "selector": {"matchLabels": {"region": "east"}}}
    assert _specs(sites) == {"hz=nodeunits.superedge.io": members, "zone=hz": members}
    assert sites.units_of == {"zone": ["hz"], "other": []}


@pytest.mark.parametrize("spelling", ["setNode", "setnode"])
def test_set_node_is_set_once(spelling: str) -> None:
    """What members carry is with the unit's own label, without what SuperEdge wrote into it by itself."""
    labels = {"x": "1", "hz": "nodeunits.superedge.io", "zone": "hz"}
    taint = {"key": "edge", "effect": "NoSchedule", "timeAdded": None}
    said: dict[str, Any] = {spelling: {"labels": labels, "annotations": {"a": "b"}, "taints": [taint]}}
    sites = translate([_unit("hz", nodes=["n1"], **said)], [_group("zone", nodeunits=["hz"])])
    specs = _specs(sites)
    assert specs["hz=nodeunits.superedge.io"]["setNode"] == {
        "labels": {"x": "1"},
        "annotations": {"a": "b"},
        "taints": [{"key": "edge", "effect": "NoSchedule"}],
    }
    assert "setNode" not in specs["zone=hz"]


def test_taints_of_the_old_version() -> None:
    """v1alpha1 has taints beside setnode."""
    sites = translate([_unit("hz", taints=[{"key": "edge", "effect": "NoExecute", "value": "1"}])], [])
    taints = _specs(sites)["hz=nodeunits.superedge.io"]["setNode"]["taints"]
    assert taints == [{"key": "edge", "effect": "NoExecute", "value": "1"}]


def test_group_finds_units_by_label() -> None:
    """By names, by the NodeUnits' labels, and what SuperEdge made for autoFindNodeKeys."""
    units = [
        _unit("a", {"demo": "1"}, nodes=["n1"]),
        _unit("b", {"demo": "2"}, nodes=["n2"]),
        _unit("c", {"zone": "nodegroups.superedge.io"}, nodes=["n3"]),
    ]
    assert translate(units, [_group("zone", selector={"matchLabels": {"demo": "1"}})]).units_of == {"zone": ["a"]}
    assert translate(units, [_group("zone", autofindnodekeys=["rack"])]).units_of == {"zone": ["c"]}


def test_auto_find_node_keys_are_a_group_of_ours() -> None:
    """In the order of the keys' names, in which SuperEdge joins the values."""
    sites = translate([], [_group("zone", autoFindNodeKeys=["rack", "hall"])])
    assert _specs(sites) == {"zone": {"autoFindNodeKeys": ["hall", "rack"]}}
    (kind, _) = next(iter(sites.wanted))
    assert kind == "NodeGroup"


def test_what_is_wanted_is_ours() -> None:
    """It can be read as our types, goes with what it was made from, and has the labels that grids select units by."""
    sites = translate([_unit("hz", {"tier": "gold"}, nodes=["n1"])], [_group("zone", autoFindNodeKeys=["rack"])])
    for (kind, name), manifest in sites.wanted.items():
        item: Any = msgspec.convert(manifest, NodeUnit if kind == "NodeUnit" else NodeGroup)
        assert item.metadata.name == name
        assert FROM_SITE in item.metadata.labels
        assert item.metadata.owner_references[0].api_version == "site.superedge.io/v1alpha2"
    labels = [manifest["metadata"]["labels"] for (kind, _), manifest in sites.wanted.items() if kind == "NodeUnit"]
    assert labels == [{"tier": "gold", FROM_SITE: "NodeUnit"}]


def test_empty_selector_selects_nothing() -> None:
    """As in SuperEdge; in ours it would be refused. And a unit without members is in no group's unit."""
    sites = translate([_unit("hz", selector={})], [_group("zone", nodeUnits=["hz"])])
    assert _specs(sites) == {"hz=nodeunits.superedge.io": {}}


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"unschedulable": True}, "NotSupported", "spec.unschedulable has no effect, as in SuperEdge"),
        ({"autonomyLevel": "L4"}, "NotSupported", "no control plane is set up in the unit"),
        ({"unitClusterInfo": {"storageType": "sqlite"}}, "NotSupported", "spec.unitClusterInfo"),
        ({"selector": {"annotations": {"a": "b"}}}, "NotSupported", "use labels"),
    ],
)
def test_what_has_no_counterpart_is_told(spec: dict[str, Any], reason: str, words: str) -> None:
    """Nothing is dropped silently."""
    ((_, (problem,)),) = translate([_unit("hz", **spec)], []).problems.items()
    assert problem.reason == reason
    assert words in problem.message


def test_defaults_of_superedge_are_no_problem() -> None:
    """What SuperEdge's definitions fill in says nothing."""
    unit = _unit("hz", type="edge", unschedulable=False, autonomyLevel="L3", setNode={}, nodes=["n1"])
    assert translate([unit], []).problems == {}


def test_mistakes_stay_with_their_object() -> None:
    """A missing unit, an odd selector and a name that is no label are told of the object, all else goes on."""
    sites = translate(
        [_unit("x" * 64, nodes=["n1"]), _unit("hz", nodes=["n2"])],
        [
            _group("zone", nodeUnits=["hz", "nosuch"]),
            _group("odd", selector={"matchExpressions": [{"key": "a", "operator": "Nearly"}]}),
        ],
    )
    assert {key: problem.reason for key, (problem,) in sites.problems.items()} == {
        ("NodeUnit", "x" * 64): "NameTooLong",
        ("NodeGroup", "zone"): "UnknownNodeUnits",
        ("NodeGroup", "odd"): "InvalidSelector",
    }
    assert "zone=hz" in _specs(sites)
