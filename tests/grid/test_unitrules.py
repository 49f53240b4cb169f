"""Rules for units are found as if each one were tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.matchers import UnitMatcher
from sitegrid.api.nodeunits import LabelSelector
from sitegrid.grid.blueprint import matcher_of
from sitegrid.grid.overrides import MatcherError, Unit
from sitegrid.grid.unitrules import UnitRules

UNITS = [Unit("zone", name, {"zone": name, "tier": tier}) for name in ("a", "b") for tier in ("gold", "tin")]
RULES = st.lists(
    st.none()
    | st.builds(
        UnitMatcher,
        st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3),
        st.none() | st.sampled_from(["gold", "tin"]).map(lambda tier: LabelSelector({"tier": tier})),
    ),
    max_size=6,
)


@given(RULES, st.sampled_from(UNITS))
def test_rules_are_those_that_match(rules: list[UnitMatcher | None], unit: Unit) -> None:
    """By name, by label, both, or for all; each once and in order."""
    wanted = [index for index, rule in enumerate(rules) if rule is None or matcher_of(rule).matches(unit)]
    assert UnitRules(rules).of(unit) == wanted


def test_a_rule_that_cannot_be_understood_is_every_units_problem() -> None:
    """Nobody can tell for whom it is."""
    rules = UnitRules([UnitMatcher(["a"]), UnitMatcher()])
    with pytest.raises(MatcherError):
        rules.of(UNITS[0])
