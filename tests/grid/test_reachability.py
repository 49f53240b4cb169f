"""A site that the cloud cannot see keeps its endpoints, and only such a site does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ManagedMeta, ObjectMeta, timestamp
from sitegrid.grid.observed import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    Node,
    ObjectReference,
    Service,
)
from sitegrid.grid.reachability import RETURN, STAGGER, Hold, Reach, carry_over, find_holds, reach_of, silenced
from sitegrid.grid.slices import unchanged, wanted_slices
from sitegrid.grid.units import unit_of_node, units_of
from sitegrid.wire.labels import unit_id

KEY = "zone"
NODES = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "b3": "b", "c1": "c"}
UNITS = units_of(KEY, ((name, {KEY: value}) for name, value in NODES.items()))
BY_NODE = unit_of_node(UNITS)
SERVICE = Service(metadata=ManagedMeta(name="web-svc", namespace="default", uid="s1"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HTTP = EndpointPort(name="http", protocol="TCP", port=80)
DAY = timedelta(days=1)


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def _away(ago: timedelta) -> Reach:
    return Reach("Unknown", NOW - ago, NOW - ago)


def _back(ago: timedelta, ready: str = "True", new: bool = False) -> Reach:
    return Reach(ready, NOW - ago, NOW - ago, new)


def _endpoint(node: str | None, ready: bool | None = True, number: int = 1, **conditions: bool) -> Endpoint:
    return Endpoint(
        addresses=[f"10.0.{sorted(NODES).index(node) if node in NODES else 99}.{number}"],
        conditions=EndpointConditions(ready=ready, **conditions),
        node_name=node,
        target_ref=ObjectReference(kind="Pod", name=f"{node}-{number}", uid=f"{node}-{number}"),
    )


def _source(*endpoints: Endpoint, port: EndpointPort = HTTP, address_type: str = "IPv4") -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name="web-svc-abcde", namespace="default"),
        address_type=address_type,
        endpoints=[*endpoints],
        ports=[port],
    )


def _plain(sources: Iterable[EndpointSlice], by_node: Mapping[str, str] = BY_NODE) -> list[EndpointSlice]:
    return wanted_slices(SERVICE, KEY, sources, by_node).slices


def _carried(
    sources: Iterable[EndpointSlice],
    present: Iterable[EndpointSlice],
    reaches: Mapping[str, Reach],
    now: datetime = NOW,
) -> tuple[list[EndpointSlice], datetime | None]:
    carried = carry_over(KEY, sources, present, BY_NODE, find_holds(UNITS, reaches, BY_NODE, now))
    return _plain(carried.sources), carried.until


def _of(unit: str, items: Iterable[EndpointSlice]) -> list[EndpointSlice]:
    return [item for item in items if item.metadata.labels["tkeedge.io/unit"] == unit_id(KEY, unit)]


def _ready(items: Iterable[EndpointSlice]) -> set[str]:
    return {
        endpoint.addresses[0]
        for item in items
        for endpoint in item.endpoints or ()
        if endpoint.conditions.ready is not False
    }


_reaches = st.fixed_dictionaries(
    {
        node: st.builds(
            lambda ready, ago, new: Reach(ready, NOW - ago, NOW - ago, new and ready != "Unknown"),
            st.sampled_from(["True", "False", "Unknown", "Unknown", ""]),
            st.sampled_from([timedelta(0), STAGGER - _seconds(1), STAGGER, RETURN - _seconds(1), RETURN, DAY]),
            st.booleans(),
        )
        for node in NODES
    }
)
_endpoints = st.lists(
    st.builds(
        _endpoint,
        st.sampled_from([*NODES, "unknown", None]),
        st.sampled_from([True, False, None]),
        st.integers(1, 3),
        terminating=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda endpoint: endpoint.addresses[0],
)
_sources = st.lists(
    st.builds(
        lambda endpoints, port, address_type: _source(*endpoints, port=port, address_type=address_type),
        _endpoints,
        st.sampled_from([HTTP, EndpointPort(name="http", protocol="TCP", port=8080)]),
        st.sampled_from(["IPv4", "IPv6"]),
    ),
    max_size=2,
)


@given(_sources, _sources, _reaches)
def test_unit_that_was_never_away_is_untouched(
    before: list[EndpointSlice], sources: list[EndpointSlice], reaches: dict[str, Reach]
) -> None:
    """Where every node is heard of, and none has just returned, Kubernetes' reading passes as it is."""
    result, _ = _carried(sources, _plain(before), reaches)
    for unit, info in UNITS.items():
        if all(
            not reaches[node].away and (reaches[node].new or NOW - reaches[node].since >= RETURN)
            for node in info.nodes
        ):
            assert _of(unit, result) == _of(unit, _plain(sources))


