"""How a user says how slow a WAN is."""

from __future__ import annotations

import pytest

from sitegrid.lab.slowness import Slowness, SlownessError, parse_slowness


def test_the_users_words_are_seconds_shares_and_bits() -> None:
    """Times in ms or s, shares in per cent, rates in kbit or mbit a second."""
    assert parse_slowness("300ms", "50ms", "5%", "50kbit") == Slowness(0.3, 0.05, 0.05, 50_000)
    assert parse_slowness("1.5s", "", "0.1%", "2mbit") == Slowness(1.5, 0, 0.001, 2_000_000)


@pytest.mark.parametrize(
    ("slow", "text"),
    [
        (Slowness(0.3, 0.05, 0.05, 50_000), "300ms ±50ms, 5% loss, 50kbit"),
        (Slowness(delay=1.5), "1500ms"),
        (Slowness(loss=0.001), "0.1% loss"),
        (Slowness(rate=2_000_000), "2000kbit"),
    ],
)
def test_it_is_told_in_the_users_words(slow: Slowness, text: str) -> None:
    """What is not slow is not told."""
    assert str(slow) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say what is slow: --delay, --loss or --rate"),
        ({"delay": "0ms"}, "say what is slow: --delay, --loss or --rate"),
        ({"delay": "300"}, "--delay 300: use a time such as 300ms or 1.5s"),
        ({"delay": "-1s"}, "--delay -1s: use a time such as 300ms or 1.5s"),
        ({"delay": "60s"}, "a delay of 60 s is too long: use at most 10s"),
        ({"jitter": "50ms"}, "the jitter is larger than the delay: a packet cannot arrive before it is sent"),
        ({"jitter": "x"}, "--jitter x: use a time such as 50ms"),
        ({"loss": "0.05"}, "--loss 0.05: use a share such as 5%"),
        ({"loss": "100%"}, "a loss of 100% leaves nothing: use `lab wan cut`"),
        ({"rate": "50"}, "--rate 50: use a rate above 0 such as 50kbit or 2mbit"),
        ({"rate": "0kbit"}, "--rate 0kbit: use a rate above 0 such as 50kbit or 2mbit"),
    ],
)
def test_nonsense_is_refused(options: dict[str, str], message: str) -> None:
    """One sentence says what to write instead."""
    with pytest.raises(SlownessError) as refused:
        parse_slowness(**options)
    assert str(refused.value) == message
