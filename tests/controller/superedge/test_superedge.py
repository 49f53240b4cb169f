"""SuperEdge's kinds on a real API server: manifests apply unchanged, and behave as our own kinds do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from sitegrid.api.superedge import OPTIONAL_API

pytestmark = pytest.mark.cluster

DG, SSG, SG = "superedge-dg", "superedge-ssg", "superedge-sg"
CRD = "deploymentgrids.superedge.io"


CONTAINERS = """
        containers:
        - name: echo
          image: echo:2.2
          ports:
          - containerPort: 8080
            protocol: TCP
          env:
          - name: POD_IP
            valueFrom:
              fieldRef:
                fieldPath: status.podIP
          resources: {}
"""

PLAIN = f"""
apiVersion: superedge.io/v1
kind: DeploymentGrid
metadata:
  name: demo
  namespace: NAMESPACE
spec:
  gridUniqKey: KEY
  template:
    replicas: 2
    selector:
      matchLabels:
        appGrid: echo
    strategy: {{}}
    template:
      metadata:
        creationTimestamp: null
        labels:
          appGrid: echo
      spec:{CONTAINERS}
status: {{}}
"""
"""As `kubectl create --dry-run -o yaml` leaves it."""

NO_REPLICAS = PLAIN.replace("    replicas: 2\n", "").replace("    strategy: {}\n", "")
"""Without all that may be left out."""

FROM_STORE = PLAIN.replace(
    "          appGrid: echo\n      spec:",
    '          appGrid: echo\n          superedge.io/template-hash-key: "8327150"\n      spec:',
).replace(
    "  template:\n    replicas",
    "  autoDeleteUnusedTemplate: false\n  defaultTemplateName: default\n  templatePool: {}\n"
    "  templates: {}\n  template:\n    replicas",
)
"""As SuperEdge's controller rewrites it: its hash in the pod labels, the canary's fields empty."""

NULLS = PLAIN.replace(
    "  template:\n    replicas", "  templatePool: null\n  templates: null\n  template:\n    replicas"
)

POOL = """
apiVersion: superedge.io/v1
kind: DeploymentGrid
metadata:
  name: demo
  namespace: NAMESPACE
  creationTimestamp: null
  labels:
    superedge.io/fed: "no"
spec:
  defaultTemplateName: old
  gridUniqKey: KEY
  templatePool:
    old:
      replicas: 1
      selector: {matchLabels: {appGrid: echo}}
      strategy: {}
      template:
        metadata: {creationTimestamp: null, labels: {appGrid: echo}, annotations: {release: old}}
        spec: {containers: [{name: echo, image: "echo:2.2", resources: {}}]}
    new:
      replicas: 3
      selector: {matchLabels: {appGrid: echo}}
      template:
        metadata: {labels: {appGrid: echo}, annotations: {release: new}}
        spec: {containers: [{name: echo, image: "echo:2.3"}]}
  templates:
    hz: new
"""
"""A canary without `template`."""

SETS = f"""
apiVersion: superedge.io/v1
kind: StatefulSetGrid
metadata:
  name: demo
  namespace: NAMESPACE
spec:
  gridUniqKey: KEY
  template:
    selector:
      matchLabels:
        appGrid: echo
    serviceName: "demo-svc"
    replicas: 3
    template:
      metadata:
        labels:
          appGrid: echo
      spec:
        terminationGracePeriodSeconds: 10{CONTAINERS}
    updateStrategy: {{}}
    volumeClaimTemplates: []
status: {{}}
"""

SERVICE = """
apiVersion: superedge.io/v1
kind: ServiceGrid
metadata:
  name: demo
  namespace: NAMESPACE
spec:
  gridUniqKey: KEY
  template:
    selector:
      appGrid: echo
    ports:
    - protocol: TCP
      port: 80
      targetPort: 8080
    sessionAffinity: ClientIP
status:
  loadBalancer: {}
