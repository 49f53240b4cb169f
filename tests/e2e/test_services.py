"""What a ServiceGrid can do beyond one closed Service, with real kube-proxies and CoreDNS: pods by common names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sitegrid.lab.clients import Clients
from sitegrid.lab.lab import Lab

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