@given(_sources, _sources, _reaches)
def test_unit_that_is_away_is_not_written(
    before: list[EndpointSlice], sources: list[EndpointSlice], reaches: dict[str, Reach]
) -> None:
    """Whatever Kubernetes says of pods that it cannot see: the unit's slices stay as they are, to the byte."""
    reaches = {node: _away(STAGGER) if value == "a" else reaches[node] for node, value in NODES.items()}
    present = _plain(before)
    result, _ = _carried(sources, present, reaches)
    assert _of("a", result) == _of("a", present)
    assert all(unchanged(wanted, found) for wanted, found in zip(_of("a", result), _of("a", present), strict=True))


@given(_sources, _sources, _reaches)
def test_endpoint_stays_in_its_own_unit(
    before: list[EndpointSlice], sources: list[EndpointSlice], reaches: dict[str, Reach]
) -> None:
    """What is carried over is never an endpoint of another unit, though its node was in that unit once (I1)."""
    moved = {**BY_NODE, "a1": "b", "b1": "a", "c1": "a"}
    units = units_of(KEY, ((name, {KEY: value}) for name, value in moved.items()))
    carried = carry_over(KEY, sources, _plain(before), moved, find_holds(units, reaches, moved, NOW))
    former = {
        (endpoint.addresses[0], item.metadata.labels["tkeedge.io/unit"])
        for item in _plain(before)
        for endpoint in item.endpoints or ()
    }
    now_known = {endpoint.addresses[0] for source in sources for endpoint in source.endpoints or ()}
    for item in _plain(carried.sources, moved):
        for endpoint in item.endpoints or ():
            unit = item.metadata.labels["tkeedge.io/unit"]
            assert unit == unit_id(KEY, moved[endpoint.node_name or ""])
            assert endpoint.addresses[0] in now_known or (endpoint.addresses[0], unit) in former


@given(_sources, _sources, _reaches)
def test_hold_ends(before: list[EndpointSlice], sources: list[EndpointSlice], reaches: dict[str, Reach]) -> None:
    """When all time limits are over, every unit that is not away is as Kubernetes says."""
    later = NOW + max(STAGGER, RETURN)
    result, until = _carried(sources, _plain(before), reaches, later)
    assert until is None
    for unit, info in UNITS.items():
        if not all(reaches[node].away for node in info.nodes):
            assert _of(unit, result) == _of(unit, _plain(sources))


@given(_sources, _sources, _reaches)
def test_wake_up_is_asked_for_where_time_makes_a_difference(
    before: list[EndpointSlice], sources: list[EndpointSlice], reaches: dict[str, Reach]
) -> None:
    """Before the moment that is asked for, nothing changes by itself; without one, nothing ever does."""
    present = _plain(before)
    result, until = _carried(sources, present, reaches)
    last = NOW + 2 * RETURN if until is None else until - timedelta(microseconds=1)
    assert _carried(sources, present, reaches, last)[0] == result
    assert until is None or until > NOW


@given(_sources, _sources, _reaches)
def test_second_pass_changes_nothing(
    before: list[EndpointSlice], sources: list[EndpointSlice], reaches: dict[str, Reach]
) -> None:
    """What was written is what is wanted again: a restarted controller goes on where the former one was."""
    # A pod is ready or not; while Kubernetes moves its endpoint between slices of other ports, they may disagree.
    states = {e.addresses[0]: e for source in sources for e in source.endpoints or ()}
    sources = [
        msgspec.structs.replace(source, endpoints=[states[e.addresses[0]] for e in source.endpoints or ()])
        for source in sources
    ]
    result, _ = _carried(sources, _plain(before), reaches)
    assert _carried(sources, result, reaches)[0] == result


_cut = st.fixed_dictionaries(
    {
        "away": st.tuples(*[st.integers(0, 15)] * 3),
        "not_ready": st.tuples(*[st.integers(0, 5)] * 3),
        "back": st.tuples(*[st.integers(0, 60)] * 3),
        "reported": st.tuples(*[st.integers(0, 80)] * 3),
        "length": st.integers(21, 100_000),
    }
)


@given(_cut)
def test_no_endpoint_vanishes_through_a_whole_wan_loss(cut: dict[str, Any]) -> None:
    """Nodes go, come back and report, each at its own time, and the unit's endpoints are ready throughout."""
    nodes = ("b1", "b2", "b3")
    gone = [NOW + _seconds(cut["away"][i]) for i in range(3)]
    back = [NOW + _seconds(cut["length"] + cut["back"][i]) for i in range(3)]
    not_ready = [gone[i] + _seconds(cut["not_ready"][i]) for i in range(3)]
    reported = [back[i] + _seconds(cut["reported"][i]) for i in range(3)]
    slices = _plain([_source(*(_endpoint(node) for node in nodes))])
    everything = _ready(slices)
    moment: datetime | None
    wakes: set[datetime] = set()
    done: set[datetime] = set()
    while moment := min({*gone, *back, *not_ready, *reported, *wakes} - done, default=None):
        done.add(moment)
        reaches = {node: _reach_at(moment, gone[i], back[i]) for i, node in enumerate(nodes) if gone[i] <= moment}
        unready = [node for i, node in enumerate(nodes) if not_ready[i] <= moment < reported[i]]
        slices, until = _carried(
            [_source(*(_endpoint(node, node not in unready) for node in nodes))], slices, reaches, moment
        )
        assert _ready(slices) == everything
        wakes |= {until} if until is not None else set()


