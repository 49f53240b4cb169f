"""What becomes of open connections when a node changes its unit.

Each test has a node leave NodeUnit2 while clients on it keep connections open to the pod that NodeUnit2 has on
another node: from a pod and from the node itself, by the Service's address and by a node port, over TCP and UDP.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from sitegrid.lab.clients import Clients, entered, wait_until
from sitegrid.lab.lab import Lab
from tests.support import keepalive
from tests.support.faultsite import metrics

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FORMER, NEW = "NodeUnit2", "NodeUnit1"
NODE_PORT = 30090
MANIFESTS = f"""
apiVersion: tkeedge.io/v1
kind: DeploymentGrid
metadata: {{name: hall, namespace: default}}
spec:
  gridUniqKey: zone
  template:
    replicas: 1
    selector: {{matchLabels: {{app: hall}}}}
    template:
      metadata: {{labels: {{app: hall}}}}
      spec:
        containers:
        - name: hall
          image: hall
          ports: [{{containerPort: 80}}, {{containerPort: 5000, protocol: UDP}}]
---
apiVersion: tkeedge.io/v1
kind: ServiceGrid
metadata: {{name: hall, namespace: default}}
spec:
  gridUniqKey: zone
  template:
    type: NodePort
    selector: {{app: hall}}
    ports:
    - {{name: http, port: 80, nodePort: {NODE_PORT}}}
    - {{name: udp, port: 5000, protocol: UDP}}
---
apiVersion: v1
kind: Service
metadata: {{name: plain-hall, namespace: default}}
spec:
  selector: {{app: hall, tkeedge.io/unit: zone.{FORMER}}}
  ports: [{{port: 80}}]
"""


class Hall:
    """The grid: a pod in each unit, and which node of NodeUnit2 has it (`server`) and which has not (`leaver`)."""

    def __init__(self, lab: Lab, clients: Clients, stack: ExitStack) -> None:
        self.lab = lab
        self.clients = clients
        self._stack = stack
        nodes = {item["spec"]["nodeName"] for item in self._items("pods", "-l", "app=hall")}
        members = clients.members("zone")
        (self.server,) = (node for node in nodes if members[node] == FORMER)
        self.leaver = next(node for node, unit in members.items() if unit == FORMER and node != self.server)

    def _items(self, *what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.lab.kubectl("get", *what, "-o", "json").stdout)["items"]
        return found

    def address(self, service: str) -> str:
        """Return the address of a Service."""
        found: str = self.lab.kubectl("get", "service", service, "-o", "jsonpath={.spec.clusterIP}").stdout
        return found

    def pod_address(self) -> str:
        """Return the address of the pod that NodeUnit2 has."""
        pods = self._items("pods", "-l", "app=hall")
        found: str = next(item["status"]["podIP"] for item in pods if item["spec"]["nodeName"] == self.server)
        return found

    def node_address(self) -> str:
        """Return the address of the node that leaves."""
        return next(node.address for node in self.lab.status().nodes if node.name == self.leaver)

    def open(self, target: str, host: str, port: int = 80, protocol: str = "tcp") -> Connection:
        """Open a connection from a node or pod of the lab, and return it once the former unit has answered on it."""
        argv = [sys.executable, "-I", "-S", keepalive.__file__, protocol, host, str(port)]
        connection = self._stack.enter_context(Connection(self.lab.command(target, argv)))
        assert wait_until(lambda: connection.ask().get("node") == self.server), connection.last
        return connection

    def open_from_leaver(self) -> dict[str, Connection]:
        """Open one of each kind. A lab's nodes themselves have no way to a Service's address, but to a node port."""
        pod, address, node = self.clients.pod(self.leaver), self.address("hall-svc"), self.node_address()
        return {
            "pod": self.open(pod, address),
            "pod, node port": self.open(pod, node, NODE_PORT),
            "node, node port": self.open(self.leaver, node, NODE_PORT),
            "udp": self.open(pod, address, 5000, "udp"),
        }

    def relabel(self, label: str) -> None:
        """Give the node another label, and return when new connections no longer go to the former unit."""
        url = f"http://{self.address('hall-svc')}/"
        self.lab.kubectl("label", "node", self.leaver, label, "--overwrite")
        assert wait_until(lambda: not self._asks_former(url))

    def _asks_former(self, url: str) -> bool:
        answers = self.clients.ask((self.leaver, url), 2)["answers"]
        return any(answer["node"] == self.server for answer in answers.values())


class Connection:
    """A connection that `tests.support.keepalive` holds open; `last` is what its last request came to."""

    def __init__(self, argv: list[str]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.last: dict[str, Any] = {}

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        # It ends with its standard input.
        with self._process:
            pass

    def ask(self) -> dict[str, Any]:
        """Send one request; return who answered, by which socket, or the error."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.last = json.loads(self._process.stdout.readline())
        return self.last


