from __future__ import annotations

from urllib.parse import parse_qsl, quote, unquote_plus, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sitegrid.wire.percent import query, unquote, unquote_query

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ESCAPED = st.text(st.sampled_from([*"%+0aAfFgé/ 41"]))


@given(st.dictionaries(TEXTS, TEXTS))
@example({"labelSelector": "a in (b,c),!d", "watch": "true"})
def test_a_query_is_read_as_it_was_meant(parameters: dict[str, str]) -> None:
    """Another parser finds the parameters that were written, and they are escaped as elsewhere."""
    text = query(parameters)
    assert parse_qsl(text, keep_blank_values=True) == list(parameters.items())
    assert text == "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items())


@given(TEXTS | ESCAPED)
@example("%41%4g%e9%E9%")
def test_escapes_are_read_as_elsewhere(text: str) -> None:
    """Escapes are what urllib takes for escapes, and no others."""
    assert unquote(text) == unquote_to_bytes(text)
    try:
        expected = unquote_plus(text, errors="strict")
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            unquote_query(text)
    else:
        assert unquote_query(text) == expected
