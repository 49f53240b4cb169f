"""Given nodes, NodeUnits, NodeGroups and grids → expected writes; crashes after every write; rest at rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitegrid.grid.nodelimits import NodeLimits
from sitegrid.kube.errors import ApiError
from tests.support.lives import crash_after_every_write

Make = Callable[..., Any]


def _article(scene: Any) -> None:
    """Two units of a key that a grid uses, and a node of the cloud."""
    for name, value in (("node12", "NodeUnit1"), ("node14", "NodeUnit1"), ("node21", "nu2")):
        scene.node(name, zone=value)
    scene.node("cloud")
    scene.grid()


def _declared(scene: Any) -> None:
    """What makes every kind of write: a declared unit, a group, and what sitegrid makes by itself."""
    _article(scene)
    scene.node("free", region="east")
    scene.unit(
        "hz",
        nodes=["cloud"],
        selector={"matchLabels": {"region": "east"}},
        setNode={
            "labels": {"tier": "gold"},
            "annotations": {"note": "hi"},
            "taints": [{"key": "edge", "effect": "NoSchedule"}],
        },
    )
    scene.group("sites", gridUniqKey="site", autoFindNodeKeys=["zone"])


async def test_units_in_use_are_seen(scene: Any, new_life: Make) -> None:
    """Each unit of a key that a grid uses gets a NodeUnit, the key a NodeGroup, each one create and one status."""
    _article(scene)
    await new_life(scene).until_rest()
    units = {obj["spec"]["unit"]: obj for obj in scene.api.of("nodeunits").values()}
    assert {*units} == {"NodeUnit1", "nu2"}
    assert units["nu2"]["metadata"]["name"] == "zone-nu2"
    assert units["nu2"]["metadata"]["labels"]["tkeedge.io/grid-uniq-key"] == "zone"
    assert units["nu2"]["metadata"]["labels"]["tkeedge.io/unit"] == "zone.nu2"
    status = units["NodeUnit1"]["status"]
    assert (status["nodes"], status["nodeCount"], status["readyNodes"]) == (["node12", "node14"], 2, 2)
    assert status["grids"] == ["ServiceGrid shop/web"]
    group = scene.api.of("nodegroups")["zone"]["status"]
    assert (group["units"], group["nodeCount"], group["grids"]) == (["NodeUnit1", "nu2"], 3, ["ServiceGrid shop/web"])
    assert len(scene.api.writes) == 6


async def test_grids_are_told_where_they_run(scene: Any, new_life: Make) -> None:
    """A grid that leaves a unit out is not named by its NodeUnit, whether by name or by the NodeUnit's labels."""
    _article(scene)
    scene.unit("second", unit="nu2")
    scene.workload("some", units={"exclude": {"names": ["nu2"]}})
    life = new_life(scene)
    await life.until_rest()
    (other,) = (name for name in scene.api.of("nodeunits") if name != "second")
    both = ["DeploymentGrid shop/some", "ServiceGrid shop/web"]
    assert scene.api.of("nodeunits")[other]["status"]["grids"] == both
    assert scene.api.of("nodeunits")["second"]["status"]["grids"] == ["ServiceGrid shop/web"]
    scene.workload("some", units={"include": {"selector": {"matchLabels": {"zone": "nu2"}}}})
    await life.until_rest()
    assert scene.api.of("nodeunits")[other]["status"]["grids"] == ["ServiceGrid shop/web"]
    assert scene.api.of("nodeunits")["second"]["status"]["grids"] == both
    assert scene.api.of("nodegroups")["zone"]["status"]["grids"] == both


async def test_unused_ones_go(scene: Any, new_life: Make) -> None:
    """A unit without nodes, and all of a key that no grid uses any more."""
    _article(scene)
    life = new_life(scene)
    await life.until_rest()
    scene.node("node21", zone="NodeUnit1")
    await life.until_rest()
    assert [obj["spec"]["unit"] for obj in scene.api.of("nodeunits").values()] == ["NodeUnit1"]
    scene.remove("servicegrids", "web")
    await life.until_rest()
    assert scene.api.of("nodeunits") == {}
    assert scene.api.of("nodegroups") == {}


