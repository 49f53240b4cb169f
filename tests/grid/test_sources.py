"""Whose slices a grid Service's endpoints are taken from, and what may be deleted of Kubernetes'."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ManagedMeta, ObjectMeta, OwnerReference
from sitegrid.grid.observed import Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Service, ServiceSpec
from sitegrid.grid.slices import wanted_slices
from sitegrid.grid.sources import (
    MIRRORING_CONTROLLER,
    as_sources,
    covers,
    is_source,
    leftovers,
    source_service,
    sources_of,
)
from sitegrid.wire.labels import ENDPOINTSLICE_CONTROLLER

SITES = Service(metadata=ManagedMeta(name="web-sites", uid="sites", labels={"tkeedge.io/sites-of": "web"}))
UNITS = {"n1": "one", "n2": "two"}
OWN, BESIDE = {"tkeedge.io/grid-uniq-key": "zone"}, {"tkeedge.io/grid-uniq-key": "", "tkeedge.io/sites-of": "web"}


def _web(*, closed: bool, selector: dict[str, str] | None) -> Service:
    labels = {**OWN, **({"tkeedge.io/sites": "web-sites"} if closed else {})}
    return Service(metadata=ManagedMeta(name="web", uid="web", labels=labels), spec=ServiceSpec(selector=selector))


OPEN, CLOSED = _web(closed=False, selector={"app": "web"}), _web(closed=True, selector=None)


def _slice(owner: str, endpoints: list[Endpoint], labels: dict[str, str], port: int = 80) -> EndpointSlice:
    service = "web" if owner == "web" else "web-sites"
    made = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": ENDPOINTSLICE_CONTROLLER}
    owners = [OwnerReference(api_version="v1", kind="Service", name=service, uid=owner)]
    metadata = ObjectMeta(name=f"{service}-x", labels={**labels, **made}, owner_references=owners)
    return EndpointSlice(metadata, "IPv4", endpoints, [EndpointPort(name="http", protocol="TCP", port=port)])


def _endpoint(number: int, ready: bool) -> Endpoint:
    conditions = EndpointConditions(ready=ready)
    return Endpoint(addresses=[f"10.0.0.{number}"], node_name=f"n{number % 2 + 1}", conditions=conditions)


_ENDPOINTS = st.lists(st.builds(_endpoint, st.integers(0, 5), st.booleans()), max_size=6)
_OWN = st.lists(st.builds(_slice, st.just("web"), _ENDPOINTS, st.just(OWN), st.sampled_from([80, 81])), max_size=3)
_BESIDE = st.lists(
    st.builds(_slice, st.just("sites"), _ENDPOINTS, st.just(BESIDE), st.sampled_from([80, 81])), max_size=3
)
_FORMER = st.lists(st.builds(_slice, st.just("namesake"), _ENDPOINTS, st.just(BESIDE)), max_size=2)


def _ready(items: list[EndpointSlice]) -> set[tuple[str, int | None, str]]:
    """Return unit, port and address of what nodes may reach."""
    return {
        (item.metadata.labels["tkeedge.io/unit"], (item.ports or [])[0].port, endpoint.addresses[0])
        for item in wanted_slices(CLOSED, "zone", items, UNITS).slices
        for endpoint in item.endpoints or ()
        if endpoint.ready
    }


@given(_OWN, _BESIDE, st.sampled_from(["", "unready", "gone"]))
def test_who_covers_may_close(own: list[EndpointSlice], beside: list[EndpointSlice], change: str) -> None:
    """Where it is told that a Service can lose its selector, no unit loses a ready endpoint by it (I8)."""
    # Most of the time that is so but for one endpoint.
    found = [endpoint for item in own for endpoint in item.endpoints or ()]
    if found and change:
        changed = [_endpoint(int(found[0].addresses[0][-1]), False)] if change == "unready" else []
        beside = [_slice("sites", [*changed, *found[1:]], BESIDE, (item.ports or [])[0].port or 0) for item in own]
    if covers(OPEN, SITES, [*own, *beside]):
        assert beside
        before, after = (sources_of(service, SITES, [*own, *beside]) for service in (OPEN, CLOSED))
        assert _ready(before) == _ready(after)


@given(_OWN, _BESIDE)
def test_all_endpoints_of_the_one_beside_it_are_enough(own: list[EndpointSlice], beside: list[EndpointSlice]) -> None:
    """Else it would never lose its selector; how they are spread over slices is no difference."""
    split = [msgspec.structs.replace(item, endpoints=[endpoint]) for item in own for endpoint in item.endpoints or ()]
    copies = [_slice("sites", item.endpoints or [], BESIDE, (item.ports or [])[0].port or 0) for item in split]
    empty = _slice("sites", [], BESIDE)
    assert covers(OPEN, SITES, [*own, *beside, *copies, empty])
    assert not covers(OPEN, SITES, own)
    assert not covers(OPEN, None, [*own, *copies, empty])


@given(_OWN, _BESIDE, _FORMER)
def test_whose_endpoints_count(
    own: list[EndpointSlice], beside: list[EndpointSlice], former: list[EndpointSlice]
) -> None:
    """Of a closed Service those of the other one, until then both, of a namesake that is gone never."""
    items = [*own, *beside, *former]
    assert sources_of(CLOSED, SITES, items) == beside
    assert sources_of(_web(closed=True, selector={"app": "evil"}), SITES, items) == beside
    assert sources_of(CLOSED, None, items) == []
    assert sources_of(OPEN, SITES, items) == [*own, *beside]
    assert sources_of(OPEN, None, items) == own


@given(_OWN, _BESIDE)
def test_only_what_was_made_for_a_former_selector_is_left_over(
    own: list[EndpointSlice], beside: list[EndpointSlice]
) -> None:
    """Never of a Service that has a selector, never the other's, and never those of somebody's own Endpoints."""
    theirs = _slice("web", [], {})
    assert leftovers(CLOSED, [*own, *beside, theirs]) == own
    for service in (OPEN, _web(closed=True, selector={"app": "evil"})):
        assert leftovers(service, [*own, *beside, theirs]) == []


@given(_BESIDE)
def test_unit_slices_stand_in_for_their_sources(beside: list[EndpointSlice]) -> None:
    """Taken for Kubernetes' they make the same unit slices again, aliases and patches left out."""
    made = wanted_slices(CLOSED, "zone", beside, UNITS).slices
    again = wanted_slices(CLOSED, "zone", as_sources(made), UNITS).slices
    assert again == made
    for label in ("tkeedge.io/aliases", "tkeedge.io/service-patch"):
        item = _slice("web", [], {label: ""})
        assert as_sources([item]) == []


def test_which_slices_are_kubernetes_own() -> None:
    """Those that it makes of pods and those that it mirrors, for the Service that the grid's users name."""

    def made(by: str, name: str = "web") -> EndpointSlice:
        labels = {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": by}
        return EndpointSlice(metadata=ObjectMeta(labels=labels))

    assert is_source(made(ENDPOINTSLICE_CONTROLLER))
    assert is_source(made(MIRRORING_CONTROLLER))
    assert not is_source(made("sitegrid"))
    assert not is_source(made("me"))
    assert not is_source(EndpointSlice(metadata=ObjectMeta()))
    assert source_service(made(MIRRORING_CONTROLLER)) == "web"
    assert source_service(_slice("sites", [], BESIDE)) == "web"
