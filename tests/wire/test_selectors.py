from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.wire.selectors import FieldSelector, LabelSelector, SelectorError

KEYS = st.sampled_from(["a", "b", "example.com/c", "in", "notin"])
VALUES = st.sampled_from(["", "x", "y", "1", "in"])
SPACE = st.sampled_from(["", " ", "\t ", "\n"])
LABELS = st.dictionaries(KEYS, VALUES)


@st.composite
def _terms(draw: st.DrawFn) -> tuple[str, str, str, list[str]]:
    """Return a term's text and what it means: operator, key and values."""
    key, values, gap = draw(KEYS), draw(st.lists(VALUES, min_size=1, max_size=3)), draw(SPACE)
    operator = draw(st.sampled_from(["=", "==", "!=", "in", "notin", "exists", "!"]))
    if operator in ("=", "==", "!="):
        return f"{gap}{key}{gap}{operator}{gap}{values[0]}{gap}", operator, key, values[:1]
    if operator in ("in", "notin"):
        return f"{gap}{key} {operator}{gap}({gap}{f'{gap},{gap}'.join(values)}{gap})", operator, key, values
    return (f"{gap}{key}{gap}" if operator == "exists" else f"!{gap}{key}"), operator, key, []


def _means(operator: str, key: str, values: list[str], labels: dict[str, str]) -> bool:
    if operator in ("=", "==", "in"):
        return key in labels and labels[key] in values
    if operator in ("!=", "notin"):
        return not (key in labels and labels[key] in values)
    return (key in labels) is (operator == "exists")


@given(st.lists(_terms(), max_size=4), LABELS)
def test_a_selector_means_all_its_terms(terms: list[tuple[str, str, str, list[str]]], labels: dict[str, str]) -> None:
    """Every legal spelling matches exactly what its terms say."""
    selector = LabelSelector(",".join(term[0] for term in terms))
    assert selector.matches(labels) is all(_means(*term[1:], labels) for term in terms)


@pytest.mark.parametrize(("text", "value", "matches"), [
    ("a>5", "6", True), ("a>5", "5", False), ("a<5", "4", True), ("a<5", "x", False), ("a<5", None, False),
])  # fmt: skip
def test_numbers_are_compared(text: str, value: str | None, matches: bool) -> None:
    """`<` and `>` compare integers and match nothing else."""
    assert LabelSelector(text).matches({} if value is None else {"a": value}) is matches


@pytest.mark.parametrize(
    "text",
    ["a,", ",a", "a,,b", "a b", "!a=b", "!", "!!a", "a=b=c", "a>+1", "a in b", "a in (", "a in (b c)", "a in (b",
     "a in (b))", "=b", "(a)", "a>x", "a>", "a in", "a notin", "-a", "a=-b", "A..b/c", "x/y/z", "a=" + "x" * 64,
     "a" * 64, "a\u00a0=b", "a=\u00e9", "a>" + "9" * 5000,
     "a<-" + "9" * 64],
)  # fmt: skip
def test_illegal_label_selectors_are_refused(text: str) -> None:
    """What the API server answers 400 to is an error here too."""
    with pytest.raises(SelectorError):
        LabelSelector(text)


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_an_empty_selector_matches_everything(text: str) -> None:
    """No terms, no restriction."""
    assert LabelSelector(text).matches({"a": "b"})
    assert LabelSelector(text).matches({})


@given(
    st.lists(
        st.tuples(st.sampled_from(["metadata.name", "spec.type"]), st.booleans(), st.text(max_size=8)), max_size=3
    ),
    st.dictionaries(st.sampled_from(["metadata.name", "spec.type"]), st.text(max_size=8)),
)
def test_field_selectors_mean_all_their_terms(terms: list[tuple[str, bool, str]], values: dict[str, str]) -> None:
    """Equality and inequality with any value, escaped as fields.EscapeValue does."""

    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")

    text = ",".join(f"{key}{'=' if equal else '!='}{escaped(value)}" for key, equal, value in terms)
    expected = all((values.get(key, "") == value) is equal for key, equal, value in terms)
    assert FieldSelector(text).matches(values) is expected


@pytest.mark.parametrize("text", ["a", "a=b=c", "a=\\x", "a=b\\", "a,b=c"])
def test_illegal_field_selectors_are_refused(text: str) -> None:
    """What the API server cannot parse is an error here too."""
    with pytest.raises(SelectorError):
        FieldSelector(text)


def test_double_equals_is_equals() -> None:
    """`==` is not `=` and a value that begins with `=`."""
    assert FieldSelector("metadata.name==a").terms == (("metadata.name", True, "a"),)
