"""Who claims which node, what prevails, and which declarations are mistakes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import (
    LabelSelector,
    LabelSelectorRequirement,
    NodeGroup,
    NodeGroupSpec,
    NodeUnit,
    NodeUnitSpec,
    SetNode,
)
from sitegrid.grid.membership import (
    CIRCULAR_SELECTOR,
    INVALID_SELECTOR,
    NODE_IN_OTHER_UNIT,
    UNIT_DECLARED_TWICE,
    Declarers,
    Owner,
    decide,
    joined_value,
)
from sitegrid.grid.nodelimits import NODE_KEY_REFUSED, NodeLimits
from sitegrid.wire.labels import is_label_value


def _unit(name: str, day: int = 1, *, labels: dict[str, str] | None = None, **spec: Any) -> NodeUnit:
    metadata = ObjectMeta(name=name, creation_timestamp=f"2026-01-{day:02}T00:00:00Z", labels=labels or {})
    return NodeUnit(metadata=metadata, spec=NodeUnitSpec(**{"grid_uniq_key": "zone", **spec}))


def _group(name: str, day: int = 1, **spec: Any) -> NodeGroup:
    metadata = ObjectMeta(name=name, creation_timestamp=f"2026-01-{day:02}T00:00:00Z")
    return NodeGroup(metadata=metadata, spec=NodeGroupSpec(**spec))


def _node(name: str = "n", **labels: str) -> ObjectMeta:
    return ObjectMeta(name=name, labels=labels)


def _selector(**labels: str) -> LabelSelector:
    return LabelSelector(match_labels=labels)


def _owner(name: str) -> Owner:
    return Owner("NodeUnit", name)


def test_nodes_are_claimed_by_name_and_by_selector_once() -> None:
    """`nodes` and `selector` add up; a node found by both is claimed once, by name."""
    declarers = Declarers([_unit("hz", nodes=["a", "b"], selector=_selector(region="east"))], [])
    claims = [declarers.claims(node) for node in (_node("a"), _node("b", region="east"), _node("c", region="east"))]
    assert [[(claim.value, claim.by_name) for claim in found] for found in claims] == [
        [("hz", True)],
        [("hz", True)],
        [("hz", False)],
    ]
    assert declarers.claims(_node("d", region="west")) == []


_requirements = st.builds(
    lambda key, operator, values: LabelSelectorRequirement(
        key, operator, values if operator in ("In", "NotIn") else []
    ),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    st.lists(st.sampled_from(["1", "2"]), min_size=1, max_size=2, unique=True),
)


@given(
    st.lists(_requirements, min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2", "3"])),
)
def test_selector_finds_what_it_means(requirements: list[LabelSelectorRequirement], labels: dict[str, str]) -> None:
    """A node is claimed once if every requirement holds, and not at all otherwise."""
    declarers = Declarers([_unit("hz", selector=LabelSelector(match_expressions=requirements))], [])
    holds = {
        "In": lambda item: labels.get(item.key) in item.values,
        "NotIn": lambda item: labels.get(item.key) not in item.values,
        "Exists": lambda item: item.key in labels,
        "DoesNotExist": lambda item: item.key not in labels,
    }
    wanted = all(holds[item.operator](item) for item in requirements)
    assert len(declarers.claims(_node(**labels))) == int(wanted)


def test_unit_without_members_sets_only_where_the_label_is() -> None:
    """A NodeUnit that names no members is about the nodes that carry its label, and puts the label nowhere."""
    declarers = Declarers([_unit("hz", set_node=SetNode(labels={"tier": "gold"}))], [])
    (claim,) = declarers.claims(_node(zone="hz"))
    assert claim.by_label
    assert declarers.claims(_node(zone="bj")) == []


def test_node_of_two_units_goes_to_the_first() -> None:
    """Of two that claim a free node the older prevails, the other one is told which."""
    declarers = Declarers([_unit("bj", 2, nodes=["n"]), _unit("hz", 1, nodes=["n"])], [])
    decision = decide(_node(), declarers.claims(_node()), {}, ())
    assert [claim.value for claim in decision.won] == ["hz"]
    ((lost, problem),) = decision.lost
    assert (lost.value, problem.reason) == ("bj", NODE_IN_OTHER_UNIT)
    assert problem.message == "node n is in unit hz of zone already, by NodeUnit hz"


def test_neither_steals_what_the_other_has() -> None:
    """A node stays where it is, even if an older NodeUnit comes to name it."""
    declarers = Declarers([_unit("bj", 2, nodes=["n"]), _unit("hz", 1, nodes=["n"])], [])
    node = _node(zone="bj")
    decision = decide(node, declarers.claims(node), {_owner("bj"): {"zone": "bj"}}, ())
    assert [claim.value for claim in decision.won] == ["bj"]
    assert not decision.yielding


def test_label_set_by_hand_is_not_overwritten() -> None:
    """A node that somebody labelled otherwise is not taken."""
    declarers = Declarers([_unit("hz", nodes=["n"])], [])
    node = _node(zone="bj")
    decision = decide(node, declarers.claims(node), {}, ())
    assert not decision.won
    assert decision.lost[0][1].message.endswith("by somebody else: take its label off, kubectl label node n zone-")


def test_label_set_by_hand_to_the_same_value_is_shared() -> None:
    """A node that carries the right label already is a member."""
    declarers = Declarers([_unit("hz", nodes=["n"])], [])
    node = _node(zone="hz")
    assert [claim.value for claim in decide(node, declarers.claims(node), {}, ()).won] == ["hz"]


def test_different_keys_do_not_contest() -> None:
    """A node can be in one unit of each key."""
    declarers = Declarers([_unit("hz", nodes=["n"]), _unit("r1", grid_uniq_key="rack", nodes=["n"])], [])
    assert len(decide(_node(), declarers.claims(_node()), {}, ()).won) == 2


@pytest.mark.parametrize(("spec", "yields"), [({"nodes": ["n"]}, True), ({"selector": _selector(a="b")}, False)])
def test_leaving_node_goes_at_once_only_to_who_names_it(spec: dict[str, Any], yields: bool) -> None:
    """A node dropped from one unit and named by another moves; a selector has to wait for the grace period (I5)."""
    declarers = Declarers([_unit("old"), _unit("new", **spec)], [])
    node = _node(zone="old", a="b")
    decision = decide(node, declarers.claims(node), {_owner("old"): {"zone": "old"}}, ())
    assert decision.yielding == ({_owner("old")} if yields else set())
    assert not decision.won
    assert decision.lost[0][1].reason == NODE_IN_OTHER_UNIT


def test_suspended_unit_yields_no_node() -> None:
    """Suspended means that nothing changes, not even for another unit's sake."""
    declarers = Declarers([_unit("old", suspend=True), _unit("new", nodes=["n"])], [])
    node = _node(zone="old")
    decision = decide(node, declarers.claims(node), {_owner("old"): {"zone": "old"}}, declarers.frozen)
    assert not decision.yielding


