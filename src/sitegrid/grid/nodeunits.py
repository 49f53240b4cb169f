"""What NodeUnit objects say about units: labels and values for overrides, and suspension.

Called by the controller for workload planning, and by everything that asks which of several NodeUnits speaks for a
unit: the first by creation time, so that a later one cannot take a unit over. Held by
``tests/grid/test_nodeunits.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import NodeUnit

UnitOfKey = tuple[str, str]
"""A unit: its unique key and its value."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is declared about one unit."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """The NodeUnit's own labels (metadata.labels), which grids select units by."""
    values: Mapping[str, str] = field(default_factory=dict)
    """For the substitution in templates."""
    suspended: bool = False
    """Nothing in the unit is to be changed."""


def declared(node_units: Iterable[NodeUnit]) -> Mapping[UnitOfKey, Declaration]:
    """Return what is declared about units, by key and value; a unit without NodeUnit is not in it."""
    return {
        unit: Declaration(node_unit.metadata.labels, node_unit.spec.values, node_unit.spec.suspend)
        for unit, node_unit in speakers(node_units).items()
    }


def speakers(node_units: Iterable[NodeUnit]) -> dict[UnitOfKey, NodeUnit]:
    """Return the NodeUnit that speaks for each unit: the first by creation time, then by name.

    One that is being deleted speaks no more.
    """
    found: dict[UnitOfKey, NodeUnit] = {}
    for node_unit in sorted(node_units, key=lambda item: seniority(item.metadata)):
        if not node_unit.metadata.deletion_timestamp:
            found.setdefault((node_unit.spec.grid_uniq_key, node_unit.unit), node_unit)
    return found


def seniority(metadata: ObjectMeta) -> tuple[str, str]:
    """Return what objects are ordered by where the first of them prevails (RFC 3339 in UTC sorts as text)."""
    return (metadata.creation_timestamp, metadata.name)
