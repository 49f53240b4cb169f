"""Unit slices: every endpoint in its own unit's slice and in no other."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ManagedMeta, ObjectMeta, OwnerReference
from sitegrid.grid.names import is_dns_subdomain
from sitegrid.grid.observed import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    ObjectReference,
    Service,
    ServiceSpec,
)
from sitegrid.grid.slices import (
    MAX_ENDPOINTS,
    is_patch_slice,
    is_unit_slice,
    manifest,
    patch_slice,
    unchanged,
    wanted_slices,
)
from sitegrid.grid.sources import is_source
from sitegrid.wire.labels import unit_id

UNITS = {"n1": "one", "n2": "one", "n3": "NodeUnit2"}
SERVICE = Service(metadata=ManagedMeta(name="web-svc", namespace="default", uid="s1"))
HTTP = EndpointPort(name="http", protocol="TCP", port=80)


def _source(endpoints: list[Endpoint], *ports: EndpointPort, address_type: str = "IPv4") -> EndpointSlice:
    labels = {
        "kubernetes.io/service-name": "web-svc",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    return EndpointSlice(
        metadata=ObjectMeta(name="web-svc-abcde", namespace="default", labels=labels),
        address_type=address_type,
        endpoints=endpoints,
        ports=[*ports] or [HTTP],
    )


def _endpoint(address: str, node: str | None, ready: bool = True) -> Endpoint:
    return Endpoint(addresses=[address], node_name=node, conditions=EndpointConditions(ready=ready))


def _wanted(*sources: EndpointSlice, service: Service = SERVICE) -> list[EndpointSlice]:
    return wanted_slices(service, "zone", sources, UNITS).slices


def _addresses(items: Iterable[EndpointSlice]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in items:
        for endpoint in item.endpoints or ():
            found.setdefault(item.metadata.labels["tkeedge.io/unit"], set()).update(endpoint.addresses)
    return found


_endpoints = st.lists(
    st.builds(
        _endpoint,
        st.integers(0, 8).map(lambda number: f"10.0.0.{number}"),
        st.sampled_from(["n1", "n2", "n3", "unknown", "", None]),
        st.booleans(),
    ),
    max_size=12,
    unique_by=lambda endpoint: endpoint.addresses[0],
)
_sources = st.lists(
    st.builds(
        _source,
        _endpoints,
        st.sampled_from([HTTP, EndpointPort(name="http", protocol="TCP", port=8080)]),
        address_type=st.sampled_from(["IPv4", "IPv6"]),
    ),
    max_size=3,
)


@given(_sources)
def test_endpoint_is_only_in_its_own_unit(sources: list[EndpointSlice]) -> None:
    """No slice holds an endpoint of another unit, of an unknown node, or of no node (I1)."""
    ids = {node: unit_id("zone", value) for node, value in UNITS.items()}
    for item in _wanted(*sources):
        for endpoint in item.endpoints or ():
            assert ids[endpoint.node_name or ""] == item.metadata.labels["tkeedge.io/unit"]


@given(_sources)
def test_no_endpoint_of_a_unit_is_lost(sources: list[EndpointSlice]) -> None:
    """Every endpoint on a node of a unit is in that unit's slices."""
    wanted: dict[str, set[str]] = {}
    for source in sources:
        for endpoint in source.endpoints or ():
            if endpoint.node_name in UNITS:
                wanted.setdefault(unit_id("zone", UNITS[endpoint.node_name]), set()).update(endpoint.addresses)
    assert _addresses(_wanted(*sources)) == wanted


@given(_sources, st.integers())
def test_order_is_no_difference(sources: list[EndpointSlice], seed: int) -> None:
    """Another order of slices, endpoints or ports gives the same slices, so nothing is written for it (I7)."""
    shuffler = random.Random(seed)
    turned = [
        msgspec.structs.replace(
            source, endpoints=shuffler.sample(source.endpoints or [], len(source.endpoints or []))
        )
        for source in shuffler.sample(sources, len(sources))
    ]
    assert _wanted(*sources) == _wanted(*turned)


