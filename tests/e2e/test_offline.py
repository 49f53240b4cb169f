"""A site without its WAN: every part of it restarts, a node reboots, and no request is lost that was not in flight.

Clients in pods send requests by name all the while, each with a fresh DNS look-up and a new connection, to a grid's
Service and to a plain one whose Deployment runs on the site's nodes (the article's autonomy of a single site). What a
fault may cost is what it kills: requests in flight to it, and on the node itself those sent until it is there again.
The other node of the site loses none to a restart of a part, since each node has its own.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator

import pytest

from sitegrid.lab.clients import Clients, Target, wait_until
from sitegrid.lab.lab import Lab
from sitegrid.lab.matrix import Matrix

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

URL, PLAIN_URL = "http://servicegrid-demo-svc/", "http://kiosk/"
FAULTY, OTHER = "node21", "node23"
NODES = (FAULTY, OTHER)
SITE = "zone=NodeUnit2"
PLAIN = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: kiosk}
spec:
  replicas: 2
  selector: {matchLabels: {app: kiosk}}
  template:
    metadata: {labels: {app: kiosk}}
    spec:
      nodeSelector: {zone: NodeUnit2}
      containers: [{name: web, image: web, ports: [{containerPort: 80}]}]
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule,
         labelSelector: {matchLabels: {app: kiosk}}}
---
apiVersion: v1
kind: Service
metadata: {name: kiosk}
spec:
  selector: {app: kiosk}
  ports: [{port: 80}]
"""
_METRICS = ("curl", "-s", "-m", "5", "http://127.0.0.1:10351/sitegrid/metrics")


def metrics(lab: Lab, node: str) -> dict[str, float]:
    """Return the metrics of the node's agent."""
    text = lab.run(node, _METRICS, capture_output=True).stdout
    return {name: float(value) for name, value in re.findall(r"^sitegrid_agent_(\S+) (\S+)$", text, re.MULTILINE)}


class Offline:
    """A site whose WAN is cut."""

    def __init__(self, lab: Lab, clients: Clients) -> None:
        self.lab = lab
        self.clients = clients

    def answers(self, node: str, count: int = 20, urls: tuple[str, ...] = (URL, PLAIN_URL)) -> bool:
        """Tell whether `count` requests of the client on `node` to each Service are all answered."""
        summaries = [self.clients.ask((node, url), count) for url in urls]
        return all(summary["answers"] and not summary["errors"] for summary in summaries)

    def fault(self, name: str, do: Callable[[], None], nodes: tuple[str, ...] = NODES) -> dict[Target, Matrix]:
        """Do it while `nodes` send; return what they saw once both nodes are answered without fail."""
        targets = [(node, url) for node in nodes for url in (URL, PLAIN_URL)]
        with self.clients.sending(targets, self.clients.members("zone")) as seen:
            assert self.answers(FAULTY, 100)
            do()
            for node in NODES:
                assert wait_until(lambda node=node: self.answers(node, 200), seconds=60), f"{name}: {node}"  # type: ignore[misc]
        for (node, url), matrix in seen.items():
            counts = f"{matrix.requests:5} requests, {matrix.lost:3} lost, {matrix.misplaced} misplaced"
            print(f"{name:20} {node} {url:30} {counts}")
        return seen

    def pods(self) -> dict[str, tuple[str, int, bool]]:
        """Return node, restarts and readiness of the site's pods behind both Services, by uid, as the cloud knows."""
        items = json.loads(self.lab.kubectl("get", "pods", "-l", "app=kiosk", "-o", "json").stdout)["items"]
        items += json.loads(self.lab.kubectl("get", "pods", "-l", "appGrid=nginx", "-o", "json").stdout)["items"]
        return {
            item["metadata"]["uid"]: (item["spec"]["nodeName"], status["restartCount"], status["ready"])
            for item in items
            for status in item["status"]["containerStatuses"]
            if item["spec"]["nodeName"] in NODES
        }

    def addresses(self, node: str) -> list[str]:
        """Return how the rules name the grid's pods on `node`."""
        items = json.loads(self.lab.kubectl("get", "pods", "-l", "appGrid=nginx", "-o", "json").stdout)["items"]
        found = [f"{item['status']['podIP']}:80" for item in items if item["spec"]["nodeName"] == node]
        assert found
        return found