def test_second_node_unit_of_a_unit_is_a_mistake() -> None:
    """The second claims nothing, and says why; what it has set stays."""
    declarers = Declarers([_unit("a", 1, unit="hz"), _unit("b", 2, unit="hz", nodes=["n"])], [])
    assert declarers.claims(_node()) == []
    assert declarers.problems[_owner("b")].reason == UNIT_DECLARED_TWICE
    assert _owner("b") in declarers.frozen


def test_circle_of_selectors_is_the_younger_ones_mistake() -> None:
    """Labels that follow from each other's: the one that closes the circle claims nothing, the older goes on."""
    older = _unit("a", 1, selector=_selector(rack="r1"))
    younger = _unit("r1", 2, grid_uniq_key="rack", selector=_selector(zone="a"))
    declarers = Declarers([younger, older], [])
    assert set(declarers.problems) == {_owner("r1")}
    assert declarers.problems[_owner("r1")].reason == CIRCULAR_SELECTOR
    assert [claim.value for claim in declarers.claims(_node(rack="r1", zone="a"))] == ["a"]


def test_selector_over_what_set_node_sets_is_circular() -> None:
    """The API refuses it; if it is there all the same, it claims nothing."""
    unit = _unit("a", selector=_selector(tier="gold"), set_node=SetNode(labels={"tier": "gold"}))
    assert Declarers([unit], []).problems[_owner("a")].reason == CIRCULAR_SELECTOR


