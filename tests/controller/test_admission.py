"""Labels of sitegrid are the controller's: what deploy/admission refuses on a real API server, and what not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

Manifest = dict[str, Any]
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
KUBERNETES, MIRRORING = "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"
SYSTEM = "system:serviceaccount:kube-system"
CONTROLLER = "system:serviceaccount:sitegrid-system:sitegrid-controller"
KCM = "system:kube-controller-manager"
KEY, SITES_OF, PROXY = "tkeedge.io/grid-uniq-key", "tkeedge.io/sites-of", "service.kubernetes.io/service-proxy-name"
UNIT_SLICE = {
    MANAGED_BY: "sitegrid",
    "tkeedge.io/unit": "zone.one",
    "tkeedge.io/service-name": "web-svc",
    KEY: "zone",
}


class Writers:
    """Writes as anybody, in a test's namespace."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self.namespace = world.namespace
        for what, which in (("role", "--verb=*"), ("rolebinding", "--role=services")):
            more = "--resource=services,services/status" if what == "role" else "--user=mallory"
            world.plane.kubectl("create", what, "services", which, more, "-n", self.namespace)

    def run(self, user: str, *arguments: str, manifest: Manifest | None = None, rights: bool = True) -> str:
        """Run kubectl as a user, with every right or with its own; return what was refused, empty for nothing."""
        groups = ["--as-group=system:masters"] if rights else []
        command = [*arguments, "-n", self.namespace, f"--as={user}", *groups]
        result = self._world.plane.kubectl(*command, manifest=manifest, check=False)
        return str(result.stderr) if result.returncode else ""

    def put(self, user: str, manifest: Manifest, *, rights: bool = True) -> str:
        """Create or replace an object."""
        return self.run(
            user, "apply", "--server-side", "--force-conflicts", "-f", "-", manifest=manifest, rights=rights
        )

    def slice(self, name: str = "forged", labels: dict[str, str] | None = None, ip: str = "10.1.1.1") -> Manifest:
        """Return an EndpointSlice."""
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels or {}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ip]}],
            "ports": [{"port": 80}],
        }

    def service(self, labels: dict[str, str], name: str = "mine") -> Manifest:
        """Return a Service."""
        metadata = {"name": name, "namespace": self.namespace, "labels": labels}
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}

    def endpoints(self, labels: dict[str, str]) -> Manifest:
        """Return Endpoints."""
        return {"apiVersion": "v1", "kind": "Endpoints", "metadata": self.service(labels)["metadata"]}


@pytest.fixture
def writers(world: Any, wait_for: Callable[..., None]) -> Writers:
    """Anybody, once the policies are in force."""
    made = Writers(world)
    probe = made.slice("probe", UNIT_SLICE)

    def in_force() -> bool:
        arguments = ("create", "--dry-run=server", "-f", "-")
        service = made.service({KEY: "zone"}, "probe")
        return bool(
            "tkeedge.io" in made.run("mallory", *arguments, manifest=probe)
            and "tkeedge.io" in made.run("mallory", *arguments, manifest=service, rights=False)
        )

    wait_for(in_force, "the policies to be in force", dump=world.dump)
    return made


@pytest.mark.parametrize(
    "labels",
    [
        UNIT_SLICE,
        {MANAGED_BY: "sitegrid"},
        {"tkeedge.io/unit": "zone.one", MANAGED_BY: "me"},
        {"tkeedge.io/unit": "zone.one", MANAGED_BY: KUBERNETES},
        {"tkeedge.io/service-patch": ""},
        {KEY: "zone"},
    ],
)
def test_a_forged_unit_slice_is_refused(writers: Writers, labels: dict[str, str]) -> None:
    """Whatever rights its writer has: made so, changed into one, or a slice of its own changed."""
    refused = writers.put("mallory", writers.slice(labels=labels))
    assert "are written by sitegrid's controller only" in refused
    assert "leave these labels out" in refused
    assert writers.put("mallory", writers.slice()) == ""
    assert "controller only" in writers.put("mallory", writers.slice(labels=labels))
    assert writers.put("mallory", writers.slice(labels={"app": "x"}, ip="10.1.1.2")) == ""


def test_a_unit_slice_is_changed_by_the_controller_alone(writers: Writers) -> None:
    """Neither its labels nor its endpoints nor its patch; what means nothing to agents, and its deletion, is free."""
    # Without the key's label the running controller does not see it, which deletes what is of no Service.
    labels = {name: value for name, value in UNIT_SLICE.items() if name != KEY}
    assert writers.put(CONTROLLER, writers.slice(labels=labels)) == ""
    assert writers.put(CONTROLLER, writers.slice(labels=labels, ip="10.1.1.3")) == ""
    name = "endpointslice/forged"
    for change in (
        ("patch", name, "--type=merge", "-p", json.dumps({"endpoints": [{"addresses": ["10.1.1.9"]}]})),
        ("patch", name, "--type=merge", "-p", json.dumps({"ports": []})),
        ("label", name, "tkeedge.io/unit=zone.two", "--overwrite"),
        ("label", name, *(f"{key}-" for key in labels)),
        ("annotate", name, "tkeedge.io/service-patch={}"),
    ):
        for user in ("mallory", f"{SYSTEM}:endpointslice-controller", KCM):
            assert "controller only" in writers.run(user, *change)
    assert writers.run(f"{SYSTEM}:generic-garbage-collector", "annotate", name, "a=b") == ""
    owners = json.dumps({"metadata": {"ownerReferences": None}})
    assert writers.run(f"{SYSTEM}:generic-garbage-collector", "patch", name, "--type=merge", "-p", owners) == ""
    assert writers.run("mallory", "delete", name) == ""


