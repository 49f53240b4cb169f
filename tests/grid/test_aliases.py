"""Pods of StatefulSetGrids under names that are the same in every site."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ManagedMeta, ObjectMeta
from sitegrid.grid.aliases import GridSet
from sitegrid.grid.observed import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    ObjectReference,
    Service,
    ServiceSpec,
)
from sitegrid.grid.reachability import Hold, carry_over
from sitegrid.grid.slices import unchanged, wanted_slices

UNITS = {"n1": "one", "n2": "two"}
SETS = {"db-one": GridSet("db", "zone.one"), "db-two": GridSet("db", "zone.two"), "q-one": GridSet("q", "zone.one")}
HEADLESS = Service(
    metadata=ManagedMeta(name="db-svc", namespace="default", uid="s1"), spec=ServiceSpec(cluster_ip="None")
)
SQL = EndpointPort(name="sql", protocol="TCP", port=5432)


def _pod(name: str, address: str, node: str, *, ready: bool = True, hostname: str | None = "") -> Endpoint:
    return Endpoint(
        addresses=[address],
        node_name=node,
        hostname=name if hostname == "" else hostname,
        target_ref=ObjectReference(kind="Pod", namespace="default", name=name, uid=f"uid-{name}"),
        conditions=EndpointConditions(ready=ready),
    )


def _source(endpoints: list[Endpoint], address_type: str = "IPv4") -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name="db-svc-abcde", namespace="default"),
        address_type=address_type,
        endpoints=endpoints,
        ports=[SQL],
    )


def _wanted(*sources: EndpointSlice, service: Service = HEADLESS) -> list[EndpointSlice]:
    return wanted_slices(service, "zone", sources, UNITS, find_set=SETS.get).slices


def _names(items: Iterable[EndpointSlice], *, aliases: bool) -> set[tuple[str, str, str]]:
    """Return unit, host name and address of the endpoints in slices of aliases, or in the others."""
    return {
        (item.metadata.labels["tkeedge.io/unit"], endpoint.hostname or "", endpoint.addresses[0])
        for item in items
        if ("tkeedge.io/aliases" in item.metadata.labels) is aliases
        for endpoint in item.endpoints or ()
    }


def test_pod_has_the_grids_name_in_its_own_unit() -> None:
    """The same name in both units, each for the unit's own pod, besides the real names."""
    wanted = _wanted(
        _source([_pod("db-one-0", "10.0.0.1", "n1"), _pod("db-one-1", "10.0.0.2", "n1")]),
        _source([_pod("db-two-0", "10.0.1.1", "n2")]),
    )
    assert _names(wanted, aliases=True) == {
        ("zone.one", "db-0", "10.0.0.1"),
        ("zone.one", "db-1", "10.0.0.2"),
        ("zone.two", "db-0", "10.0.1.1"),
    }
    assert {name for _, name, _ in _names(wanted, aliases=False)} == {"db-one-0", "db-one-1", "db-two-0"}


def test_aliases_are_names_alone() -> None:
    """A slice of aliases has no port, so that nobody counts a pod twice; all else is as the pod's own endpoint."""
    pod = _pod("db-one-0", "10.0.0.1", "n1", ready=False)
    own, alias = sorted(_wanted(_source([pod])), key=lambda item: "tkeedge.io/aliases" in item.metadata.labels)
    assert (own.ports, alias.ports) == ([SQL], [])
    assert alias.endpoints is not None
    (endpoint,) = alias.endpoints
    assert (endpoint.conditions, endpoint.target_ref, endpoint.node_name) == (
        pod.conditions,
        pod.target_ref,
        pod.node_name,
    )
    assert alias.metadata.name != own.metadata.name


def test_both_address_families_have_the_alias() -> None:
    """A and AAAA of the alias are answered."""
    wanted = _wanted(
        _source([_pod("db-one-0", "10.0.0.1", "n1")]), _source([_pod("db-one-0", "fd00::1", "n1")], "IPv6")
    )
    assert _names(wanted, aliases=True) == {("zone.one", "db-0", "10.0.0.1"), ("zone.one", "db-0", "fd00::1")}


