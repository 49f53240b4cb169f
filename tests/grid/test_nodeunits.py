"""What NodeUnits say about units."""

from __future__ import annotations

from typing import Any

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import NodeUnit, NodeUnitSpec
from sitegrid.grid.nodeunits import Declaration, declared


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
