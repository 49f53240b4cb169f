from __future__ import annotations

from urllib.parse import urlencode

import pytest

from sitegrid.agent.options import ListOptions, OptionsError, list_options, parse_query


def _options(query: str) -> ListOptions:
    return list_options(parse_query(query))


def _status(query: str) -> int:
    with pytest.raises(OptionsError) as info:
        _options(query)
    return info.value.status.code


def test_every_option_is_read() -> None:
    """What client-go sends for a streaming list is understood."""
    query = {
        "watch": "true",
        "labelSelector": "a in (b,c)",
        "fieldSelector": "metadata.name=x",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "77",
        "resourceVersion": "5",
    }
    options = _options(urlencode(query))
    assert (options.watch, options.label_selector, options.field_selector) == (True, "a in (b,c)", "metadata.name=x")
    assert (options.initial_events, options.bookmarks, options.timeout, options.resource_version) == (
        True,
        True,
        77,
        5,
    )


@pytest.mark.parametrize(
    ("query", "watch"),
    [("", False), ("watch=false", False), ("watch=0", False), ("watch=False", False), ("watch=1", True),
     ("watch", True), ("watch=", True), ("watch=yes", True)],
)  # fmt: skip
def test_flags_are_read_as_the_api_server_does(query: str, watch: bool) -> None:
    """Anything but `false` and `0` is true."""
    assert _options(query).watch is watch


@pytest.mark.parametrize(
    "query",
    ["watch=1&watch=0", "labelSelector=a&labelSelector=b", "%6Cabel=a&label=b", "a;b", "labelSelector=%zz", "a=%",
     "a=%ff", "resourceVersion=x", "limit=x", "timeoutSeconds=1.5"],
)  # fmt: skip
def test_an_ambiguous_query_is_refused(query: str) -> None:
    """What two parsers could read differently is 400."""
    assert _status(query) == 400


@pytest.mark.parametrize(
    "query",
    ["watch=1&sendInitialEvents=true", "watch=1&resourceVersionMatch=NotOlderThan", "sendInitialEvents=true",
     "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", "resourceVersionMatch=Exact",
     "resourceVersionMatch=Exact&resourceVersion=0", "resourceVersionMatch=Sometimes&resourceVersion=1",
     "resourceVersionMatch=Exact&resourceVersion=1&continue=x"],
)  # fmt: skip
def test_contradictory_options_are_invalid(query: str) -> None:
    """Combinations that the API server forbids are 422."""
    assert _status(query) == 422
