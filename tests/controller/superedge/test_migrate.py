"""`sitegrid migrate` on a real API server: running pods of SuperEdge's children, taken over and given back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitegrid.api.superedge import OPTIONAL_API
from sitegrid.cli.main import main
from sitegrid.kube.client import Client

pytestmark = pytest.mark.cluster

DEPLOY = Path(__file__).parents[3] / "deploy" / "superedge"
DG, SSG, SG = "superedge-dg", "superedge-ssg", "superedge-sg"
SUPEREDGES = "application-grid-controller"
UNITS = ("bj", "hz")


class Era:
    """A namespace as SuperEdge's controller has left it, with running pods; sitegrid's controller runs beside."""

    def __init__(self, grids: Any, wait_for: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
        self.grids = grids
        self.world = grids.world
        self.plane = grids.plane
        self._wait_for = wait_for
        self._capsys = capsys
        self.pods: dict[str, str] = {}

    def begin(self, **changes: Any) -> None:
        """Make grids and children as SuperEdge does, then the nodes, without which sitegrid has nothing to make."""
        self._create("DeploymentGrid", self._grid("DeploymentGrid", "web"))
        self._create("StatefulSetGrid", self._grid("StatefulSetGrid", "db"))
        for unit in UNITS:
            self._child("Deployment", DG, "web", unit, **changes)
            self._child("StatefulSet", SSG, "db", unit)
        # An older version of SuperEdge names no owner.
        self._create("Service", self._service())
        self._create("ServiceGrid", {**self._grid("ServiceGrid", "web"), "spec": self._service_spec()})
        for unit in UNITS:
            self.world.node(f"n-{unit}", unit)
        self._run_pods()

    def migrate(self, *options: str, code: int = 0) -> dict[tuple[str, str], dict[str, str]]:
        """Run `sitegrid migrate` and return what it says of each object, by kind and name."""
        kubeconfig = str(self.plane.kubeconfig("admin"))
        self._capsys.readouterr()
        assert (
            main(["migrate", "--kubeconfig", kubeconfig, "-n", self.world.namespace, "-o", "json", *options]) == code
        )
        out = self._capsys.readouterr().out
        rows = json.loads(out)["objects"] if out else []
        return {(row["kind"], row["name"]): row for row in rows}

    def error(self, *options: str) -> str:
        """Run `sitegrid migrate` that fails, and return its sentence."""
        kubeconfig = str(self.plane.kubeconfig("admin"))
        self._capsys.readouterr()
        assert main(["migrate", "--kubeconfig", kubeconfig, "-n", self.world.namespace, *options]) == 1
        return self._capsys.readouterr().err

    def actions(self, *options: str) -> dict[tuple[str, str], str]:
        """Return what is to be done with each object that is no grid."""
        rows = self.migrate(*options)
        return {key: row["action"] for key, row in rows.items() if row["action"] != "keep"}

    def running(self) -> dict[str, str]:
        """Return the uids of all pods by name."""
        pods = self.plane.objects("pods", self.world.namespace)
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}

    def children(self) -> dict[str, Any]:
        """Return the Deployments and StatefulSets by name."""
        found = [
            item
            for kind in ("deployments", "statefulsets")
            for item in self.plane.objects(kind, self.world.namespace)
        ]
        return {item["metadata"]["name"]: item for item in found}

    def wait_taken(self) -> None:
        """Wait until sitegrid's controller works on everything, and all is as wanted."""
        for kind, name in ((DG, "web"), (SSG, "db")):
            self.world.wait_condition("UnitsReady", name, kind=kind)
        self.world.wait_condition("ServiceApplied", "web", kind=SG)

        def applied() -> bool:
            notes = [item["metadata"].get("annotations", {}) for item in self.children().values()]
            return all("tkeedge.io/applied-hash" in note for note in notes)

        self._wait_for(applied, "the controller to apply all children", dump=self.world.dump)
        self.world.wait_quiet()

    def specs(self) -> dict[str, Any]:
        """Return what must not change of each child."""
        return {name: item["spec"] for name, item in self.children().items()}

    def _grid(self, kind: str, name: str) -> Any:
        spec = {"gridUniqKey": self.world.key, "template": self._spec(name, kind)}
        return {
            "apiVersion": "superedge.io/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": self.world.namespace},
            "spec": spec,
        }

    @staticmethod
    def _spec(name: str, kind: str, image: str = "echo:2.2") -> Any:
        """Return a template as SuperEdge's controller rewrites it: with the hash label in the pod's labels."""
        labels = {"appGrid": name}
        strategy: dict[str, Any] = {} if kind.startswith("Stateful") else {"strategy": {}}
        return {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            **({"serviceName": f"{name}-svc"} if kind.startswith("Stateful") else {}),
            **strategy,
            "template": {
                "metadata": {"labels": {**labels, "superedge.io/template-hash-key": "83271508"}},
                "spec": {
                    "containers": [
                        {
                            "name": "echo",
                            "image": image,
                            "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                            "resources": {},
                        }
                    ],
                    "volumes": [{"name": "scratch", "emptyDir": {}}],
                },
            },
        }

    def _child(self, kind: str, grid_kind: str, grid: str, unit: str, **changes: Any) -> None:
        owner = self.plane.get(grid_kind, grid, self.world.namespace)
        spec = {**self._spec(grid, kind), **changes}
        spec["template"]["spec"]["nodeSelector"] = {self.world.key: unit}
        reference = {
            "apiVersion": "superedge.io/v1",
            "kind": owner["kind"],
            "name": grid,
            "uid": owner["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        metadata = {
            "name": f"{grid}-{unit}",
            "namespace": self.world.namespace,
            "labels": self._labels(grid),
            "ownerReferences": [reference],
        }
        self._create(kind, {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec})

    def _labels(self, grid: str) -> dict[str, str]:
        return {"superedge.io/grid-selector": grid, "superedge.io/grid-uniq-key": self.world.key}

    def _service_spec(self) -> Any:
        return {"gridUniqKey": self.world.key, "template": self._service()["spec"]}

    def _service(self) -> Any:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "web-svc",
                "namespace": self.world.namespace,
                "labels": self._labels("web"),
                "annotations": {"topologyKeys": json.dumps([self.world.key])},
            },
            "spec": {
                "selector": {"appGrid": "web"},
                "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}],
            },
        }

    def _create(self, kind: str, manifest: Any) -> None:
        self.plane.kubectl("create", f"--field-manager={SUPEREDGES}", "-f", "-", manifest=manifest)

    def _run_pods(self) -> None:
        """Bind and report all pods, those that StatefulSets make one after the other included."""

        def all_run() -> bool:
            pods = self.plane.objects("pods", self.world.namespace)
            for pod in pods:
                if not pod["spec"].get("nodeName"):
                    unit = pod["spec"]["nodeSelector"][self.world.key]
                    self.world.run_pod(pod["metadata"]["name"], f"n-{unit}-{self.world.namespace}")
            return len(pods) == 8 and all(pod["spec"].get("nodeName") for pod in pods)

        self._wait_for(all_run, "eight pods", dump=self.world.dump)
        self.pods = self.running()