@given(_sources)
def test_second_pass_changes_nothing(sources: list[EndpointSlice]) -> None:
    """A slice that was applied, and read back, is unchanged."""
    for item in _wanted(*sources):
        observed = msgspec.json.decode(msgspec.json.encode(manifest(item)), type=EndpointSlice)
        assert unchanged(item, observed)
        assert is_unit_slice(observed)
        assert not is_source(observed)


@given(_sources)
def test_names_are_unique_and_legal(sources: list[EndpointSlice]) -> None:
    """Every slice has a name of its own."""
    names = [item.metadata.name for item in _wanted(*sources)]
    assert len(set(names)) == len(names)
    assert all(is_dns_subdomain(name) for name in names)


def test_slice_names_stay_when_endpoints_change() -> None:
    """An endpoint that comes changes a slice, and makes none."""
    (before,) = _wanted(_source([_endpoint("10.0.0.1", "n1")]))
    (after,) = _wanted(_source([_endpoint("10.0.0.1", "n1"), _endpoint("10.0.0.2", "n2")]))
    assert before.metadata.name == after.metadata.name
    assert not unchanged(after, before)


def test_full_slice_is_followed_by_another() -> None:
    """A slice holds at most 1,000 endpoints, as the API allows."""
    endpoints = [_endpoint(f"10.1.{number // 250}.{number % 250}", "n1") for number in range(MAX_ENDPOINTS + 1)]
    wanted = _wanted(_source(endpoints))
    assert [len(item.endpoints or ()) for item in wanted] == [MAX_ENDPOINTS, 1]
    assert len({item.metadata.name for item in wanted}) == 2


def test_ports_and_families_are_kept_apart() -> None:
    """Endpoints with other ports or addresses of another family are in slices of their own."""
    wanted = _wanted(
        _source([_endpoint("10.0.0.1", "n1")]),
        _source([_endpoint("10.0.0.2", "n1")], EndpointPort(name="http", protocol="TCP", port=8080)),
        _source([_endpoint("fd00::1", "n1")], address_type="IPv6"),
    )
    assert sorted((item.address_type, (item.ports or [HTTP])[0].port) for item in wanted) == [
        ("IPv4", 80),
        ("IPv4", 8080),
        ("IPv6", 80),
    ]


def test_endpoint_in_two_slices_is_taken_once() -> None:
    """While Kubernetes moves an endpoint between slices both have it; the ready state of it counts."""
    unready, ready = _endpoint("10.0.0.1", "n1", ready=False), _endpoint("10.0.0.1", "n1")
    for sources in ([unready], [ready]), ([ready], [unready]):
        (item,) = _wanted(*(_source(endpoints) for endpoints in sources))
        assert item.endpoints == [ready]


@pytest.mark.parametrize(("distribution", "kept"), [("PreferSameNode", True), (None, False)])
def test_what_consumers_need_is_kept(distribution: str | None, kept: bool) -> None:
    """An endpoint is as Kubernetes wrote it; hints that no trafficDistribution asks for are about all units."""
    hints = {"forZones": [{"name": "z"}], "forNodes": [{"name": "n1"}]}
    text = b"""{"metadata": {"name": "s", "namespace": "default"}, "addressType": "IPv4", "endpoints": [{
        "addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true},
        "hostname": "web-0", "nodeName": "n1", "zone": "z",
        "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n1"}]},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-0", "uid": "u"}}],
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}]}"""
    source = msgspec.json.decode(text, type=EndpointSlice)
    service = Service(metadata=SERVICE.metadata, spec=ServiceSpec(traffic_distribution=distribution))
    (item,) = _wanted(source, service=service)
    assert manifest(item)["endpoints"] == [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "hostname": "web-0",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-0", "uid": "u"},
            "nodeName": "n1",
            "zone": "z",
            **({"hints": hints} if kept else {}),
        }
    ]
    assert manifest(item)["ports"] == [{"name": "", "port": 80, "protocol": "TCP"}]


