"""What a ServiceGrid can do beyond one closed Service, with real kube-proxies and CoreDNS.

Pods by common names, units that fall back to a neighbour, and what of a Service differs by site.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab.clients import Clients, wait_until
from sitegrid.lab.lab import Lab
from tests.support.faultsite import metrics

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NODES = {"node12": "NodeUnit1", "node21": "NodeUnit2"}


def answered_by(clients: Clients, node: str, url: str) -> set[str]:
    """Return the pods that answer a few requests of the client on `node`."""
    return set(clients.ask((node, url), 3)["answers"])


@pytest.fixture
def database(lab: Lab, clients: Clients, examples: str) -> Iterator[None]:
    """Apply the example with a StatefulSetGrid; nothing of it is left afterwards."""
    file = f"{examples}/statefulsetgrid.yaml"
    for node in NODES:
        clients.pod(node)
    lab.kubectl("apply", "-f", file)
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "ssg/db", "sg/db")
    yield
    lab.kubectl("delete", "--ignore-not-found", "-f", file)
    lab.kubectl("wait", "--for=delete", "--timeout=120s", "pod", "-l", "appGrid=db")


def site_pods(clients: Clients, ordinal: int) -> dict[str, str]:
    """Return by node which pod the grid's name with an ordinal is there, once each node is answered."""
    url = f"http://db-{ordinal}.db-svc/"
    clients.until_answered([(node, url) for node in NODES])
    pods = {}
    for node in NODES:
        (pods[node],) = answered_by(clients, node, url)
    return pods


@pytest.mark.parametrize("ordinal", [0, 1])
def test_one_name_is_each_sites_own_pod(database: None, clients: Clients, ordinal: int) -> None:
    """The grid's name with an ordinal is the own site's pod of that ordinal, as is the pod's real name."""
    for node, pod in site_pods(clients, ordinal).items():
        assert pod.startswith(f"db-{NODES[node].lower()}-")
        assert pod.endswith(f"-{ordinal}")
        # Its real name is in another slice than the common one, and may come later.
        clients.until_answered([(node, f"http://{pod}.db-svc/")])
        assert answered_by(clients, node, f"http://{pod}.db-svc/") == {pod}


def test_the_name_stays_without_a_wan(database: None, clients: Clients, lab: Lab) -> None:
    """With the site's WAN cut and its DNS server started again, the names are what they were."""
    before = site_pods(clients, 0)
    lab.cut_wan("zone=NodeUnit2")
    try:
        lab.process("coredns@node21", "restart")
        assert site_pods(clients, 0) == before
        assert answered_by(clients, "node21", f"http://{before['node21']}.db-svc/") == {before["node21"]}
        assert not answered_by(clients, "node21", f"http://{before['node12']}.db-svc/")
    finally:
        lab.restore_wan("zone=NodeUnit2")


def _kind(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "tkeedge.io/v1",
        "kind": kind,
        "metadata": metadata,
        "spec": {"gridUniqKey": "zone", **spec},
    }


class Shop:
    """A DeploymentGrid of one pod in each site, behind two ServiceGrids: one falls back, the other never."""

    def __init__(self, lab: Lab, clients: Clients) -> None:
        self._lab = lab
        self.clients = clients

    def apply(self, *, replicas: int) -> None:
        """Apply all of it, with that many pods in NodeUnit1."""
        labels = {"app": "shop"}
        container = {"name": "shop", "image": "shop:1", "ports": [{"containerPort": 80}]}
        pods = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        template = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pods}
        service = {"selector": labels, "ports": [{"port": 80}]}
        entry = {"units": {"names": ["NodeUnit1"]}, "to": ["NodeUnit9", "NodeUnit2"]}
        one = [{"units": {"names": ["NodeUnit1"]}, "replicas": replicas}]
        self.items = [
            _kind("DeploymentGrid", "shop", template=template, overrides=one),
            _kind("ServiceGrid", "shop", template=service, fallback=[entry]),
            _kind("ServiceGrid", "shop-closed", template=service),
        ]
        self.kubectl("apply", "-f", "-")
        self._lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "dg/shop", "sg/shop", "sg/shop-closed")

    def kubectl(self, *words: str) -> None:
        """Run kubectl over all of it."""
        self._lab.kubectl(*words, input=json.dumps({"apiVersion": "v1", "kind": "List", "items": self.items}))

    def site(self, node: str, service: str) -> set[str]:
        """Return the sites that answer a few requests of the client on `node`; empty where nobody does."""
        sites = self.clients.members("zone")
        answers = self.clients.ask((node, f"http://{service}-svc/"), 3, timeout=1.0)["answers"].values()
        return {sites[answer["node"]] for answer in answers}

    def status(self) -> dict[str, Any]:
        """Return the status of the ServiceGrid that falls back."""
        found: dict[str, Any] = json.loads(self._lab.kubectl("get", "sg", "shop", "-o", "json").stdout)["status"]
        return found


@pytest.fixture
def shop(lab: Lab, clients: Clients) -> Iterator[Shop]:
    """The shop, without a pod in NodeUnit1."""
    shop = Shop(lab, clients)
    for node in NODES:
        clients.pod(node)
    shop.apply(replicas=0)
    yield shop
    shop.kubectl("delete", "--ignore-not-found", "-f", "-")