@pytest.fixture
def era(grids: Any, wait_for: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> Era:
    """A namespace as SuperEdge's controller would leave it."""
    return Era(grids, wait_for, capsys)


CHILDREN = {
    *(("Deployment", f"web-{unit}") for unit in UNITS),
    *(("StatefulSet", f"db-{unit}") for unit in UNITS),
    ("Service", "web-svc"),
}


def test_there_and_back_without_restarting_a_pod(era: Era, wait_for: Callable[..., None]) -> None:
    """Taken over and given back, every pod is the one that it was; each step said so before, and is done once."""
    era.begin()
    assert era.actions() == dict.fromkeys(CHILDREN, "take over")
    specs = era.specs()
    selector = era.grids.get("services", "web-svc")["spec"]["selector"]

    assert era.actions("--apply") == dict.fromkeys(CHILDREN, "taken over")
    era.wait_taken()
    assert era.running() == era.pods
    assert era.specs() == specs
    wait_for(
        lambda: "selector" not in era.grids.get("services", "web-svc")["spec"],
        "the Service to close",
        dump=era.world.dump,
    )
    service = era.grids.get("services", "web-svc")["metadata"]
    assert service["labels"]["service.kubernetes.io/service-proxy-name"] == "sitegrid"
    assert service["annotations"]["topologyKeys"] == json.dumps([era.world.key])

    def endpoints() -> dict[str, int]:
        slices = era.plane.objects("endpointslices", era.world.namespace, "tkeedge.io/service-name=web-svc")
        return {item["metadata"]["labels"]["tkeedge.io/unit"]: len(item["endpoints"] or ()) for item in slices}

    wanted = {f"{era.world.key}.{unit}": 2 for unit in UNITS}
    wait_for(lambda: endpoints() == wanted, "the units' slices", dump=era.world.dump)

    assert era.actions("--back") == dict.fromkeys(CHILDREN, "give back")
    assert era.actions("--back", "--apply") == dict.fromkeys(CHILDREN, "given back")
    era.world.wait_quiet()
    assert era.grids.get("services", "web-svc")["spec"]["selector"] == selector
    assert era.grids.get("services", "web-svc-sites") is None
    assert era.running() == era.pods
    assert era.specs() == specs
    for kind, name in CHILDREN:
        metadata = era.grids.get(f"{kind.lower()}s", name)["metadata"]
        assert metadata["labels"].keys() == {"superedge.io/grid-selector", "superedge.io/grid-uniq-key"}
        assert not [key for key in metadata.get("annotations", {}) if "tkeedge" in key]
        assert not [entry for entry in metadata.get("managedFields", ()) if entry["manager"] == "sitegrid"]
        assert metadata["ownerReferences"][0]["apiVersion"] == "superedge.io/v1"

    assert era.actions("--apply") == dict.fromkeys(CHILDREN, "taken over")
    era.wait_taken()
    assert era.running() == era.pods


def test_what_is_not_taken_over_is_left_alone(era: Era) -> None:
    """Until then sitegrid's controller touches nothing of SuperEdge's, and says what to do."""
    era.begin()
    condition = era.world.wait_condition("NotMigrated", "web", kind=DG)
    assert "`sitegrid migrate` takes it over" in condition["message"]
    era.world.wait_condition("NotMigrated", "web", kind=SG)
    assert "tkeedge.io/grid" not in era.grids.get("services", "web-svc")["metadata"]["labels"]


def test_a_second_run_writes_nothing(era: Era) -> None:
    """What was taken over is so, and stays as it is."""
    era.begin()
    era.migrate("--apply")
    era.wait_taken()

    def written() -> dict[str, Any]:
        """Return who wrote what of each child, and when; Kubernetes goes on reporting statuses."""
        managed = {name: item["metadata"]["managedFields"] for name, item in era.children().items()}
        return {
            name: [entry for entry in entries if entry.get("subresource") != "status"]
            for name, entries in managed.items()
        }

    before = written()
    assert era.actions("--apply") == dict.fromkeys(CHILDREN, "taken over")
    assert written() == before


@pytest.mark.parametrize("writes", [1, 3])
@pytest.mark.parametrize("direction", [(), ("--back",)], ids=["there", "back"])
def test_ended_after_any_write(
    era: Era, monkeypatch: pytest.MonkeyPatch, writes: int, direction: tuple[str, ...]
) -> None:
    """Ended in the middle and run again, it comes to the same end, with the same pods."""
    era.begin()
    if direction:
        era.migrate("--apply")
        era.wait_taken()
    left = [writes]
    patch = Client.patch

    async def patch_and_die(self: Client, *args: Any, **options: Any) -> Any:
        answer = await patch(self, *args, **options)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(Client, "patch", patch_and_die)
        era.migrate(*direction, "--apply", code=130)
    done = "given back" if direction else "taken over"
    assert [*era.actions(*direction).values()].count(done) == writes
    assert era.actions(*direction, "--apply") == dict.fromkeys(CHILDREN, done)
    era.world.wait_quiet()
    assert era.running() == era.pods


def test_template_edits_roll_as_usual(era: Era, wait_for: Callable[..., None]) -> None:
    """After that a change of the template reaches the pods; what it no longer says goes away."""
    era.begin()
    era.migrate("--apply")
    era.wait_taken()
    template = {"spec": {"volumes": None, "containers": [{"name": "echo", "image": "echo:2.3"}]}}
    patch = json.dumps({"spec": {"template": {"template": template}}})
    era.grids.kubectl("patch", "deploymentgrid.superedge.io", "web", "--type=merge", "-p", patch)

    def rolled() -> bool:
        pods = [era.children()[f"web-{unit}"]["spec"]["template"]["spec"] for unit in UNITS]
        return all(pod["containers"][0]["image"] == "echo:2.3" and "volumes" not in pod for pod in pods)

    wait_for(rolled, "the new image", dump=era.world.dump)
    pod = era.children()["web-hz"]["spec"]["template"]
    assert "tkeedge.io/unit" not in pod["metadata"]["labels"]
    assert {item["key"] for item in pod["spec"]["tolerations"]} == {
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/not-ready",
    }


def test_explain_shows_the_shape_that_is_kept(era: Era, capsys: pytest.CaptureFixture[str]) -> None:
    """`sitegrid explain` prints what the controller wants of a child that was taken over, and says that it was."""
    era.begin()
    era.migrate("--apply")
    era.wait_taken()
    options = ["--kubeconfig", str(era.plane.kubeconfig("admin")), "-n", era.world.namespace]
    for grid in ("sedg/web", "deploymentgrid.superedge.io/web"):
        assert main(["explain", grid, "hz", *options]) == 0
        text = capsys.readouterr().out
        assert "# this child was taken over from SuperEdge and keeps its shape" in text
        assert "tolerations" not in text


def test_what_would_restart_is_left_unless_allowed(era: Era) -> None:
    """A child that is not as its grid says is named with the fields, and taken over only on request."""
    era.begin(template=era._spec("web", "Deployment", image="echo:1.0")["template"])
    row = era.migrate("--apply")["Deployment", "web-hz"]
    assert row["action"] == "leave"
    assert "its pods would restart" in row["why"]
    assert "template.spec.containers" in row["why"] or "spec.containers" in row["why"]
    assert era.running() == era.pods
    assert era.migrate("--allow-restarts")["Deployment", "web-hz"]["action"] == "take over"


def test_child_without_our_labels_is_found_again(era: Era, wait_for: Callable[..., None]) -> None:
    """Somebody takes our labels off a child that was taken over: they come back, and no pod restarts."""
    era.begin()
    era.migrate("--apply")
    era.wait_taken()
    era.grids.kubectl("label", "deployment", "web-hz", "tkeedge.io/grid-")
    wait_for(
        lambda: era.children()["web-hz"]["metadata"]["labels"].get("tkeedge.io/grid") == "web",
        "the label",
        dump=era.world.dump,
    )
    era.world.wait_quiet()
    assert era.running() == era.pods


def test_budget_of_a_child_that_was_taken_over_is_a_problem(era: Era) -> None:
    """Its selector is that of all units' pods, so nothing can be said of one unit's alone."""
    era.begin()
    era.migrate("--apply")
    era.wait_taken()
    patch = json.dumps({"spec": {"podDisruptionBudget": {"maxUnavailable": 1}}})
    era.grids.kubectl("patch", "deploymentgrid.superedge.io", "web", "--type=merge", "-p", patch)
    condition = era.world.wait_condition("SharedSelector", "web", type="Degraded", kind=DG)
    assert "delete the child when its pods may restart" in condition["message"]


@pytest.fixture
def superedges_controller(era: Era, wait_for: Callable[..., None]) -> Iterator[None]:
    """SuperEdge's controller runs, as far as anybody can see."""
    labels = {"app": SUPEREDGES}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": SUPEREDGES, "namespace": era.world.namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "c:1"}]}},
        },
    }
    era.plane.apply(manifest)
    wait_for(lambda: era.grids.get("deployments", SUPEREDGES).get("status", {}).get("replicas"), "it to run")
    yield
    era.grids.kubectl("delete", "deployment", SUPEREDGES)


