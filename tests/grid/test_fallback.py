"""Fallback: a unit without a ready endpoint uses a named neighbour's, and nobody else ever sees a foreign one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ManagedMeta, ObjectMeta
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.grid.aliases import GridSet
from sitegrid.grid.fallback import Falling, fallbacks_of
from sitegrid.grid.nodeunits import Declaration
from sitegrid.grid.observed import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    ObjectReference,
    Service,
    ServiceSpec,
)
from sitegrid.grid.slices import Projection, unchanged, wanted_slices
from sitegrid.grid.units import units_of

NODES = {"n1": "one", "n2": "two", "n3": "three"}
DECLARED = {("zone", "one"): Declaration({"tier": "gold"}, {"next": "two"})}
UNITS = units_of("zone", [(node, {"zone": value}) for node, value in NODES.items()], DECLARED)
SERVICE = Service(metadata=ManagedMeta(name="web-svc", namespace="default", uid="s1"))
HTTP = EndpointPort(name="http", protocol="TCP", port=80)
METRICS = EndpointPort(name="metrics", protocol="TCP", port=9090)


def _fallbacks(*entries: dict[str, Any]) -> Any:
    spec = {"gridUniqKey": "zone", "template": {}, "fallback": [*entries]}
    return fallbacks_of(msgspec.convert({"metadata": {}, "spec": spec}, ServiceGrid), UNITS)


def _endpoint(address: str, node: str, ready: bool = True) -> Endpoint:
    return Endpoint(addresses=[address], node_name=node, conditions=EndpointConditions(ready=ready))


def _source(*endpoints: Endpoint, port: EndpointPort = HTTP, address_type: str = "IPv4") -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name="s", namespace="default"),
        address_type=address_type,
        endpoints=[*endpoints],
        ports=[port],
    )


def _project(*sources: EndpointSlice, **falling: Any) -> Projection:
    return wanted_slices(SERVICE, "zone", sources, NODES, falling=Falling(**falling))


def _seen(projection: Projection) -> dict[str, set[tuple[str, bool]]]:
    """Return addresses and readiness by unit."""
    found: dict[str, set[tuple[str, bool]]] = {}
    for item in projection.slices:
        seen = found.setdefault(item.metadata.labels["tkeedge.io/unit"].removeprefix("zone."), set())
        seen.update((endpoint.addresses[0], endpoint.ready) for endpoint in item.endpoints or ())
    return found


def test_nothing_is_said_by_default() -> None:
    """Without the field no unit may use another."""
    assert _fallbacks() == _fallbacks(*[])
    assert (_fallbacks().ways, _fallbacks().problems, _fallbacks().unknown) == ({}, {}, frozenset())


def test_the_last_entry_for_a_unit_counts() -> None:
    """By name, by label, or for all: as with overrides the last one wins, and a unit is never its own neighbour."""
    found = _fallbacks(
        {"to": ["three", "two"]},
        {"units": {"selector": {"matchLabels": {"tier": "gold"}}}, "to": ["three"]},
        {"units": {"names": ["two"]}, "to": ["one"]},
    )
    assert found.ways == {"one": ("three",), "two": ("one",), "three": ("two",)}
    assert not found.problems


def test_a_value_of_the_unit_names_its_neighbour() -> None:
    """One entry can be for all sites; a unit without the value has a problem, and the others have not."""
    found = _fallbacks({"to": ["$(unit.values.next)"]})
    assert found.ways == {"one": ("two",)}
    assert found.problems.keys() == {"two", "three"}
    assert "spec.fallback[0].to" in found.problems["two"].message
    assert "is not known" in found.problems["two"].message


def test_a_unit_that_is_named_as_its_own_neighbour_is_told() -> None:
    """It is left out of the list, the rest of which counts."""
    found = _fallbacks({"units": {"names": ["one", "two"]}, "to": ["one", "three"]})
    assert found.ways == {"one": ("three",), "two": ("one", "three")}
    assert found.problems.keys() == {"one"}
    assert "take it out of `to`" in found.problems["one"].message


def test_names_that_no_unit_has_are_told() -> None:
    """They are no error: the site may come."""
    found = _fallbacks({"units": {"names": ["one", "nowhere"]}, "to": ["later", "two"]})
    assert found.unknown == {"nowhere", "later"}
    assert found.ways == {"one": ("later", "two")}
    assert not found.problems


def test_a_selector_that_cannot_be_understood_names_nobody() -> None:
    """Nobody can tell whose last entry it would be, so no unit falls back."""
    found = _fallbacks(
        {"to": ["two"]},
        {"units": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "to": ["two"]},
    )
    assert found.ways == {}
    assert found.problems.keys() == {""}
    assert found.problems[""].reason == "UnitsInvalid"


WAYS = {"one": ("three", "two")}


def test_a_unit_in_need_uses_the_first_neighbour_that_is_ready() -> None:
    """All of that neighbour's ready endpoints, in all its families and ports; its own slices stay as they are."""
    sources = (
        _source(_endpoint("10.0.1.1", "n1", False), _endpoint("10.0.2.1", "n2"), _endpoint("10.0.2.2", "n2", False)),
        _source(_endpoint("fd00::2", "n2"), address_type="IPv6"),
        _source(_endpoint("10.0.2.1", "n2"), port=METRICS),
        _source(_endpoint("10.0.3.1", "n3", False)),
    )
    projection = _project(*sources, ways=WAYS)
    assert projection.fallbacks == {"one": "two"}
    assert _seen(projection)["one"] == {("10.0.1.1", False), ("10.0.2.1", True), ("fd00::2", True)}
    plain = {item.metadata.name: item for item in _project(*sources).slices}
    for item in projection.slices:
        if item.metadata.labels["tkeedge.io/unit"] != "zone.one":
            assert plain.pop(item.metadata.name) == item
    assert all(item.metadata.labels["tkeedge.io/unit"] == "zone.one" for item in plain.values())