@pytest.mark.parametrize("touch", ["suspend", "label"])
async def test_what_a_user_touched_stays(scene: Any, new_life: Make, touch: str) -> None:
    """A made NodeUnit into which a user put something is theirs: it outlives its nodes and the grids."""
    _article(scene)
    life = new_life(scene)
    await life.until_rest()
    unit = scene.api.of("nodeunits")["zone-nu2"]
    if touch == "suspend":
        scene.api.put("nodeunits", {**unit, "spec": {**unit["spec"], "suspend": True}})
    else:
        labels = {**unit["metadata"]["labels"], "tier": "gold"}
        scene.api.put("nodeunits", {**unit, "metadata": {**unit["metadata"], "labels": labels}})
    await life.until_rest()
    before = scene.api.of("nodeunits")["zone-nu2"]["spec"]
    scene.remove("servicegrids", "web")
    scene.remove("nodes", "node21")
    await life.until_rest()
    assert [*scene.api.of("nodeunits")] == ["zone-nu2"]
    assert scene.api.of("nodeunits")["zone-nu2"]["spec"] == before


async def test_users_node_unit_takes_the_made_ones_place(scene: Any, new_life: Make) -> None:
    """There is one NodeUnit for a unit, the user's, whatever its name; a name that a user took is left to them."""
    _article(scene)
    life = new_life(scene)
    await life.until_rest()
    scene.unit("mine", unit="nu2", values={"a": "b"})
    scene.unit("zone-nu3", gridUniqKey="region")
    scene.node("node31", zone="nu3")
    await life.until_rest()
    units = {
        (obj["spec"]["gridUniqKey"], obj["spec"].get("unit")): name for name, obj in scene.api.of("nodeunits").items()
    }
    assert units["zone", "nu2"] == "mine"
    assert units["zone", "nu3"].startswith("zone-nu3-")
    assert scene.api.of("nodeunits")["mine"]["status"]["nodes"] == ["node21"]
    scene.remove("nodeunits", "mine")
    await life.until_rest()
    assert scene.api.of("nodeunits")["zone-nu2"]["status"]["nodes"] == ["node21"]


async def test_made_ones_come_back(scene: Any, new_life: Make) -> None:
    """Deleted by hand, they are made again."""
    _article(scene)
    life = new_life(scene)
    await life.until_rest()
    scene.remove("nodeunits", "zone-nu2")
    scene.remove("nodegroups", "zone")
    await life.until_rest()
    assert "zone-nu2" in scene.api.of("nodeunits")
    assert "zone" in scene.api.of("nodegroups")


async def test_heartbeats_write_nothing(scene: Any, new_life: Make) -> None:
    """A report that nothing has changed gives not even a key of work (I7)."""
    _declared(scene)
    life = new_life(scene)
    await life.until_rest()
    writes = len(scene.api.writes)
    for name in scene.api.of("nodes"):
        scene.heartbeat(name)
    life.sync()
    assert not life.queue.keys
    life.triggers.add_all()
    await life.until_rest()
    assert len(scene.api.writes) == writes


async def test_readiness_is_written_at_most_every_few_seconds(scene: Any, new_life: Make) -> None:
    """However often a node flaps, its unit's status is written at most once in three seconds."""
    _article(scene)
    life = new_life(scene)
    await life.until_rest()
    before = scene.api.writes.count("status nodeunits zone-nu2")
    for number in range(30):
        scene.node("node21", ready=bool(number % 2))
        life.clock += 0.2
        life.sync()
        await life.work()
    assert 1 <= scene.api.writes.count("status nodeunits zone-nu2") - before <= 3
    await life.until_rest()
    assert scene.api.of("nodeunits")["zone-nu2"]["status"]["readyNodes"] == 1


async def test_one_of_two_hundred_units_is_one_write(scene: Any, new_life: Make) -> None:
    """A node that becomes unready is told by its NodeUnit and its NodeGroup, and by no other."""
    scene.grid()
    for number in range(200):
        scene.node(f"n{number}", zone=f"u{number}")
    life = new_life(scene)
    await life.until_rest()
    before = len(scene.api.writes)
    scene.node("n7", ready=False)
    await life.until_rest()
    assert sorted(scene.api.writes[before:]) == ["status nodegroups zone", "status nodeunits zone-u7"]


async def test_declared_members_get_the_label(scene: Any, new_life: Make) -> None:
    """By name and by selector, with labels, annotations and taints; others' stay."""
    _declared(scene)
    await new_life(scene).until_rest()
    for name in ("cloud", "free"):
        assert scene.labels(name).items() >= {"zone": "hz", "tier": "gold", "site": "hz"}.items()
    assert scene.labels("node21") == {"zone": "nu2", "site": "nu2"}
    assert scene.api.of("nodes")["cloud"]["spec"]["taints"] == [{"key": "edge", "effect": "NoSchedule"}]
    assert scene.api.of("nodeunits")["hz"]["status"]["nodes"] == ["cloud", "free"]
    assert scene.reason("nodeunits", "hz", "Ready") == "NodesReady"