@pytest.mark.parametrize(
    ("managed_by", "users"),
    [
        (KUBERNETES, [f"{SYSTEM}:endpointslice-controller", KCM]),
        (MIRRORING, [f"{SYSTEM}:endpointslicemirroring-controller", KCM]),
    ],
)
def test_kubernetes_copies_labels_to_its_own_slices(writers: Writers, managed_by: str, users: list[str]) -> None:
    """With accounts of each of its controllers, and without; but only to those that are theirs by the label."""
    labels = {"tkeedge.io/grid": "web", KEY: "zone", MANAGED_BY: managed_by}
    for number, user in enumerate(users):
        assert writers.put(user, writers.slice(f"copied-{number}", labels)) == ""
        assert "controller only" in writers.put(user, writers.slice("other", UNIT_SLICE))
    for user in (f"{SYSTEM}:default", f"{SYSTEM}:endpoint-controller"):
        assert "controller only" in writers.put(user, writers.slice("other", labels))


@pytest.mark.parametrize("label", [KEY, SITES_OF])
def test_a_service_is_closed_by_the_controller_alone(writers: Writers, label: str) -> None:
    """Nobody else puts the label on a Service, takes it off, or opens one to other proxies; the rest is free."""
    words = "close the Service of a ServiceGrid"
    closed = {label: "zone", PROXY: "sitegrid"}
    assert words in writers.put("mallory", writers.service(closed), rights=False)
    assert writers.put("mallory", writers.service({PROXY: "mine"}), rights=False) == ""
    assert words in writers.put("mallory", writers.service(closed), rights=False)
    assert writers.run("mallory", "delete", "service/mine", rights=False) == ""
    assert writers.put(CONTROLLER, writers.service(closed)) == ""
    for key in (label, PROXY):
        for subresource in ([], ["--subresource=status"]):
            for value in (None, "other"):
                patch = json.dumps({"metadata": {"labels": {key: value}}})
                change = ("patch", "service/mine", "--type=merge", "-p", patch, *subresource)
                refused = writers.run("mallory", *change, rights=False)
                assert words in refused, (key, subresource, value, refused)
    assert writers.run("mallory", "annotate", "service/mine", "a=b", rights=False) == ""
    assert writers.run("mallory", "label", "service/mine", "a=b", rights=False) == ""
    assert writers.run("mallory", "delete", "service/mine", rights=False) == ""


def test_kubernetes_copies_labels_to_endpoints(writers: Writers) -> None:
    """Its controller does; others with the right to write Endpoints do not."""
    for user in (f"{SYSTEM}:endpoint-controller", KCM):
        assert writers.put(user, writers.endpoints({KEY: "zone"})) == ""
    writers.run("mallory", "delete", "endpoints/mine")
    rule = ("create", "role", "endpoints", "--verb=*", "--resource=endpoints")
    bind = ("create", "rolebinding", "endpoints", "--role=endpoints", "--user=mallory")
    assert writers.run("admin", *rule) + writers.run("admin", *bind) == ""
    assert "close the Service" in writers.put("mallory", writers.endpoints({KEY: "zone"}), rights=False)
    assert writers.put("mallory", writers.endpoints({"app": "x"}), rights=False) == ""


def test_what_is_made_of_grids_passes(writers: Writers, world: Any, wait_for: Callable[..., None]) -> None:
    """The controller's Services and unit slices, Kubernetes' slices of them, and their end with the grid."""
    world.nodes("one")
    world.plane.apply(world.service_grid(), world.deployment_grid())
    world.make_pods_ready(f"one-{world.namespace}")

    def slices(selector: str) -> list[Manifest]:
        found: list[Manifest] = world.plane.objects("endpointslices", world.namespace, selector)
        return found

    wait_for(lambda: any(item["endpoints"] for item in slices("tkeedge.io/unit")), "a unit slice", dump=world.dump)
    assert slices(f"{MANAGED_BY}={KUBERNETES}")
    world.plane.kubectl("delete", "sg", "grid", "-n", world.namespace)
    wait_for(lambda: not slices(""), "the slices to go with the grid", dump=world.dump)


def test_a_dependent_can_be_orphaned(writers: Writers, world: Any, wait_for: Callable[..., None]) -> None:
    """The garbage collector takes the owner off, or the Service's deletion would never end."""
    world.nodes("one")
    world.plane.apply(world.service_grid(), world.deployment_grid())
    world.make_pods_ready(f"one-{world.namespace}")
    selector = f"{MANAGED_BY}=sitegrid,tkeedge.io/unit"
    wait_for(
        lambda: world.plane.objects("endpointslices", world.namespace, selector), "a unit slice", dump=world.dump
    )
    before = world.plane.get("services", "grid-svc", world.namespace)["metadata"]["uid"]
    world.plane.kubectl("delete", "service", "grid-svc", "-n", world.namespace, "--cascade=orphan", "--wait=false")

    def is_another() -> bool:
        service = world.plane.get("services", "grid-svc", world.namespace)
        return bool(service and service["metadata"]["uid"] != before)

    wait_for(is_another, "the Service to go and be made anew", dump=world.dump)
