"""The wanted Services: the one that users name, without a selector, and the headless one beside it that has it."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ManagedMeta, ObjectMeta
from sitegrid.api.servicegrids import MAX_SERVICE_NAME, SERVICE_NAME_PATTERN, ServiceGrid
from sitegrid.grid.observed import Service, ServiceSpec
from sitegrid.grid.service import (
    has_endpoints,
    is_closed,
    is_sites_of,
    sites_names,
    wanted_service,
    wanted_sites_service,
    was_sites,
)

TEMPLATE: dict[str, Any] = {
    "selector": {"app": "web"},
    "ports": [{"port": 80, "nodePort": 30080, "name": "http"}],
    "sessionAffinity": "ClientIP",
    "type": "NodePort",
    "publishNotReadyAddresses": True,
    "trafficDistribution": "PreferClose",
}
NAMES = st.from_regex(SERVICE_NAME_PATTERN, fullmatch=True).filter(lambda name: len(name) <= MAX_SERVICE_NAME)


def _grid(template: dict[str, Any], **spec: Any) -> ServiceGrid:
    spec = {"gridUniqKey": "topology.kubernetes.io/zone", "template": template, **spec}
    grid = msgspec.convert({"metadata": {}, "spec": spec}, ServiceGrid)
    grid.metadata = ObjectMeta(name="demo", namespace="default", uid="u")
    return grid


def _service(labels: dict[str, str] | None = None, name: str = "demo-svc", **spec: Any) -> Service:
    return Service(
        metadata=ManagedMeta(name=name, namespace="default", labels=labels or {}), spec=ServiceSpec(**spec)
    )


def _sites(template: dict[str, Any], **observed: Any) -> dict[str, Any]:
    return wanted_sites_service(_grid(template), "demo-svc-sites", _service(**observed))


def test_the_service_is_the_template_without_its_selector() -> None:
    """All else of the user's spec unchanged, with the label that makes a stock kube-proxy ignore it (I2, I3)."""
    service = wanted_service(_grid(TEMPLATE), "demo-svc-sites")
    assert service["spec"] == {name: value for name, value in TEMPLATE.items() if name != "selector"}
    assert service["metadata"]["name"] == "demo-svc"
    labels = service["metadata"]["labels"]
    assert labels["service.kubernetes.io/service-proxy-name"] == "sitegrid"
    assert (labels["tkeedge.io/grid"], labels["tkeedge.io/sites"]) == ("demo", "demo-svc-sites")
    assert labels["tkeedge.io/grid-uniq-key"] and "/" not in labels["tkeedge.io/grid-uniq-key"]
    assert service["metadata"]["ownerReferences"][0]["uid"] == "u"


def test_until_it_can_be_closed_it_is_the_template() -> None:
    """With its selector, and without the label that says where else endpoints are."""
    service = wanted_service(_grid(TEMPLATE))
    assert service["spec"] == TEMPLATE
    assert "tkeedge.io/sites" not in service["metadata"]["labels"]


def test_the_service_beside_it_has_the_selector_and_nothing_that_takes_an_address() -> None:
    """It is headless, without node ports, of no node's keys, and the grid's own."""
    service = _sites(TEMPLATE, ip_families=["IPv6"], ip_family_policy="SingleStack", cluster_ip="fd00::1")
    assert service["spec"] == {
        "clusterIP": "None",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "name": "http"}],
        "publishNotReadyAddresses": True,
        "trafficDistribution": "PreferClose",
        "ipFamilies": ["IPv6"],
        "ipFamilyPolicy": "SingleStack",
    }
    labels = service["metadata"]["labels"]
    assert (labels["tkeedge.io/sites-of"], labels["tkeedge.io/grid-uniq-key"]) == ("demo-svc", "")
    assert labels["service.kubernetes.io/service-proxy-name"] == "sitegrid"
    assert service["metadata"]["ownerReferences"] == wanted_service(_grid(TEMPLATE))["metadata"]["ownerReferences"]
    assert TEMPLATE["ports"] == [{"port": 80, "nodePort": 30080, "name": "http"}]