async def test_mistyped_selector_empties_no_site(scene: Any, new_life: Make) -> None:
    """Members that fall out keep everything for the grace period, and forever if the mistake is repaired (I5)."""
    _declared(scene)
    life = new_life(scene)
    await life.until_rest()
    before = scene.result()["nodes"]
    spec = scene.api.of("nodeunits")["hz"]["spec"]
    scene.unit("hz", **{**spec, "nodes": [], "selector": {"matchLabels": {"region": "eats"}}})
    await life.until_rest()
    assert scene.labels("cloud")["zone"] == "hz"
    assert scene.api.of("nodeunits")["hz"]["status"]["leavingNodes"] == 2
    scene.unit("hz", **spec)
    await life.until_rest()
    await life.later(1000)
    assert scene.result()["nodes"] == before
    assert scene.api.of("nodeunits")["hz"]["status"]["leavingNodes"] == 0


async def test_deleted_node_unit_lets_go_after_its_grace_period(scene: Any, new_life: Make) -> None:
    """Also when another life of the controller has to do it."""
    scene.node("a", taints=[{"key": "x", "effect": "NoSchedule"}], region="east")
    before = scene.result()["nodes"]
    scene.unit(
        "hz",
        nodes=["a"],
        setNode={"labels": {"tier": "gold"}, "taints": [{"key": "edge", "effect": "NoSchedule"}]},
        removal={"gracePeriodSeconds": 60},
    )
    life = new_life(scene)
    await life.until_rest()
    scene.remove("nodeunits", "hz")
    await life.until_rest()
    assert scene.labels("a")["zone"] == "hz"
    other = new_life(scene, life.clock)
    await other.until_rest()
    assert scene.labels("a")["zone"] == "hz"
    await other.later(60)
    after = scene.result()["nodes"]
    assert after["a"][0] == before["a"][0]
    assert after["a"][2] == before["a"][2]
    assert not after["a"][1]


_RESERVED = {
    "labels": {"tier": "gold", "node-role.kubernetes.io/control-plane": "x"},
    "annotations": {
        "note": "hi",
        "node.alpha.kubernetes.io/ttl": "0",
        # Would say that the node's own taint was set by a NodeUnit that does not exist, and may be taken off.
        "taints.nodeunit.tkeedge.io/ghost": '[["theirs","NoSchedule"]]',
    },
    "taints": [{"key": "edge", "effect": "NoExecute"}, {"key": "edge", "effect": "NoSchedule"}],
}
_ALL = NodeLimits(("*",), no_execute=True)


async def test_reserved_keys_and_evicting_taints_are_refused(scene: Any, new_life: Make) -> None:
    """They are left out and told, in a condition and one event; the rest is done, and other NodeUnits go on."""
    scene.node("a", taints=[{"key": "theirs", "effect": "NoSchedule"}])
    scene.node("b")
    scene.unit("hz", nodes=["a"], setNode=_RESERVED)
    scene.unit("bj", nodes=["b"], setNode={"labels": {"tier": "silver"}})
    life = new_life(scene)
    await life.until_rest()
    labels, annotations, taints = scene.result()["nodes"]["a"]
    assert labels == {"zone": "hz", "tier": "gold"}
    assert {key for key in annotations if ".tkeedge.io/" not in f".{key}"} == {"note"}
    assert taints == [{"key": "theirs", "effect": "NoSchedule"}, {"key": "edge", "effect": "NoSchedule"}]
    assert scene.labels("b") == {"zone": "bj", "tier": "silver"}
    assert scene.reason("nodeunits", "hz") == "NodeKeyRefused"
    assert scene.reason("nodeunits", "bj") == "AsExpected"
    ((reason, note),) = life.recorder.events
    assert reason == "NodeKeyRefused"
    assert "edge:NoExecute" in note
    scene.unit("hz", nodes=["a"], setNode={"labels": {"tier": "gold"}})
    await life.until_rest()
    assert scene.reason("nodeunits", "hz") == "AsExpected"


