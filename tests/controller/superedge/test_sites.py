"""SuperEdge's NodeUnits and NodeGroups on a real API server: nodes get SuperEdge's labels, and grids their units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

UNIT, GROUP = "site-nodeunit", "site-nodegroup"


class Sites:
    """NodeUnits and NodeGroups of one test; names begin with the test's namespace, since they are cluster-scoped."""

    def __init__(self, grids: Any, wait_for: Callable[..., None]) -> None:
        self.grids = grids
        self.world = grids.world
        self._wait_for = wait_for
        self.names = [f"unit-{self.world.namespace}", f"group-{self.world.namespace}"]
        self.unit, self.group = self.names

    def apply(self, text: str) -> None:
        """Apply a manifest in which UNIT, GROUP and NODE stand for the test's own."""
        node = f"n-{self.world.namespace}"
        self.grids.apply(text.replace("UNIT", self.unit).replace("GROUP", self.group).replace("NODE", node))

    def labels(self, node: str) -> dict[str, str]:
        """Return a node's labels."""
        labels: dict[str, str] = self.grids.plane.get("node", node)["metadata"].get("labels", {})
        return labels

    def wait_label(self, node: str, name: str, value: str | None) -> None:
        """Wait until a node has a label, or has it no more (None)."""
        self._wait_for(
            lambda: self.labels(node).get(name) == value, f"{name}={value} on {node}", dump=self.world.dump
        )

    def condition(self, kind: str, name: str, type: str = "Ready") -> Any:
        """Return one condition of an object, {} where there is none yet."""
        conditions = (self.grids.plane.get(kind, name) or {}).get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == type), {})

    def wait_reason(self, kind: str, name: str, reason: str, type: str = "Ready") -> Any:
        """Wait until a condition has this reason, and return it."""
        found: Any = {}

        def told() -> bool:
            nonlocal found
            found = self.condition(kind, name, type)
            return bool(found.get("reason") == reason)

        self._wait_for(told, f"{kind} {name}: {type} {reason}", dump=lambda: f"{found}\n{self.world.dump()}")
        return found

    def wait_status(self, kind: str, name: str, wanted: dict[str, Any]) -> None:
        """Wait until these fields of an object's status are so."""

        def told() -> bool:
            status: dict[str, Any] = (self.grids.plane.get(kind, name) or {}).get("status", {})
            return wanted.items() <= status.items()

        self._wait_for(told, f"{kind} {name}: {wanted}", dump=self.world.dump)


@pytest.fixture
def sites(grids: Any, wait_for: Callable[..., None]) -> Iterator[Sites]:
    """One's own NodeUnit and NodeGroup."""
    made = Sites(grids, wait_for)
    yield made
    for kind, name in (("nodegroups", made.group), ("nodeunits", made.unit)):
        grids.plane.kubectl("delete", f"{kind}.site.superedge.io", name, "--ignore-not-found")


V1ALPHA2 = """
apiVersion: site.superedge.io/v1alpha2
kind: NodeUnit
metadata: {name: UNIT, labels: {demo: NAMESPACE}}
spec:
  type: edge
  unschedulable: false
  autonomyLevel: L3
  nodes: [NODE]
  setNode:
    labels: {site: east}
    taints: [{key: edge, effect: NoSchedule}]
---
apiVersion: site.superedge.io/v1alpha2
kind: NodeGroup
metadata: {name: GROUP}
spec:
  nodeUnits: [UNIT]
  workload: [{name: demo}]
"""

V1ALPHA1 = """
apiVersion: site.superedge.io/v1alpha1
kind: NodeUnit
metadata: {name: UNIT, labels: {demo: NAMESPACE}}
spec:
  type: edge
  selector: {matchLabels: {rack: NAMESPACE}}
  setnode: {labels: {site: east}}
status: {readyrate: 1/1, readynodes: [a]}
---
apiVersion: site.superedge.io/v1alpha1
kind: NodeGroup
metadata: {name: GROUP}
spec:
  nodeunits: []
  selector: {matchLabels: {demo: NAMESPACE}}
  workload: [{name: demo, type: Deployment}]
"""

V1 = V1ALPHA1.replace("v1alpha1", "v1")


