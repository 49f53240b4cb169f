"""Spacing out what failed."""

from __future__ import annotations

from typing import Any

import pytest

from sitegrid.controller.retries import MAX_DELAY, MAX_LOOK_DELAY, Retries, attempt
from sitegrid.grid.problem import Problem
from sitegrid.kube.errors import ApiError, Unreachable

PROBLEM = Problem("Invalid", "no")
REFUSED = Problem("Refused", "by the API server")


class _Time:
    now = 0.0


def _retries() -> tuple[Retries, _Time]:
    time = _Time()
    return Retries(clock=lambda: time.now, jitter=lambda: 0.5), time


def test_failed_unit_waits_longer_each_time() -> None:
    """Delays double, up to a bound, and never end."""
    retries, time = _retries()
    waits = []
    for _ in range(20):
        retries.failed("one", "d", PROBLEM)
        assert not retries.allowed("one", "d")
        wait = retries.next_due() or 0.0
        waits.append(wait)
        time.now += wait
        assert retries.allowed("one", "d")
    assert waits[:3] == [0.5, 1.0, 2.0]
    assert waits[-1] == MAX_DELAY


def test_other_units_do_not_wait() -> None:
    """One unit's failure is its own (I4)."""
    retries, _ = _retries()
    retries.failed("one", "d", PROBLEM)
    assert retries.allowed("two", "d")
    assert retries.problems() == {"one": PROBLEM}


def test_changed_object_is_tried_at_once() -> None:
    """Whoever repaired the template does not wait."""
    retries, _ = _retries()
    retries.failed("one", "d", PROBLEM)
    assert retries.allowed("one", "other")


def test_taken_name_is_looked_at_more_often() -> None:
    """A name that becomes free is found soon, since no event tells it."""
    retries, time = _retries()
    for _ in range(20):
        retries.failed("one", "d", Problem("NameConflict", "taken"))
        time.now += retries.next_due() or 0.0
    retries.failed("one", "d", Problem("NameConflict", "taken"))
    assert retries.next_due() == MAX_LOOK_DELAY


def test_success_and_disappearance_forget() -> None:
    """What succeeded, or needs nothing any more, is no problem."""
    retries, _ = _retries()
    retries.failed("one", "d", PROBLEM)
    retries.failed("two", "d", None)
    retries.succeeded("one")
    retries.keep_only(set())
    assert (retries.problems(), retries.next_due()) == ({}, None)


def test_failure_that_is_not_the_users_is_not_told() -> None:
    """A conflict or a lost connection is tried again, and no condition."""
    retries, _ = _retries()
    retries.failed("one", "d", None)
    assert retries.problems() == {}
    assert retries.next_due() is not None


@pytest.mark.parametrize(
    ("outcome", "may_be_stale", "told", "failed"),
    [
        (None, True, None, False),
        (PROBLEM, True, PROBLEM, True),
        (ApiError(409, "Conflict"), True, None, True),
        (ApiError(409, "Conflict"), False, REFUSED, True),
        (ApiError(422, "Invalid"), True, REFUSED, True),
        (Unreachable("gone"), False, None, True),
    ],
)
async def test_attempt(outcome: Any, may_be_stale: bool, told: Problem | None, failed: bool) -> None:
    """A refusal is told and spaced out; a lost connection, and that somebody was faster, are only spaced out."""
    retries, _ = _retries()

    async def write() -> Problem | None:
        if isinstance(outcome, Exception):
            raise outcome
        result: Problem | None = outcome
        return result

    found = await attempt(
        write(),
        retries,
        key="one",
        digest="d",
        may_be_stale=may_be_stale,
        refused=lambda error: REFUSED,
        what="unit one",
    )
    assert found == told
    assert (retries.next_due() is not None) == failed