def test_a_unit_without_any_endpoint_gets_a_slice() -> None:
    """It has nodes, which is enough."""
    projection = _project(_source(_endpoint("10.0.2.1", "n2")), ways=WAYS)
    assert _seen(projection)["one"] == {("10.0.2.1", True)}


def test_one_ready_endpoint_of_its_own_ends_it() -> None:
    """The foreign ones are gone from the unit's slices at once."""
    projection = _project(_source(_endpoint("10.0.1.1", "n1"), _endpoint("10.0.2.1", "n2")), ways=WAYS)
    assert (projection.fallbacks, _seen(projection)["one"]) == ({}, {("10.0.1.1", True)})


def test_what_is_borrowed_is_not_passed_on() -> None:
    """A neighbour that is itself in need helps nobody."""
    projection = _project(
        _source(_endpoint("10.0.3.1", "n3")), ways={"one": ("two",), "two": ("three",)}, away=(), unit_slices=()
    )
    assert projection.fallbacks == {"two": "three"}
    assert "one" not in _seen(projection)


def test_names_of_pods_are_the_neighbours() -> None:
    """Behind a headless Service the common name is the neighbour's pod as long as the unit has none."""
    service = Service(metadata=SERVICE.metadata, spec=ServiceSpec(cluster_ip="None"))
    pod = ObjectReference(kind="Pod", namespace="default", name="db-two-0", uid="u")
    endpoint = msgspec.structs.replace(_endpoint("10.0.2.1", "n2"), hostname="db-two-0", target_ref=pod)
    projection = wanted_slices(
        service,
        "zone",
        [_source(endpoint)],
        NODES,
        find_set={"db-two": GridSet("db", "zone.two")}.get,
        falling=Falling(WAYS),
    )
    names = {
        item.hostname
        for found in projection.slices
        if found.metadata.labels["tkeedge.io/unit"] == "zone.one"
        for item in found.endpoints or ()
    }
    assert names == {"db-two-0", "db-0"}


