from __future__ import annotations

import asyncio

from sitegrid.agent.wan import Wan


def test_it_knows_nothing_at_first() -> None:
    """Neither up nor down is claimed before the first connection."""
    wan = Wan()
    assert (wan.up, wan.down) == (False, False)


def test_listeners_hear_of_changes_only() -> None:
    """Each change is told once, whatever is repeated."""
    wan = Wan()
    told: list[bool] = []
    wan.listeners.append(lambda: told.append(wan.down))
    for _ in range(2):
        wan.lost("refused")
    for _ in range(2):
        wan.reached(0.01)
    wan.lost("refused")
    assert told == [True, False, True]
    assert wan.reason == "refused"


def test_patience_follows_the_link() -> None:
    """A slow link is waited for in proportion, a fast one not less than half a second, none for ever."""
    wan = Wan()
    first = wan.patience
    wan.reached(1.5)
    assert wan.patience == 6.0
    wan.reached(60.0)
    assert wan.patience == 10.0
    wan.reached(0.001)
    assert wan.patience == first < 1.0


async def test_a_pause_ends_when_the_wan_is_back() -> None:
    """Who waits for another try does not wait out the pause once there is something to try."""
    wan = Wan()
    wan.lost("cut")
    pause = asyncio.create_task(wan.pause(3600))
    await asyncio.sleep(0)
    wan.reached(0.01)
    await asyncio.wait_for(pause, 20)
