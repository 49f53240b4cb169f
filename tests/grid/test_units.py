"""Which nodes are a unit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sitegrid.grid.nodeunits import Declaration
from sitegrid.grid.units import unit_of_node, units_of

_labels = st.dictionaries(st.sampled_from(["zone", "test", "disk"]), st.sampled_from(["", "a", "b", "NodeUnit1"]))
_nodes = st.dictionaries(st.text("abc123", min_size=1, max_size=4), _labels)


def test_nodes_with_one_value_are_a_unit() -> None:
    """The article's nodes."""
    nodes = [("node12", {"zone": "NodeUnit1", "test": "a1"}), ("node14", {"zone": "NodeUnit1"}), ("node21", {})]
    zone, test = units_of("zone", nodes), units_of("test", nodes)
    assert {value: info.nodes for value, info in zone.items()} == {"NodeUnit1": frozenset({"node12", "node14"})}
    assert {value: info.nodes for value, info in test.items()} == {"a1": frozenset({"node12"})}


def test_empty_value_is_no_unit() -> None:
    """A label without a value puts a node in no unit."""
    assert units_of("zone", [("node", {"zone": ""})]) == {}


def test_unit_has_its_key_as_label() -> None:
    """A selector over units can always name them by their key, with or without a NodeUnit."""
    assert units_of("zone", [("node", {"zone": "a"})])["a"].unit.labels == {"zone": "a"}


def test_node_unit_gives_labels_values_and_suspension() -> None:
    """What a NodeUnit says is known of its unit, and of no unit of another key; its key stays what it is."""
    declared = {("zone", "a"): Declaration({"size": "big", "zone": "lie"}, {"mirror": "m"}, suspended=True)}
    nodes = [("node", {"zone": "a", "test": "a"})]
    info = units_of("zone", nodes, declared)["a"]
    assert (info.unit.labels, info.unit.values) == ({"size": "big", "zone": "a"}, {"mirror": "m"})
    assert (info.nodes, info.suspended) == (frozenset({"node"}), True)
    assert not units_of("test", nodes, declared)["a"].suspended


def test_declared_unit_without_nodes_is_known_and_empty() -> None:
    """A NodeUnit whose nodes are yet to come has none."""
    assert units_of("zone", [], {("zone", "later"): Declaration()})["later"].nodes == frozenset()


@given(_nodes)
def test_every_node_is_in_the_unit_of_its_value(nodes: dict[str, dict[str, str]]) -> None:
    """A node is in exactly the unit that its label names, and in none without it."""
    by_node = unit_of_node(units_of("zone", nodes.items()))
    assert by_node == {name: labels["zone"] for name, labels in nodes.items() if labels.get("zone")}


@given(_nodes)
def test_order_of_nodes_is_no_difference(nodes: dict[str, dict[str, str]]) -> None:
    """Units come in the order of their values, whatever order the nodes came in."""
    forward, backward = units_of("zone", nodes.items()), units_of("zone", [*nodes.items()][::-1])
    assert [*forward.items()] == [*backward.items()]
    assert [*forward] == sorted(forward)
