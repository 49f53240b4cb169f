"""What NodeUnits say about units."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import NodeGroup, NodeUnit, NodeUnitSpec
from sitegrid.grid.names import is_dns_subdomain
from sitegrid.grid.nodeunits import (
    Declaration,
    declared,
    generated_node_group,
    generated_node_unit,
    is_generated,
)


def _unit(name: str, created: str = "2026-01-01T00:00:00Z", *, deleting: bool = False, **spec: Any) -> NodeUnit:
    labels = spec.pop("labels", {})
    metadata = ObjectMeta(
        name=name, creation_timestamp=created, labels=labels, deletion_timestamp=created if deleting else ""
    )
    return NodeUnit(metadata=metadata, spec=NodeUnitSpec(**{"grid_uniq_key": "zone", **spec}))


def test_declaration_has_labels_values_and_suspension() -> None:
    """A NodeUnit says these about its unit, which has the object's name where spec.unit does not say."""
    units = [
        _unit("hangzhou", labels={"tier": "gold"}, values={"registry": "r.hz"}),
        _unit("x", unit="Beijing", suspend=True),
    ]
    assert declared(units) == {
        ("zone", "hangzhou"): Declaration({"tier": "gold"}, {"registry": "r.hz"}),
        ("zone", "Beijing"): Declaration(suspended=True),
    }


def test_first_of_two_speaks() -> None:
    """A later NodeUnit for the same unit does not take it over, whatever order they come in."""
    first = _unit("b", "2026-01-01T00:00:00Z", unit="hz", values={"x": "first"})
    second = _unit("a", "2026-01-02T00:00:00Z", unit="hz", values={"x": "second"})
    for order in ([first, second], [second, first]):
        assert declared(order)["zone", "hz"].values == {"x": "first"}


def test_same_value_of_another_key_is_another_unit() -> None:
    """Units are told apart by key and value."""
    units = [_unit("a", unit="hz"), _unit("b", unit="hz", grid_uniq_key="region")]
    assert len(declared(units)) == 2


def test_deleted_one_speaks_no_more() -> None:
    """A NodeUnit that is on its way out says nothing."""
    assert declared([_unit("hz", deleting=True)]) == {}


def _made(key: str, value: str, *, taken: bool = False) -> NodeUnit:
    manifest = generated_node_unit(key, value, lambda name: taken)
    found: NodeUnit = msgspec.convert(manifest, NodeUnit)
    return found


def test_made_one_says_nothing_and_gives_way() -> None:
    """A NodeUnit that sitegrid made declares nothing, and an older one does not speak for a user's."""
    made = _made("zone", "hz")
    made.metadata.creation_timestamp = "2020-01-01T00:00:00Z"
    assert declared([made]) == {}
    assert declared([made, _unit("mine", unit="hz", values={"a": "b"})])["zone", "hz"].values == {"a": "b"}


def test_made_one_with_something_of_a_users_is_the_users() -> None:
    """A label or a field that somebody put into it makes it theirs."""
    assert is_generated(_made("zone", "hz"))
    labelled = _made("zone", "hz")
    labelled.metadata.labels["tier"] = "gold"
    assert not is_generated(labelled)
    suspended = _made("zone", "hz")
    suspended.spec = NodeUnitSpec(grid_uniq_key="zone", unit="hz", suspend=True)
    assert not is_generated(suspended)
    assert declared([suspended])["zone", "hz"].suspended
    assert is_generated(msgspec.convert(generated_node_group("zone", lambda name: False), NodeGroup))


def test_names_are_readable_where_they_can_be() -> None:
    """`<key>-<value>` and `<key>`; slug and hash where that is no legal name, or somebody else's."""
    assert _made("zone", "hz").metadata.name == "zone-hz"
    assert generated_node_group("zone", lambda name: False)["metadata"]["name"] == "zone"
    assert _made("zone", "NodeUnit1").metadata.name.startswith("zone-nodeunit1-")
    assert _made("zone", "hz", taken=True).metadata.name.startswith("zone-hz-")
    slashed = generated_node_group("topology.kubernetes.io/zone", lambda name: False)["metadata"]["name"]
    assert slashed.startswith("topology-kubernetes-io-zone-")


_keys = st.text("aZ1-._/", min_size=1, max_size=80)
_values = st.text("aZ1-._", min_size=1, max_size=63)


@given(_keys, _values, _keys, _values)
def test_names_are_legal_and_unique(key: str, value: str, other_key: str, other_value: str) -> None:
    """Two units never have the same second name, and every name is one that the API server takes."""
    one, other = _made(key, value, taken=True), _made(other_key, other_value, taken=True)
    assert is_dns_subdomain(one.metadata.name)
    assert is_dns_subdomain(_made(key, value).metadata.name)
    assert (one.metadata.name == other.metadata.name) == ((key, value) == (other_key, other_value))
