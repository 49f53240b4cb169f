"""A site without its WAN: every part of it restarts, a node reboots, and no request is lost that was not in flight.

Clients in pods send requests by name all the while, each with a fresh DNS look-up and a new connection. What a fault
may cost is what it kills: requests in flight to it, and on the node itself those sent until it is there again. The
other node of the site loses none to a restart of an agent, kube-proxy or CoreDNS, since each node has its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab import traffic
from sitegrid.lab.clients import Clients, wait_until
from sitegrid.lab.lab import Lab
from sitegrid.lab.matrix import Matrix

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

URL = "http://servicegrid-demo-svc/"
FAULTY, OTHER = "node21", "node23"
SITE = "zone=NodeUnit2"
_METRICS = ("curl", "-s", "-m", "5", "http://127.0.0.1:10351/sitegrid/metrics")


def metrics(lab: Lab, node: str) -> dict[str, float]:
    """Return the metrics of the node's agent."""
    text = lab.run(node, _METRICS, capture_output=True).stdout
    return {name: float(value) for name, value in re.findall(r"^sitegrid_agent_(\S+) (\S+)$", text, re.MULTILINE)}


@contextlib.contextmanager
def sending(lab: Lab, clients: Clients, nodes: list[str], matrices: dict[str, Matrix]) -> Iterator[None]:
    """Send requests from the client of each of `nodes` until the end; then `matrices` has one for each node."""
    program = [sys.executable, "-I", "-S", str(Path(traffic.__file__)), URL, "--until-signal", "--interval=0.005"]
    sites = clients.members("zone")
    senders: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for node in nodes:
            senders[node] = subprocess.Popen(
                lab.command(clients.pod(node), program), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
            )
        yield
        for node, sender in senders.items():
            child = Path(f"/proc/{sender.pid}/task/{sender.pid}/children").read_text().split()[0]
            os.kill(int(child), signal.SIGTERM)
            output, _ = sender.communicate(timeout=60)
            matrices[node] = Matrix(sites)
            matrices[node].add(node, json.loads(output))
    finally:
        for sender in senders.values():
            with sender:
                sender.kill()


class Offline:
    """A site whose WAN is cut."""

    def __init__(self, lab: Lab, clients: Clients) -> None:
        self.lab = lab
        self.clients = clients

    def answers(self, node: str, count: int = 20) -> bool:
        """Tell whether `count` requests of the client on `node` are all answered."""
        summary: dict[str, Any] = self.clients.ask((node, URL), count)
        return not summary["errors"] and bool(summary["answers"])

    def fault(self, name: str, do: Callable[[], None], nodes: list[str]) -> dict[str, Matrix]:
        """Do it while `nodes` send; return what they saw once both nodes are answered without fail."""
        matrices: dict[str, Matrix] = {}
        with sending(self.lab, self.clients, nodes, matrices):
            assert self.answers(FAULTY, 100)
            do()
            for node in (FAULTY, OTHER):
                assert wait_until(lambda node=node: self.answers(node, 200), seconds=60), f"{name}: {node}"  # type: ignore[misc]
        for node, matrix in matrices.items():
            print(
                f"{name:20} {node}: {matrix.requests:5} requests, {matrix.lost:3} lost, {matrix.misplaced} misplaced"
            )
        return matrices


@pytest.fixture
def offline(walkthrough: Clients, lab: Lab) -> Iterator[Offline]:
    """Cut the WAN of NodeUnit2 once its agents have written what they know; restore it afterwards."""
    site = Offline(lab, walkthrough)
    for node in (FAULTY, OTHER):
        walkthrough.pod(node)
    assert wait_until(lambda: site.answers(FAULTY) and site.answers(OTHER))
    assert wait_until(lambda: all(metrics(lab, node)["snapshots_unwritten"] == 0 for node in (FAULTY, OTHER)))
    lab.cut_wan(SITE)
    try:
        yield site
    finally:
        lab.restore_wan(SITE)
        for node in (FAULTY, OTHER):
            assert wait_until(lambda node=node: metrics(lab, node).get("wan_down") == 0)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("process", "action"),
    [("agent", "kill"), ("agent", "restart"), ("kube-proxy", "kill"), ("kube-proxy", "restart")],
)
def test_restarts_lose_nothing(offline: Offline, lab: Lab, process: str, action: str) -> None:
    """Neither an agent nor a kube-proxy is in the way of a request: all are answered, in the site."""
    seen = offline.fault(f"{process} {action}", lambda: lab.process(f"{process}@{FAULTY}", action), [FAULTY, OTHER])
    for matrix in seen.values():
        assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()


