"""Remembers which override set which field, and which earlier ones lost by it.

Filled by `sitegrid.grid.overrides` while a unit's overrides are applied in order; read by ``sitegrid explain`` and
for conditions. A tree by path, since an override that removes a container supersedes all that was set inside it, and
one that sets a field inside what was removed supersedes the removal there; the removal itself stays on record. Held
by ``tests/grid/test_overrides.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sitegrid.grid.fieldchanges import FieldChange
from sitegrid.grid.fieldpath import join


@dataclass(frozen=True, slots=True)
class OverrideRef:
    """One override of a grid: its place in the list, from 0, and its name, if it has one."""

    index: int
    name: str = ""

    def __str__(self) -> str:
        return f"overrides[{self.index}] ({self.name})" if self.name else f"overrides[{self.index}]"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who set a field last."""

    override: OverrideRef
    removed: bool = False
    """The override took the field away, with everything below it."""
    superseded: tuple[OverrideRef, ...] = ()
    """Earlier overrides that had set or removed the field, or a part of it: the later one wins."""


@dataclass(slots=True)
class _Node:
    origin: Origin | None = None
    children: dict[str, _Node] = field(default_factory=dict)


class Provenance:
    """Collects the changes of overrides in their order."""

    def __init__(self) -> None:
        self._root = _Node()

    def record(self, change: FieldChange, override: OverrideRef) -> None:
        """Note that `override` made `change`, and what it superseded."""
        lost: list[OverrideRef] = []
        node = self._root
        for segment in change.path.segments():
            if node.origin is not None and node.origin.removed:
                # It still says why all else below it is gone, so it stays.
                lost += _losers(node.origin)
            node = node.children.setdefault(segment, _Node())
        lost += _all_losers(node)
        node.children.clear()
        superseded = tuple(sorted(set(lost), key=lambda ref: ref.index))
        node.origin = Origin(override, change.removed, superseded)

    def fields(self) -> dict[str, Origin]:
        """Return the origin of each changed field by its path, sorted."""
        return dict(sorted(_walk(self._root, ())))


def _losers(origin: Origin) -> list[OverrideRef]:
    return [*origin.superseded, origin.override]


def _all_losers(node: _Node) -> list[OverrideRef]:
    lost = [] if node.origin is None else _losers(node.origin)
    for child in node.children.values():
        lost += _all_losers(child)
    return lost


def _walk(node: _Node, segments: tuple[str, ...]) -> Iterator[tuple[str, Origin]]:
    if node.origin is not None:
        yield join(segments), node.origin
    for segment, child in node.children.items():
        yield from _walk(child, (*segments, segment))