@pytest.fixture(scope="module")
def plain(walkthrough: Clients, lab: Lab) -> Iterator[Clients]:
    """Run a plain Deployment with a pod on each node of the site, behind a plain Service."""
    lab.kubectl("apply", "-f", "-", input=PLAIN)
    lab.kubectl("rollout", "status", "deployment/kiosk", "--timeout=120s")
    yield walkthrough
    lab.kubectl("delete", "--wait=false", "-f", "-", input=PLAIN)


@pytest.fixture
def offline(plain: Clients, lab: Lab) -> Iterator[Offline]:
    """Cut the WAN of NodeUnit2 once its agents have written what they know; restore it afterwards."""
    site = Offline(lab, plain)
    for node in NODES:
        plain.pod(node)
    assert wait_until(lambda: all(site.answers(node) for node in NODES))
    assert wait_until(lambda: all(metrics(lab, node)["snapshots_unwritten"] == 0 for node in NODES))
    lab.cut_wan(SITE)
    try:
        yield site
    finally:
        restore(lab)


def restore(lab: Lab) -> None:
    """Give the site its WAN back; return when its agents know."""
    for node in NODES:
        lab.restore_wan(node)  # by name: a node that was relabelled meanwhile is still one of those that were cut off
    for node in NODES:
        assert wait_until(lambda node=node: metrics(lab, node).get("wan_down") == 0)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("process", "action"),
    [
        ("agent", "kill"),
        ("agent", "restart"),
        ("kube-proxy", "kill"),
        ("kube-proxy", "restart"),
        ("kubelet", "kill"),
    ],
)
def test_restarts_lose_nothing(offline: Offline, lab: Lab, process: str, action: str) -> None:
    """None of agent, kube-proxy and kubelet is in the way of a request: all are answered, in the site."""
    seen = offline.fault(f"{process} {action}", lambda: lab.process(f"{process}@{FAULTY}", action))
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
        assert wait_until(lambda: site.answers(FAULTY, 100, (URL,)))
    finally:
        lab.process(f"agent@{FAULTY}", "stop")
        lab.run(FAULTY, ["umount", directory], check=True)
        lab.process(f"agent@{FAULTY}", "start")
    assert wait_until(lambda: metrics(lab, FAULTY).get("snapshots_unwritten") == 0)


@pytest.mark.parametrize("action", ["kill", "restart"])
def test_a_dns_server_that_restarts_is_missed_on_its_node_only(offline: Offline, lab: Lab, action: str) -> None:
    """CoreDNS comes back from what its agent knows; the other node has its own and loses nothing."""
    seen = offline.fault(f"coredns {action}", lambda: lab.process(f"coredns@{FAULTY}", action))
    for (node, url), matrix in seen.items():
        assert matrix.misplaced == 0, "\n" + matrix.render()
        assert matrix.lost == 0 or node == FAULTY, f"{url}\n{matrix.render()}"


def test_a_node_reboots_without_the_cloud(offline: Offline, lab: Lab) -> None:
    """All of a node comes back from its disk, pods of plain Deployments too; then the cloud learns of it.

    The pods that ran are the pods that run: none is replaced, and the restart is reported when the WAN is back.
    """
    before = offline.pods()
    seen = offline.fault("node reboot", lambda: lab.reboot_node(FAULTY), (OTHER,))
    assert [matrix.misplaced for matrix in seen.values()] == [0, 0]
    assert metrics(lab, FAULTY)["wan_down"] == 1
    members = offline.clients.members("zone")
    after = offline.clients.measure([(node, url) for node in NODES for url in (URL, PLAIN_URL)], members, 50)
    assert (after.misplaced, after.lost) == (0, 0), "\n" + after.render()
    assert offline.pods() == before, "the cloud has heard nothing yet"
    restore(lab)
    wanted = {uid: (node, count + (node == FAULTY), True) for uid, (node, count, _) in before.items()}
    assert wait_until(lambda: offline.pods() == wanted), offline.pods()
    assert wait_until(lambda: not lab.kubectl("wait", "--for=condition=Ready", f"node/{FAULTY}").returncode)