async def test_what_was_set_before_it_was_refused_is_taken_back(scene: Any, new_life: Make) -> None:
    """By a controller that was told otherwise, or an earlier version: at once, as any change of setNode."""
    scene.node("a", taints=[{"key": "theirs", "effect": "NoSchedule"}], region="east")
    sets = {
        "labels": {"tier": "gold", "topology.kubernetes.io/zone": "z"},
        "annotations": {"x.k8s.io/note": "y"},
        "taints": [{"key": "edge", "effect": "NoExecute"}, {"key": "node.kubernetes.io/x", "effect": "NoSchedule"}],
    }
    scene.unit("hz", nodes=["a"], setNode=sets)
    before = new_life(scene, limits=_ALL)
    await before.until_rest()
    assert scene.reason("nodeunits", "hz") == "AsExpected"
    assert len(scene.result()["nodes"]["a"][2]) == 3
    await new_life(scene, before.clock).until_rest()
    labels, annotations, taints = scene.result()["nodes"]["a"]
    assert labels == {"region": "east", "zone": "hz", "tier": "gold"}
    assert "x.k8s.io/note" not in annotations
    assert taints == [{"key": "theirs", "effect": "NoSchedule"}]
    assert scene.reason("nodeunits", "hz") == "NodeKeyRefused"


async def test_reserved_unit_label_that_was_set_goes_after_the_grace_period(scene: Any, new_life: Make) -> None:
    """A site is not emptied by an upgrade (I5): there is time to tell the controller otherwise."""
    key = "topology.kubernetes.io/zone"
    scene.node("a")
    scene.node("b", **{key: "hz"})
    scene.unit("hz", gridUniqKey=key, nodes=["a", "b"], setNode={"labels": {"tier": "gold"}})
    before = new_life(scene, limits=_ALL)
    await before.until_rest()
    assert scene.labels("a") == {key: "hz", "tier": "gold"}
    after = new_life(scene, before.clock)
    await after.until_rest()
    assert scene.labels("a") == {key: "hz", "tier": "gold"}
    assert scene.reason("nodeunits", "hz") == "NodeKeyRefused"
    assert scene.api.of("nodeunits")["hz"]["status"]["leavingNodes"] == 1
    told = new_life(scene, after.clock, limits=_ALL)
    await told.until_rest()
    assert scene.api.of("nodeunits")["hz"]["status"]["leavingNodes"] == 0
    last = new_life(scene, told.clock)
    await last.until_rest()
    await last.later(600)
    assert scene.labels("a") == {}
    assert scene.labels("b") == {key: "hz", "tier": "gold"}


async def test_group_of_a_reserved_key_is_told(scene: Any, new_life: Make) -> None:
    """It writes the key as little as a NodeUnit does, and other groups go on."""
    scene.node("a", rack="r1")
    scene.group("zones", gridUniqKey="topology.kubernetes.io/zone", autoFindNodeKeys=["rack"])
    scene.group("sites", gridUniqKey="site", autoFindNodeKeys=["rack"])
    await new_life(scene).until_rest()
    assert scene.labels("a") == {"rack": "r1", "site": "r1"}
    assert scene.reason("nodegroups", "zones") == "NodeKeyRefused"
    assert scene.reason("nodegroups", "sites") == "AsExpected"


async def test_node_of_two_units_is_reported(scene: Any, new_life: Make) -> None:
    """The first keeps it; the second says why it is Degraded, in a condition and an event, until it is repaired."""
    scene.node("a")
    scene.unit("one", nodes=["a"])
    scene.unit("two", nodes=["a"])
    life = new_life(scene)
    await life.until_rest()
    assert scene.labels("a") == {"zone": "one"}
    assert scene.reason("nodeunits", "two") == "NodeInOtherUnit"
    assert scene.reason("nodeunits", "one") == "AsExpected"
    assert life.recorder.events == [("NodeInOtherUnit", "node a is in unit one of zone already, by NodeUnit one")]
    scene.unit("two", nodes=[])
    await life.until_rest()
    assert scene.reason("nodeunits", "two") == "AsExpected"


async def test_mistake_of_one_object_repaired_in_another_is_reported(scene: Any, new_life: Make) -> None:
    """What closes a circle is told so, and told when the other side of the circle is gone."""
    scene.unit("a", selector={"matchLabels": {"rack": "b"}})
    scene.unit("b", gridUniqKey="rack", selector={"matchLabels": {"zone": "a"}})
    life = new_life(scene)
    await life.until_rest()
    assert scene.reason("nodeunits", "b") == "CircularSelector"
    scene.unit("a", selector={"matchLabels": {"region": "east"}})
    scene.node("n")
    await life.until_rest()
    assert scene.reason("nodeunits", "b") == "AsExpected"