@pytest.mark.parametrize("borrowed", [True, False])
def test_a_unit_that_is_away_keeps_what_it_has(borrowed: bool) -> None:
    """While the cloud does not see a unit its slices stay, whatever becomes of the neighbour meanwhile."""
    own = () if borrowed else (_endpoint("10.0.1.1", "n1"),)
    before = _project(_source(*own, _endpoint("10.0.2.1", "n2"), _endpoint("10.0.3.1", "n3", False)), ways=WAYS)
    later = _source(*own, _endpoint("10.0.2.9", "n2"), _endpoint("10.0.3.1", "n3"))
    after = _project(later, ways=WAYS, away={"one"}, unit_slices=before.slices)
    assert after.fallbacks == before.fallbacks
    assert _seen(after)["one"] == _seen(before)["one"]


def test_a_borrowed_endpoint_whose_node_left_the_neighbour_goes_even_then() -> None:
    """Only units that are named count, and a node that was relabelled is in none of them."""
    before = _project(_source(_endpoint("10.0.2.1", "n2")), ways=WAYS)
    moved = {"n1": "one", "n2": "elsewhere", "n3": "three"}
    falling = Falling(WAYS, {"one"}, before.slices)
    after = wanted_slices(SERVICE, "zone", [_source(_endpoint("10.0.2.1", "n2"))], moved, falling=falling)
    assert "one" not in _seen(after)


_endpoints = st.lists(
    st.builds(
        _endpoint,
        st.integers(0, 9).map(lambda number: f"10.0.0.{number}"),
        st.sampled_from(["n1", "n2", "n3", "unknown"]),
        st.booleans(),
    ),
    max_size=6,
    unique_by=lambda endpoint: endpoint.addresses[0],
)
_ways = st.dictionaries(
    st.sampled_from(["one", "two", "three"]),
    st.lists(st.sampled_from(["one", "two", "three", "none"]), max_size=3).map(tuple),
).map(lambda ways: {value: tuple(name for name in to if name != value) for value, to in ways.items()})


@given(_endpoints, _endpoints, _ways, st.sets(st.sampled_from(["one", "two", "three"])))
def test_only_named_neighbours_are_seen_and_only_in_need(
    endpoints: list[Endpoint], former: list[Endpoint], ways: dict[str, tuple[str, ...]], away: set[str]
) -> None:
    """A foreign endpoint is in a unit's slices only if named and, but for units away, while none of its own is ready.

    All its own are there in any case; and a second pass over the result changes nothing.
    """
    present = _project(_source(*former), ways=ways).slices
    projection = _project(_source(*endpoints), ways=ways, away=away, unit_slices=present)
    own: dict[str, dict[str, bool]] = {value: {} for value in UNITS}
    for endpoint in endpoints:
        if endpoint.node_name in NODES:
            own[NODES[endpoint.node_name]][endpoint.addresses[0]] = endpoint.ready
    for item in projection.slices:
        value = item.metadata.labels["tkeedge.io/unit"].removeprefix("zone.")
        foreign = [found for found in item.endpoints or () if NODES[found.node_name or ""] != value]
        for endpoint in foreign:
            assert NODES[endpoint.node_name or ""] in ways.get(value, ())
            assert value in projection.fallbacks
            assert value in away or (not any(own[value].values()) and endpoint.ready)
    for value, addresses in own.items():
        assert {address for address, _ in _seen(projection).get(value, ())} >= addresses.keys()
        if value not in away and not any(own[value].values()):
            can = [name for name in ways.get(value, ()) if any(own.get(name, {}).values())]
            assert projection.fallbacks.get(value) == (can[0] if can else None)
    again = _project(_source(*endpoints), ways=ways, away=away, unit_slices=projection.slices)
    assert all(unchanged(*both) for both in zip(again.slices, projection.slices, strict=True))


@given(_endpoints)
def test_without_fallback_no_foreign_endpoint_is_seen(endpoints: list[Endpoint]) -> None:
    """Closure (I1) is what it was."""
    for item in _project(_source(*endpoints), away={"one"}, unit_slices=_project(_source(*endpoints)).slices).slices:
        value = item.metadata.labels["tkeedge.io/unit"].removeprefix("zone.")
        assert {NODES[endpoint.node_name or ""] for endpoint in item.endpoints or ()} == {value}