def test_the_wan_comes_back_unnoticed(offline: Offline, lab: Lab) -> None:
    """After restarts offline, the site's traffic goes on while its agents find the API server again; pods stay."""
    before = offline.pods()
    lab.process(f"agent@{FAULTY}", "stop")
    began = time.monotonic()
    lab.process(f"agent@{FAULTY}", "start")
    ready = ["curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:10351/sitegrid/readyz"]
    assert wait_until(lambda: not lab.run(FAULTY, ready).returncode)
    print(f"agent's process started offline until it serves: {time.monotonic() - began:.2f} s")
    for part in ("agent", "kube-proxy", "coredns", "kubelet"):
        lab.process(f"{part}@{FAULTY}", "kill")
    assert wait_until(lambda: offline.answers(FAULTY))
    for matrix in offline.fault("wan restored", lambda: restore(lab)).values():
        assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()
    assert offline.pods() == before


def test_a_wan_that_flaps_is_not_noticed(offline: Offline, lab: Lab) -> None:
    """Five times there and gone again: no request is lost or misplaced, no pod replaced."""
    before = offline.pods()

    def flap() -> None:
        for _ in range(5):
            restore(lab)
            lab.cut_wan(SITE)

    for matrix in offline.fault("wan flaps", flap).values():
        assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()
    restore(lab)
    assert offline.pods() == before


def test_a_node_relabelled_while_cut_off_moves_when_it_hears_of_it(offline: Offline, lab: Lab) -> None:
    """Until then it is served as before, by its own site; afterwards by the new one alone."""
    old, target = offline.clients.members("zone"), (FAULTY, URL)
    lab.kubectl("label", "--overwrite", "node", FAULTY, "zone=NodeUnit1")
    try:
        cut = offline.clients.measure([(node, URL) for node in NODES], old, 50)
        assert (cut.misplaced, cut.lost) == (0, 0), "\n" + cut.render()
        new = offline.clients.members("zone")
        assert new[FAULTY] == "NodeUnit1"
        restore(lab)
        former = offline.addresses(OTHER)

        def moved() -> bool:
            rules = lab.run(FAULTY, ["nft", "list", "ruleset"], capture_output=True).stdout
            return not any(address in rules for address in former)

        # Requests do not tell: the Service's affinity may have kept the client on its own node's pod all the time.
        assert wait_until(moved)
        after = offline.clients.measure([(node, URL) for node in NODES], new, 100)
        assert after.misplaced == 0, "\n" + after.render()
        counts = f"{after.requests} after the move, {after.lost} lost, 0 misplaced"
        print(f"relabelled while cut: {cut.requests} requests before, 0 lost, 0 misplaced; {counts}")
        assert wait_until(lambda: offline.answers(FAULTY, 100, (URL,)))
    finally:
        lab.kubectl("label", "--overwrite", "node", FAULTY, "zone=NodeUnit2")
    assert wait_until(lambda: offline.clients.measure([target], old, 20).misplaced == 0)


def test_writes_fail_at_once(offline: Offline, lab: Lab) -> None:
    """What needs the API server is a 503 Status with Retry-After, and no wait for TCP."""
    lab.process(f"agent@{FAULTY}", "kill")
    assert wait_until(lambda: metrics(lab, FAULTY).get("wan_down") == 1)
    argv = ["curl", "-si", "-m", "5", "-X", "POST", "-d", "{}", "-w", "\nseconds: %{time_total}"]
    answer = lab.run(FAULTY, [*argv, "http://127.0.0.1:10351/api/v1/namespaces"], capture_output=True).stdout
    print(f"write while the WAN is cut: {answer.splitlines()[-1]}")
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