def _reach_at(moment: datetime, gone: datetime, back: datetime) -> Reach:
    return Reach("True", back, back) if back <= moment else Reach("Unknown", gone, gone)


def test_crashed_node_of_a_unit_goes() -> None:
    """Where other nodes of the unit are heard of, the crashed node's endpoints go once it is clear who is away."""
    present = _plain([_source(_endpoint("a1"), _endpoint("a2"))])
    sources = [_source(_endpoint("a1", False), _endpoint("a2"))]
    held, until = _carried(sources, present, {"a1": _away(STAGGER - _seconds(1))})
    assert (held, until) == (present, NOW + _seconds(1))
    assert _carried(sources, held, {"a1": _away(STAGGER)}) == (_plain(sources), None)


def test_not_ready_node_is_heard_of() -> None:
    """A node with Ready False says so itself; what Kubernetes makes of it counts at once, in a unit of one too."""
    present = _plain([_source(_endpoint("c1"))])
    sources = [_source(_endpoint("c1", False))]
    assert _carried(sources, present, {"c1": Reach("False", NOW - DAY, NOW)}) == (_plain(sources), None)


def test_good_news_passes_at_once() -> None:
    """An endpoint that is reported ready is ready, whatever it was, while its node is held."""
    present = _plain([_source(_endpoint("c1", False))])
    sources = [_source(_endpoint("c1"), _endpoint("c1", number=2))]
    assert _carried(sources, present, {"c1": _back(timedelta(0))}) == (_plain(sources), None)


def test_new_endpoint_that_is_not_ready_is_nothing_former() -> None:
    """A pod that was not there before is not ready until it is, its address' former owner notwithstanding."""
    present = _plain([_source(_endpoint("c1"))])
    other = msgspec.structs.replace(_endpoint("c1", False), target_ref=ObjectReference(kind="Pod", uid="other"))
    assert _carried([_source(other)], present, {"c1": _back(timedelta(0))}) == (_plain([_source(other)]), None)


@pytest.mark.parametrize("what", ["gone", "terminating"])
@pytest.mark.parametrize("node_is", ["away", "back"])
def test_deleted_pod_stays_until_its_node_is_back(what: str, node_is: str) -> None:
    """A pod that the cloud deleted runs until its kubelet hears of it; then it goes at once."""
    present = _plain([_source(_endpoint("a1"), _endpoint("a2"))])
    deleted = [_endpoint("a1", False, serving=False, terminating=True)] if what == "terminating" else []
    sources = [_source(*deleted, _endpoint("a2"))]
    a1 = _away(DAY) if node_is == "away" else _back(_seconds(5))
    result, until = _carried(sources, present, {"a1": a1, "a2": _back(_seconds(5))})
    if node_is == "away":
        assert (result, until) == (present, NOW - _seconds(5) + RETURN)
    else:
        assert (result, until) == (_plain(sources), None)


def test_changed_ports_are_taken_with_the_former_state() -> None:
    """A Service that was given other ports meanwhile has them when its unit returns; its endpoints stay ready."""
    present = _plain([_source(_endpoint("c1"))])
    other = EndpointPort(name="http", protocol="TCP", port=8080)
    result, _ = _carried([_source(_endpoint("c1", False), port=other)], present, {"c1": _back(timedelta(0))})
    assert result == _plain([_source(_endpoint("c1"), port=other)])


def test_new_node_does_not_end_the_hold_of_its_unit() -> None:
    """A site may come back with a node that was never seen before; it is held like one that returned."""
    holds = find_holds(UNITS, {"a1": _away(DAY), "a2": _back(_seconds(5), new=True)}, BY_NODE, NOW)
    assert holds == {"a1": Hold(away=True, until=NOW - _seconds(5) + RETURN)}


def test_node_that_left_a_unit_that_is_away_takes_its_endpoints_along() -> None:
    """A unit that is away is written for one reason: an endpoint in it is no longer its own (I1)."""
    present = _plain([_source(_endpoint("a1"), _endpoint("a2"))])
    by_node = {**BY_NODE, "a1": "c"}
    units = units_of(KEY, ((name, {KEY: value}) for name, value in by_node.items()))
    reaches = dict.fromkeys(NODES, _away(DAY))
    carried = carry_over(KEY, [], present, by_node, find_holds(units, reaches, by_node, NOW))
    assert _plain(carried.sources, by_node) == _plain([_source(_endpoint("a2"))])


