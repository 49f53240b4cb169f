"""Names a field inside a spec, as users read it: ``template.spec.containers[nginx].image``.

Used wherever planning speaks of one field: patches, substitution, and which override set what. Items of a list are
named by their merge key where they have one, else by their index; map keys that would be misread stand in quotes, as
in ``template.metadata.labels["app.kubernetes.io/name"]``. Held by ``tests/grid/test_overrides.py``.
"""

from __future__ import annotations

import json
import re
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z_$][-/A-Za-z0-9_$]*")
_PLAIN_ITEM: Final = re.compile(r"[^\[\]\"\s#]+")

MAX_DEPTH: Final = 200
"""How deep planning descends; Kubernetes' own types end at about 20, and Python's stack is not endless."""


class FieldPath:
    """A path from the root of a spec; a chain, so that one step further costs the same at every depth."""

    __slots__ = ("_parent", "_segment", "depth")

    def __init__(self, parent: FieldPath | None = None, segment: str = "") -> None:
        self._parent = parent
        self._segment = segment
        self.depth: int = 0 if parent is None else parent.depth + 1

    def field(self, name: str) -> FieldPath:
        """Return the path of the field or map entry `name`."""
        return FieldPath(self, name)

    def index(self, position: int) -> FieldPath:
        """Return the path of the list item at `position`."""
        return _Item(self, f"[{position}]")

    def item(self, merge_value: object, occurrence: int = 0) -> FieldPath:
        """Return the path of the item with the merge key `merge_value`; `occurrence` counts equal ones from 0."""
        text = str(merge_value)
        name = text if _PLAIN_ITEM.fullmatch(text) else json.dumps(text, ensure_ascii=False)
        return _Item(self, f"[{name}#{occurrence + 1}]" if occurrence else f"[{name}]")

    def order(self) -> FieldPath:
        """Return the path that stands for the order of this list's items, named by the directive that sets it."""
        return FieldPath(self._parent, f"$setElementOrder/{self._segment}")

    def segments(self) -> tuple[str, ...]:
        """Return the rendered steps from the root; equal paths have equal segments."""
        found: list[str] = []
        path: FieldPath | None = self
        while path is not None and path._parent is not None:
            found.append(path._rendered())
            path = path._parent
        return tuple(reversed(found))

    def _rendered(self) -> str:
        name = self._segment
        return name if _PLAIN.fullmatch(name) else f"[{json.dumps(name, ensure_ascii=False)}]"

    def __str__(self) -> str:
        return join(self.segments())


class _Item(FieldPath):
    """A step into a list: its segment is rendered already."""

    __slots__ = ()

    def _rendered(self) -> str:
        return self._segment


def join(segments: tuple[str, ...]) -> str:
    """Return the text of a path; the root is empty."""
    return "".join(s if s.startswith("[") or not i else f".{s}" for i, s in enumerate(segments))
