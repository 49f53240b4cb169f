from __future__ import annotations

from sitegrid.kube.backoff import Backoff


def test_delays_double_up_to_the_cap() -> None:
    """Without jitter: 1, 2, 4, 5, 5."""
    backoff = Backoff(initial=1, cap=5, jitter=lambda: 1.0)
    now, delays = 0.0, []
    for _ in range(5):
        delays.append(backoff.next(now))
        now += delays[-1]
    assert delays == [1, 2, 4, 5, 5]


def test_jitter_takes_up_to_half() -> None:
    """Clients that failed together do not come back together."""
    assert Backoff(initial=8, cap=8, jitter=lambda: 0.0).next(0) == 4
    assert Backoff(initial=8, cap=8, jitter=lambda: 0.5).next(0) == 6


def test_a_quiet_time_begins_anew() -> None:
    """The time is counted from the end of the last delay."""
    backoff = Backoff(initial=1, cap=100, reset_after=10, jitter=lambda: 1.0)
    assert [backoff.next(0), backoff.next(11), backoff.next(24)] == [1, 2, 1]


def test_years_of_failure_do_not_overflow() -> None:
    """The delay stays at the cap for ever."""
    backoff = Backoff(initial=1, cap=5, jitter=lambda: 1.0)
    assert {backoff.next(0) for _ in range(3000)} == {1, 2, 4, 5}
