"""Agents that begin again, under a real kube-proxy: how long its node follows nothing, and that no request is lost.

A Service without a selector points to another address with every round, and a round has passed once the rules of the
node have it. What is printed (``pytest -rP``) is the time from the action to that, the change having been made while
the agent was on its way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from sitegrid.lab.clients import wait_until
from sitegrid.lab.lab import Lab
from tests.support.faultsite import FAULTY, URL, FaultSite, check_nothing_happened, metrics, tell

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROUNDS, FEW = 6, 2
TAKES_OVER = ("reload", "replace")
"""After the others connections are refused for a moment, and each time in a row client-go waits twice as long."""
BEACON = """
apiVersion: v1
kind: Service
metadata: {name: beacon}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: beacon, labels: {kubernetes.io/service-name: beacon}}
addressType: IPv4
endpoints: [{addresses: [172.29.0.1], conditions: {ready: true}}]
ports: [{name: "", port: 80, protocol: TCP}]
"""


@pytest.fixture
def beacon(site: FaultSite, lab: Lab) -> Iterator[FaultSite]:
    """Run the Service whose address tells what the node's kube-proxy knows."""
    for part in ("kube-proxy", "coredns", "kubelet"):
        # Who lost an agent in another test may still wait, and come back with a place of long ago.
        lab.process(f"{part}@{FAULTY}", "restart")
    site.settle()
    lab.kubectl("apply", "-f", "-", input=BEACON)
    assert wait_until(lambda: follows(lab, "172.29.0.1"))
    yield site
    lab.kubectl("delete", "--wait=false", "-f", "-", input=BEACON)


def follows(lab: Lab, address: str) -> bool:
    """Tell whether the rules of the node have the address."""
    rules = lab.run(FAULTY, ["nft", "list", "table", "ip", "kube-proxy"], capture_output=True, text=True).stdout
    return f"{address} " in rules


class Rounds:
    """One after the other, each with an address of its own."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._number = 1

    def one(self, action: str) -> float:
        """Do it to the agent and change the Service; return the seconds until the node's rules follow."""
        self._number += 1
        address = f"172.29.{self._number // 200}.{self._number % 200 + 1}"
        before = self._taken_over()
        began = time.monotonic()
        self._lab.process(f"agent@{FAULTY}", action)
        patch = json.dumps({"endpoints": [{"addresses": [address], "conditions": {"ready": True}}]})
        self._lab.kubectl("patch", "endpointslice", "beacon", "--type=merge", "-p", patch)
        assert wait_until(lambda: follows(self._lab, address), seconds=150)
        seconds = time.monotonic() - began
        # The former agent may have told of the change: it is not to be ended before it stands by.
        assert action != "replace" or wait_until(lambda: self._taken_over() > before)
        return seconds

    def _taken_over(self) -> int:
        """Return how often an agent of the node has taken over from another one."""
        return (self._lab.layout.logs / f"agent@{FAULTY}.log").read_text().count("took over from the agent before")

    def listed_anew(self) -> float:
        """Return how many watches the agent that serves now could not go on with."""
        return metrics(self._lab, FAULTY).get('refused_total{code="410"}', 0)

    def settle(self) -> None:
        """Return when every client has a watch that can be gone on with, and not only a list."""

        def settled() -> bool:
            self.one("reload")
            return not self.listed_anew()

        assert wait_until(settled)


@pytest.mark.parametrize("action", ["reload", "replace", "restart", "kill"])
def test_kube_proxy_follows(beacon: FaultSite, lab: Lab, action: str) -> None:
    """Several times in a row, endpoints changing all the while: kube-proxy hears of every change, no request is lost.

    That watches go on where they were is held by ``tests/agent/test_handover.py``, and only printed here: who comes
    back when the next round has begun has a place of the agent before the last.
    """
    rounds = Rounds(lab)
    rounds.settle()
    seconds, listed_anew = [], []
    with beacon.clients.sending([(FAULTY, URL)], beacon.clients.members("zone")) as seen:
        for _ in range(ROUNDS if action in TAKES_OVER else FEW):
            seconds.append(rounds.one(action))
            listed_anew.append(rounds.listed_anew())
    tell(f"agent {action}", seen)
    print(f"agent {action}, seconds until kube-proxy follows:", *(f"{value:.1f}" for value in seconds))
    print(f"agent {action}, watches that had to be listed anew:", *listed_anew)
    check_nothing_happened(seen)
