"""Kubernetes' LabelSelector (matchLabels, matchExpressions) over the labels of units.

The same meaning as the API type (apimachinery pkg/apis/meta/v1, LabelSelectorAsSelector), by the requirements of
`sitegrid.wire.selectors`. A selector without any requirement matches everything, as in Kubernetes; who finds that
dangerous refuses it. Held by ``tests/grid/test_overrides.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sitegrid.api.grids import LABEL_KEY_PATTERN, MAX_LABEL_KEY
from sitegrid.wire.labels import is_label_value
from sitegrid.wire.selectors import Requirement, SelectorError

_LABEL_KEY: Final = re.compile(LABEL_KEY_PATTERN.removesuffix("$"))
_MAX_NAME: Final = 63
_OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}
_FIELDS: Final = frozenset({"matchLabels", "matchExpressions"})


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A conjunction of requirements."""

    requirements: tuple[Requirement, ...]

    @property
    def empty(self) -> bool:
        """Tell whether the selector asks for nothing, and so matches everything."""
        return not self.requirements

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether `labels` meet every requirement."""
        return all(requirement.matches(labels) for requirement in self.requirements)


def parse_label_selector(selector: Mapping[str, Any]) -> LabelSelector:
    """Return what the API object `selector` stands for; raises `SelectorError` for what Kubernetes refuses."""
    if not isinstance(selector, Mapping):
        raise SelectorError("a label selector is a map with matchLabels and matchExpressions")
    unknown = sorted(str(name) for name in selector if name not in _FIELDS)
    if unknown:
        raise SelectorError(f"a label selector has matchLabels and matchExpressions, and no {unknown[0]!r}")
    labels = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or []
    if not isinstance(labels, Mapping):
        raise SelectorError("matchLabels must be a map of strings")
    if not isinstance(expressions, list):
        raise SelectorError("matchExpressions must be a list")
    exact = (_requirement(key, "In", [value], f"matchLabels[{key}]") for key, value in labels.items())
    others = (_expression(item, f"matchExpressions[{position}]") for position, item in enumerate(expressions))
    return LabelSelector((*exact, *others))


def _expression(item: object, where: str) -> Requirement:
    if not isinstance(item, Mapping):
        raise SelectorError(f"{where} must be a map with key, operator and values")
    return _requirement(item.get("key"), item.get("operator"), item.get("values") or [], where)


def _requirement(key: object, operator: object, values: object, where: str) -> Requirement:
    if not isinstance(key, str) or not _is_label_key(key):
        raise SelectorError(f"{where}: {key!r} is not a label key")
    if not isinstance(operator, str) or operator not in _OPERATORS:
        raise SelectorError(f"{where}: the operator {operator!r} is not one of {', '.join(_OPERATORS)}")
    if not isinstance(values, list):
        raise SelectorError(f"{where}: values must be a list")
    if (operator in ("In", "NotIn")) != bool(values):
        need = "needs at least one value" if not values else "takes no values"
        raise SelectorError(f"{where}: the operator {operator} {need}")
    for value in values:
        if not isinstance(value, str) or (value and not is_label_value(value)):
            raise SelectorError(f"{where}: {value!r} is not a label value")
    return Requirement(key, _OPERATORS[operator], frozenset(values))


def _is_label_key(key: str) -> bool:
    return (
        len(key) <= MAX_LABEL_KEY
        and len(key.rpartition("/")[2]) <= _MAX_NAME
        and len(key.rpartition("/")[0]) <= MAX_LABEL_KEY - _MAX_NAME - 1
        and _LABEL_KEY.fullmatch(key) is not None
    )
