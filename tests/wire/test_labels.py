from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from sitegrid.wire.labels import is_label_value, label_value, unit_id

NAME = st.from_regex(r"\A[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
KEY = st.one_of(NAME, st.tuples(st.from_regex(r"\A[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){0,3}\Z"), NAME).map("/".join))


@given(KEY, NAME)
def test_a_unit_id_is_a_label_value(key: str, value: str) -> None:
    """Every unit can be selected by its id."""
    assert is_label_value(unit_id(key, value))


@given(KEY, NAME, KEY, NAME)
def test_two_units_never_share_an_id(key: str, value: str, other_key: str, other_value: str) -> None:
    """Different pairs have different ids, also where they look alike."""
    assume((key, value) != (other_key, other_value))
    assert unit_id(key, value) != unit_id(other_key, other_value)


def test_a_dot_in_key_or_value_is_told_apart() -> None:
    """`a.b`=`c` and `a`=`b.c` are different units."""
    assert unit_id("a.b", "c") != unit_id("a", "b.c")


def test_a_plain_unit_id_is_readable() -> None:
    """The article's own unit has the id that one would guess."""
    assert unit_id("zone", "NodeUnit1") == "zone.NodeUnit1"


@given(st.text(min_size=1, max_size=100))
def test_any_text_has_a_label_value(text: str) -> None:
    """Keys with a slash, long names and capitals all become legal."""
    assert is_label_value(label_value(text))
