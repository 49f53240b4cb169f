"""The query of a LIST or WATCH: read, validated and refused as the API server does it.

Rules are apimachinery pkg/apis/meta/internalversion (validation and conversion). A parameter given twice, or one that
cannot be decoded in exactly one way, is 400: the API server might read the other one. Held by
``tests/agent/test_options.py`` and ``tests/agent/test_conformance.py``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sitegrid.wire import percent
from sitegrid.wire.status import Status

_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
NOT_OLDER_THAN: Final = "NotOlderThan"
EXACT: Final = "Exact"


class OptionsError(Exception):
    """The query is refused with `status`."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class ListOptions(NamedTuple):
    """What a client asks for; `resource_version` is None where it is not given, `timeout` in seconds (0: none)."""

    watch: bool = False
    label_selector: str = ""
    field_selector: str = ""
    resource_version: int | None = None
    resource_version_match: str = ""
    limit: int = 0
    continue_token: str = ""
    timeout: int = 0
    bookmarks: bool = False
    initial_events: bool | None = None


def parse_query(query: str) -> dict[str, str]:
    """Return the parameters of `query`. Raises `OptionsError` for what two parsers could read differently."""
    parameters: dict[str, str] = {}
    if ";" in query:
        raise _bad_request("invalid semicolon separator in query")
    for pair in filter(None, query.split("&")):
        if _ESCAPE.search(pair):
            raise _bad_request("invalid URL escape in query")
        try:
            name, _, value = (percent.unquote_query(part) for part in pair.partition("="))
        except UnicodeDecodeError as error:
            raise _bad_request("query is not UTF-8") from error
        if name in parameters:
            raise _bad_request(f"query parameter {name!r} is given twice")
        parameters[name] = value
    return parameters


def list_options(parameters: dict[str, str], *, watch_path: bool = False) -> ListOptions:
    """Return the options in `parameters`. Raises `OptionsError`."""
    watch = watch_path or _flag(parameters.get("watch")) is True
    options = ListOptions(
        watch=watch,
        label_selector=parameters.get("labelSelector", "").strip(" \t\r\n"),
        field_selector=parameters.get("fieldSelector", ""),
        resource_version=_resource_version(parameters.get("resourceVersion", ""), watch=watch),
        resource_version_match=parameters.get("resourceVersionMatch", ""),
        limit=_integer(parameters.get("limit", ""), "limit"),
        continue_token=parameters.get("continue", ""),
        timeout=_integer(parameters.get("timeoutSeconds", ""), "timeoutSeconds"),
        bookmarks=_flag(parameters.get("allowWatchBookmarks")) is True,
        initial_events=_flag(parameters.get("sendInitialEvents")),
    )
    problem = _watch_problem(options) if options.watch else _list_problem(options)
    if problem is not None:
        field, message = problem
        raise OptionsError(
            Status(
                422,
                f'ListOptions.meta.k8s.io "" is invalid: {field}: Forbidden: {message}',
                causes=(("FieldValueForbidden", f"Forbidden: {message}", field),),
                group="meta.k8s.io",
                kind="ListOptions",
            )
        )
    return options


def _bad_request(message: str) -> OptionsError:
    return OptionsError(Status(400, message))


def _flag(value: str | None) -> bool | None:
    """Return a boolean parameter: anything but `false` and `0` is true (apimachinery pkg/runtime/conversion.go)."""
    return None if value is None else value.lower() not in ("false", "0")


def _integer(value: str, name: str) -> int:
    if not value:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        raise _bad_request(f"{name}: {value!r} is not a number")
    return int(value)


def _resource_version(value: str, *, watch: bool) -> int | None:
    if not value:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", value):
        problem = f'resourceVersion: Invalid value: "{value}": strconv.ParseUint: parsing "{value}": invalid syntax'
        # For a watch the API server gives no reason, and so calls it an error of its own.
        raise OptionsError(Status(500, problem)) if watch else _bad_request(f"invalid resource version: {problem}")
    return int(value)


def _list_problem(options: ListOptions) -> tuple[str, str] | None:
    match = options.resource_version_match
    if match and options.resource_version is None:
        return "resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"
    if match and options.continue_token:
        return "resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"
    if match == EXACT and options.resource_version == 0:
        return "resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
    if match not in ("", EXACT, NOT_OLDER_THAN):
        return "resourceVersionMatch", "resourceVersionMatch is neither Exact nor NotOlderThan"
    if options.initial_events is not None:
        return "sendInitialEvents", "sendInitialEvents is forbidden for list"
    return None


def _watch_problem(options: ListOptions) -> tuple[str, str] | None:
    match = options.resource_version_match
    if options.initial_events is not None and match != NOT_OLDER_THAN:
        return "resourceVersionMatch", f"sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER_THAN}"
    if match and options.initial_events is None:
        return (
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )
    if match and options.continue_token:
        return "resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"
    return None