@contextmanager
def ending(lab: Lab, node: str) -> Iterator[None]:
    """Run `sitegrid connections` on the node; begins when it knows what the agent shows."""
    argv = lab.command(node, [sys.executable, "-m", "sitegrid", "connections", "--grace=1"])
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = next((line for line in process.stderr if " ready: " in line), None)
            assert said is not None, "it ended"
            yield
        finally:
            os.kill(entered(process), signal.SIGTERM)
            print(process.stderr.read())
    assert process.returncode == 0


@pytest.fixture
def hall(lab: Lab, clients: Clients) -> Iterator[Hall]:
    """Yield the hall; afterwards the node is back in its unit, and nothing is left."""
    members = clients.members("zone")
    for node in members:
        clients.pod(node)
    lab.kubectl("apply", "-f", "-", input=MANIFESTS)
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "dg/hall", "sg/hall")
    with ExitStack() as stack:
        hall = Hall(lab, clients, stack)
        yield hall
    lab.kubectl("label", "node", hall.leaver, f"zone={FORMER}", "--overwrite")
    lab.kubectl("delete", "-f", "-", input=MANIFESTS)
    lab.kubectl("wait", "--for=delete", "--timeout=120s", "pod", "-l", "app=hall")


@pytest.mark.parametrize("label", [f"zone={NEW}", "zone-"])
def test_open_connections_outlive_a_relabelling(hall: Hall, label: str) -> None:
    """Kubernetes closes no TCP connection: the former unit answers on them when it is asked by no new one.

    kube-proxy makes an end of what it keeps for UDP where the Service is still there. Where it is not, since the node
    is in no unit, it often does not.
    """
    opened = hall.open_from_leaver()
    datagrams = opened.pop("udp")
    before = {name: dict(connection.last) for name, connection in opened.items()}
    hall.relabel(label)
    if label != "zone-":
        assert wait_until(lambda: datagrams.ask().get("node") not in (None, hall.server))
    assert {name: connection.ask() for name, connection in opened.items()} == before


@pytest.mark.parametrize("label", [f"zone={NEW}", "zone-"])
def test_they_end_where_the_node_has_them_ended(hall: Hall, lab: Lab, label: str) -> None:
    """With `sitegrid connections` the former unit answers nothing more; the next connection is the new unit's.

    Nothing else is touched: connections of another node of that unit, and those by a plain Service to the very pod.
    """
    pod = hall.clients.pod(hall.leaver)
    with ending(lab, hall.leaver):
        opened = hall.open_from_leaver()
        others = {
            "by a plain Service": hall.open(pod, hall.address("plain-hall")),
            "to the pod": hall.open(pod, hall.pod_address()),
            "inside the unit": hall.open(hall.clients.pod(hall.server), hall.address("hall-svc")),
        }
        before = {name: dict(connection.last) for name, connection in others.items()}
        hall.relabel(label)
        for name, connection in opened.items():
            assert wait_until(lambda it=connection: it.ask().get("node") != hall.server), name  # type: ignore[misc]
        if label != "zone-":
            for name, connection in opened.items():
                answered = wait_until(lambda it=connection: "error" not in it.ask())  # type: ignore[misc]
                assert answered, (name, connection.last)
                assert hall.clients.members("zone")[connection.last["node"]] == NEW, name
        assert {name: connection.ask() for name, connection in others.items()} == before


def test_a_lost_wan_ends_no_connection(hall: Hall, lab: Lab) -> None:
    """Cut off, with its agent started again, and when the WAN is back, a site keeps its connections."""
    with ending(lab, hall.leaver):
        opened = hall.open_from_leaver()
        before = {name: dict(connection.last) for name, connection in opened.items()}
        watchers = metrics(lab, hall.leaver)["watchers"]
        lab.cut_wan(f"zone={FORMER}")
        try:
            assert wait_until(lambda: metrics(lab, hall.leaver).get("wan_down") == 1)
            lab.process(f"agent@{hall.leaver}", "restart")
            assert wait_until(lambda: metrics(lab, hall.leaver).get("watchers", 0) >= watchers)
            assert {name: connection.ask() for name, connection in opened.items()} == before
        finally:
            lab.restore_wan(f"zone={FORMER}")
        assert wait_until(lambda: metrics(lab, hall.leaver).get("wan_down") == 0)
        assert {name: connection.ask() for name, connection in opened.items()} == before