def test_service_with_a_cluster_ip_has_none() -> None:
    """kube-proxy would balance over the pod twice."""
    service = Service(metadata=HEADLESS.metadata, spec=ServiceSpec(cluster_ip="10.96.0.1"))
    assert _names(_wanted(_source([_pod("db-one-0", "10.0.0.1", "n1")]), service=service), aliases=True) == set()


@pytest.mark.parametrize(
    "pod",
    [
        _pod("db-one-0", "10.0.0.1", "n1", hostname=None),
        _pod("db-two-0", "10.0.0.1", "n1"),
        _pod("other-0", "10.0.0.1", "n1"),
        _pod("db-one-x", "10.0.0.1", "n1"),
        _pod("db-one", "10.0.0.1", "n1"),
        _pod("db-one-00", "10.0.0.1", "n1"),
        Endpoint(addresses=["10.0.0.1"], node_name="n1", hostname="db-one-0"),
    ],
    ids=["other subdomain", "other unit", "no grid's", "no ordinal", "no dash", "leading zero", "no pod"],
)
def test_other_endpoints_have_none(pod: Endpoint) -> None:
    """Only a pod of a StatefulSet that a grid made for this very unit, and whose subdomain the Service is."""
    assert _names(_wanted(_source([pod])), aliases=True) == set()


def test_real_name_wins() -> None:
    """Another pod of the unit that really has the name keeps it for itself; elsewhere it is free."""
    wanted = _wanted(
        _source([_pod("db-one-0", "10.0.0.1", "n1"), _pod("own", "10.0.0.9", "n1", hostname="db-0")]),
        _source([_pod("db-two-0", "10.0.1.1", "n2")]),
    )
    assert _names(wanted, aliases=True) == {("zone.two", "db-0", "10.0.1.1")}


@pytest.mark.parametrize("grid", ["a.b", "x" * 62, "Upper"])
def test_name_that_is_no_host_name_is_left_out(grid: str) -> None:
    """The API server would refuse the whole slice for it."""
    wanted = wanted_slices(
        HEADLESS,
        "zone",
        [_source([_pod("s-0", "10.0.0.1", "n1")])],
        UNITS,
        find_set={"s": GridSet(grid, "zone.one")}.get,
    ).slices
    assert _names(wanted, aliases=True) == set()


_pods = st.lists(
    st.builds(
        _pod,
        st.sampled_from(["db-one-0", "db-one-1", "db-two-0", "q-one-0", "db-0", "other-3"]),
        st.integers(0, 8).map(lambda number: f"10.0.0.{number}"),
        st.sampled_from(["n1", "n2", "unknown"]),
        ready=st.booleans(),
        hostname=st.sampled_from(["", None, "db-0", "db-1"]),
    ),
    max_size=8,
    unique_by=lambda endpoint: endpoint.addresses[0],
)


@given(_pods)
def test_aliases_change_nothing_else(pods: list[Endpoint]) -> None:
    """All other slices are as without aliases; each alias is an endpoint of its unit, under no real name."""
    wanted = _wanted(_source(pods))
    plain = wanted_slices(HEADLESS, "zone", [_source(pods)], UNITS).slices
    assert [item for item in wanted if "tkeedge.io/aliases" not in item.metadata.labels] == plain
    real = _names(plain, aliases=False)
    for unit, name, address in _names(wanted, aliases=True):
        assert (unit, address) in {(unit, address) for unit, _, address in real}
        assert (unit, name) not in {(unit, name) for unit, name, _ in real}


@given(_pods, st.booleans())
def test_aliases_are_no_memory(pods: list[Endpoint], away: bool) -> None:
    """While a unit's nodes are held, what is projected from its slices, aliases among them, is the same again."""
    before = _wanted(_source(pods))
    holds = dict.fromkeys(UNITS, Hold(away=away, until=None))
    gone = [Endpoint(addresses=item.addresses, node_name=item.node_name) for item in pods]
    carried = carry_over("zone", [_source(gone)], before, UNITS, holds)
    after = {item.metadata.name: item for item in _wanted(*carried.sources)}
    assert after.keys() == {item.metadata.name for item in before}
    assert all(unchanged(after[item.metadata.name], item) for item in before)