"""


@pytest.mark.parametrize(
    ("text", "replicas"),
    [(PLAIN, 2), (NO_REPLICAS, 1), (FROM_STORE, 2), (NULLS, 2)],
    ids=["plain", "no-replicas", "from-store", "nulls"],
)
def test_deployment_grids_apply_unchanged(grids: Any, text: str, replicas: int) -> None:
    """Each way in which users have written a DeploymentGrid makes the Deployment of each unit."""
    grids.world.nodes("hz", "bj")
    grids.apply(text)
    children = grids.world.wait_children("demo-bj", "demo-hz")
    for name, child in children.items():
        assert child["spec"]["replicas"] == replicas
        assert child["spec"]["template"]["spec"]["nodeSelector"] == {grids.world.key: name.removeprefix("demo-")}
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["apiVersion"], owner["kind"], owner["name"]) == ("superedge.io/v1", "DeploymentGrid", "demo")


def test_canary_without_template(grids: Any) -> None:
    """Units get their entry of templatePool, whose pod metadata survives; `template` is not needed."""
    grids.world.nodes("hz", "bj")
    grids.apply(POOL)
    children = grids.world.wait_children("demo-bj", "demo-hz")
    pods = {name: child["spec"]["template"]["metadata"]["annotations"] for name, child in children.items()}
    assert pods == {"demo-bj": {"release": "old"}, "demo-hz": {"release": "new"}}
    assert {name: child["spec"]["replicas"] for name, child in children.items()} == {"demo-bj": 1, "demo-hz": 3}


def test_stateful_set_grid_applies_unchanged(grids: Any, wait_for: Callable[..., None]) -> None:
    """A StatefulSetGrid makes the StatefulSet of each unit."""
    grids.world.nodes("zone-0", "zone-1")
    grids.apply(SETS)
    wanted = {"demo-zone-0", "demo-zone-1"}
    wait_for(lambda: grids.names("statefulsets") == wanted, "the StatefulSets", dump=grids.world.dump)
    child = grids.get("statefulsets", "demo-zone-0")
    assert (child["spec"]["serviceName"], child["spec"]["replicas"]) == ("demo-svc", 3)


def test_unit_with_capitals(grids: Any) -> None:
    """The unit of SuperEdge's own documents, in which SuperEdge fails, gets a legal name."""
    grids.world.nodes("NodeUnit1")
    grids.apply(PLAIN)
    grids.world.wait_condition("UnitsNotReady", "demo", kind=DG)
    (name,) = grids.names("deployments")
    assert name.startswith("demo-nodeunit1-")


