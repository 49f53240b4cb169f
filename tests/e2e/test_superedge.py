"""SuperEdge's manifests, and a move of its running children, in a whole lab: pods, kube-proxies and DNS are real."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sitegrid.lab.clients import Clients, wait_until
from sitegrid.lab.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NODES = {"node12": "NodeUnit1", "node14": "NodeUnit1", "node21": "NodeUnit2", "node23": "NodeUnit2"}
SITES = {"node12": "east", "node14": "east", "node21": "west", "node23": "west"}
MOVED = "moved-svc"

MANIFESTS = """
apiVersion: superedge.io/v1
kind: StatefulSetGrid
metadata: {name: se-db, namespace: default, creationTimestamp: null}
spec:
  gridUniqKey: zone
  template:
    selector: {matchLabels: {appGrid: se-db}}
    serviceName: se-db-svc
    replicas: 2
    template:
      metadata: {creationTimestamp: null, labels: {appGrid: se-db}}
      spec:
        terminationGracePeriodSeconds: 1
        containers:
        - {name: echo, image: "echo:2.2", ports: [{containerPort: 80, protocol: TCP}], resources: {}}
status: {}
---
apiVersion: superedge.io/v1
kind: ServiceGrid
metadata: {name: se-db, namespace: default}
spec:
  gridUniqKey: zone
  template:
    clusterIP: None
    selector: {appGrid: se-db}
    ports: [{protocol: TCP, port: 80, targetPort: 80}]
status: {loadBalancer: {}}
"""


@pytest.fixture
def stateful(lab: Lab, clients: Clients) -> Iterator[None]:
    """SuperEdge's stateful example; nothing of it is left afterwards."""
    for node in NODES:
        clients.pod(node)
    lab.kubectl("apply", "-f", "-", input=MANIFESTS)
    names = ("statefulsetgrid.superedge.io/se-db", "servicegrid.superedge.io/se-db")
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", *names)
    yield
    lab.kubectl("delete", "--ignore-not-found", "-f", "-", input=MANIFESTS)
    lab.kubectl("wait", "--for=delete", "--timeout=120s", "pod", "-l", "appGrid=se-db")


def test_superedges_names_of_pods(stateful: None, clients: Clients) -> None:
    """``{grid}-{N}.{svc}`` is in every site the own site's pod, as SuperEdge has it; here headless as well."""
    for ordinal in (0, 1):
        url = f"http://se-db-{ordinal}.se-db-svc/"
        clients.until_answered([(node, url) for node in NODES])
        for node, unit in NODES.items():
            (pod,) = clients.ask((node, url), 3)["answers"]
            assert pod.startswith(f"se-db-{unit.lower()}-")
            assert pod.endswith(f"-{ordinal}")


def _template() -> dict[str, Any]:
    labels = {"appGrid": "moved"}
    return {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "strategy": {},
        "template": {
            "metadata": {"labels": {**labels, "superedge.io/template-hash-key": "8123"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "echo", "image": "echo:2.2", "ports": [{"containerPort": 80}]}],
            },
        },
    }


