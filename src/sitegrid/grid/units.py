"""Finds the units of a unique key: all nodes that carry the same non-empty value of it.

Called by the controller whenever a node's labels change. A node that is not ready, or that cannot be reached, is a
node of its unit like any other (invariant I5). Held by ``tests/grid/test_units.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Units = Mapping[str, frozenset[str]]
"""The nodes' names by the unit's value."""


def find_units(nodes: Iterable[tuple[str, Mapping[str, str]]], key: str) -> Units:
    """Return the units that `key` divides `nodes` (name, labels) into, in the order of their values.

    A node without the key, or with an empty value, is in no unit.
    """
    units: dict[str, set[str]] = {}
    for name, labels in nodes:
        value = labels.get(key)
        if value:
            units.setdefault(value, set()).add(name)
    return {value: frozenset(units[value]) for value in sorted(units)}


def unit_of_node(units: Units) -> dict[str, str]:
    """Return the unit's value by the node's name."""
    return {node: value for value, nodes in units.items() for node in nodes}