def test_service_grid_is_closed(grids: Any, wait_for: Callable[..., None]) -> None:
    """The Service `<name>-svc` is closed, and each unit has its slice."""
    world = grids.world
    for unit, address in (("hz", "10.244.1.1"), ("bj", "10.244.2.1")):
        world.pod(f"echo-{unit}", world.node(f"n-{unit}", unit), address)
    grids.apply(SERVICE.replace("appGrid: echo", "app: grid"))

    def units() -> set[str]:
        slices = grids.plane.objects("endpointslices", world.namespace, "tkeedge.io/service-name=demo-svc")
        return {item["metadata"]["labels"].get("tkeedge.io/unit") for item in slices}

    wait_for(lambda: units() == {f"{world.key}.hz", f"{world.key}.bj"}, "the unit slices", dump=world.dump)
    service = grids.get("services", "demo-svc")
    assert service["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] == "sitegrid"
    assert (service["spec"]["sessionAffinity"], service["spec"]["ports"][0]["targetPort"]) == ("ClientIP", 8080)
    world.wait_condition("ServiceApplied", "demo", kind=SG)


def test_states_by_unit(grids: Any) -> None:
    """The status has SuperEdge's `states`, and our conditions and counts."""
    node = grids.world.node("n", "hz")
    grids.apply(NO_REPLICAS)
    grids.world.wait_children("demo-hz")
    grids.world.make_pods_ready(node)
    grids.world.wait_condition("UnitsReady", "demo", kind=DG)
    status = grids.get(DG, "demo")["status"]
    state = status["states"]["hz"]
    assert (state["replicas"], state["readyReplicas"]) == (1, 1)
    assert (state["conditions"][0]["type"], state["conditions"][0]["status"]) == ("Available", "True")
    assert (status["units"], status["readyUnits"]) == (1, 1)


def test_spec_of_the_user_stays(grids: Any) -> None:
    """Nothing of the user's spec is rewritten (SuperEdge puts its hash into it)."""
    grids.world.nodes("hz")
    grids.apply(PLAIN)
    grids.world.wait_children("demo-hz")
    wanted = yaml.safe_load(PLAIN.replace("KEY", grids.world.key))["spec"]
    del wanted["template"]["template"]["metadata"]["creationTimestamp"]  # the API server drops a null
    assert grids.get(DG, "demo")["spec"] == wanted


def test_missing_key_is_one_sentence(grids: Any) -> None:
    """A grid without gridUniqKey, which SuperEdge takes and ignores, is refused with what to do."""
    refused = grids.apply(PLAIN.replace("  gridUniqKey: KEY\n", ""), check=False)
    assert refused.returncode
    assert "gridUniqKey is missing: name the node label key whose values are the units" in refused.stderr


def test_grids_of_two_groups_that_want_one_name(grids: Any) -> None:
    """The second one reports a conflict and leaves the first one's child; when that goes, it gets its own."""
    grids.world.nodes("hz")
    grids.world.plane.apply(grids.world.deployment_grid("demo"))
    grids.world.wait_children("demo-hz")
    grids.apply(PLAIN)
    condition = grids.world.wait_condition("NameConflict", "demo", kind=DG)
    assert "is controlled by DeploymentGrid demo" in condition["message"]
    grids.kubectl("delete", "dg", "demo")
    grids.world.wait_condition("UnitsNotReady", "demo", kind=DG)
    (owner,) = grids.world.wait_children("demo-hz")["demo-hz"]["metadata"]["ownerReferences"]
    assert owner["apiVersion"] == "superedge.io/v1"


def test_rest_writes_nothing(grids: Any) -> None:
    """A second look at SuperEdge's grids writes nothing."""
    grids.world.nodes("hz")
    grids.apply(PLAIN + "---" + SERVICE)
    grids.world.wait_condition("UnitsNotReady", "demo", kind=DG)
    grids.world.wait_condition("ServiceApplied", "demo", kind=SG)
    grids.world.wait_quiet()
    before = grids.world.writes()
    grids.kubectl("annotate", "deploymentgrid.superedge.io/demo", "looked=at")
    grids.world.wait_quiet()
    assert grids.world.writes() == before


def test_children_go_with_their_grid(grids: Any) -> None:
    """Deleting a SuperEdge grid deletes its children."""
    grids.world.nodes("hz")
    grids.apply(PLAIN)
    grids.world.wait_children("demo-hz")
    grids.kubectl("delete", "deploymentgrid.superedge.io", "demo")
    grids.world.wait_children()


def test_kubectl_names(grids: Any) -> None:
    """Our names stay ours, though SuperEdge's group comes first by name; SuperEdge's have their own."""
    grids.apply(PLAIN)
    for name in ("dg", "deploymentgrid"):
        assert grids.kubectl("get", name, "-o", "name").stdout == ""
    for name in ("sedg", "deploymentgrid.superedge.io", "grids"):
        assert "deploymentgrid.superedge.io/demo" in grids.kubectl("get", name, "-o", "name").stdout


@pytest.fixture
def unwatched(grids: Any) -> Iterator[Callable[[str], None]]:
    """Take our label off a CRD, by plural; it is back after the test."""
    taken: list[str] = []

    def take(plural: str) -> None:
        taken.append(f"{plural}.superedge.io")
        grids.plane.kubectl("label", "crd", taken[-1], f"{OPTIONAL_API}-")

    yield take
    for name in taken:
        grids.plane.kubectl("label", "--overwrite", "crd", name, f"{OPTIONAL_API}=superedge")


def test_nothing_is_touched_without_the_label(grids: Any, unwatched: Callable[[str], None]) -> None:
    """Kinds whose CRD has our label no more are not worked on, and nothing is deleted; with it work goes on."""
    grids.world.nodes("hz")
    grids.apply(PLAIN)
    grids.world.wait_children("demo-hz")
    unwatched("deploymentgrids")
    grids.world.wait_quiet()
    grids.world.nodes("bj")
    grids.world.wait_quiet()
    assert grids.names("deployments") == {"demo-hz"}
    grids.plane.kubectl("label", "crd", CRD, f"{OPTIONAL_API}=superedge")
    grids.world.wait_children("demo-hz", "demo-bj")


def test_closed_services_stay_served_without_the_label(
    grids: Any, unwatched: Callable[[str], None], wait_for: Callable[..., None]
) -> None:
    """Their unit slices stay, for nobody could say what they should be: a site does not lose its endpoints."""
    world = grids.world
    world.pod("echo", world.node("n", "hz"), "10.244.1.1")
    grids.apply(SERVICE.replace("appGrid: echo", "app: grid"))

    def slices() -> set[str]:
        found = grids.plane.objects("endpointslices", world.namespace, f"tkeedge.io/unit={world.key}.hz")
        return {item["metadata"]["name"] for item in found}

    wait_for(slices, "the unit slice", dump=world.dump)
    before = slices()
    unwatched("servicegrids")
    world.wait_quiet()
    assert slices() == before
