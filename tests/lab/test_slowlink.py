"""The relay of a slow WAN: when each frame arrives, if it does."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from sitegrid.lab.slowlink import QUEUE_SECONDS, Way
from sitegrid.lab.slowness import Slowness


def _frame(number: int, size: int = 0) -> bytes:
    """Return a frame of `size` bytes on the wire."""
    return bytes(10) + number.to_bytes(max(size, 4), "little")


def _way(slow: Slowness) -> Way:
    return Way(slow, random.Random(1))


def test_a_frame_arrives_after_the_delay() -> None:
    """Not sooner, and once."""
    way = _way(Slowness(delay=0.3))
    way.enter(_frame(1), 100.0)
    assert way.next_arrival == pytest.approx(100.3)
    assert way.arrived(100.29) == []
    assert way.arrived(100.31) == [_frame(1)]
    assert way.arrived(200.0) == []
    assert way.next_arrival is None


def test_jitter_varies_the_delay_and_keeps_the_order() -> None:
    """Each frame takes between the delay less the jitter and the delay and the jitter, and none overtakes."""
    way = _way(Slowness(delay=0.3, jitter=0.2))
    arrivals = []
    for number in range(200):
        way.enter(_frame(number), number * 1.0)  # so far apart that none waits for the one before
        assert way.next_arrival is not None
        arrivals.append(way.next_arrival - number)
        assert way.arrived(number + 0.5) == [_frame(number)]
    assert 0.1 <= min(arrivals) < 0.15
    assert 0.45 < max(arrivals) <= 0.5
    for number in range(200):
        way.enter(_frame(number), 1000 + number * 0.001)
    assert way.arrived(2000) == [_frame(number) for number in range(200)]


def test_the_share_that_is_lost_is_lost() -> None:
    """Of many frames, about so many never arrive; the others do, in order."""
    way = _way(Slowness(loss=0.1))
    frames = [_frame(number) for number in range(2000)]
    for frame in frames:
        way.enter(frame, 0.0)
    left = way.arrived(0.0)
    assert 1700 < len(left) < 1900
    assert left == [frame for frame in frames if frame in set(left)]


def test_the_rate_is_of_bytes_on_the_wire() -> None:
    """1000 bytes at 8 kbit/s take a second; the next ones wait for them; an idle link saves nothing up."""
    way = _way(Slowness(delay=0.5, rate=8000))
    for number in range(3):
        way.enter(_frame(number, 1000), 10.0)
    assert [len(way.arrived(now)) for now in (11.4, 11.6, 12.4, 12.6, 13.6)] == [0, 1, 0, 1, 1]
    way.enter(_frame(3, 1000), 50.0)
    assert way.next_arrival == pytest.approx(51.5)


def test_a_full_queue_loses_what_comes_on_top() -> None:
    """More than some seconds of frames do not wait."""
    way = _way(Slowness(rate=8000))
    for number in range(20):
        way.enter(_frame(number, 1000), 0.0)
    assert len(way.arrived(100.0)) == QUEUE_SECONDS + 1  # of which one is being sent


def test_a_relay_whose_port_is_not_there_says_so() -> None:
    """One line, for the process's log."""
    argv = [sys.executable, "-m", "sitegrid.lab.slowlink", "sgnone0", "sgnone1", "--delay=0.1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "the link sgnone0 - sgnone1 is gone: No such device\n"