class Moved:
    """A namespace as SuperEdge's controller leaves it, with running pods."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def begin(self) -> None:
        """Make the grids, then what SuperEdge makes of them, then the units, without which sitegrid makes nothing."""
        labels = {"superedge.io/grid-selector": "moved", "superedge.io/grid-uniq-key": "se-site"}
        grid = self._create("superedge.io/v1", "DeploymentGrid", "moved", _spec(_template()))
        for site in sorted({*SITES.values()}):
            template = _template()
            template["template"]["spec"]["nodeSelector"] = {"se-site": site}
            owner = {
                "apiVersion": "superedge.io/v1",
                "kind": "DeploymentGrid",
                "name": "moved",
                "uid": grid["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
            meta = {"labels": labels, "ownerReferences": [owner]}
            self._create("apps/v1", "Deployment", f"moved-{site}", template, **meta)
        ports = [{"protocol": "TCP", "port": 80, "targetPort": 80}]
        service = {"selector": {"appGrid": "moved"}, "ports": ports}
        notes = {"topologyKeys": '["se-site"]'}
        self._create("v1", "Service", MOVED, service, labels=labels, annotations=notes)
        self._create("superedge.io/v1", "ServiceGrid", "moved", _spec(service))
        for node, site in SITES.items():
            self.lab.kubectl("label", "node", node, f"se-site={site}")
        self.lab.kubectl("wait", "--for=condition=Available", "--timeout=120s", "deployment/moved-east")
        self.lab.kubectl("wait", "--for=condition=Available", "--timeout=120s", "deployment/moved-west")

    def migrate(self, *options: str) -> None:
        """Run `sitegrid migrate` as a user does."""
        command = [
            sys.executable,
            "-m",
            "sitegrid",
            "migrate",
            "-n",
            "default",
            f"--kubeconfig={self.lab.kubeconfig}",
        ]
        subprocess.run([*command, "--apply", *options], check=True, capture_output=True)

    def pods(self) -> dict[str, tuple[str, int]]:
        """Return uid and restarts of each pod by name."""
        found = json.loads(self.lab.kubectl("get", "pods", "-l", "appGrid=moved", "-o", "json").stdout)["items"]
        return {
            pod["metadata"]["name"]: (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
            for pod in found
        }

    def service_labels(self) -> dict[str, str]:
        """Return the Service's labels."""
        found = json.loads(self.lab.kubectl("get", "service", MOVED, "-o", "json").stdout)
        labels: dict[str, str] = found["metadata"]["labels"]
        return labels

    def end(self) -> None:
        """Leave the lab as it was."""
        for kind in ("deploymentgrid.superedge.io", "servicegrid.superedge.io"):
            self.lab.kubectl("delete", "--ignore-not-found", kind, "moved")
        self.lab.kubectl("delete", "--ignore-not-found", "service", MOVED)
        self.lab.kubectl("label", "nodes", *SITES, "se-site-")
        self.lab.kubectl("wait", "--for=delete", "--timeout=120s", "pod", "-l", "appGrid=moved")

    def _create(self, api_version: str, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> Any:
        manifest = {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": name, "namespace": "default", **metadata},
            "spec": spec,
        }
        options = ("--field-manager=application-grid-controller", "-o", "json", "-f", "-")
        return json.loads(self.lab.kubectl("create", *options, input=json.dumps(manifest)).stdout)


def _spec(template: dict[str, Any]) -> dict[str, Any]:
    return {"gridUniqKey": "se-site", "template": template}


@pytest.fixture
def moved(lab: Lab, clients: Clients) -> Iterator[Moved]:
    """SuperEdge's running children."""
    for node in SITES:
        clients.pod(node)
    moved = Moved(lab)
    try:
        moved.begin()
        yield moved
    finally:
        moved.end()


def test_move_with_running_pods_and_traffic(moved: Moved, clients: Clients) -> None:
    """There: every request stays in its site from then on. There and back: no pod is another one, none restarted."""
    targets = [(node, f"http://{MOVED}/") for node in SITES]
    clients.until_answered(targets)
    pods = moved.pods()
    moved.migrate()
    closed = "service.kubernetes.io/service-proxy-name"
    assert wait_until(lambda: closed in moved.service_labels())

    def closed_everywhere() -> bool:
        matrix = clients.measure(targets, SITES, 20)
        return not matrix.misplaced and not matrix.lost

    assert wait_until(closed_everywhere)
    matrix = clients.measure(targets, SITES, 100)
    assert (matrix.misplaced, matrix.lost) == (0, 0)
    assert moved.pods() == pods
    moved.migrate("--back")
    assert closed not in moved.service_labels()
    clients.until_answered(targets)
    assert moved.pods() == pods
