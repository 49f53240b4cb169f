"""A site whose WAN is slow but alive: a satellite that loses packets, and a thin link. All goes on, only later.

Clients in pods send requests all the while, as in ``test_offline.py``; behind the agents are the real kube-proxy and
CoreDNS. How long things take is printed (``pytest -rP``), never judged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from sitegrid.lab.clients import wait_until
from sitegrid.lab.lab import Lab
from sitegrid.lab.slowness import Slowness
from tests.support.faultsite import (
    FAULTY,
    NODES,
    OTHER,
    SITE,
    FaultSite,
    check_nothing_happened,
    metrics,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

LINKS = {
    "satellite": Slowness(delay=0.3, jitter=0.05, loss=0.05),
    "50 kbit/s": Slowness(delay=0.3, rate=50_000),
}
PARTS = ("agent", "kube-proxy", "coredns", "kubelet")
GRID = """
apiVersion: tkeedge.io/v1
kind: ServiceGrid
metadata: {name: %s}
spec: {gridUniqKey: zone, template: {selector: {appGrid: nginx}, ports: [{port: 80}]}}
"""


@pytest.fixture(params=LINKS)
def slow(request: pytest.FixtureRequest, site: FaultSite, lab: Lab) -> Iterator[str]:
    """Give the site a slow WAN, and its own again afterwards; yield the link's name."""
    site.settle()
    lab.slow_wan(SITE, LINKS[request.param])
    try:
        yield request.param
    finally:
        lab.kubectl("delete", "--ignore-not-found", "sg", "first", "second")
        site.restore()


def _reached(lab: Lab, node: str) -> bool:
    """Tell whether the API server answers a request through the node's agent: it wants credentials."""
    argv = ["curl", "-s", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:10351/version"]
    return lab.run(node, argv, capture_output=True).stdout == "401"


def _took(lab: Lab, name: str, condition: Callable[[], bool]) -> None:
    """Wait, and print how long; in vain, with what the agent and the link have said and the agent has counted."""
    began = time.monotonic()
    if not wait_until(condition):
        logs = [(lab.layout.logs / f"{part}@{FAULTY}.log").read_text()[-4000:] for part in ("agent", "wan")]
        pytest.fail("\n".join([f"waited in vain: {name}", *logs, str(metrics(lab, FAULTY))]))
    print(f"{name}: {time.monotonic() - began:.1f} s")


def _renewed(lab: Lab) -> str:
    """Return when the kubelet last renewed its Lease, which goes through the agent, as the cloud knows."""
    lease = json.loads(lab.kubectl("-n", "kube-node-lease", "get", "lease", FAULTY, "-o", "json").stdout)
    renewed: str = lease["spec"]["renewTime"]
    return renewed


def test_a_slow_wan_is_enough(slow: str, site: FaultSite, lab: Lab) -> None:
    """All that is on a node starts again, what is new arrives, and a cut on top of it is survived.

    Nothing is lost but names that the node's own CoreDNS was asked for while it started.
    """
    both = {f"{node}:80" for node in NODES}
    pods = site.pods()

    def arrives(name: str) -> None:
        lab.kubectl("apply", "-f", "-", input=GRID % name)
        _took(lab, f"{slow}: a new ServiceGrid is in the rules", lambda: site.in_rules(FAULTY, f"{name}-svc") == both)

    def do() -> None:
        for part in PARTS:
            lab.process(f"{part}@{FAULTY}", "restart")
        _took(lab, f"{slow}: the API server answers through the agent", lambda: _reached(lab, FAULTY))
        arrives("first")
        renewed = _renewed(lab)
        _took(lab, f"{slow}: the kubelet renews its Lease", lambda: _renewed(lab) != renewed)
        lab.cut_wan(SITE)
        lab.process(f"agent@{FAULTY}", "kill")
        lab.process(f"kube-proxy@{FAULTY}", "kill")
        assert wait_until(lambda: metrics(lab, FAULTY).get("wan_down") == 1)
        lab.slow_wan(SITE, LINKS[slow])
        _took(lab, f"{slow}: back after a cut", lambda: all(_reached(lab, node) for node in NODES))
        arrives("second")

    seen = site.fault(slow, do)
    check_nothing_happened({target: matrix for target, matrix in seen.items() if target[0] == OTHER})
    # A client gives up after 2 s, which a busy machine alone may take: that says nothing of where requests go.
    reasons = {reason for matrix in seen.values() for _, reason in matrix.losses} - {"answer: timeout"}
    assert {reason.partition(":")[0] for reason in reasons} <= {"dns"}
    assert [matrix.misplaced for matrix in seen.values()] == [0] * 4
    assert wait_until(lambda: site.pods() == pods), site.pods()


@pytest.mark.parametrize("slow", ["50 kbit/s"], indirect=True)
def test_a_node_starts_over_a_slow_wan(slow: str, site: FaultSite, lab: Lab) -> None:
    """With nothing on its agent's disk: pods, endpoints and names all come over the link; the other node goes on."""
    members = site.clients.members("zone")

    def start() -> None:
        lab.process(f"agent@{FAULTY}", "stop")
        for file in lab.layout.agent_data(FAULTY).iterdir():
            file.unlink()
        lab.process(f"agent@{FAULTY}", "start")
        began = time.monotonic()
        lab.reboot_node(FAULTY)
        print(f"{slow}: what runs on a node is ready {time.monotonic() - began:.1f} s after its start")
        _took(lab, f"{slow}: its pods answer after another", lambda: site.answers(FAULTY))

    seen = site.fault(slow, start, (OTHER,))
    assert [matrix.misplaced for matrix in seen.values()] == [0, 0]
    after = site.clients.measure([(node, url) for node in NODES for _, url in seen], members, 50)
    assert (after.misplaced, after.lost) == (0, 0), "\n" + after.render()