@pytest.mark.parametrize(("cluster_ip", "marked"), [("None", True), ("10.96.0.1", False), ("", False)])
def test_really_headless_service_is_marked(cluster_ip: str, marked: bool) -> None:
    """The agent takes Kubernetes' headless label off where this one is not."""
    service = Service(metadata=SERVICE.metadata, spec=ServiceSpec(cluster_ip=cluster_ip))
    (item,) = _wanted(_source([_endpoint("10.0.0.1", "n1")]), service=service)
    assert ("tkeedge.io/headless" in item.metadata.labels) is marked
    assert "service.kubernetes.io/headless" in item.metadata.labels
    assert "kubernetes.io/service-name" not in item.metadata.labels


@pytest.mark.parametrize("lists", [b"null", b"[]"])
def test_empty_source_gives_no_slice(lists: bytes) -> None:
    """Kubernetes writes an empty slice with null lists."""
    text = b'{"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": %b, "ports": %b}' % (lists, lists)
    assert _wanted(msgspec.json.decode(text, type=EndpointSlice)) == []


@pytest.mark.parametrize("change", ["endpoint", "port", "label", "owner"])
def test_foreign_edit_is_seen(change: str) -> None:
    """A slice that somebody else changed is written again."""
    (item,) = _wanted(_source([_endpoint("10.0.0.1", "n1")]))
    observed: EndpointSlice = msgspec.json.decode(msgspec.json.encode(manifest(item)), type=EndpointSlice)
    if change == "endpoint":
        observed.endpoints = [*(observed.endpoints or []), _endpoint("10.9.9.9", "n1")]
    elif change == "port":
        observed.ports = [EndpointPort(port=1)]
    elif change == "label":
        observed.metadata.labels["tkeedge.io/unit"] = "zone.other"
    else:
        observed.metadata.owner_references = [OwnerReference(kind="Service", name="web-svc", uid="former")]
    assert not unchanged(item, observed)


def test_added_label_is_left() -> None:
    """A label that somebody else adds is no reason to write."""
    (item,) = _wanted(_source([_endpoint("10.0.0.1", "n1")]))
    observed: EndpointSlice = msgspec.json.decode(msgspec.json.encode(manifest(item)), type=EndpointSlice)
    observed.metadata.labels["theirs"] = "1"
    assert unchanged(item, observed)


def test_patch_slice_is_of_its_unit_and_holds_no_endpoint() -> None:
    """The agent's selection finds it; it has a name of its own, and another text is a difference."""
    item, other = patch_slice(SERVICE, "zone", "one", "{}"), patch_slice(SERVICE, "zone", "one", '{"a":1}')
    (unit,) = _wanted(_source([_endpoint("10.0.0.1", "n1")]))
    assert is_patch_slice(item)
    assert not is_patch_slice(unit)
    assert item.metadata.name == other.metadata.name != unit.metadata.name
    assert item.metadata.labels.items() > unit.metadata.labels.items()
    assert (item.endpoints, item.ports) == ([], [])
    observed: EndpointSlice = msgspec.json.decode(msgspec.json.encode(manifest(item)), type=EndpointSlice)
    assert unchanged(item, observed)
    assert not unchanged(other, observed)


def test_a_units_endpoints_are_counted_as_pods() -> None:
    """One with two address families, or in two sets of ports, is one, and ready where one of its endpoints is."""

    def endpoint(address: str, node: str, uid: str, ready: bool) -> Endpoint:
        ref = ObjectReference(kind="Pod", name=uid, uid=uid)
        return msgspec.structs.replace(_endpoint(address, node, ready), target_ref=ref)

    sources = [
        _source([endpoint("10.0.0.1", "n1", "p1", True), endpoint("10.0.0.2", "n2", "p2", False)]),
        _source([endpoint("10.0.0.1", "n1", "p1", False)], EndpointPort(name="dns", protocol="UDP", port=53)),
        _source([endpoint("fd00::1", "n1", "p1", True)], address_type="IPv6"),
        _source([_endpoint("10.0.0.7", "n3"), _endpoint("10.0.0.8", "n3"), _endpoint("10.0.0.9", "unknown")]),
    ]
    assert wanted_slices(SERVICE, "zone", sources, UNITS).endpoints == {"one": (1, 2), "NodeUnit2": (2, 2)}
