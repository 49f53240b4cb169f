"""What a person types at a cluster, by real kubectl: straight at the API server, and behind a node's agent.

The API server asks the lab's kubelet on the node; `tests/lab/test_kubelet_*.py` have its parts without a cluster.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from sitegrid.lab.addresses import AGENT_URL, API_SERVER_URL, NodeAddresses
from sitegrid.lab.clients import Clients, entered
from sitegrid.lab.config import LabConfig
from sitegrid.lab.kubelet.listener import PORT
from sitegrid.lab.lab import Lab
from tests.support.processes import start

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NODE, NEIGHBOUR = "node12", "node14"
"""The lab's first node and the one beside it."""
OBJECTS = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: typist}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: typist}
rules:
- {apiGroups: [""], resources: [pods, pods/log], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: typist}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: typist}
subjects: [{kind: ServiceAccount, name: typist, namespace: default}]
---
apiVersion: v1
kind: Pod
metadata: {name: typed}
spec:
  nodeName: node12
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: web, ports: [{containerPort: 80}]}]
"""


class Typist:
    """A user at a shell of the node, who has a token and kubectl."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.token = lab.kubectl("create", "token", "typist").stdout.strip()
        self.url = "http://" + lab.kubectl("get", "pod", "typed", "-o", "jsonpath={.status.podIP}").stdout
        self._kubectl = LabConfig.read(lab.layout.config).binaries["kubectl"]

    def argv(self, way: str, *args: str) -> list[str]:
        """Return the host's command line of kubectl at that shell."""
        root = self.lab.layout.root
        return self.lab.command(
            NODE,
            [
                *(self._kubectl, f"--server={AGENT_URL if way == 'agent' else API_SERVER_URL}"),
                *(f"--certificate-authority={root / 'pki' / 'ca.crt'}", f"--token={self.token}"),
                *(f"--cache-dir={root / 'typist'}", "--kubeconfig=/dev/null", *args),
            ],
        )

    def run(self, way: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl to its end."""
        return subprocess.run(self.argv(way, *args), capture_output=True, text=True, **options)

    def in_lab(self, where: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program in a node or pod."""
        return self.lab.run(where, argv, capture_output=True)


@pytest.fixture(scope="module")
def typist(lab: Lab, clients: Clients) -> Iterator[Typist]:
    """Return a user who may read pods and their logs, and run the pod ``typed`` on the node."""
    lab.kubectl("apply", "-f", "-", input=OBJECTS)
    lab.kubectl("wait", "pod/typed", "--for=condition=Ready", "--timeout=120s")
    yield Typist(lab)
    lab.kubectl("delete", "--wait=false", "-f", "-", input=OBJECTS)


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_logs_follow_the_requests(typist: Typist, way: str) -> None:
    """A request that is made while ``kubectl logs -f`` runs is shown, with who made it."""
    argv = typist.argv(way, "logs", "-f", "typed", "--tail=1")
    with start(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as following:
        assert following.stdout is not None
        try:
            following.stdout.readline()
            typist.in_lab(NODE, ["curl", "-s", "-A", "typist", f"{typist.url}/{way}"])
            assert following.stdout.readline() == f"{NodeAddresses(1).lan} GET /{way} 200 typist\n".encode()
        finally:
            os.kill(entered(following), signal.SIGKILL)


def test_nobody_but_the_api_server_may_ask_the_kubelet(typist: Typist) -> None:
    """A client on the node's LAN, without the API server's certificate, gets no answer."""
    ca = str(typist.lab.layout.pki / "ca.crt")
    url = f"https://{NodeAddresses(1).lan}:{PORT}/containerLogs/default/typed/c"
    done = typist.in_lab(NEIGHBOUR, ["curl", "-sS", "--cacert", ca, url])
    assert (done.stdout, "alert" in done.stderr or "empty reply" in done.stderr.lower()) == ("", True), done.stderr
