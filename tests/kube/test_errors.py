from __future__ import annotations

import json

from sitegrid.kube.errors import ApiError


def answer(code: int, reason: str = "", **more: object) -> ApiError:
    """Return the error of a Status answer."""
    return ApiError.from_answer(code, json.dumps({"kind": "Status", "code": code, "reason": reason, **more}).encode())


def test_conflicts_are_told_apart() -> None:
    """409 is `already_exists` or `conflict`, by its reason."""
    assert answer(409, "AlreadyExists").already_exists
    assert not answer(409, "AlreadyExists").conflict
    assert answer(409, "Conflict").conflict
    assert not answer(409, "Conflict").already_exists


def test_each_cause_has_its_property() -> None:
    """404, 410 and 422 are found by name."""
    assert answer(404).not_found
    assert answer(410, "Expired").gone
    assert answer(422, "Invalid").invalid
    assert not answer(500).not_found


def test_the_server_s_words_are_kept() -> None:
    """Message, reason and the whole Status reach the caller and the log."""
    error = answer(422, "Invalid", message="spec.x: bad")
    assert str(error) == "422 Invalid: spec.x: bad"
    assert error.body["message"] == "spec.x: bad"


def test_an_answer_that_is_no_status_is_still_told() -> None:
    """Proxies answer text; an empty answer gets the code's own name."""
    assert str(ApiError.from_answer(502, b"upstream is down\n")) == "502: upstream is down"
    assert str(ApiError.from_answer(504, b"")) == "504: Gateway Timeout"
    assert str(ApiError.from_answer(599, b"[1]")) == "599: [1]"
    assert ApiError.from_answer(502, b"\xff").body == {}


def test_retry_after_comes_from_header_or_details() -> None:
    """The header wins; without both there is none; a date is not understood."""
    body = json.dumps({"kind": "Status", "details": {"retryAfterSeconds": 7}}).encode()
    assert ApiError.from_answer(429, body).retry_after == 7
    assert ApiError.from_answer(429, body, "3").retry_after == 3
    assert ApiError.from_answer(429, b"").retry_after is None
    assert ApiError.from_answer(503, b"", "Wed, 21 Oct 2026 07:28:00 GMT").retry_after is None