@pytest.mark.parametrize("text", [V1ALPHA2, V1ALPHA1, V1], ids=["v1alpha2", "v1alpha1", "v1"])
def test_nodes_get_superedges_labels(sites: Sites, text: str) -> None:
    """Each version's manifests apply, and have the nodes carry what SuperEdge has them carry."""
    node = sites.world.node("n", rack=sites.world.namespace)
    sites.apply(text)
    sites.wait_label(node, sites.unit, "nodeunits.superedge.io")
    sites.wait_label(node, sites.group, sites.unit)
    sites.wait_label(node, "site", "east")
    sites.wait_status(UNIT, sites.unit, {"readyRate": "0/1", "notReadyNodes": [node]})
    assert sites.wait_reason(UNIT, sites.unit, "NodesNotReady")["message"] == "0 of 1 nodes are ready"
    sites.wait_status(GROUP, sites.group, {"unitNumber": 1, "nodeUnits": [sites.unit]})
    sites.wait_reason(GROUP, sites.group, "NodesNotReady")


def test_grid_of_a_node_group(sites: Sites) -> None:
    """A grid whose gridUniqKey is the NodeGroup's name runs in its NodeUnits."""
    sites.world.node("n")
    sites.apply(V1ALPHA2)
    grid = sites.world.deployment_grid("web", gridUniqKey=sites.group)
    sites.grids.plane.apply({**grid, "apiVersion": "superedge.io/v1"})
    sites.world.wait_children(f"web-{sites.unit}")


def test_auto_find_node_keys(sites: Sites) -> None:
    """Each combination of the labels' values is a unit, named by them."""
    node = sites.world.node("n", rack="r1", hall="h2")
    sites.apply(
        "apiVersion: site.superedge.io/v1alpha1\nkind: NodeGroup\nmetadata: {name: GROUP}\n"
        "spec: {autofindnodekeys: [rack, hall]}\n"
    )
    sites.wait_label(node, sites.group, "h2-r1")


def test_what_is_not_done_is_told(sites: Sites) -> None:
    """What has no counterpart is a condition, while the rest is done."""
    node = sites.world.node("n")
    sites.apply(V1ALPHA2.replace("autonomyLevel: L3", "autonomyLevel: L5"))
    sites.wait_label(node, sites.group, sites.unit)
    condition = sites.wait_reason(UNIT, sites.unit, "NotSupported", "Degraded")
    assert "spec.autonomyLevel L5 is not done" in condition["message"]


def test_trouble_with_a_node_is_told(sites: Sites) -> None:
    """A node that is in another unit of the NodeGroup stays there, and SuperEdge's NodeUnit says so."""
    sites.world.node("n", **{sites.group: "elsewhere"})
    sites.apply(V1ALPHA2)
    condition = sites.wait_reason(UNIT, sites.unit, "NodeInOtherUnit", "Degraded")
    assert "is in unit elsewhere" in condition["message"]


def test_what_the_api_server_refuses_is_told(sites: Sites) -> None:
    """A label that no node can carry is told in the API server's words."""
    sites.world.node("n")
    sites.apply(V1ALPHA2.replace("site: east", "'site.': east"))
    condition = sites.wait_reason(UNIT, sites.unit, "Invalid", "Degraded")
    assert "setNode.labels has a key or a value that no node can carry" in condition["message"]


def test_what_is_made_goes_with_it(sites: Sites, wait_for: Callable[..., None]) -> None:
    """Deleting SuperEdge's NodeUnit deletes ours; its nodes keep the labels for the grace period."""
    node = sites.world.node("n")
    sites.apply(V1ALPHA2)
    sites.wait_label(node, sites.group, sites.unit)

    def ours() -> str:
        selector = "tkeedge.io/from-site.superedge.io"
        return str(sites.grids.plane.kubectl("get", "nu", "-l", selector, "-o", "name").stdout)

    assert sites.unit in ours()
    sites.grids.plane.kubectl("delete", "nodeunits.site.superedge.io", sites.unit)
    wait_for(lambda: sites.unit not in ours(), "ours to go", dump=sites.world.dump)
    assert sites.labels(node)[sites.group] == sites.unit


def test_rest_writes_nothing(sites: Sites) -> None:
    """A second look at SuperEdge's NodeUnits writes nothing."""
    sites.world.node("n")
    sites.apply(V1ALPHA2)
    sites.wait_reason(UNIT, sites.unit, "NodesNotReady")
    sites.wait_reason(GROUP, sites.group, "NodesNotReady")

    def writes() -> int:
        return sum(
            1 for event in sites.grids.plane.audited() if sites.world.namespace in event["objectRef"].get("name", "")
        )

    sites.world.wait_quiet(3.0)
    before = writes()
    sites.grids.plane.kubectl("annotate", "nodeunits.site.superedge.io", sites.unit, "looked=at")
    sites.world.wait_quiet(3.0)
    assert writes() == before
