"""Which of many rules are for a unit: those that only name units are looked up, not tried one after the other.

Used for a ServiceGrid's overrides and fallbacks, of which there may be one for each of a thousand units. Held by
``tests/grid/test_unitrules.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sitegrid.api import matchers
from sitegrid.grid.blueprint import matcher_of
from sitegrid.grid.overrides import Unit, UnitMatcher


class UnitRules:
    """The `units` of a list of rules; None is for all units."""

    def __init__(self, rules: Sequence[matchers.UnitMatcher | None]) -> None:
        self._by_name: dict[str, list[int]] = {}
        self._others: list[tuple[int, UnitMatcher | None]] = []
        for index, rule in enumerate(rules):
            if rule is not None and rule.names and rule.selector is None:
                for name in rule.names:
                    self._by_name.setdefault(name, []).append(index)
            else:
                self._others.append((index, None if rule is None else matcher_of(rule)))
        self.names = frozenset(name for rule in rules if rule is not None for name in rule.names)

    def of(self, unit: Unit) -> list[int]:
        """Return the places in the list of the rules that are for `unit`, in order.

        Raises `MatcherError` where that cannot be told.
        """
        found = {index for index, matcher in self._others if matcher is None or matcher.matches(unit)}
        return sorted(found.union(self._by_name.get(unit.value, ())))
