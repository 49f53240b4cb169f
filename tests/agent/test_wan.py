from __future__ import annotations

import asyncio
from typing import Any

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
    for _ in range(4):
        wan.reached(0.001)
    assert wan.patience == first < 1.0


def test_one_quick_connection_does_not_make_a_slow_link_quick() -> None:
    """Packets that got lost take seconds, the next ones' did not: patience is given up by halves."""
    wan = Wan()
    wan.reached(2.0)
    wan.reached(0.1)
    assert wan.patience == 4.0
    wan.reached(0.1)
    assert wan.patience == 2.0


async def test_what_is_late_on_a_live_link_is_not_lost(objects: Any) -> None:
    """While anything comes on any connection the API server is there, and more patience is what is missing."""
    wan = Wan()
    wan.reached(0.5)
    assert not wan.late(2.0)
    assert wan.patience == 2.0
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    wan.follow(writer.transport)
    theirs = await accepted.get()
    theirs.write(b"x")
    await reader.read(1)
    assert wan.late(3600.0)
    assert wan.patience == 4.0
    await objects.eventually(lambda: not wan.late(0.02))
    for _ in range(9):
        wan.late(3600.0)
    assert wan.patience == 10.0
    for end in (theirs, writer):
        end.close()
        await end.wait_closed()
    assert not wan.late(3600.0)
    server.close()


async def test_a_pause_ends_when_the_wan_is_back() -> None:
    """Who waits for another try does not wait out the pause once there is something to try."""
    wan = Wan()
    wan.lost("cut")
    pause = asyncio.create_task(wan.pause(3600))
    await asyncio.sleep(0)
    wan.reached(0.01)
    await asyncio.wait_for(pause, 20)