def test_silenced_is_what_was_ready_and_is_not_deleted() -> None:
    """The nodes to be asked for: of endpoints that go without a deletion, and of no others."""
    present = [
        _source(_endpoint("a1"), _endpoint("a2", None), _endpoint("b1"), _endpoint("b2"), _endpoint("b3", False))
    ]
    wanted = [
        _source(
            _endpoint("a1", False),
            _endpoint("a2", False),
            _endpoint("b1", False, terminating=True),
            _endpoint("b2"),
            _endpoint("b3", False),
            _endpoint("c1", False),
        )
    ]
    assert silenced(wanted, present) == {"a1", "a2"}


# --- what a Node says ---


def _node(created: datetime, **conditions: tuple[str, datetime]) -> Node:
    body = {
        "metadata": {"name": "n", "creationTimestamp": timestamp(created)},
        "status": {
            "conditions": [
                {
                    "type": name,
                    "status": status,
                    "lastTransitionTime": timestamp(at),
                    "lastHeartbeatTime": timestamp(at),
                }
                for name, (status, at) in conditions.items()
            ]
        },
    }
    return msgspec.json.decode(msgspec.json.encode(body), type=Node)


def test_return_is_when_the_kubelet_was_first_heard_again() -> None:
    """All conditions leave Unknown at once; a Ready that changed again later does not begin it anew."""
    back = NOW - _seconds(40)
    node = _node(
        NOW - DAY,
        Ready=("True", NOW - _seconds(10)),
        MemoryPressure=("True", NOW),
        DiskPressure=("False", back),
        PIDPressure=("False", back),
    )
    assert reach_of(node) == Reach("True", back, NOW - _seconds(10))


def test_restarted_kubelet_was_not_away() -> None:
    """Ready False and True again, while the other conditions stay, is a kubelet that was heard of all along."""
    old = NOW - DAY
    node = _node(old - DAY, Ready=("True", NOW), MemoryPressure=("False", old), DiskPressure=("False", old))
    assert reach_of(node).since == old


def test_away_since_ready_is_unknown() -> None:
    """Ready=Unknown is what counts, and since when."""
    node = _node(NOW - 2 * DAY, Ready=("Unknown", NOW), MemoryPressure=("Unknown", NOW - DAY))
    assert reach_of(node) == Reach("Unknown", NOW, NOW)
    assert reach_of(node).away


def test_condition_that_a_kubelet_never_reports_says_nothing() -> None:
    """The node lifecycle controller adds what is missing as Unknown, for good."""
    node = _node(NOW - 2 * DAY, Ready=("True", NOW - DAY), PIDPressure=("Unknown", NOW - 2 * DAY))
    assert reach_of(node) == Reach("True", NOW - DAY, NOW - DAY)


def test_new_node_was_never_away() -> None:
    """A node that is heard of since its creation did not return."""
    assert reach_of(_node(NOW - _seconds(2), Ready=("True", NOW), MemoryPressure=("False", NOW))).new
    assert not reach_of(_node(NOW - DAY, Ready=("True", NOW), MemoryPressure=("False", NOW))).new


@pytest.mark.parametrize("status", [{}, {"conditions": None}, {"conditions": []}])
def test_node_without_conditions_is_not_away(status: dict[str, Any]) -> None:
    """A Node that no kubelet has reported for yet holds nothing."""
    node = msgspec.convert({"metadata": {"name": "n"}, "status": status}, Node)
    assert not reach_of(node).away
    assert find_holds(UNITS, {"c1": reach_of(node)}, BY_NODE, NOW) == {}


def test_heartbeat_changes_nothing() -> None:
    """lastHeartbeatTime is not even decoded, nor are other parties' conditions (I7)."""

    def decoded(beat: str, extra: str) -> Node:
        ready = f'{{"type":"Ready","status":"True","lastHeartbeatTime":"{beat}","lastTransitionTime":"t"}}'
        other = f'{{"type":"KernelDeadlock","status":"{extra}"}}'
        return msgspec.json.decode(f'{{"metadata":{{}},"status":{{"conditions":[{ready},{other}]}}}}', type=Node)

    assert decoded("1", "True") == decoded("2", "False")


def test_wild_clock_of_a_kubelet_is_no_error() -> None:
    """A kubelet may name any moment that can be written."""
    end = datetime.max.replace(tzinfo=UTC, microsecond=0)
    assert find_holds(UNITS, {"c1": Reach("True", end, end)}, BY_NODE, NOW) == {"c1": Hold(away=False, until=end)}