@pytest.mark.usefixtures("superedges_controller")
@pytest.mark.parametrize("options", [("--apply",), ("--back", "--apply")], ids=["there", "back"])
def test_refused_while_superedges_controller_runs(era: Era, options: tuple[str, ...]) -> None:
    """Two controllers would undo each other's work: refused, with the command that stops the other one."""
    sentence = era.error(*options)
    assert f"kubectl scale deployment {SUPEREDGES} -n {era.world.namespace} --replicas=0" in sentence


def test_refused_while_its_lease_is_renewed(era: Era) -> None:
    """Also where it runs outside the cluster: its Lease tells."""
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": SUPEREDGES, "namespace": era.world.namespace},
        "spec": {"holderIdentity": "a", "renewTime": "2999-01-01T00:00:00.000000Z"},
    }
    era.plane.apply(lease)
    assert f"Lease {era.world.namespace}/{SUPEREDGES} was renewed" in era.error("--apply")
    era.grids.kubectl("delete", "lease", SUPEREDGES)


def test_refused_where_the_kinds_are_not_sitegrids(era: Era) -> None:
    """With SuperEdge's own definitions sitegrid's controller would not work on the grids: told with what to do."""
    name = "servicegrids.superedge.io"
    era.plane.kubectl("label", "crd", name, f"{OPTIONAL_API}-")
    try:
        assert "run `sitegrid crds --superedge | kubectl apply -f -`" in era.error("--apply")
    finally:
        era.plane.kubectl("label", "crd", name, f"{OPTIONAL_API}=superedge")


