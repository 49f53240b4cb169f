"""Whether nodes are heard of, and since when: what the API says, dated by ourselves where we saw it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from sitegrid.api.meta import timestamp
from sitegrid.controller.reaches import NodeReaches
from sitegrid.grid.observed import Node
from sitegrid.grid.reachability import RETURN
from sitegrid.kube.store import Store

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Scene:
    """A store of nodes, and a clock."""

    def __init__(self) -> None:
        self.now = START
        self.nodes: Store[Node] = Store()
        self.reaches = NodeReaches(self.nodes, now=lambda: self.now)
        self._version = 0

    def report(
        self, ready: str, since: datetime, *, pressure: datetime | None = None, created: datetime = START - 2 * DAY
    ) -> None:
        """Let the node say how it is; `pressure` is the transition of what is no Ready, `since` where not given."""
        self._version += 1
        other = "Unknown" if ready == "Unknown" else "False"
        body = {
            "metadata": {
                "name": "n",
                "uid": "u",
                "resourceVersion": str(self._version),
                "creationTimestamp": timestamp(created),
            },
            "status": {
                "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": timestamp(since)},
                    {"type": "DiskPressure", "status": other, "lastTransitionTime": timestamp(pressure or since)},
                ]
            },
        }
        self.nodes.set(msgspec.json.decode(msgspec.json.encode(body), type=Node))


@pytest.fixture
def new_scene() -> Callable[[], Scene]:
    """Return a function that makes an empty store of nodes."""
    return Scene


def test_first_sight_is_dated_by_the_conditions(new_scene: Callable[[], Scene]) -> None:
    """A controller that starts in the middle of an outage knows when it began."""
    scene = new_scene()
    scene.report("Unknown", START - DAY)
    assert scene.reaches.all()["n"].since == START - DAY
    assert scene.reaches.unready() == {"n"}


@pytest.mark.parametrize("skew", [-DAY, DAY])
def test_return_is_dated_by_us(new_scene: Callable[[], Scene], skew: timedelta) -> None:
    """A kubelet's clock may be off by any amount after months without its WAN."""
    scene = new_scene()
    scene.report("Unknown", START - DAY)
    scene.now += timedelta(seconds=5)
    scene.report("True", scene.now + skew)
    assert scene.reaches.all()["n"].since == scene.reaches.all()["n"].ready_since == scene.now
    assert scene.reaches.unready() == set()


def test_nothing_is_in_the_future(new_scene: Callable[[], Scene]) -> None:
    """A node seen first by a controller whose clock is behind holds nothing for longer than a return does."""
    scene = new_scene()
    scene.report("True", START + DAY)
    assert scene.reaches.unsettled().keys() == {"n"}
    scene.now += RETURN
    assert scene.reaches.unsettled() == {}


def test_restart_of_a_kubelet_is_no_return(new_scene: Callable[[], Scene]) -> None:
    """Ready False and True again leaves the node heard of as before, and ready only since then."""
    scene = new_scene()
    scene.report("True", START - DAY)
    scene.report("False", START, pressure=START - DAY)
    scene.now += timedelta(seconds=5)
    scene.report("True", START, pressure=START - DAY)
    assert scene.reaches.all()["n"].since == START - DAY
    assert scene.reaches.all()["n"].ready_since == scene.now
    assert scene.reaches.unsettled() == {}


@pytest.mark.parametrize("seen_to_go", [False, True])
def test_new_node_that_was_seen_to_go_did_return(new_scene: Callable[[], Scene], seen_to_go: bool) -> None:
    """Heard of since its first seconds means never away, unless we have seen otherwise, whatever its clock says."""
    scene = new_scene()
    scene.report("Unknown" if seen_to_go else "True", START, created=START)
    scene.report("True", START, created=START)
    assert scene.reaches.all()["n"].new is not seen_to_go
    scene.report("False", START + timedelta(seconds=1), pressure=START, created=START)
    assert scene.reaches.all()["n"].new is not seen_to_go


def test_heartbeat_is_no_news(new_scene: Callable[[], Scene]) -> None:
    """A node that says the same again keeps its dates."""
    scene = new_scene()
    scene.report("Unknown", START - DAY)
    scene.report("True", START)
    before = dict(scene.reaches.all())
    scene.now += timedelta(seconds=300)
    scene.report("True", START)
    assert scene.reaches.all() == before


def test_unsettled_until_the_return_is_over(new_scene: Callable[[], Scene]) -> None:
    """A node counts as away while it is, and as returned for `RETURN`."""
    scene = new_scene()
    scene.report("Unknown", START - DAY)
    scene.now += DAY
    assert scene.reaches.unsettled().keys() == {"n"}
    scene.report("True", START)
    scene.now += RETURN - timedelta(seconds=1)
    assert scene.reaches.unsettled().keys() == {"n"}
    scene.now += timedelta(seconds=1)
    assert scene.reaches.unsettled() == {}


def test_deleted_node_is_forgotten(new_scene: Callable[[], Scene]) -> None:
    """Nothing is kept of a node that is no more."""
    scene = new_scene()
    scene.report("Unknown", START)
    scene.nodes.replace([])
    assert not scene.reaches.all()
    assert not scene.reaches.unready()
    assert not scene.reaches.unsettled()
