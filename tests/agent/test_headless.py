"""A headless ServiceGrid's names, asked of a real CoreDNS behind the agent at a real API server."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.coredns import Dns, coredns

pytestmark = pytest.mark.cluster

NAMESPACE = "headless"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
SERVICE = f"db.{NAMESPACE}.svc.cluster.local"
FOREIGN = ("10.66.0.1", "10.66.0.9", "fd00:66::1")


def _slice(objects: Any, unit: str, family: str, hosts: dict[str, str]) -> dict[str, Any]:
    obj: dict[str, Any] = objects.unit(unit, "", "db")
    obj["metadata"] |= {"namespace": NAMESPACE, "name": f"db-{unit}-{family.lower()}"}
    obj["metadata"]["labels"]["tkeedge.io/headless"] = ""
    endpoints = [
        {"addresses": [address], "conditions": {"ready": True}, "hostname": name} for name, address in hosts.items()
    ]
    ports = [{"name": "sql", "port": 5432, "protocol": "TCP"}]
    return {**obj, "addressType": family, "endpoints": endpoints, "ports": ports}


def _aliases(objects: Any, unit: str, family: str, hosts: dict[str, str]) -> dict[str, Any]:
    """Return the slice in which the controller puts a StatefulSetGrid's pods under their common names."""
    obj = _slice(objects, unit, family, hosts)
    obj["metadata"]["name"] += "-aliases"
    obj["metadata"]["labels"]["tkeedge.io/aliases"] = ""
    return {**obj, "ports": []}


@pytest.fixture(scope="module")
def scene(cluster: Any, objects: Any) -> None:
    """A headless grid Service of two units; pods of both have the same host names, as a StatefulSet's would."""
    cluster.write("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    labels = {"tkeedge.io/grid-uniq-key": "zone", "service.kubernetes.io/service-proxy-name": "sitegrid"}
    spec = {"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"name": "sql", "port": 5432}]}
    cluster.write(
        "POST",
        f"/api/v1/namespaces/{NAMESPACE}/services",
        {"metadata": {"name": "db", "labels": labels}, "spec": spec},
    )
    for obj in (
        _slice(objects, "zone.u1", "IPv4", {"db-0": "10.1.0.10", "db-1": "10.1.0.11"}),
        _slice(objects, "zone.u1", "IPv6", {"db-0": "fd00:1::10"}),
        _slice(objects, "zone.u2", "IPv4", {"db-0": "10.66.0.1", "db-9": "10.66.0.9"}),
        _slice(objects, "zone.u2", "IPv6", {"db-0": "fd00:66::1"}),
        _aliases(objects, "zone.u1", "IPv4", {"grid-0": "10.1.0.10", "grid-1": "10.1.0.11"}),
        _aliases(objects, "zone.u1", "IPv6", {"grid-0": "fd00:1::10"}),
        _aliases(objects, "zone.u2", "IPv4", {"grid-0": "10.66.0.1", "grid-9": "10.66.0.9"}),
    ):
        cluster.write("POST", SLICES, obj)


@pytest.fixture(scope="module")
def dns(scene: None, cluster: Any, cluster_agent: str, tmp_path_factory: Any) -> Iterator[Dns]:
    """Run the real CoreDNS behind the agent; in the end no packet of it held a foreign address or name."""
    program, kubeconfig = cluster.binaries / "coredns", cluster.kubeconfig("admin-token", cluster_agent)
    directory = tmp_path_factory.mktemp("coredns")
    with coredns(program, kubeconfig, directory, SERVICE, "site.example", "in-addr.arpa") as client:
        yield client
    packets = b"".join(client.answers)
    for address in FOREIGN:
        assert ipaddress.ip_address(address).packed not in packets


@pytest.mark.parametrize(
    ("kind", "name", "records"),
    [
        ("A", SERVICE, ["10.1.0.10", "10.1.0.11"]),
        ("AAAA", SERVICE, ["fd00:1::10"]),
        ("A", f"db-0.{SERVICE}", ["10.1.0.10"]),
        ("AAAA", f"db-0.{SERVICE}", ["fd00:1::10"]),
        ("A", f"db-1.{SERVICE}", ["10.1.0.11"]),
        ("A", f"db-9.{SERVICE}", []),
        ("AAAA", f"db-9.{SERVICE}", []),
        ("A", f"10-66-0-1.{SERVICE}", []),
        ("A", f"grid-0.{SERVICE}", ["10.1.0.10"]),
        ("AAAA", f"grid-0.{SERVICE}", ["fd00:1::10"]),
        ("A", f"grid-1.{SERVICE}", ["10.1.0.11"]),
        ("A", f"grid-9.{SERVICE}", []),
        ("A", f"grid-0.db.{NAMESPACE}.svc.site.example", ["10.1.0.10"]),
        ("A", f"db-0.db.{NAMESPACE}.svc.site.example", ["10.1.0.10"]),
        ("PTR", "11.0.1.10.in-addr.arpa", [f"db-1.{SERVICE}", f"grid-1.{SERVICE}"]),
        ("SRV", f"db-0.{SERVICE}", [f"db-0.{SERVICE}:5432"]),
    ],
)
def test_names_give_own_pods_only(dns: Dns, kind: str, name: str, records: list[str]) -> None:
    """The Service's name, pod host names and aliases give the own unit's addresses; foreign names do not exist."""
    assert dns.ask(kind, name) == records


@pytest.mark.parametrize("name", [SERVICE, f"_sql._tcp.{SERVICE}"])
def test_services_records_name_own_pods_only(dns: Dns, name: str) -> None:
    """SRV records name the own unit's pods by their real names alone, one per address, with their port."""
    found = dns.ask("SRV", name)
    assert found is not None
    assert set(found) == {f"db-0.{SERVICE}:5432", f"db-1.{SERVICE}:5432"}


def test_a_pod_that_went_is_not_named_any_more(dns: Dns, cluster: Any, poll: Any) -> None:
    """A change of the own unit is followed, one of another unit is not."""
    for unit, address in (("u2", "10.66.0.9"), ("u1", "10.1.0.12")):
        obj = cluster.write("GET", f"{SLICES}/db-zone.{unit}-ipv4")
        obj["endpoints"] = [{"addresses": [address], "conditions": {"ready": True}, "hostname": "db-1"}]
        cluster.write("PUT", f"{SLICES}/db-zone.{unit}-ipv4", obj)
    cluster.write("DELETE", f"{SLICES}/db-zone.u1-ipv4-aliases")
    poll(lambda: dns.ask("A", SERVICE) == ["10.1.0.12"])
    poll(lambda: dns.ask("A", f"grid-0.{SERVICE}") == [])
    assert dns.ask("A", f"db-0.{SERVICE}") == []
    assert dns.ask("A", f"db-1.{SERVICE}") == ["10.1.0.12"]