def test_a_site_in_need_uses_its_neighbour_and_only_then(shop: Shop, lab: Lab) -> None:
    """The neighbour answers through real kube-proxies while the site has no pod; without fallback it is closed."""
    assert wait_until(lambda: shop.site("node12", "shop") == {"NodeUnit2"})
    for service in ("shop-closed", "shop"):
        assert wait_until(lambda service=service: shop.site("node21", service) == {"NodeUnit2"})  # type: ignore[misc]
    assert shop.site("node12", "shop-closed") == set()
    assert wait_until(lambda: shop.status()["fallbackUnits"] == 1)
    assert shop.status()["fallbacks"] == [{"unit": "NodeUnit1", "to": "NodeUnit2"}]
    assert shop.status()["unknownUnits"] == ["NodeUnit9"]
    shop.apply(replicas=1)
    assert wait_until(lambda: shop.site("node12", "shop") == {"NodeUnit1"})
    assert wait_until(lambda: shop.site("node21", "shop") == {"NodeUnit2"})
    assert wait_until(lambda: shop.status()["fallbackUnits"] == 0)
    for event in ("FallbackBegan.*NodeUnit1 uses NodeUnit2", "FallbackEnded"):
        assert wait_until(lambda event=event: bool(re.search(event, lab.kubectl("get", "events").stdout)))  # type: ignore[misc]


def test_a_site_in_need_keeps_its_neighbour_without_a_wan(shop: Shop, lab: Lab) -> None:
    """Cut off, agent and kube-proxy start again: what falls back still does, what is closed still is."""
    assert wait_until(lambda: shop.site("node12", "shop") == {"NodeUnit2"})
    assert wait_until(lambda: metrics(lab, "node12").get("snapshots_unwritten") == 0)
    lab.cut_wan("zone=NodeUnit1")
    try:
        lab.run("node12", ["nft", "delete", "table", "ip", "kube-proxy"], check=True)
        for part in ("agent", "kube-proxy"):
            lab.process(f"{part}@node12", "kill")
        assert wait_until(lambda: shop.site("node12", "shop") == {"NodeUnit2"})
        assert shop.site("node12", "shop-closed") == set()
    finally:
        lab.restore_wan("zone=NodeUnit1")


EXTERNAL = "203.0.113.7"


@pytest.fixture
def site_services(lab: Lab, walkthrough: Clients, examples: str) -> Iterator[str]:
    """Apply the example with per-site Services; return its file."""
    file = f"{examples}/site-services.yaml"
    lab.kubectl("apply", "-f", file)
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "sg/site-services")
    yield file
    lab.kubectl("delete", "--ignore-not-found", "-f", file)


def answering_sites(clients: Clients, node: str, url: str) -> set[str]:
    """Return the sites that answer a few requests of the client on `node`; empty where nobody does."""
    sites = clients.members("zone")
    answers = clients.ask((node, url), 2, timeout=1.0)["answers"].values()
    return {sites[answer["node"]] for answer in answers}


def check_site_services(clients: Clients, address: str = EXTERNAL) -> None:
    """Wait until the address works in NodeUnit1 alone, and each site has its own node port, none the other's."""
    one, two = "node12", "node21"
    wanted = {
        (one, f"http://{address}/"): {"NodeUnit1"},
        (two, f"http://{address}/"): set(),
        (one, clients.node_url(one, 30090)): {"NodeUnit1"},
        (one, clients.node_url(one, 30091)): set(),
        (two, clients.node_url(two, 30090)): set(),
        (two, clients.node_url(two, 30091)): {"NodeUnit2"},
    }
    for (node, url), sites in wanted.items():
        assert wait_until(
            lambda node=node, url=url, sites=sites: answering_sites(clients, node, url) == sites,  # type: ignore[misc]
        ), (node, url, sites, answering_sites(clients, node, url))


def test_addresses_and_ports_of_a_site_work_there_and_nowhere_else(
    site_services: str, walkthrough: Clients, lab: Lab
) -> None:
    """Through real kube-proxies; a changed override is followed, and the Service itself is as it was for others."""
    check_site_services(walkthrough)
    other = "203.0.113.8"
    text = Path(site_services).read_text().replace(EXTERNAL, other)
    lab.kubectl("apply", "-f", "-", input=text)
    check_site_services(walkthrough, other)
    assert wait_until(lambda: not answering_sites(walkthrough, "node12", f"http://{EXTERNAL}/"))
    service = json.loads(lab.kubectl("get", "service", "site-services-svc", "-o", "json").stdout)
    assert "externalIPs" not in service["spec"]
    assert service["spec"]["ports"][0]["nodePort"] == 30090


def test_they_stay_without_a_wan(site_services: str, walkthrough: Clients, lab: Lab) -> None:
    """With the WAN cut, agent and kube-proxy start again from the disk, and the site's address is still its own."""
    check_site_services(walkthrough)
    lab.cut_wan("zone=NodeUnit1")
    try:
        lab.run("node12", ["nft", "delete", "table", "ip", "kube-proxy"], check=True)
        for part in ("agent", "kube-proxy"):
            lab.process(f"{part}@node12", "restart")

        def answered() -> bool:
            answers = walkthrough.ask(("node12", f"http://{EXTERNAL}/"), 2, timeout=1.0)["answers"].values()
            return bool(answers) and {answer["node"] for answer in answers} <= {"node12", "node14"}

        assert wait_until(answered)
    finally:
        lab.restore_wan("zone=NodeUnit1")
