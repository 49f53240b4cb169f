"""NodeUnits and NodeGroups on a real API server: made, declared, refused, reported, and nobody else's touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

Manifest = dict[str, Any]


class Units:
    """NodeUnits and NodeGroups of one test, in the shared cluster."""

    def __init__(self, world: Any, wait_for: Callable[..., None]) -> None:
        self.world = world
        self.plane = world.plane
        self._wait_for = wait_for
        self.token = world.key.partition("-")[2]
        self._made: list[tuple[str, str]] = []

    def unit(self, name: str, **spec: Any) -> str:
        """Apply a NodeUnit of the test's key; return its full name."""
        return self._apply("NodeUnit", name, {"gridUniqKey": self.world.key, **spec})

    def group(self, name: str, **spec: Any) -> str:
        """Apply a NodeGroup; return its full name."""
        return self._apply("NodeGroup", name, spec)

    def refused(self, kind: str, spec: Manifest, name: str = "refused") -> str:
        """Apply what is to be refused, and return with which words."""
        manifest = self._manifest(kind, f"{name}-{self.token}", {"gridUniqKey": self.world.key, **spec})
        result = self.plane.kubectl("apply", "-f", "-", manifest=manifest, check=False)
        assert result.returncode, "it was not refused"
        return str(result.stderr)

    def delete(self, kind: str, name: str) -> None:
        """Delete an object as a user does."""
        self.plane.kubectl("delete", kind, name)

    def condition(self, name: str, kind: str = "nodeunit", type: str = "Degraded") -> Manifest:
        """Return a condition, {} where there is none yet."""
        found = self.plane.get(kind, name) or {}
        conditions = found.get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == type), {})

    def wait_reason(self, name: str, reason: str, kind: str = "nodeunit") -> str:
        """Wait until an object is degraded, or not, for this reason; return the message."""
        self.wait(lambda: self.condition(name, kind).get("reason") == reason, f"{name} to be {reason}")
        return str(self.condition(name, kind)["message"])

    def node(self, name: str) -> Manifest:
        """Return a node."""
        found: Manifest = self.plane.get("node", name)
        return found

    def labels(self, name: str) -> dict[str, str]:
        """Return a node's labels."""
        found: dict[str, str] = self.node(name)["metadata"].get("labels", {})
        return found

    def wait_label(self, node: str, value: str | None, key: str = "") -> None:
        """Wait until the node is in a unit of the test's key, or in none."""
        key = key or self.world.key
        self.wait(lambda: self.labels(node).get(key) == value, f"{node} to be in {value}")

    def wait_taint(self, node: str, key: str) -> None:
        """Wait until the node has a taint."""

        def tainted() -> bool:
            return any(taint["key"] == key for taint in self.node(node)["spec"].get("taints", ()))

        self.wait(tainted, f"{node} to be tainted with {key}")

    def wait_plain(self, node: str, wanted: Manifest) -> None:
        """Wait until the node carries exactly this."""
        self.wait(lambda: _plain(self.node(node)) == wanted, f"{node} to be {wanted}")

    def wait_status(self, name: str, field: str, value: object) -> None:
        """Wait until a field of a NodeUnit's status has this value."""

        def reported() -> bool:
            found = self.plane.get("nodeunit", name) or {}
            return bool(found.get("status", {}).get(field) == value)

        self.wait(reported, f"{name}: status.{field} = {value}")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition."""
        self._wait_for(condition, what, dump=self.dump)

    def mine(self, kind: str) -> dict[str, Manifest]:
        """Return the NodeUnits or NodeGroups of the test's key, by name."""
        items = self.plane.objects(kind, "")
        return {item["metadata"]["name"]: item for item in items if item["spec"]["gridUniqKey"] == self.world.key}

    def writes(self) -> list[str]:
        """Return the controller's writes so far to objects without namespace that concern this test."""
        return [
            " ".join((event["verb"], ref["resource"], ref.get("subresource", ""), ref["name"]))
            for event in self.plane.audited()
            for ref in [event["objectRef"]]
            if self.token in ref.get("name", "") and ref["resource"] in ("nodes", "nodeunits", "nodegroups")
        ]

    def wait_quiet(self) -> None:
        """Wait until a round of writes in the test's namespace and the statuses of the units are over."""
        self.world.wait_quiet(4.0)

    def dump(self) -> str:
        """Return what helps to see why a wait was in vain."""
        return f"{self.plane.kubectl('get', 'ng,nu', '-o', 'yaml').stdout}\n{self.world.dump()}"

    def clean(self) -> None:
        """Delete what was applied."""
        for kind, name in self._made:
            self.plane.kubectl("delete", kind, name, "--ignore-not-found", "--wait=false")

    def _apply(self, kind: str, name: str, spec: Manifest) -> str:
        full = f"{name}-{self.token}"
        self.plane.apply(self._manifest(kind, full, spec))
        self._made.append((kind, full))
        return full

    @staticmethod
    def _manifest(kind: str, name: str, spec: Manifest) -> Manifest:
        return {"apiVersion": "tkeedge.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def units(world: Any, wait_for: Callable[..., None]) -> Iterator[Units]:
    """NodeUnits and NodeGroups of one's own."""
    units = Units(world, wait_for)
    try:
        yield units
    finally:
        units.clean()


def _plain(node: Manifest) -> Manifest:
    """Return what a node carries that somebody put there."""
    metadata = node["metadata"]
    return {
        "labels": metadata.get("labels"),
        "annotations": metadata.get("annotations"),
        "taints": node["spec"].get("taints"),
    }


def test_units_in_use_are_shown_and_go_with_the_grid(units: Units) -> None:
    """`kubectl get ng,nu` shows the units of a key that a grid uses; without the grid they go."""
    world = units.world
    for name, value in (("a", "NodeUnit1"), ("b", "NodeUnit1"), ("c", "nu2")):
        world.node(name, value)
    world.plane.apply(world.deployment_grid())
    units.wait(lambda: len(units.mine("nodeunit")) == 2, "two NodeUnits")

    def row() -> list[str]:
        return str(world.plane.kubectl("get", "nu", f"{world.key}-nu2", "--no-headers").stdout).split()

    units.wait(lambda: row()[1:5] == [world.key, "nu2", "1", "0"], "the row of nu2")
    header = world.plane.kubectl("get", "nu").stdout.splitlines()[0].split()
    assert header == ["NAME", "KEY", "UNIT", "NODES", "READY", "SUSPENDED", "AGE"]

    def group() -> list[list[str]]:
        lines = world.plane.kubectl("get", "ng", world.key).stdout.splitlines()
        return [line.split()[:5] for line in lines]

    wanted = [["NAME", "KEY", "UNITS", "NODES", "READY"], [world.key, world.key, "2", "3", "0"]]
    units.wait(lambda: group() == wanted, "the row of the group")
    units.wait_status(f"{world.key}-nu2", "grids", [f"DeploymentGrid {world.namespace}/grid"])
    world.plane.kubectl("delete", "dg", "grid", "-n", world.namespace)
    units.wait(lambda: not units.mine("nodeunit") and not units.mine("nodegroup"), "them to go")


def test_members_carry_what_is_declared_and_are_restored_exactly(units: Units) -> None:
    """By name and by selector; who leaves has what it had before, down to the order of taints."""
    world = units.world
    named, found = world.node("named"), world.node("found", **{f"region-{units.token}": "east"})
    world.plane.kubectl("taint", "node", named, "theirs=1:NoSchedule")
    world.plane.kubectl("annotate", "node", named, "theirs=1")
    before = {name: _plain(units.node(name)) for name in (named, found)}
    sets = {
        "labels": {"tier": "gold"},
        "annotations": {"contact": "Li Lei"},
        "taints": [{"key": "edge", "value": "yes", "effect": "NoSchedule"}],
    }
    selector = {"matchLabels": {f"region-{units.token}": "east"}}
    removal = {"gracePeriodSeconds": 1}
    name = units.unit("hz", unit="hz", nodes=[named], selector=selector, setNode=sets, removal=removal)
    for node in (named, found):
        units.wait_label(node, "hz")
        units.wait_taint(node, "edge")
        assert units.labels(node)["tier"] == "gold"
    after = _plain(units.node(named))
    assert after["annotations"]["theirs"] == "1"
    assert [taint for taint in before[named]["taints"] if taint not in after["taints"]] == []
    units.delete("nodeunit", name)
    for node in (named, found):
        units.wait_plain(node, before[node])


def test_pods_come_up_where_a_unit_is_declared(units: Units) -> None:
    """A declared unit is a unit like any other: grids of the key run there."""
    world = units.world
    node = world.node("a")
    world.plane.apply(world.deployment_grid())
    units.unit("hz", unit="hz", nodes=[node])
    world.wait_children("grid-hz")


def test_mistyped_selector_keeps_members_for_the_grace_period(units: Units) -> None:
    """Members that fall out are marked and stay; when the selector is repaired the mark goes (I5)."""
    world = units.world
    node = world.node("a", **{f"region-{units.token}": "east"})

    def selector(value: str) -> Manifest:
        return {"matchLabels": {f"region-{units.token}": value}}

    name = units.unit("hz", unit="hz", selector=selector("east"))
    units.wait_label(node, "hz")
    units.unit("hz", unit="hz", selector=selector("eats"))
    units.wait_status(name, "leavingNodes", 1)
    assert units.labels(node)[world.key] == "hz"
    units.unit("hz", unit="hz", selector=selector("east"))
    units.wait_status(name, "leavingNodes", 0)
    assert units.labels(node)[world.key] == "hz"


def test_node_in_two_units_is_reported_and_stays(units: Units) -> None:
    """The first has it; the second is Degraded, and gets it at once when the first drops it."""
    node = units.world.node("a")
    first = units.unit("first", unit="first", nodes=[node])
    units.wait_label(node, "first")
    second = units.unit("second", unit="second", nodes=[node])
    message = units.wait_reason(second, "NodeInOtherUnit")
    assert message == f"node {node} is in unit first of {units.world.key} already, by NodeUnit {first}"
    units.unit("first", unit="first", nodes=[])
    units.wait_label(node, "second")
    units.wait_reason(second, "AsExpected")


def test_label_put_by_hand_is_not_overwritten(units: Units) -> None:
    """A user's label is theirs, also when they put it over ours."""
    world = units.world
    labelled, member = world.node("labelled", "elsewhere"), world.node("member")
    name = units.unit("hz", unit="hz", nodes=[labelled, member])
    units.wait_reason(name, "NodeInOtherUnit")
    units.wait_label(member, "hz")
    world.plane.kubectl("label", "node", member, f"{world.key}=byhand", "--overwrite")
    units.wait(lambda: "(and 1 more" in units.condition(name)["message"], "both to be reported")
    assert units.labels(labelled)[world.key] == "elsewhere"
    assert units.labels(member)[world.key] == "byhand"


def test_unknown_node_is_reported_not_made_and_may_come_later(units: Units) -> None:
    """Server-side apply would make it; the controller neither does nor may."""
    late = f"late-{units.world.namespace}"
    name = units.unit("hz", unit="hz", nodes=[late])
    assert units.wait_reason(name, "UnknownNodes").startswith(f"there is no node {late}")
    assert units.plane.get("node", late) is None
    units.world.node("late")
    units.wait_label(late, "hz")
    units.wait_reason(name, "AsExpected")


def test_node_that_is_made_anew_is_a_member_again(units: Units) -> None:
    """A node that was deleted and registers again without labels gets them back."""
    node = units.world.node("a")
    units.unit("hz", unit="hz", nodes=[node])
    units.wait_label(node, "hz")
    units.plane.kubectl("delete", "node", node)
    units.world.node("a")
    units.wait_label(node, "hz")


def test_what_others_set_otherwise_stays(units: Units) -> None:
    """A label of others with another value is reported and left alone; the rest is set."""
    world = units.world
    node = world.node("a", tier="silver")
    name = units.unit("hz", unit="hz", nodes=[node], setNode={"labels": {"tier": "gold", "more": "yes"}})
    assert "has the label tier=silver already" in units.wait_reason(name, "SetNodeConflict")
    assert units.labels(node)["tier"] == "silver"
    units.wait_label(node, "yes", "more")


def test_who_may_write_node_units_does_not_own_the_nodes(units: Units) -> None:
    """No pod is evicted, no role and no restriction changes hands; the rest is set, the refusal is told."""
    node = units.world.node("a")
    before = _plain(units.node(node))
    sets = {
        "labels": {
            "tier": "gold",
            "node-role.kubernetes.io/control-plane": "x",
            "node-restriction.kubernetes.io/site": "x",
        },
        "taints": [{"key": "gone", "effect": "NoExecute"}],
    }
    name = units.unit("hz", unit="hz", nodes=[node], setNode=sets)
    message = units.wait_reason(name, "NodeKeyRefused")
    assert message.startswith(
        "setNode without labels node-restriction.kubernetes.io/site, node-role.kubernetes.io/control-plane; "
        "taints gone:NoExecute: "
    )
    units.wait_label(node, "gold", "tier")
    assert units.labels(node) == {**(before["labels"] or {}), units.world.key: "hz", "tier": "gold"}
    assert _plain(units.node(node))["taints"] == before["taints"]


def test_second_node_unit_of_a_unit_is_reported(units: Units) -> None:
    """There is one NodeUnit for a unit; the later one says so."""
    first = units.unit("one", unit="hz")
    units.wait_reason(first, "AsExpected")
    second = units.unit("two", unit="hz", nodes=[units.world.node("a")])
    assert f"NodeUnit {first} is for" in units.wait_reason(second, "UnitDeclaredTwice")


def test_circle_of_selectors_is_reported(units: Units) -> None:
    """Who closes it (the later one, or of one second the later by name) changes no node; opened again, it is done."""
    world, rack = units.world, f"rack-{units.token}"
    node = world.node("a", **{rack: "r1"})
    first = units.unit("hz", unit="hz", selector={"matchLabels": {rack: "r1"}})
    units.wait_label(node, "hz")
    second = units.unit("ring", gridUniqKey=rack, unit="r2", selector={"matchLabels": {world.key: "hz"}})
    assert "select by labels that nothing here sets" in units.wait_reason(second, "CircularSelector")
    assert units.labels(node)[rack] == "r1"
    units.wait_reason(first, "AsExpected")
    region = world.node("b", region=units.token)
    units.unit("ring", gridUniqKey=rack, unit="r2", selector={"matchLabels": {"region": units.token}})
    units.wait_reason(second, "AsExpected")
    units.wait_label(region, "r2", rack)


def test_found_units_of_a_group(units: Units) -> None:
    """autoFindNodeKeys: each combination of labels is a unit, seen as a NodeUnit."""
    world, region, rack = units.world, f"region-{units.token}", f"rack-{units.token}"
    node = world.node("a", **{region: "east", rack: "1"})
    units.group("sites", gridUniqKey=world.key, autoFindNodeKeys=[region, rack])
    units.wait_label(node, "east-1")
    units.wait(lambda: f"{world.key}-east-1" in units.mine("nodeunit"), "its NodeUnit")
    assert len(units.mine("nodegroup")) == 1


def test_group_over_node_units(units: Units) -> None:
    """A NodeGroup's selector makes the NodeUnits that it finds units of its own key too."""
    world, other = units.world, f"gold-{units.token}"
    node = world.node("a", "hz")
    name = units.unit("hz", unit="hz")
    units.plane.kubectl("label", "nodeunit", name, f"tier-{units.token}=gold")
    units.group("gold", gridUniqKey=other, selector={"matchLabels": {f"tier-{units.token}": "gold"}})
    units.wait_label(node, "hz", other)


def test_made_objects_deleted_by_hand_come_back(units: Units) -> None:
    """What is in use is seen; what a user put into it is kept."""
    world = units.world
    world.node("a", "hz")
    world.plane.apply(world.deployment_grid())
    name = f"{world.key}-hz"
    units.wait(lambda: name in units.mine("nodeunit"), "the NodeUnit")
    uid = units.mine("nodeunit")[name]["metadata"]["uid"]
    units.delete("nodeunit", name)
    units.wait(lambda: units.mine("nodeunit").get(name, {}).get("metadata", {}).get("uid", uid) != uid, "another")
    patch = json.dumps({"spec": {"suspend": True}})
    world.plane.kubectl("patch", "nodeunit", name, "--type=merge", "-p", patch)
    world.plane.kubectl("delete", "dg", "grid", "-n", world.namespace)
    units.wait(lambda: not units.mine("nodegroup"), "the NodeGroup to go")
    assert units.mine("nodeunit")[name]["spec"]["suspend"] is True
    units.delete("nodeunit", name)


def test_nothing_is_written_at_rest(units: Units) -> None:
    """Heartbeats, edits of other things on nodes, and statuses that say the same cause no write (I7)."""
    world = units.world
    node = world.node("a")
    world.plane.apply(world.deployment_grid())
    name = units.unit("hz", unit="hz", nodes=[node], setNode={"taints": [{"key": "edge", "effect": "NoSchedule"}]})
    world.wait_children("grid-hz")
    units.wait_status(name, "gridCount", 1)
    units.wait_quiet()
    before = units.writes()
    for moment in range(3):
        condition = {"type": "Ready", "status": "Unknown", "lastHeartbeatTime": f"2026-01-01T00:00:0{moment}Z"}
        patch = json.dumps({"status": {"conditions": [condition]}})
        world.plane.kubectl("patch", "node", node, "--subresource=status", "--type=strategic", "-p", patch)
    world.plane.kubectl("annotate", "node", node, "theirs=1")
    units.wait_quiet()
    assert units.writes() == before


_LONG = "x" * 64
_REFUSALS = {
    "empty selector": ("NodeUnit", {"selector": {}}, "the selector is empty and would select everything"),
    "own key": ("NodeUnit", {"selector": {"matchLabels": {"KEY": "hz"}}}, "requirement on gridUniqKey"),
    "own key in an expression": (
        "NodeUnit",
        {"selector": {"matchExpressions": [{"key": "KEY", "operator": "DoesNotExist"}]}},
        "it would select by the very label that it sets",
    ),
    "label that is set": (
        "NodeUnit",
        {"selector": {"matchLabels": {"tier": "gold"}}, "setNode": {"labels": {"tier": "gold"}}},
        "requirement on a label of setNode.labels",
    ),
    "long unit": ("NodeUnit", {"unit": _LONG}, "may not be more than 63"),
    "illegal unit": ("NodeUnit", {"unit": "a b"}, "unit is not a legal label value"),
    "empty unit": ("NodeUnit", {"unit": ""}, "at least 1 char"),
    "long label value": ("NodeUnit", {"setNode": {"labels": {"a": _LONG}}}, "may not be more than 63"),
    "illegal label value": ("NodeUnit", {"setNode": {"labels": {"a": "b c"}}}, "that no node can carry as a label"),
    "illegal label key": ("NodeUnit", {"setNode": {"labels": {"-a": "b"}}}, "that no node can carry as a label"),
    "own key in labels": (
        "NodeUnit",
        {"setNode": {"labels": {"KEY": "b"}}},
        "leave gridUniqKey out of setNode.labels",
    ),
    "illegal annotation": ("NodeUnit", {"setNode": {"annotations": {"a b": "c"}}}, "can carry as an annotation"),
    "illegal taint": (
        "NodeUnit",
        {"setNode": {"taints": [{"key": "a", "effect": "Sometimes"}]}},
        "Unsupported value",
    ),
    "unknown field": ("NodeUnit", {"selektor": {}}, "unknown field"),
    "illegal key": ("NodeUnit", {"gridUniqKey": "a b"}, "gridUniqKey is not a legal node label key"),
    "group, empty selector": ("NodeGroup", {"selector": {}}, "the selector is empty and would select everything"),
    "group, own key": ("NodeGroup", {"autoFindNodeKeys": ["KEY"]}, "leave gridUniqKey out of autoFindNodeKeys"),
}


@pytest.mark.parametrize("case", _REFUSALS)
def test_mistake_is_refused_in_words(units: Units, case: str) -> None:
    """What cannot work is refused by the API server at once, with a sentence that helps."""
    kind, spec, message = _REFUSALS[case]
    spec = json.loads(json.dumps(spec).replace('"KEY"', f'"{units.world.key}"'))
    assert message in units.refused(kind, spec)


def test_long_name_needs_a_unit(units: Units) -> None:
    """The name is the unit where none is given, and a label value has at most 63 characters."""
    assert "set spec.unit" in units.refused("NodeUnit", {}, name=_LONG)


def test_key_and_unit_cannot_be_changed(units: Units) -> None:
    """All nodes would move at once."""
    name = units.unit("hz", unit="hz")
    for change in ({"gridUniqKey": "other"}, {"unit": "other"}, {"unit": None}):
        patch = json.dumps({"spec": change})
        result = units.plane.kubectl("patch", "nodeunit", name, "--type=merge", "-p", patch, check=False)
        assert result.returncode, change
        assert "cannot be" in result.stderr