@pytest.mark.parametrize(
    ("said", "policy"),
    [
        ({}, "SingleStack"),
        ({"ipFamilies": ["IPv6"]}, "SingleStack"),
        ({"ipFamilies": ["IPv6", "IPv4"]}, None),
        ({"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack"),
    ],
)
def test_a_headless_service_keeps_the_families_that_it_had_with_a_selector(
    said: dict[str, Any], policy: str | None
) -> None:
    """Without one Kubernetes would take both; the other's are the template's, since these are not the same."""
    template = {"selector": {"app": "web"}, "clusterIP": "None", **said}
    assert wanted_service(_grid(template), "s")["spec"].get("ipFamilyPolicy") == policy
    beside = _sites(template, cluster_ip="None", ip_families=["IPv4", "IPv6"], ip_family_policy="RequireDualStack")
    assert {name: value for name, value in beside["spec"].items() if name.startswith("ipFam")} == said
    assert "ipFamilyPolicy" not in wanted_service(_grid({"selector": {"app": "web"}}), "s")["spec"]


@pytest.mark.parametrize(
    ("template", "endpoints"),
    [
        ({"selector": {"app": "web"}}, True),
        ({"selector": {}}, False),
        ({"ports": [{"port": 80}]}, False),
        ({"type": "ExternalName", "externalName": "a.example"}, False),
        ({"type": "ExternalName", "externalName": "a.example", "selector": {"app": "web"}}, False),
    ],
)
def test_who_has_endpoints(template: dict[str, Any], endpoints: bool) -> None:
    """A selector alone is not enough: Kubernetes ignores that of an external name."""
    assert has_endpoints(_grid(template)) is endpoints


@pytest.mark.parametrize("ports", [None, "80", 80, {"port": 80}, [80, "http", None], []])
def test_what_is_no_list_of_ports_is_for_the_api_server(ports: Any) -> None:
    """It is passed on as it is, and refused there in words."""
    spec = _sites({"selector": {"app": "web"}, "ports": ports})["spec"]
    assert spec.get("ports") == (ports or None)


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_names_are_legal_and_nobody_elses(services: list[str]) -> None:
    """DNS-1035 labels of at most 63 characters that tell what they are; no two Services want the same one."""
    found = [name for service in services for name in {*sites_names(service)}]
    assert len({*found}) == len(found)
    for name in found:
        assert len(name) <= MAX_SERVICE_NAME
        assert re.fullmatch(SERVICE_NAME_PATTERN, name)
        assert name.endswith("-sites")


def test_long_names_are_hashed() -> None:
    """Two of 63 characters that differ in the last one only."""
    assert sites_names("web")[0] == "web-sites"
    assert len(sites_names("a" * 57)) == 2
    (one,), (two,) = sites_names("a" * 62 + "b"), sites_names("a" * 62 + "c")
    assert one != two
    assert len(one) == MAX_SERVICE_NAME


def test_which_service_is_which() -> None:
    """By labels, and a label that somebody puts on the wrong one makes it no other."""
    grid = _grid(TEMPLATE)
    beside = _service({"tkeedge.io/sites-of": "demo-svc", "tkeedge.io/grid-uniq-key": ""}, "demo-svc-sites")
    other = _service({"tkeedge.io/sites-of": "former", "tkeedge.io/grid-uniq-key": ""}, "former-sites")
    itself = _service({"tkeedge.io/sites-of": "demo-svc", "tkeedge.io/grid-uniq-key": ""})
    labelled = _service({"tkeedge.io/sites-of": "former", "tkeedge.io/grid-uniq-key": "zone"})
    assert [is_sites_of(service, grid) for service in (beside, other, itself)] == [True, False, False]
    assert [was_sites(service) for service in (beside, other, itself, labelled)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("labels", "selector", "closed"),
    [
        ({}, {"app": "web"}, False),
        ({}, None, True),
        ({"tkeedge.io/sites": "s"}, None, True),
        ({"tkeedge.io/sites": "s"}, {"app": "web"}, True),
    ],
)
def test_a_closed_service_is_not_opened_by_a_selector(
    labels: dict[str, str], selector: dict[str, str] | None, closed: bool
) -> None:
    """Only one that never was closed is open."""
    assert is_closed(_service(labels, selector=selector)) is closed
