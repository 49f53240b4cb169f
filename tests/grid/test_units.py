"""Which nodes are a unit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sitegrid.grid.units import find_units, unit_of_node

_labels = st.dictionaries(st.sampled_from(["zone", "test", "disk"]), st.sampled_from(["", "a", "b", "NodeUnit1"]))
_nodes = st.dictionaries(st.text("abc123", min_size=1, max_size=4), _labels)


def test_nodes_with_one_value_are_a_unit() -> None:
    """The article's nodes."""
    nodes = [("node12", {"zone": "NodeUnit1", "test": "a1"}), ("node14", {"zone": "NodeUnit1"}), ("node21", {})]
    assert find_units(nodes, "zone") == {"NodeUnit1": frozenset({"node12", "node14"})}
    assert find_units(nodes, "test") == {"a1": frozenset({"node12"})}


def test_empty_value_is_no_unit() -> None:
    """A label without a value puts a node in no unit."""
    assert find_units([("node", {"zone": ""})], "zone") == {}


@given(_nodes)
def test_every_node_is_in_the_unit_of_its_value(nodes: dict[str, dict[str, str]]) -> None:
    """A node is in exactly the unit that its label names, and in none without it."""
    by_node = unit_of_node(find_units(nodes.items(), "zone"))
    assert by_node == {name: labels["zone"] for name, labels in nodes.items() if labels.get("zone")}


@given(_nodes)
def test_order_of_nodes_is_no_difference(nodes: dict[str, dict[str, str]]) -> None:
    """Units come in the order of their values, whatever order the nodes came in."""
    forward, backward = find_units(nodes.items(), "zone"), find_units([*nodes.items()][::-1], "zone")
    assert [*forward.items()] == [*backward.items()]
    assert [*forward] == sorted(forward)