async def test_new_leader_takes_no_problem_back(scene: Any, new_life: Make) -> None:
    """A status is not written before all nodes were looked at: conditions do not flap when another replica leads."""
    scene.node("a", zone="elsewhere")
    scene.unit("hz", nodes=["a"])
    life = new_life(scene)
    await life.until_rest()
    writes = len(scene.api.writes)
    other = new_life(scene, life.clock)
    other.queue.keys = dict(sorted(other.queue.keys.items(), reverse=True))  # units before nodes
    assert next(iter(other.queue.keys)).kind == "NodeUnit"
    await other.until_rest()
    assert len(scene.api.writes) == writes


async def test_unknown_node_may_come_later(scene: Any, new_life: Make) -> None:
    """It is reported, and a member as soon as it is there."""
    scene.unit("hz", nodes=["late"])
    life = new_life(scene)
    await life.until_rest()
    assert scene.reason("nodeunits", "hz") == "UnknownNodes"
    scene.node("late")
    await life.until_rest()
    assert scene.labels("late") == {"zone": "hz"}
    assert scene.reason("nodeunits", "hz") == "AsExpected"


async def test_suspended_unit_is_left_as_it_is(scene: Any, new_life: Make) -> None:
    """Nothing is put on its nodes, and nothing taken off, until it goes on."""
    scene.node("a")
    scene.node("b")
    scene.unit("hz", nodes=["a"])
    life = new_life(scene)
    await life.until_rest()
    scene.unit("hz", nodes=["b"], suspend=True)
    await life.until_rest()
    await life.later(1000)
    assert (scene.labels("a"), scene.labels("b")) == ({"zone": "hz"}, {})
    scene.unit("hz", nodes=["b"])
    await life.until_rest()
    await life.later(1000)
    assert (scene.labels("a"), scene.labels("b")) == ({}, {"zone": "hz"})


async def test_found_units_follow_the_labels(scene: Any, new_life: Make) -> None:
    """A NodeGroup with autoFindNodeKeys makes units, and NodeUnits for them, of combinations of labels."""
    scene.node("a", region="east", rack="1")
    scene.node("b", region="east", rack="2")
    scene.node("c", region="east")
    scene.group("site", gridUniqKey="site", autoFindNodeKeys=["region", "rack"])
    life = new_life(scene)
    await life.until_rest()
    assert [scene.labels(name).get("site") for name in "abc"] == ["east-1", "east-2", None]
    assert {obj["spec"]["unit"] for obj in scene.api.of("nodeunits").values()} == {"east-1", "east-2"}
    scene.node("b", rack="1")
    await life.until_rest()
    assert scene.labels("b")["site"] == "east-1"
    assert [obj["spec"]["unit"] for obj in scene.api.of("nodeunits").values()] == ["east-1"]


@pytest.mark.parametrize("verb", ["apply", "patch"])
async def test_refused_write_is_reported_and_spaced_out(scene: Any, new_life: Make, verb: str) -> None:
    """A node that the API server does not let us change stops no other, and is tried ever more seldom."""
    scene.node("a")
    scene.node("b")
    scene.unit("hz", nodes=["a", "b"], setNode={"taints": [{"key": "edge", "effect": "NoSchedule"}]})
    error = ApiError(403, "Forbidden", "not allowed to")
    scene.api.refuse = lambda what, name: error if (what, name) == (verb, "a") else None
    life = new_life(scene)
    await life.until_rest()
    assert scene.labels("b") == {"zone": "hz"}
    assert scene.reason("nodeunits", "hz") == "Forbidden"
    for _ in range(100):
        await life.later(1.0)
    assert 4 <= scene.api.refused <= 12
    scene.api.refuse = lambda what, name: None
    await life.later(200)
    assert scene.labels("a") == {"zone": "hz"}
    assert scene.api.of("nodes")["a"]["spec"]["taints"]
    assert scene.reason("nodeunits", "hz") == "AsExpected"


async def test_refused_mark_is_spaced_out(scene: Any, new_life: Make) -> None:
    """Although the moment that it notes is another one at every try."""
    scene.node("a")
    scene.unit("hz", nodes=["a"])
    life = new_life(scene)
    await life.until_rest()
    scene.remove("nodeunits", "hz")
    scene.api.refuse = lambda what, name: ApiError(403, "Forbidden", "not allowed to") if what == "patch" else None
    for _ in range(100):
        await life.later(1.0)
    assert 4 <= scene.api.refused <= 12