@pytest.mark.parametrize(
    "selector",
    [
        LabelSelector(),
        LabelSelector(match_labels={"-": "x"}),
        LabelSelector(match_expressions=[LabelSelectorRequirement("a", "In")]),
    ],
)
def test_selector_that_kubernetes_refuses_claims_nothing(selector: LabelSelector) -> None:
    """An empty selector above all would take every node."""
    declarers = Declarers([_unit("a", selector=selector)], [])
    assert declarers.problems[_owner("a")].reason == INVALID_SELECTOR
    assert declarers.claims(_node(a="b")) == []


def test_group_finds_units_by_combinations_of_labels() -> None:
    """Nodes with all of the keys are claimed for the joined values, others not."""
    group = _group("sites", grid_uniq_key="site", auto_find_node_keys=["region", "rack"])
    declarers = Declarers([], [group])
    assert [claim.value for claim in declarers.claims(_node(region="east", rack="1"))] == ["east-1"]
    assert declarers.claims(_node(region="east")) == []
    assert declarers.claims(_node(region="east", rack="")) == []


def test_group_takes_units_of_other_keys() -> None:
    """The nodes of the NodeUnits that its selector finds are claimed for units of the same names."""
    units = [_unit("hz", labels={"tier": "gold"}), _unit("bj")]
    declarers = Declarers(units, [_group("g", grid_uniq_key="site", selector=_selector(tier="gold"))])
    assert [(claim.key, claim.value) for claim in declarers.claims(_node(zone="hz"))] == [("site", "hz")]
    assert declarers.claims(_node(zone="bj")) == []


def test_groups_that_take_each_others_units_are_circular() -> None:
    """The younger one takes nothing, so that no label ever follows from itself."""
    units = [_unit("hz", labels={"both": "yes"}), _unit("r1", grid_uniq_key="rack", labels={"both": "yes"})]
    groups = [
        _group("zones", 1, grid_uniq_key="zone", selector=_selector(both="yes")),
        _group("racks", 2, grid_uniq_key="rack", selector=_selector(both="yes")),
    ]
    declarers = Declarers(units, groups)
    assert {owner.token: problem.reason for owner, problem in declarers.problems.items()} == {
        "racks": CIRCULAR_SELECTOR
    }
    assert [(claim.key, claim.value) for claim in declarers.claims(_node(rack="r1"))] == [("zone", "r1")]


def test_node_of_two_units_that_a_group_takes_is_reported() -> None:
    """One of them has it, and the group says which node is in both."""
    units = [_unit("hz", labels={"both": "yes"}), _unit("r1", grid_uniq_key="rack", labels={"both": "yes"})]
    declarers = Declarers(units, [_group("g", grid_uniq_key="site", selector=_selector(both="yes"))])
    node = _node(zone="hz", rack="r1")
    decision = decide(node, declarers.claims(node), {}, ())
    assert [claim.value for claim in decision.won] == ["r1"]
    assert [(claim.value, problem.reason) for claim, problem in decision.lost] == [("hz", NODE_IN_OTHER_UNIT)]


ZONE = "topology.kubernetes.io/zone"


def _zoned(name: str, **labels: str) -> ObjectMeta:
    return ObjectMeta(name=name, labels={ZONE: "hz", **labels})


