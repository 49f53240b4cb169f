"""The query of a LIST or WATCH: read, validated and refused as the API server does it.

Rules are apimachinery pkg/apis/meta/internalversion (validation and conversion). A parameter given twice, or one that
cannot be decoded in exactly one way, is 400: the API server might read the other one.

Invariant, as wherever clients' words are read: the time that it takes is proportional to their length. Held by
``tests/agent/test_options.py``, ``tests/agent/test_conformance.py`` and ``tests/agent/test_linear.py``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sitegrid.wire import percent
from sitegrid.wire.status import Status, quoted

_DIGITS: Final = 64
"""More than these no 64-bit number has, whatever zeros it begins with; and Python refuses to read very long ones."""
_DURATION: Final = re.compile(r"[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+)")
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
    """Return the options in `parameters`, with the API server's defaults. Raises `OptionsError`."""
    watch = watch_path or _flag(parameters.get("watch")) is True
    version = parameters.get("resourceVersion", "")
    match = parameters.get("resourceVersionMatch", "")
    token = parameters.get("continue", "")
    events = _flag(parameters.get("sendInitialEvents"))
    limit, timeout = (_integer(parameters.get(name, "0")) for name in ("limit", "timeoutSeconds"))
    if watch and events is None and not match and version in ("", "0"):
        # SetListOptionsDefaults: a watch from anywhere is a streaming list, whose end a bookmark tells.
        events, match = True, NOT_OLDER_THAN
    if watch:
        problems = _watch_problems(match, token, events)
    else:
        _check_duration(parameters.get("timeout", ""))
        problems = _list_problems(version, match, token, events)
    if problems:
        raise OptionsError(_invalid(problems))
    return ListOptions(
        watch=watch,
        label_selector=parameters.get("labelSelector", "").strip(" \t\r\n"),
        field_selector=parameters.get("fieldSelector", ""),
        resource_version=_resource_version(version, watch=watch),
        resource_version_match=match,
        limit=limit,
        continue_token=token,
        timeout=timeout,
        bookmarks=_flag(parameters.get("allowWatchBookmarks")) is True,
        initial_events=events,
    )


def _bad_request(message: str) -> OptionsError:
    return OptionsError(Status(400, message))


def _flag(value: str | None) -> bool | None:
    """Return a boolean parameter: anything but `false` and `0` is true (apimachinery pkg/runtime/conversion.go)."""
    return None if value is None else value.lower() not in ("false", "0")


def _integer(value: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", value):
        raise _bad_request(f"strconv.ParseInt: parsing {quoted(value)}: invalid syntax")
    if len(value) > _DIGITS or not -(1 << 63) <= int(value) < 1 << 63:
        raise _bad_request(f"strconv.ParseInt: parsing {quoted(value)}: value out of range")
    return int(value)


def _resource_version(value: str, *, watch: bool) -> int | None:
    if not value:
        return None
    number = re.fullmatch(r"[0-9]+", value)
    if number and len(value) <= _DIGITS and int(value) < 1 << 64:
        return int(value)
    problem = "value out of range" if number else "invalid syntax"
    problem = (
        f"resourceVersion: Invalid value: {quoted(value)}: strconv.ParseUint: parsing {quoted(value)}: {problem}"
    )
    # For a watch the API server gives no reason, and so calls it an error of its own.
    raise OptionsError(Status(500, problem)) if watch else _bad_request(f"invalid resource version: {problem}")


def _check_duration(value: str) -> None:
    """Refuse a `timeout` that is no duration (apiserver pkg/endpoints/filters/request_deadline.go)."""
    if value and not _DURATION.fullmatch(value):
        raise _bad_request(f"invalid timeout specified in the request URL - time: invalid duration {quoted(value)}")


_Cause = tuple[str, str, str]
"""Reason, message and field."""


def _invalid(problems: list[_Cause]) -> Status:
    texts = [f"{field}: {message}" for _, message, field in problems]
    shown = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    return Status(
        422,
        f'ListOptions.meta.k8s.io "" is invalid: {shown}',
        causes=tuple(problems),
        group="meta.k8s.io",
        kind="ListOptions",
    )


def _forbidden(message: str, field: str = "resourceVersionMatch") -> _Cause:
    return "FieldValueForbidden", f"Forbidden: {message}", field


def _unsupported(value: str, *supported: str) -> _Cause:
    known = ", ".join(map(quoted, supported))
    message = f"Unsupported value: {quoted(value)}: supported values: {known}"
    return "FieldValueNotSupported", message, "resourceVersionMatch"


def _list_problems(version: str, match: str, token: str, events: bool | None) -> list[_Cause]:
    problems = []
    if match and not version:
        problems.append(_forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"))
    if match and token:
        problems.append(_forbidden("resourceVersionMatch is forbidden when continue is provided"))
    if match not in ("", EXACT, NOT_OLDER_THAN):
        problems.append(_unsupported(match, EXACT, NOT_OLDER_THAN, ""))
    if match == EXACT and version == "0":
        problems.append(_forbidden('resourceVersionMatch "exact" is forbidden for resourceVersion "0"'))
    if events is not None:
        problems.append(_forbidden("sendInitialEvents is forbidden for list", "sendInitialEvents"))
    return problems


def _watch_problems(match: str, token: str, events: bool | None) -> list[_Cause]:
    problems = []
    if events is not None and match != NOT_OLDER_THAN:
        problems.append(_forbidden(f"sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER_THAN}"))
    if match and events is None:
        problems.append(
            _forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        )
    if match not in ("", NOT_OLDER_THAN):
        problems.append(_unsupported(match, NOT_OLDER_THAN))
    if match and token:
        problems.append(_forbidden("resourceVersionMatch is forbidden when continue is provided"))
    return problems
