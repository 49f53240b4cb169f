"""A site whose WAN is cut until the cloud gives its nodes up, and back: nothing of it vanishes, nothing restarts.

The waits are Kubernetes' own: 50 s without a heartbeat until the node lifecycle controller calls a node Unknown.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pytest

from sitegrid.lab.clients import Clients, Target, wait_until
from sitegrid.lab.config import LabConfig
from sitegrid.lab.lab import Lab
from sitegrid.lab.matrix import Matrix
from sitegrid.lab.sites import Node, Sites
from tests.support.processes import running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NODES = {"a1": "away", "a2": "away", "c1": "crashed", "c2": "crashed", "far": "far"}
URL = "http://web-svc/"
SOURCES = "kubernetes.io/service-name=web-svc-sites"
GRIDS = """
apiVersion: tkeedge.io/v1
kind: DeploymentGrid
metadata: {name: web}
spec:
  gridUniqKey: zone
  template:
    replicas: 2
    selector: {matchLabels: {app: web}}
    template:
      metadata: {labels: {app: web}}
      spec:
        containers: [{name: web, image: web, ports: [{containerPort: 80}]}]
        topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {matchLabels: {app: web}}
---
apiVersion: tkeedge.io/v1
kind: ServiceGrid
metadata: {name: web}
spec:
  gridUniqKey: zone
  template:
    selector: {app: web}
    ports: [{port: 80}]
