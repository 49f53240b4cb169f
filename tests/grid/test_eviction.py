"""A node is lost where the rest of its unit is not; a whole unit never is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.grid.eviction import PATIENCE, Losses, LostNode, find_lost
from sitegrid.grid.reachability import Reach
from sitegrid.grid.tolerations import NOT_READY, UNREACHABLE
from sitegrid.grid.units import Units, unit_of_node, units_of

NODES = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b", "cloud": ""}
UNITS = units_of("zone", ((name, {"zone": value}) for name, value in NODES.items()))
BY_NODE = unit_of_node(UNITS)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LONG = timedelta(days=1)


def _reach(ready: str, ago: timedelta) -> Reach:
    return Reach(ready, NOW - ago, NOW - ago)


def _find(
    tolerated: Callable[[str], Collection[str]] = lambda value: (), units: Units = UNITS, /, **reaches: Reach
) -> Losses:
    known = {name: reaches.get(name, _reach("True", LONG)) for name in NODES}
    unready = frozenset(name for name, reach in known.items() if reach.ready in ("Unknown", "False"))
    return find_lost(tolerated, units, BY_NODE, known, unready, NOW)


@pytest.mark.parametrize("ready", ["Unknown", "False"])
def test_node_is_lost_after_kubernetes_patience(ready: str) -> None:
    """A node that is not ready is given as long as Kubernetes gives it."""
    assert _find(a1=_reach(ready, PATIENCE - SECOND)) == Losses([], 1.0)
    assert _find(a1=_reach(ready, PATIENCE)) == Losses([LostNode("a", "a1", NOW - PATIENCE)], None)


def test_unit_that_is_away_has_lost_nothing() -> None:
    """Where no node of the unit is ready, nothing is touched, for as long as it takes (I8)."""
    away = _reach("Unknown", LONG)
    assert _find(a1=away, a2=away, a3=_reach("False", LONG), b1=away, b2=away) == Losses([], None)


def test_first_node_back_does_not_condemn_the_others() -> None:
    """After a WAN loss of any length, the other nodes have their time from when the first one was ready."""
    away = _reach("Unknown", LONG)
    assert _find(a1=away, a2=away, a3=_reach("True", PATIENCE - SECOND)) == Losses([], 1.0)
    assert [lost.node for lost in _find(a1=away, a2=away, a3=_reach("True", PATIENCE)).lost] == ["a1", "a2"]


def test_node_outside_every_unit_is_nobodys() -> None:
    """A node without the unique key concerns no grid of that key."""
    assert _find(cloud=_reach("Unknown", LONG)) == Losses([], None)


@pytest.mark.parametrize(("taint", "lost"), [(UNREACHABLE, ["a2", "b1"]), (NOT_READY, ["a1", "b1"])])
def test_units_own_toleration_leaves_it_to_kubernetes(taint: str, lost: list[str]) -> None:
    """Where the user says how long a unit's pods tolerate a node's taint, Kubernetes evicts there, not we."""
    found = _find(
        lambda value: {taint} if value == "a" else (),
        a1=_reach("Unknown", LONG),
        a2=_reach("False", LONG),
        b1=_reach("Unknown", LONG),
    )
    assert [item.node for item in found.lost] == lost


def test_suspended_unit_is_left_alone() -> None:
    """A node that is away for maintenance of its site is not lost."""
    suspended = {**UNITS, "a": replace(UNITS["a"], suspended=True)}
    assert _find(lambda value: (), suspended, a1=_reach("Unknown", LONG)) == Losses([], None)


@given(
    st.fixed_dictionaries(
        {
            name: st.builds(
                _reach,
                st.sampled_from(["True", "False", "Unknown", ""]),
                st.sampled_from([timedelta(0), PATIENCE - SECOND, PATIENCE, LONG]),
            )
            for name in NODES
        }
    )
)
def test_lost_node_has_a_ready_neighbour(reaches: dict[str, Reach]) -> None:
    """Both have been as they are for the whole of the patience; another look is asked for in the future only."""
    found = _find(**reaches)
    for lost in found.lost:
        assert reaches[lost.node].ready in ("Unknown", "False")
        assert NOW - reaches[lost.node].ready_since >= PATIENCE
        assert any(
            reaches[other].ready == "True" and NOW - reaches[other].ready_since >= PATIENCE
            for other in UNITS[lost.unit].nodes
        )
    assert found.wake_in is None or found.wake_in > 0