async def test_stale_store_writes_nothing_twice(scene: Any, new_life: Make) -> None:
    """Work that comes before the events of the former writes repeats nothing."""
    _declared(scene)
    life = new_life(scene)
    for _ in range(3):
        life.triggers.add_all()
        await life.work()
    assert [write for write, count in Counter(scene.api.writes).items() if count > 1] == []


async def _life_story(scene: Any, life: Any) -> None:
    """All kinds of writes: join, report, change, leave, delete."""
    await life.until_rest()
    spec = scene.api.of("nodeunits")["hz"]["spec"]
    scene.unit("hz", **{**spec, "nodes": ["node21"], "setNode": {"labels": {"tier": "silver"}}})
    scene.remove("nodes", "node12")
    await life.until_rest()
    await life.later(700)
    await life.later(700)  # the units found by the former ones' labels follow


async def test_crash_after_every_write(new_scene: Make, new_life: Make) -> None:
    """Killed after any single write and started again, it reaches the same state, and stays."""

    async def declared(scene: Any) -> None:
        _declared(scene)

    await crash_after_every_write(new_scene, new_life, declared)


async def test_crash_after_every_write_of_changes(new_scene: Make, new_life: Make) -> None:
    """The same for members that leave and come, other things to set, and a node that is gone."""

    async def declared(scene: Any) -> Any:
        _declared(scene)
        life = new_life(scene)
        await life.until_rest()
        return life

    async def recovery(scene: Any, life: Any) -> None:
        await life.until_rest()
        assert scene.api.of("nodeunits")["hz"]["spec"]["nodes"] == ["node21"]
        await life.later(700)
        await life.later(700)

    await crash_after_every_write(new_scene, new_life, declared, story=_life_story, recovery=recovery)


_events = ("work", "work", "again", "restart", "nodes", "nodeunits", "nodegroups")
_users = ("nodes of hz", "set", "declare", "region", "unlabel", "heartbeat", "time")
_steps = st.lists(st.sampled_from((*_events, *_users)), max_size=30)


def _declare(scene: Any, declared: bool, nodes: list[str], tier: str) -> None:
    if declared:
        taints = [{"key": "edge", "value": tier, "effect": "NoSchedule"}]
        spec = {"setNode": {"labels": {"tier": tier}, "taints": taints}, "removal": {"gracePeriodSeconds": 60}}
        scene.unit("hz", nodes=nodes, selector={"matchLabels": {"region": "east"}}, **spec)
    elif "hz" in scene.api.of("nodeunits"):
        scene.remove("nodeunits", "hz")


def _given(scene: Any) -> None:
    scene.node("a", taints=[{"key": "theirs", "effect": "NoSchedule"}])
    scene.node("b", theirs="kept")
    scene.grid()
    scene.group("sites", gridUniqKey="site", autoFindNodeKeys=["tier"])


@given(steps=_steps)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
async def test_any_order_of_events_comes_to_the_same(new_scene: Make, new_life: Make, steps: list[str]) -> None:
    """Stores that lag behind each other, keys twice, restarts, users that change their minds: the end is the same."""
    scene = new_scene()
    _given(scene)
    declared, nodes, tier, east = True, ["a"], "gold", False
    _declare(scene, declared, nodes, tier)
    life = new_life(scene)
    for step in steps:
        if step == "work":
            await life.work()
        elif step == "again":
            life.triggers.add_all()
        elif step == "restart":
            life = new_life(scene, life.clock)
        elif step == "time":
            life.clock += 50
        elif step == "unlabel":
            scene.unlabel("a", "zone")
        elif step == "heartbeat":
            scene.heartbeat("a")
        elif step == "region":
            east = not east
            scene.node("b", region="east" if east else "west")
        elif step in ("nodes of hz", "set", "declare"):
            nodes = ["b"] if step == "nodes of hz" and nodes == ["a"] else ["a"] if step == "nodes of hz" else nodes
            tier = ("silver" if tier == "gold" else "gold") if step == "set" else tier
            declared = declared != (step == "declare")
            _declare(scene, declared, nodes, tier)
        else:
            life.sync(step)
    for _ in range(4):
        await life.later(700)
    fresh = new_scene()
    _given(fresh)
    if "region" in scene.labels("b"):
        fresh.node("b", region="east" if east else "west")
    _declare(fresh, declared, nodes, tier)
    other = new_life(fresh)
    for _ in range(4):
        await other.later(700)
    assert scene.result() == fresh.result()
    writes = len(scene.api.writes)
    await life.later(700)
    assert len(scene.api.writes) == writes
