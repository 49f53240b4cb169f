"""Lives of the controller on an API server in memory that outlives them, and the question that every write raises.

Used by ``tests/controller/passes`` and ``tests/controller/nodeunits``. Where a controller dies must not matter to
what its successor comes to, nor may the successor go on writing there: so each test's story is told once to its end
and then anew for every single write, with a death right after it (the method of Sieve and Acto).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sitegrid.controller.cluster import Cluster
from tests.support.fakeapi import Crash, FakeApi, Recorder

Make = Callable[..., Any]
Story = Callable[[Any, Any], Awaitable[None]]
"""What happens in a scene, to a life."""


class Life:
    """One life of the controller: its stores, its memory and its clock. What it does is the subclass's."""

    def __init__(self, api: FakeApi, start: float) -> None:
        self.api = api
        self.clock = start
        self.recorder = Recorder()
        self.cluster = Cluster(clock=self.time, now=self.now)
        self.stores: dict[str, tuple[Any, type[Any]]] = {}
        """Store and type by plural, of all that this life looks at."""

    def time(self) -> float:
        """Return the fake time in seconds."""
        return self.clock

    def now(self) -> datetime:
        """Return the fake time."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.clock)

    def sync(self, *plurals: str) -> None:
        """Let the stores (these, or all) see what the API has."""
        for plural in plurals or self.stores:
            store, object_type = self.stores[plural]
            objects = [msgspec.json.encode(obj) for obj in self.api.of(plural).values()]
            store.replace([msgspec.json.decode(data, type=object_type) for data in objects])


async def rest(scene: Any, life: Any) -> None:
    """Let a life work until there is nothing to do."""
    await life.until_rest()


async def crash_after_every_write(
    new_scene: Make,
    new_life: Make,
    prepare: Callable[[Any], Awaitable[Any]],
    *,
    story: Story = rest,
    recovery: Story = rest,
    result: Callable[[Any], Any] = lambda scene: scene.result(),
) -> Any:
    """Kill the controller after each write of `story`; its successor comes to the same `result`, and stays there.

    `prepare` readies an empty scene and may return a life that is under way. Returns the scene in which nobody died.
    """

    async def begin() -> tuple[Any, Any]:
        scene = new_scene()
        return scene, await prepare(scene) or new_life(scene)

    whole, life = await begin()
    before = len(whole.api.writes)
    await story(whole, life)
    assert len(whole.api.writes) > before
    for count in range(before + 1, len(whole.api.writes) + 1):
        scene, life = await begin()
        scene.api.crash_after = count
        with pytest.raises(Crash):
            await story(scene, life)
        scene.api.crash_after = None
        successor = new_life(scene, life.clock)
        await recovery(scene, successor)
        assert result(scene) == result(whole)
        writes = len(scene.api.writes)
        await new_life(scene, successor.clock).until_rest()
        assert scene.api.writes[writes:] == []
    return whole
