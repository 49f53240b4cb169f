"""Tells which fields differ between two specs, named as users read them.

Called by `sitegrid.grid.overrides` with a spec before and after one override. Items of merged lists are told apart by
their merge key, so that a changed image is one field of one container and not a changed list. What both specs share
by identity is not looked at: the cost is that of the change and not of the spec. Held by
``tests/grid/test_overrides.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sitegrid.grid.fieldpath import FieldPath
from sitegrid.grid.patchfields import FREE, Field, field_of


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field that was set, or removed with everything below it."""

    path: FieldPath
    removed: bool = False


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any], type_name: str) -> Iterator[FieldChange]:
    """Yield the fields that differ between two specs of the type `type_name`.

    What is new is told field by field, what is gone in one piece. Items that stand in another order are told as
    ``$setElementOrder/<list>``, apart from what changed inside them.
    """
    yield from _maps(before, after, type_name, FieldPath())


def _maps(
    before: Mapping[str, Any], after: Mapping[str, Any], type_name: str, path: FieldPath
) -> Iterator[FieldChange]:
    for name, value in after.items():
        field = field_of(type_name, name)
        if name not in before:
            yield from _added(value, field, path.field(name))
        elif before[name] is not value:
            yield from _values(before[name], value, field, path.field(name))
    for name in before:
        if name not in after:
            yield FieldChange(path.field(name), removed=True)


def _values(before: object, after: object, field: Field | None, path: FieldPath) -> Iterator[FieldChange]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _maps(before, after, field.type if field else FREE, path)
        return
    old, new = _by_merge_key(before, field), _by_merge_key(after, field)
    if field is not None and old is not None and new is not None:
        yield from _lists(old, new, field, path)
    elif not _equal(before, after):
        yield FieldChange(path)


def _lists(
    old: dict[tuple[object, int], Any], new: dict[tuple[object, int], Any], field: Field, path: FieldPath
) -> Iterator[FieldChange]:
    for key, item in new.items():
        if key not in old:
            yield from _added(item, Field(type=field.type), path.item(*key))
        elif old[key] is not item:
            yield from _values(old[key], item, Field(type=field.type), path.item(*key))
    for key in old:
        if key not in new:
            yield FieldChange(path.item(*key), removed=True)
    if [key for key in old if key in new] != [key for key in new if key in old]:
        yield FieldChange(path.order())


def _added(value: object, field: Field | None, path: FieldPath) -> Iterator[FieldChange]:
    """Yield every leaf of `value`: scalars, replaced lists, and what is empty."""
    items = _by_merge_key(value, field)
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _added(item, field_of(field.type if field else FREE, name), path.field(name))
    elif field is not None and items:
        for key, item in items.items():
            yield from _added(item, Field(type=field.type), path.item(*key))
    else:
        yield FieldChange(path)


def _by_merge_key(value: object, field: Field | None) -> dict[tuple[object, int], Any] | None:
    """Return the list's items by merge key and occurrence; None for what is no list of maps that all have the key."""
    if field is None or not field.merge_key or not isinstance(value, list):
        return None
    items: dict[tuple[object, int], Any] = {}
    seen: Counter[object] = Counter()
    for item in value:
        key = item.get(field.merge_key) if isinstance(item, dict) else None
        if not isinstance(key, str | int | float):
            return None
        items[key, seen[key]] = item
        seen[key] += 1
    return items


def _equal(before: object, after: object) -> bool:
    """Compare as JSON does: true is not 1."""
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_equal, before, after))
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() == after.keys() and all(_equal(before[name], after[name]) for name in before)
    return before == after and isinstance(before, bool) == isinstance(after, bool)
