"""A unit's values in templates: what is ours, what is Kubernetes', and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.grid.substitution import SubstitutionError, substitute, unit_names

NAMES = unit_names("NodeUnit1", "zone", {"region": "north", "empty": "", "odd-name.1": "x", "tricky": "$(unit.name)"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(unit.name)", "NodeUnit1"),
        ("$(unit.key)=$(unit.name)", "zone=NodeUnit1"),
        ("a-$(unit.values.region)-b", "a-north-b"),
        ("[$(unit.values.empty)]", "[]"),
        ("$(unit.values.odd-name.1)", "x"),
        ("$(unit.name)$(unit.name)", "NodeUnit1NodeUnit1"),
        ("(unit.name)", "(unit.name)"),
        ("$unit.name", "$unit.name"),
        ("${unit.name}", "${unit.name}"),
        ("$ (unit.name)", "$ (unit.name)"),
        ("$(unit)", "$(unit)"),
        ("$(units.name)", "$(units.name)"),
        ("$(UNIT.name)", "$(UNIT.name)"),
        ("$(POD_NAME) $$(POD_NAME) $$ $(", "$(POD_NAME) $$(POD_NAME) $$ $("),
        ("$(echo hi; date)", "$(echo hi; date)"),
        ("中文 $(unit.name) 😀", "中文 NodeUnit1 😀"),
        ("line\n$(unit.name)\n", "line\nNodeUnit1\n"),
    ],
)
def test_names_are_replaced_and_all_else_stays(text: str, expected: str) -> None:
    """Only ``$(unit.…)`` is ours; Kubernetes' own references and shell text stay."""
    assert substitute(text, NAMES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$$(unit.name)", "$(unit.name)"),
        ("$$$(unit.name)", "$NodeUnit1"),
        ("$$$$(unit.name)", "$$(unit.name)"),
        ("$$(unit.nobody)", "$(unit.nobody)"),
        ("$$(unit.", "$(unit."),
        ("$$(unit.name)$(unit.name)", "$(unit.name)NodeUnit1"),
        ("$$ $(unit.name)", "$$ NodeUnit1"),
    ],
)
def test_dollars_are_escaped_in_pairs(text: str, expected: str) -> None:
    """As Kubernetes escapes its own references; what is escaped may have any name."""
    assert substitute(text, NAMES) == expected


def test_what_is_put_in_is_not_looked_at_again() -> None:
    """A value that looks like a reference is text."""
    assert substitute("$(unit.values.tricky)", NAMES) == "$(unit.name)"


def test_strings_at_any_depth_are_replaced() -> None:
    """In maps and lists."""
    template = {"spec": {"containers": [{"args": ["--site", "$(unit.name)"], "image": "i"}]}}
    assert substitute(template, NAMES) == {
        "spec": {"containers": [{"args": ["--site", "NodeUnit1"], "image": "i"}]},
    }


def test_map_keys_stay() -> None:
    """Only values are ours."""
    assert substitute({"$(unit.name)": "$(unit.key)"}, NAMES) == {"$(unit.name)": "zone"}


@pytest.mark.parametrize("value", [1, 1.5, True, None, [], {}])
def test_what_is_no_string_stays_as_it_is(value: object) -> None:
    """Nothing changes its type."""
    assert substitute({"a": [value]}, NAMES) == {"a": [value]}
    assert type(substitute(value, NAMES)) is type(value)


def test_an_unknown_name_is_refused_with_where_what_and_what_there_is() -> None:
    """A user sees at once what to correct."""
    template = {
        "template": {"spec": {"containers": [{}, {"env": [{"name": "A", "value": "$(unit.values.regoin)"}]}]}}
    }
    with pytest.raises(SubstitutionError) as caught:
        substitute(template, unit_names("a", "zone", {"region": "north"}))
    assert caught.value.path == "template.spec.containers[1].env[0].value"
    assert caught.value.name == "unit.values.regoin"
    assert str(caught.value) == (
        "template.spec.containers[1].env[0].value: '$(unit.values.regoin)' is not known: this unit has $(unit.key), "
        "$(unit.name), $(unit.values.region). Write $$(unit.values.regoin) if the text itself is meant"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("$(unit.)", "unit."),
        ("$(unit.Name)", "unit.Name"),
        ("$(unit.values)", "unit.values"),
        ("$(unit.values.)", "unit.values."),
        ("$(unit.name )", "unit.name "),
        ("$(unit.sh --now)", "unit.sh --now"),
        ("$(unit.values.$(unit.name))", "unit.values.$(unit.name"),
        ("$(unit.name", "unit.name"),
    ],
)
def test_other_names_below_unit_are_refused(text: str, name: str) -> None:
    """A slip never reaches a pod as text."""
    with pytest.raises(SubstitutionError) as caught:
        substitute({"a": text}, NAMES)
    assert (caught.value.path, caught.value.name) == ("a", name)


