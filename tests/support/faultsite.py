"""A site of the shared lab under faults: clients that send all the while, and what must stay as it was.

Used by the end-to-end tests of faults, with and without the site's WAN. What is printed (``pytest -rP``) is the table
of faults by lost and misplaced requests.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sitegrid.lab.clients import Clients, ClientsError, Target, wait_until
from sitegrid.lab.config import LabConfig
from sitegrid.lab.lab import Lab
from sitegrid.lab.matrix import Matrix

URL = "http://servicegrid-demo-svc/"
"""The article's grid Service."""
PLAIN_URL = "http://kiosk/"
"""A plain Service whose Deployment runs on the site's nodes."""
FAULTY, OTHER = "node21", "node23"
NODES = (FAULTY, OTHER)
SITE = "zone=NodeUnit2"
NO_ENDPOINTS = {"connect: network is unreachable", "connect: timeout"}
"""Why requests to a Service without endpoints are lost: a lab's nodes have no way to a Service's address but their
rules, and the kernel says so a few times a second only (elsewhere, with a default route, kube-proxy's rules refuse
the connection, as often)."""
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
    return {name: float(value) for name, value in re.findall(r"^sitegrid_agent_(.+) (\S+)$", text, re.MULTILINE)}


class FaultSite:
    """The site NodeUnit2, and the clients on its nodes."""

    def __init__(self, lab: Lab, clients: Clients) -> None:
        self.lab = lab
        self.clients = clients

    def answers(self, node: str, count: int = 20, urls: Iterable[str] = (URL, PLAIN_URL)) -> bool:
        """Tell whether `count` requests of the client on `node` to each Service are all answered.

        While its node starts, that client may not be there yet.
        """
        try:
            summaries = [self.clients.ask((node, url), count) for url in urls]
        except ClientsError as error:
            print(error)
            return False
        return all(summary["answers"] and not summary["errors"] for summary in summaries)

    def settle(self) -> None:
        """Return when both nodes are answered, their agents have written what they know, and the cloud knows all."""
        for node in NODES:
            self.clients.pod(node)
        assert wait_until(lambda: all(self.answers(node) for node in NODES))
        assert wait_until(lambda: all(metrics(self.lab, node).get("snapshots_unwritten") == 0 for node in NODES))
        # A cut before this one may have been long enough for the cloud to give the site's pods up.
        assert wait_until(lambda: all(ready for _, _, ready in self.pods().values())), self.pods()

    def fault(self, name: str, do: Callable[[], None], nodes: tuple[str, ...] = NODES) -> dict[Target, Matrix]:
        """Do it while `nodes` send; return what they saw once both nodes are answered without fail."""
        targets = [(node, url) for node in nodes for url in (URL, PLAIN_URL)]
        with self.clients.sending(targets, self.clients.members("zone")) as seen:
            assert self.answers(FAULTY, 100)
            do()
            for node in NODES:
                assert wait_until(lambda node=node: self.answers(node, 200)), f"{name}: {node}"  # type: ignore[misc]
        tell(name, seen)
        return seen

    def pods(self) -> dict[str, tuple[str, int, bool]]:
        """Return node, restarts and readiness of the site's pods behind both Services, by uid, as the cloud knows."""
        items = json.loads(self.lab.kubectl("get", "pods", "-l", "app=kiosk", "-o", "json").stdout)["items"]
        items += self.items()
        return {
            item["metadata"]["uid"]: (item["spec"]["nodeName"], status["restartCount"], status["ready"])
            for item in items
            for status in item["status"].get("containerStatuses", ())
            if item["spec"]["nodeName"] in NODES
        }

    def items(self) -> list[dict[str, Any]]:
        """Return the grid's pods, of all sites."""
        found: list[dict[str, Any]] = json.loads(
            self.lab.kubectl("get", "pods", "-l", "appGrid=nginx", "-o", "json").stdout
        )["items"]
        return found

    def in_rules(self, node: str, service: str = "servicegrid-demo-svc") -> set[str]:
        """Return the pods that the rules of `node` have for a Service over the grid's pods, as NODE:PORT."""
        rules = self.lab.run(node, ["nft", "list", "table", "ip", "kube-proxy"], capture_output=True).stdout
        chain = re.search(rf"chain service-\w+-default/{service}/tcp/ {{.*?}}\n", rules, re.DOTALL)
        found = re.findall(r"([\d.]+)(?: \. |/)(\d+)", chain[0]) if chain else []
        items = [item for item in self.items() if "podIP" in item["status"]]
        nodes = {item["status"]["podIP"]: item["spec"]["nodeName"] for item in items}
        return {f"{nodes[address]}:{port}" for address, port in found if address in nodes}

    def restore(self) -> None:
        """Give the site its WAN back; return when its agents know."""
        for node in NODES:
            self.lab.restore_wan(node)  # by name: a node that was relabelled meanwhile is still one of the site's
        for node in NODES:
            assert wait_until(lambda node=node: metrics(self.lab, node).get("wan_down") == 0)  # type: ignore[misc]


def in_cloud(lab: Lab, argv: Sequence[str]) -> list[str]:
    """Return the argv that runs `argv` in the network of the cloud."""
    user = ["--user", "--preserve-credentials"] if LabConfig.read(lab.layout.config).user_namespace else []
    return ["nsenter", f"--target={lab.supervisor_pid}", *user, "--net", "--", *argv]


def compact(lab: Lab) -> None:
    """Make etcd forget every revision but the last, so that nothing can be resumed from before."""

    def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        argv = ["curl", "-sf", "--noproxy", "*", f"http://127.0.0.1:2379/v3/kv/{path}", "-d", json.dumps(body)]
        done = subprocess.run(in_cloud(lab, argv), capture_output=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    revision = ask("range", {"key": "AA=="})["header"]["revision"]
    ask("compaction", {"revision": revision, "physical": True})


def tell(name: str, seen: dict[Target, Matrix]) -> None:
    """Print rows of the table of faults."""
    for (node, url), matrix in seen.items():
        counts = f"{matrix.requests:5} requests, {matrix.lost:3} lost, {matrix.misplaced} misplaced"
        reasons = ", ".join(sorted({reason for _, reason in matrix.losses}))
        print(f"{name:28} {node} {url:30} {counts} {reasons}".rstrip())


def check_nothing_happened(seen: dict[Target, Matrix]) -> None:
    """Fail unless every request was answered, in its own site."""
    for matrix in seen.values():
        assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()
