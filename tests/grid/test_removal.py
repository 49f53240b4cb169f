"""Children of units that are gone: never at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sitegrid.api.meta import timestamp
from sitegrid.api.workloads import Removal
from sitegrid.grid.removal import Step, decide

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("grace", [0, 600])
@pytest.mark.parametrize("policy", ["Delete", "Retain"])
def test_first_the_moment_is_noted(grace: int, policy: str) -> None:
    """Even without a grace period a child is marked first, so that a restart begins nothing anew."""
    assert decide(Removal(grace_period_seconds=grace, policy=policy), None, NOW).step is Step.MARK  # type: ignore[arg-type]


def test_it_waits_for_the_rest_of_the_grace_period() -> None:
    """What has passed since the mark counts."""
    decision = decide(Removal(grace_period_seconds=600), timestamp(NOW - timedelta(seconds=400)), NOW)
    assert decision == (Step.WAIT, 200)


def test_it_is_deleted_after_the_grace_period() -> None:
    """When all of it has passed the child goes."""
    assert decide(Removal(grace_period_seconds=600), timestamp(NOW - timedelta(seconds=600)), NOW).step is Step.DELETE


def test_retained_child_is_kept_for_ever() -> None:
    """Retain deletes nothing, however long it takes."""
    removal = Removal(grace_period_seconds=1, policy="Retain")
    assert decide(removal, timestamp(NOW - timedelta(days=900)), NOW).step is Step.KEEP


@pytest.mark.parametrize("text", ["", "garbage", timestamp(NOW + timedelta(days=1))])
def test_mark_that_says_nothing_is_made_anew(text: str) -> None:
    """An unreadable or future moment never shortens the grace period."""
    assert decide(Removal(grace_period_seconds=0), text, NOW).step is Step.MARK