@pytest.mark.parametrize("options", ["ro", "nr_inodes=1"])
def test_a_disk_that_takes_nothing_is_told_and_survived(walkthrough: Clients, lab: Lab, options: str) -> None:
    """With a read-only or full disk the agent serves as ever, and counts what it could not write."""
    directory = str(lab.layout.agent_data(FAULTY))
    site = Offline(lab, walkthrough)
    lab.process(f"agent@{FAULTY}", "stop")
    lab.run(FAULTY, ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        lab.process(f"agent@{FAULTY}", "start")
        failures = 'snapshot_failures_total{reason="unwritable"}'
        assert wait_until(lambda: metrics(lab, FAULTY).get(failures, 0) > 1)
        assert wait_until(lambda: site.answers(FAULTY, 100))
    finally:
        lab.process(f"agent@{FAULTY}", "stop")
        lab.run(FAULTY, ["umount", directory], check=True)
        lab.process(f"agent@{FAULTY}", "start")
    assert wait_until(lambda: metrics(lab, FAULTY).get("snapshots_unwritten") == 0)


@pytest.mark.parametrize("action", ["kill", "restart"])
def test_a_dns_server_that_restarts_is_missed_on_its_node_only(offline: Offline, lab: Lab, action: str) -> None:
    """CoreDNS comes back from what its agent knows; the other node has its own and loses nothing."""
    seen = offline.fault(f"coredns {action}", lambda: lab.process(f"coredns@{FAULTY}", action), [FAULTY, OTHER])
    assert [matrix.misplaced for matrix in seen.values()] == [0, 0]
    assert seen[OTHER].lost == 0, "\n" + seen[OTHER].render()


def test_a_node_reboots_without_the_cloud(offline: Offline, lab: Lab) -> None:
    """Agent, kube-proxy, CoreDNS, kubelet and pods come back from the node's disk, and find only their own site."""
    seen = offline.fault("node reboot", lambda: lab.reboot_node(FAULTY), [OTHER])
    assert seen[OTHER].misplaced == 0, "\n" + seen[OTHER].render()
    assert metrics(lab, FAULTY)["wan_down"] == 1
    members = offline.clients.members("zone")
    after = offline.clients.measure([(FAULTY, URL), (OTHER, URL)], members, 50)
    assert (after.misplaced, after.lost) == (0, 0), "\n" + after.render()


def test_the_wan_comes_back_unnoticed(offline: Offline, lab: Lab) -> None:
    """After restarts offline, the site's traffic goes on while its agents find the API server again."""
    for part in ("agent", "kube-proxy", "coredns"):
        lab.process(f"{part}@{FAULTY}", "kill")
    assert wait_until(lambda: offline.answers(FAULTY))

    def restore() -> None:
        lab.restore_wan(SITE)
        for node in (FAULTY, OTHER):
            assert wait_until(lambda node=node: metrics(lab, node).get("wan_down") == 0)  # type: ignore[misc]

    for matrix in offline.fault("wan restored", restore, [FAULTY, OTHER]).values():
        assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()


def test_writes_fail_at_once(offline: Offline, lab: Lab) -> None:
    """What needs the API server is a 503 Status with Retry-After, and no wait for TCP."""
    lab.process(f"agent@{FAULTY}", "kill")
    assert wait_until(lambda: metrics(lab, FAULTY).get("wan_down") == 1)
    argv = ["curl", "-si", "-m", "5", "-X", "POST", "-d", "{}", "http://127.0.0.1:10351/api/v1/namespaces"]
    answer = lab.run(FAULTY, argv, capture_output=True).stdout
    assert answer.startswith("HTTP/1.1 503 ")
    assert "retry-after:" in answer.lower()
    assert '"reason":"ServiceUnavailable"' in answer


def test_a_corrupt_snapshot_is_never_shown(offline: Offline, lab: Lab) -> None:
    """With every file torn, an offline start knows nothing, says so, and goes on when the WAN is back."""
    lab.process(f"agent@{FAULTY}", "stop")
    for file in lab.layout.agent_data(FAULTY).glob("*.snapshot"):
        os.truncate(file, file.stat().st_size // 2)
    members = offline.clients.members("zone")
    lab.process(f"agent@{FAULTY}", "start")
    assert wait_until(lambda: metrics(lab, FAULTY).get('snapshot_failures_total{reason="damaged"}', 0) > 0)
    status = ["curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}"]
    assert lab.run(FAULTY, [*status, "http://127.0.0.1:10351/sitegrid/readyz"], capture_output=True).stdout == "503"
    # kube-proxy has its rules: what it knew before goes on.
    matrix = offline.clients.measure([(FAULTY, URL), (OTHER, URL)], members, 20)
    assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()