def test_messages_stay_short() -> None:
    """However long the text and however many values there are."""
    names = unit_names("a", "zone", {f"v{i}": "x" for i in range(1000)})
    with pytest.raises(SubstitutionError) as caught:
        substitute("$(unit." + "x" * 1_000_000 + ")", names)
    assert len(str(caught.value)) < 1000


def test_a_megabyte_is_no_problem() -> None:
    """Long strings, many strings, long runs of dollars, and texts that nearly are references."""
    long = "x" * 400_000 + "$(unit.name)" + "$(" * 100_000 + "$" * 400_000 + "x" + "$" * 400_000 + "(unit.name)"
    template = {"long": long, "many": [f"$(unit.name)-{i}" for i in range(50_000)]}
    result = substitute(template, NAMES)
    assert (
        result["long"]
        == "x" * 400_000 + "NodeUnit1" + "$(" * 100_000 + "$" * 400_000 + "x" + "$" * 200_000 + "(unit.name)"
    )
    assert result["many"] == [f"NodeUnit1-{i}" for i in range(50_000)]


def test_endless_nesting_is_refused() -> None:
    """Instead of ending the process's stack."""
    template: Any = "x"
    for _ in range(5000):
        template = [template]
    with pytest.raises(SubstitutionError, match="nested deeper than"):
        substitute(template, NAMES)


def test_what_has_no_name_in_it_is_shared() -> None:
    """So that a thousand units cost one template, and comparing is cheap."""
    template = {"a": {"b": ["c"]}, "d": {"e": "$(unit.name)"}}
    result = substitute(template, NAMES)
    assert result["a"] is template["a"]
    assert substitute(template["a"], NAMES) is template["a"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(alphabet="$()ab", max_size=8)
    | st.sampled_from(["$(unit.name)", "$$(unit.name)", "x$(unit.key)y", "$(unit.no)"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(template=JSON)
def test_inputs_stay_as_they_are(template: Any) -> None:
    """Templates belong to the user."""
    before = copy.deepcopy(template)
    try:
        substitute(template, NAMES)
    except SubstitutionError as error:
        assert error.name == "unit.no"
    assert template == before


@given(text=st.text(alphabet="$()unit.name x", max_size=40))
def test_every_text_can_be_written(text: str) -> None:
    """With the dollars before ``(unit.`` doubled, the result is the text itself."""
    escaped = ""
    rest = text
    while "(unit." in rest:
        before, _, rest = rest.partition("(unit.")
        stem = before.rstrip("$")
        escaped += stem + "$" * (2 * (len(before) - len(stem))) + "(unit."
    assert substitute(escaped + rest, NAMES) == text


@pytest.mark.parametrize(
    ("text", "value", "wanted"),
    [
        ("$(unit.values.a)", "12", 12),
        ("$(unit.values.a)", "0", 0),
        ("$(unit.values.a)", "012", "012"),
        ("$(unit.values.a)", "-1", "-1"),
        ("$(unit.values.a)", "1.5", "1.5"),
        ("$(unit.values.a)", "9" * 30, "9" * 30),
        ("$(unit.values.a)%", "12", "12%"),
        ("$(unit.values.a)$(unit.values.a)", "1", "11"),
        ("$$(unit.values.a)", "12", "$(unit.values.a)"),
        ("12", "1", "12"),
    ],
)
def test_numbers_where_they_are_asked_for(text: str, value: str, wanted: int | str) -> None:
    """Only a string that is one reference and nothing else, to a whole number, becomes a number."""
    names = {"unit.values.a": value}
    assert substitute({"field": text}, names, numbers=True) == {"field": wanted}
    assert isinstance(substitute(text, names), str)
