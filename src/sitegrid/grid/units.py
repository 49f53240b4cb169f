"""Finds the units of a unique key: all nodes that carry the same non-empty value of it, and what NodeUnits say.

Called by the controller whenever a node's labels or a NodeUnit change. A node that is not ready, or that cannot be
reached, is a node of its unit like any other (invariant I5). Held by ``tests/grid/test_units.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sitegrid.grid.nodeunits import Declaration, UnitOfKey
from sitegrid.grid.overrides import Unit

_NOBODY: Final[frozenset[str]] = frozenset()
_NOTHING: Final[Mapping[UnitOfKey, Declaration]] = {}
_UNDECLARED: Final = Declaration()


@dataclass(frozen=True, slots=True)
class UnitInfo:
    """One unit."""

    unit: Unit
    """What overrides and templates can know of it."""
    nodes: frozenset[str] = field(default=_NOBODY)
    """The names of its nodes; without any the unit is only declared, and nothing is to run there."""
    suspended: bool = False
    """Whether its NodeUnit is suspended: no child of it is made, changed or deleted."""


Units = Mapping[str, UnitInfo]
"""The units of one key, by their value, in the order of the values."""


def units_of(
    key: str,
    nodes: Iterable[tuple[str, Mapping[str, str]]],
    declared: Mapping[UnitOfKey, Declaration] = _NOTHING,
) -> Units:
    """Return the units that `key` divides `nodes` (name, labels) into, and those that NodeUnits have `declared`.

    A node without the key, or with an empty value, is in no unit. Every unit has the label ``<key>=<value>``.
    """
    members: dict[str, set[str]] = {}
    for name, labels in nodes:
        value = labels.get(key)
        if value:
            members.setdefault(value, set()).add(name)
    named = {value for of_key, value in declared if of_key == key}
    units = {}
    for value in sorted(members.keys() | named):
        said = declared.get((key, value), _UNDECLARED)
        unit = Unit(key, value, {**said.labels, key: value}, said.values)
        units[value] = UnitInfo(unit, frozenset(members.get(value, ())), said.suspended)
    return units


def unit_of_node(units: Units) -> dict[str, str]:
    """Return the unit's value by the node's name."""
    return {node: value for value, info in units.items() for node in info.nodes}