"""


class Site:
    """A site of two nodes with a pod of the grid on each, and what the API server says of them."""

    def __init__(self, lab: Lab, clients: Clients, name: str) -> None:
        self.lab = lab
        self.clients = clients
        self.name = name
        self.nodes = {node for node, site in NODES.items() if site == name}
        self.unit_slices = f"endpointslice.kubernetes.io/managed-by=sitegrid,tkeedge.io/unit=zone.{name}"
        self.pods = f"app=web,tkeedge.io/unit=zone.{name}"

    def settle(self) -> None:
        """Wait until each of its nodes is answered."""
        self.clients.until_answered([(node, URL) for node in self.nodes])
        assert wait_until(lambda: self.nodes_of_ready(self.unit_slices) == self.nodes)

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """Return objects as the API server has them now."""
        found: list[dict[str, Any]] = json.loads(self.lab.kubectl("get", kind, "-l", selector, "-o", "json").stdout)[
            "items"
        ]
        return found

    def readiness(self, kind: str, selector: str = "") -> dict[str, str]:
        """Return the Ready condition's status of nodes or pods by name."""
        return {
            item["metadata"]["name"]: condition["status"]
            for item in self.items(kind, selector)
            for condition in item["status"].get("conditions", ())
            if condition["type"] == "Ready"
        }

    def nodes_of_ready(self, selector: str) -> set[str]:
        """Return the nodes of the site's ready endpoints in the slices that `selector` finds."""
        return {node for item in self.items("endpointslices", selector) for node in ready_nodes(item)} & self.nodes

    def runs(self) -> dict[str, list[Any]]:
        """Return what must stay of each pod of the site: its uid, and its containers' ids and restarts."""
        return {
            pod["metadata"]["uid"]: [
                (c["containerID"], c["restartCount"]) for c in pod["status"]["containerStatuses"]
            ]
            for pod in self.items("pods", self.pods)
        }

    def sending(self) -> contextlib.AbstractContextManager[dict[Target, Matrix]]:
        """Send requests from each node of the site all the while."""
        return self.clients.sending([(node, URL) for node in self.nodes], self.clients.members("zone"), interval=0.05)

    @contextlib.contextmanager
    def watched(self, record: IO[bytes]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """Watch the site's unit slices; yield a function that returns every state that they have been in."""
        kubectl = LabConfig.read(self.lab.layout.config).binaries["kubectl"]
        argv = [kubectl, f"--kubeconfig={self.lab.kubeconfig}", "get", "endpointslices", "-l", self.unit_slices]

        def states() -> list[dict[str, Any]]:
            return list(concatenated(Path(record.name).read_text()))

        with running([*argv, "--watch", "-o", "json"], stdout=record):
            assert wait_until(lambda: bool(states()))
            yield states


def ready_nodes(item: Mapping[str, Any]) -> set[str]:
    """Return the nodes of the ready endpoints of a slice."""
    return {e["nodeName"] for e in item["endpoints"] or () if e["conditions"].get("ready") is not False}


def concatenated(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects that follow one another in `text`; the last may be half written."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        try:
            item, end = decoder.raw_decode(text)
        except ValueError:
            return
        yield item
        text = text[end:]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    """Two running sites, and a third so that a request could leave them."""
    with Lab("reconnect", directory=tmp_path_factory.mktemp("labs")) as lab:
        lab.up(Sites(tuple(Node(node, {"zone": site}) for node, site in NODES.items())))
        clients = Clients(lab)
        clients.deploy()
        lab.kubectl("apply", "-f", "-", input=GRIDS)
        lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "dg/web", "sg/web")
        sites = {name: Site(lab, clients, name) for name in ("away", "crashed")}
        for site in sites.values():
            site.settle()
        yield sites


@pytest.fixture(scope="module", autouse=True)
def crash(
    sites: dict[str, Site], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Let a node of one site crash before the first test, since Kubernetes takes a minute to say so; its slices."""
    site = sites["crashed"]
    with (tmp_path_factory.mktemp("watch") / "crash.json").open("wb") as record, site.watched(record) as states:
        site.lab.process("kubelet@c2", "stop")
        site.lab.cut_wan("c2")
        yield states


def test_site_that_was_given_up_comes_back_without_an_outage(sites: dict[str, Site], tmp_path: Path) -> None:
    """From cut to recovery no request is lost or misplaced, no pod replaced, and no endpoint leaves the slices."""
    site = sites["away"]
    before = site.runs()

    def readiness() -> set[str]:
        return {status for node, status in site.readiness("nodes").items() if node in site.nodes}

    with (tmp_path / "watch.json").open("wb") as record, site.watched(record) as states, site.sending() as seen:
        site.lab.cut_wan("zone=away")
        try:
            assert wait_until(lambda: readiness() == {"Unknown"}, seconds=180)
            assert wait_until(lambda: set(site.readiness("pods", site.pods).values()) == {"False"})
            assert wait_until(lambda: not site.nodes_of_ready(SOURCES))
        finally:
            site.lab.restore_wan("zone=away")
        assert wait_until(lambda: readiness() == {"True"}, seconds=180)
        assert wait_until(lambda: set(site.readiness("pods", site.pods).values()) == {"True"}, seconds=180)
        assert wait_until(lambda: site.nodes_of_ready(SOURCES) == site.nodes)
        assert site.nodes_of_ready(site.unit_slices) == site.nodes
    assert all(matrix.requests > 100 for matrix in seen.values())
    for matrix in seen.values():
        assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()
    assert site.runs() == before
    assert [ready_nodes(state) for state in states()] == [site.nodes] * len(states())


def test_crashed_node_of_a_site_goes_and_the_others_stay(
    sites: dict[str, Site], crash: Callable[[], list[dict[str, Any]]]
) -> None:
    """Where one node of a site is lost, its endpoint goes, the site's other one never does and serves alone."""
    site = sites["crashed"]
    assert wait_until(lambda: site.nodes_of_ready(site.unit_slices) == {"c1"}, seconds=180)
    assert site.readiness("nodes")["c2"] == "Unknown"
    assert all("c1" in ready_nodes(state) for state in crash())

    def served_alone() -> bool:
        summary = site.clients.ask(("c1", URL), 50)
        return {answer["node"] for answer in summary["answers"].values()} == {"c1"} and not summary["errors"]

    # The slice has to reach the node's kube-proxy.
    assert wait_until(served_alone)