def test_the_last_step_back_is_that_nothing_of_superedge_is_worked_on(era: Era) -> None:
    """Given back as a whole, sitegrid's controller works on SuperEdge's kinds no more."""
    era.begin()
    era.migrate("--apply")
    era.wait_taken()
    crds = ("get", "crd", "-l", OPTIONAL_API, "-o", "name")
    try:
        assert main(["migrate", "--kubeconfig", str(era.plane.kubeconfig("admin")), "--back", "--apply"]) == 0
        assert era.plane.kubectl(*crds).stdout == ""
        era.world.wait_quiet()
        assert era.running() == era.pods
    finally:
        era.plane.kubectl("apply", "-f", str(DEPLOY))
    assert len(era.plane.kubectl(*crds).stdout.splitlines()) == 5


def test_table_is_for_people(era: Era, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --apply every object is listed with what will happen to it, and nothing is changed."""
    era.begin()
    capsys.readouterr()
    assert main(["migrate", "--kubeconfig", str(era.plane.kubeconfig("admin")), "-n", era.world.namespace]) == 0
    out, err = capsys.readouterr()
    head, *lines = out.splitlines()
    assert head.split() == ["KIND", "NAMESPACE", "NAME", "UNIT", "ACTION", "WHY"]
    assert any(line.split()[:4] == ["Deployment", era.world.namespace, "web-hz", "hz"] for line in lines)
    assert "Nothing was changed. Do it for 5 objects with --apply." in err


def test_nothing_to_migrate_is_said(era: Era, capsys: pytest.CaptureFixture[str]) -> None:
    """Instead of a table of nothing, which looks like a failure."""
    assert main(["migrate", "--kubeconfig", str(era.plane.kubeconfig("admin")), "-n", "kube-public"]) == 0
    assert capsys.readouterr() == ("", "SuperEdge's controller has made nothing here\n")