@pytest.mark.parametrize("members", [{"nodes": ["a", "b"]}, {"selector": _selector(region="east")}])
def test_reserved_key_is_used_where_it_is_and_written_nowhere(members: dict[str, Any]) -> None:
    """Nodes that carry it already are members by it, and get the rest; others are told, unless it is allowed."""
    units = [_unit("hz", grid_uniq_key=ZONE, set_node=SetNode(labels={"tier": "gold"}), **members)]
    has, lacks = _zoned("a", region="east"), ObjectMeta(name="b", labels={"region": "east"})
    strict = Declarers(units, [])
    found = decide(has, strict.claims(has), {}, strict.frozen)
    assert [(claim.by_label, claim.sets.labels) for claim in found.won] == [(True, {"tier": "gold"})]
    found = decide(lacks, strict.claims(lacks), {}, strict.frozen)
    assert found.won == []
    assert [problem.reason for _, problem in found.lost] == [NODE_KEY_REFUSED]
    assert "--allowed-node-keys" in found.lost[0][1].message
    told = Declarers(units, [], NodeLimits((ZONE,)))
    found = decide(lacks, told.claims(lacks), {}, told.frozen)
    assert [(claim.by_label, claim.value) for claim in found.won] == [(False, "hz")]


def test_reserved_key_that_was_written_is_claimed_no_more() -> None:
    """What an earlier version put there is no label of somebody else's: its node leaves, after the grace period."""
    declarers = Declarers([_unit("hz", grid_uniq_key=ZONE, nodes=["a"], set_node=SetNode({"tier": "gold"}))], [])
    node = _zoned("a")
    found = decide(node, declarers.claims(node), {_owner("hz"): {ZONE: "hz"}}, declarers.frozen)
    assert (found.won, [problem.reason for _, problem in found.lost]) == ([], [NODE_KEY_REFUSED])


def test_groups_write_no_reserved_key_either() -> None:
    """Neither from labels nor from other units."""
    groups = [
        _group("found", grid_uniq_key=ZONE, auto_find_node_keys=["rack"]),
        _group("grouped", grid_uniq_key="kubernetes.io/hostname", selector=_selector(tier="gold")),
    ]
    declarers = Declarers([_unit("hz", labels={"tier": "gold"})], groups)
    node = _node(rack="r1", zone="hz")
    found = decide(node, declarers.claims(node), {}, declarers.frozen)
    assert found.won == []
    assert [problem.reason for _, problem in found.lost] == [NODE_KEY_REFUSED] * 2


def test_refused_part_of_set_node_freezes_nothing() -> None:
    """The NodeUnit goes on with all else; what is left out is no part of a circle either."""
    sets = SetNode({"kubernetes.io/arch": "x", "tier": "gold"})
    unit = _unit("hz", nodes=["n"], selector=_selector(**{"kubernetes.io/arch": "x"}), set_node=sets)
    declarers = Declarers([unit], [])
    assert [problem.reason for problem in declarers.told(_owner("hz"))] == [NODE_KEY_REFUSED]
    assert not declarers.frozen
    assert [claim.sets.labels for claim in declarers.claims(_node())] == [{"tier": "gold"}]


_values = st.text("aB1-_.", min_size=1, max_size=70).filter(is_label_value)


@given(st.lists(_values, min_size=2, max_size=2), st.lists(_values, min_size=2, max_size=2))
def test_joined_values_are_legal_and_tell_combinations_apart(one: list[str], other: list[str]) -> None:
    """Two combinations never become one unit."""
    assert is_label_value(joined_value(one))
    assert (joined_value(one) == joined_value(other)) == (one == other)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.booleans()), max_size=6),
    st.sampled_from([None, "u0", "u1", "x"]),
)
def test_at_most_one_unit_of_a_key_prevails(units: list[tuple[int, int, bool]], present: str | None) -> None:
    """Whatever is declared, a node is never given two values of one key, and nobody's label is overwritten."""
    declared = [
        _unit(f"n{number}", day, unit=f"u{value}", **({"nodes": ["n"]} if named else {"selector": _selector(a="b")}))
        for number, (value, day, named) in enumerate(units)
    ]
    node = _node(a="b", **({"zone": present} if present else {}))
    declarers = Declarers(declared, [])
    claims = declarers.claims(node)
    decision = decide(node, claims, {}, declarers.frozen)
    values = {claim.value for claim in decision.won}
    assert len(values) <= 1
    if present is not None:
        assert values <= {present}
    assert len(decision.won) + len(decision.lost) == len(claims)
