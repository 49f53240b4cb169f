"""Faults while the site has its WAN: parts of the cloud crash, a unit's last pod goes, a Node is deleted.

Clients in pods send requests all the while, as in ``test_offline.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sitegrid.lab.clients import wait_until
from sitegrid.lab.lab import Lab
from tests.support.faultsite import (
    FAULTY,
    NO_ENDPOINTS,
    OTHER,
    PLAIN_URL,
    URL,
    FaultSite,
    check_nothing_happened,
    metrics,
    tell,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NEIGHBOUR = "node12"
NO_NAME = "dns: Name or service not known"
"""Where a node is in no unit, its DNS does not know a grid's Service either."""


@pytest.mark.parametrize("process", ["kube-apiserver", "etcd", "controller", "kube-controller-manager"])
def test_a_crash_in_the_cloud_is_not_noticed(site: FaultSite, lab: Lab, process: str) -> None:
    """Killed and started again: no request is lost or misplaced, no pod replaced, and agents come back."""
    site.settle()
    before = site.pods()

    def crash() -> None:
        lab.process(process, "kill")
        assert wait_until(lambda: not lab.kubectl("get", "--raw", "/readyz", check=False).returncode)
        assert wait_until(lambda: metrics(lab, FAULTY).get("wan_down") == 0)

    check_nothing_happened(site.fault(f"{process} kill", crash))
    assert wait_until(lambda: site.pods() == before), site.pods()


@pytest.fixture
def empty_unit(site: FaultSite, lab: Lab) -> Iterator[FaultSite]:
    """Give NodeUnit2 its pods back afterwards."""
    site.settle()
    yield site
    lab.kubectl("patch", "dg", "deploymentgrid-demo", "--type=merge", "-p", '{"spec":{"overrides":null}}')
    site.settle()


def test_the_last_pod_of_a_unit_goes_and_nobody_steps_in(empty_unit: FaultSite, lab: Lab) -> None:
    """Its clients are answered by nobody; the other site's lose nothing."""
    site = empty_unit
    none = [{"units": {"names": ["NodeUnit2"]}, "replicas": 0}]
    targets = [(FAULTY, URL), (NEIGHBOUR, URL)]

    def closed() -> bool:
        summary = site.clients.ask((FAULTY, URL), 2)
        return not summary["answers"] and set(summary["errors"]) <= NO_ENDPOINTS

    with site.clients.sending(targets, site.clients.members("zone")) as seen:
        assert site.answers(FAULTY, 20, (URL,))
        patch = json.dumps({"spec": {"overrides": none}})
        lab.kubectl("patch", "dg", "deploymentgrid-demo", "--type=merge", "-p", patch)
        assert wait_until(closed)
    tell("last pod of a unit", seen)
    assert [matrix.misplaced for matrix in seen.values()] == [0, 0]
    assert seen[NEIGHBOUR, URL].lost == 0, "\n" + seen[NEIGHBOUR, URL].render()


def test_a_deleted_node_is_in_no_unit_until_it_registers_again(site: FaultSite, lab: Lab) -> None:
    """Meanwhile it reaches plain Services as before and nothing of a grid; its site goes on; its pods stay."""
    site.settle()
    before = site.pods()
    targets = [(FAULTY, URL), (FAULTY, PLAIN_URL), (OTHER, URL), (OTHER, PLAIN_URL)]
    with site.clients.sending(targets, site.clients.members("zone")) as seen:
        assert site.answers(FAULTY, 20)
        lab.kubectl("delete", "node", FAULTY)
        assert wait_until(lambda: not site.clients.ask((FAULTY, URL), 2)["answers"])
        lab.process(f"kubelet@{FAULTY}", "restart")
        assert wait_until(lambda: site.answers(FAULTY, 50, (URL,)))
    tell("node deleted", seen)
    assert [matrix.misplaced for matrix in seen.values()] == [0] * 4
    gone = seen.pop((FAULTY, URL))
    assert {reason for _, reason in gone.losses} <= {*NO_ENDPOINTS, NO_NAME}, "\n" + gone.render()
    check_nothing_happened(seen)
    assert wait_until(lambda: site.pods() == before), site.pods()
