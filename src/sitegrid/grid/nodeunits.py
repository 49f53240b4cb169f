"""NodeUnit and NodeGroup objects: which of several speaks for a unit, and those that sitegrid makes by itself.

Called by the controller for workload planning (`declared`) and for the objects themselves. An object that a user
wrote, or put anything into, is the user's: it is never deleted or rewritten (invariant I3). Of several for one unit
the first prevails, so that a later one cannot take a unit over. Held by ``tests/grid/test_nodeunits.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sitegrid.api.grids import API_VERSION
from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import NodeGroup, NodeGroupSpec, NodeUnit, NodeUnitSpec
from sitegrid.grid.names import MAX_NAME, is_dns_subdomain
from sitegrid.wire.labels import GRID_UNIQ_KEY, GROUP, UNIT, hashed_name, label_value, looks_hashed, unit_id

GENERATED: Final = f"{GROUP}/generated"
"""Label of the NodeUnits and NodeGroups that sitegrid made by itself."""

UnitOfKey = tuple[str, str]
"""A unit: its unique key and its value."""
Manifest = dict[str, Any]


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
    """Return what users have declared about units, by key and value; NodeUnits of our own making say nothing."""
    return {
        unit: Declaration(node_unit.metadata.labels, node_unit.spec.values, node_unit.spec.suspend)
        for unit, node_unit in speakers(node_units).items()
        if not is_generated(node_unit)
    }


def speakers(node_units: Iterable[NodeUnit]) -> dict[UnitOfKey, NodeUnit]:
    """Return the NodeUnit that speaks for each unit: a user's before a made one, then the first by creation time.

    One that is being deleted speaks no more.
    """
    found: dict[UnitOfKey, NodeUnit] = {}
    for node_unit in sorted(node_units, key=lambda item: (is_generated(item), *seniority(item.metadata))):
        if not node_unit.metadata.deletion_timestamp:
            found.setdefault((node_unit.spec.grid_uniq_key, node_unit.unit), node_unit)
    return found


def seniority(metadata: ObjectMeta) -> tuple[str, str]:
    """Return what objects are ordered by where the first of them prevails (RFC 3339 in UTC sorts as text)."""
    return (metadata.creation_timestamp, metadata.name)


def is_generated(item: NodeUnit | NodeGroup) -> bool:
    """Tell whether sitegrid made `item` and nobody has put a label or a field of their own into it."""
    key = item.spec.grid_uniq_key
    if isinstance(item, NodeUnit):
        return item.metadata.labels == _labels(key, item.unit) and item.spec == NodeUnitSpec(
            grid_uniq_key=key, unit=item.unit
        )
    return item.metadata.labels == _labels(key, None) and item.spec == NodeGroupSpec(grid_uniq_key=key)


def generated_node_unit(key: str, value: str, taken: Callable[[str], bool]) -> Manifest:
    """Return the NodeUnit to make for a unit; `taken` tells whether an object of another unit has a name."""
    name = _name(f"{key}-{value}", (key, value), taken)
    return _manifest(NodeUnit.KIND, name, _labels(key, value), {"gridUniqKey": key, "unit": value})


def generated_node_group(key: str, taken: Callable[[str], bool]) -> Manifest:
    """Return the NodeGroup to make for a key; `taken` tells whether an object of another key has a name."""
    return _manifest(NodeGroup.KIND, _name(key, (key,), taken), _labels(key, None), {"gridUniqKey": key})


def _name(plain: str, parts: tuple[str, ...], taken: Callable[[str], bool]) -> str:
    if is_dns_subdomain(plain) and not looks_hashed(plain) and not taken(plain):
        return plain
    return hashed_name(plain, *parts, max_length=MAX_NAME)


def _labels(key: str, value: str | None) -> dict[str, str]:
    unit = {} if value is None else {UNIT: unit_id(key, value)}
    return {GENERATED: "true", GRID_UNIQ_KEY: label_value(key), **unit}


def _manifest(kind: str, name: str, labels: dict[str, str], spec: Manifest) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}
