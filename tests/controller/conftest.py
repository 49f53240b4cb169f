"""A real control plane for the controller's tests: etcd, kube-apiserver (audited), kube-controller-manager."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import controlplane
from tests.support.controlplane import AGENT_USER, CONTROLLER_USER, ApiServer, free_port
from tests.support.processes import start

ROOT = Path(__file__).parents[2]
DUAL_STACK = "10.96.0.0/16,fd00:96::/112"
KCM_USER = "system:kube-controller-manager"
CRDS = len([*(ROOT / "deploy" / "crds").glob("*.yaml")])
TIMEOUT = 120.0
"""Seconds that a wanted state may take to come; longer than the controller trusts a write that it never sees."""

OURS = "/apis/tkeedge.io/v1"
SUPEREDGE = "/apis/superedge.io/v1"
RESOURCES = {
    "dg": (OURS, "deploymentgrids"),
    "ssg": (OURS, "statefulsetgrids"),
    "dsg": (OURS, "daemonsetgrids"),
    "sg": (OURS, "servicegrids"),
    "superedge-dg": (SUPEREDGE, "deploymentgrids"),
    "superedge-ssg": (SUPEREDGE, "statefulsetgrids"),
    "superedge-sg": (SUPEREDGE, "servicegrids"),
    "deployments": ("/apis/apps/v1", "deployments"),
    "statefulsets": ("/apis/apps/v1", "statefulsets"),
    "daemonsets": ("/apis/apps/v1", "daemonsets"),
    "replicasets": ("/apis/apps/v1", "replicasets"),
    "controllerrevisions": ("/apis/apps/v1", "controllerrevisions"),
    "services": ("/api/v1", "services"),
    "pods": ("/api/v1", "pods"),
    "endpoints": ("/api/v1", "endpoints"),
    "endpointslices": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "events": ("/apis/events.k8s.io/v1", "events"),
    "events.events.k8s.io": ("/apis/events.k8s.io/v1", "events"),
    "leases": ("/apis/coordination.k8s.io/v1", "leases"),
    "pdb": ("/apis/policy/v1", "poddisruptionbudgets"),
    "hpa": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
}
CLUSTER_RESOURCES = {
    "node": ("/api/v1", "nodes"),
    "nodeunit": (OURS, "nodeunits"),
    "nodegroup": (OURS, "nodegroups"),
    "crd": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "site-nodeunit": ("/apis/site.superedge.io/v1alpha2", "nodeunits"),
    "site-nodegroup": ("/apis/site.superedge.io/v1alpha2", "nodegroups"),
}
"""Those without namespace."""

Manifest = dict[str, Any]


class ControlPlane(ApiServer):
    """With kube-controller-manager beside it, and an audit log of the controller's writes.

    `ranges` are those of the addresses of Services; their families are the cluster's.
    """

    def __init__(self, directory: Path, ranges: str = DUAL_STACK) -> None:
        groups = {"admin": "system:masters", KCM_USER: "system:masters"}
        groups |= dict.fromkeys((CONTROLLER_USER, AGENT_USER), "system:serviceaccounts")
        self._tokens = {user: secrets.token_hex(16) for user in groups}
        super().__init__(
            directory,
            {token: (user, groups[user]) for user, token in self._tokens.items()},
            f"--service-cluster-ip-range={ranges}",
            # Without it the rights on */finalizers would go unproven.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            f"--audit-policy-file={directory / 'audit.yaml'}",
            f"--audit-log-path={directory / 'audit.log'}",
            "--audit-log-mode=blocking",
        )
        self._audited: dict[str, Manifest | None] = {}
        """The controller's requests by audit ID, in the order in which they were received; None: not answered yet."""
        self._audit_read = 0
        """Bytes of the audit log that are in `_audited`."""

    def start(self) -> None:
        """Start all and wait until the API server is ready."""
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "rules": [
                {"level": "None", "resources": [{"group": "coordination.k8s.io"}]},
                {
                    "level": "Metadata",
                    "users": [CONTROLLER_USER],
                    "verbs": ["create", "update", "patch", "delete", "deletecollection"],
                },
                {"level": "None"},
            ],
        }
        (self.directory / "audit.yaml").write_text(yaml.safe_dump(policy))
        super().start()
        self.run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig(KCM_USER)}",
            f"--service-account-private-key-file={self.directory / 'sa.key'}",
            "--use-service-account-credentials=false",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            # By default it is 20 writes a second, which all tests would share.
            "--kube-api-qps=500",
            "--kube-api-burst=500",
            # What grids meet: workloads and their pods, slices and Endpoints, and the owners' deletion.
            "--controllers=deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller,"
            "endpointslice-controller,endpoints-controller,endpointslice-mirroring-controller,"
            "garbage-collector-controller,namespace-controller,serviceaccount-controller",
        )

    def kubeconfig(self, user: str) -> Path:
        """Return the path of a kubeconfig for `user`."""
        path = self.directory / f"{user.rpartition(':')[2]}.kubeconfig"
        cluster = {
            "server": self.url,
            "certificate-authority": str(self.ca),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
            "current-context": "test",
        }
        # YAML too; an agent reads nothing else.
        path.write_text(json.dumps(content))
        return path

    def kubectl(self, *args: str, manifest: object = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator; `manifest` is its standard input."""
        result = subprocess.run(
            [self.programs / "kubectl", f"--kubeconfig={self.kubeconfig('admin')}", *args],
            input=None if manifest is None else json.dumps(manifest),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env={"HOME": str(self.directory), "PATH": os.environ["PATH"]},
        )
        if check and result.returncode:
            raise AssertionError(f"kubectl {' '.join(args)}: {result.stderr}")
        return result

    def apply(self, *manifests: Manifest) -> None:
        """Apply manifests as a user does."""
        self.kubectl("apply", "-f", "-", manifest={"apiVersion": "v1", "kind": "List", "items": [*manifests]})

    def write(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> None:
        """Write as kubelets and schedulers do; kubectl, which stands for users, takes a hundred times as long."""
        status, answer = self.request(method, path, self._tokens["admin"], body, content_type)
        assert status < 300, answer

    def read(self, path: str, accept: str, port: int | None = None) -> bytes:
        """Return the body of a GET as administrator, from the API server or from an agent on a loopback port."""
        headers = {"Accept": accept}
        if port is None:
            with self.open(path, self._tokens["admin"], headers) as answer:
                return answer.read()
        headers["Authorization"] = f"Bearer {self._tokens['admin']}"
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            body: bytes = answer.read()
            return body

    def get(self, kind: str, name: str, namespace: str = "default") -> Manifest | None:
        """Return one object, None where there is none."""
        return self._http(f"{self._path(kind, namespace)}/{name}")

    def objects(self, kind: str, namespace: str, selector: str = "") -> list[Manifest]:
        """Return objects by label."""
        query = urllib.parse.urlencode({"labelSelector": selector})
        found = self._http(f"{self._path(kind, namespace)}?{query}")
        assert found is not None, kind
        items: list[Manifest] = found["items"]
        return items

    def watched(self, kind: str, namespace: str, selector: str, version: str) -> Iterator[Manifest]:
        """Yield the events of a watch by label from a resourceVersion on, the past ones first."""
        query = urllib.parse.urlencode({"watch": "1", "labelSelector": selector, "resourceVersion": version})
        with self.open(f"{self._path(kind, namespace)}?{query}", self._tokens["admin"]) as answer:
            for line in answer:
                yield json.loads(line)

    @staticmethod
    def _path(kind: str, namespace: str) -> str:
        if kind in CLUSTER_RESOURCES:
            return "/".join(CLUSTER_RESOURCES[kind])
        api, plural = RESOURCES[kind]
        return f"{api}/namespaces/{namespace}/{plural}"

    def audited(self) -> list[Manifest]:
        """Return every write of the controller so far, but for its Lease, in the order in which they were received.

        Dry runs are not among them, for they write nothing.

        Whatever has changed in the cluster when this is called is among them. The event that tells how a request
        ended is noted after the answer is out; the one of its receipt before anything is done, as the log blocks
        (k8s.io/apiserver/pkg/endpoints/filters/audit.go). So those received until now are waited for.
        """
        self._read_audit()
        received = [*self._audited]

        def answered() -> bool:
            self._read_audit()
            return all(self._audited[request] for request in received)

        wait_for(answered, "the controller's requests to be answered", dump=lambda: self.log("audit"))
        events = [event for request in received if (event := self._audited[request])]
        return [event for event in events if "dryRun=" not in event["requestURI"]]

    def _read_audit(self) -> None:
        path = self.directory / "audit.log"
        if path.exists():
            with path.open("rb") as log:
                log.seek(self._audit_read)
                for line in log:
                    if line.endswith(b"\n"):
                        self._audit_read += len(line)
                        event = json.loads(line)
                        received = event["stage"] == "RequestReceived"
                        self._audited[event["auditID"]] = None if received else event

    def stop_apiserver(self) -> None:
        """End the API server at once, as a crash does; what it has not answered it never will."""
        super().stop_apiserver()
        self._read_audit()
        self._audited = {request: event for request, event in self._audited.items() if event}

    def compact(self) -> None:
        """Throw away etcd's history, so that every older resourceVersion is expired (410)."""
        status = self._etcd_call("/v3/maintenance/status", {})
        self._etcd_call("/v3/kv/compaction", {"revision": status["header"]["revision"], "physical": True})

    def _etcd_call(self, path: str, body: Manifest) -> Manifest:
        request = urllib.request.Request(self.etcd_url + path, data=json.dumps(body).encode(), method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            result: Manifest = json.load(answer)
            return result

    def _http(self, path: str) -> Manifest | None:
        """Return what a GET gives, as administrator; None where there is nothing."""
        status, found = self.request("GET", path, self._tokens["admin"])
        assert status in (200, 404), found
        answer: Manifest | None = found if status == 200 else None
        return answer


class Controller:
    """`sitegrid controller` as a process, with the rights of its ServiceAccount."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()

    def start(self, *arguments: str) -> None:
        """Start it; it need not be ready."""
        argv = [
            *(sys.executable, "-m", "sitegrid", "controller", "-v"),
            f"--kubeconfig={self._plane.kubeconfig(CONTROLLER_USER)}",
            f"--metrics-address=127.0.0.1:{self._port}",
            *arguments,
        ]
        environment = {"HOME": str(self._plane.directory), "PATH": os.environ["PATH"]}
        self._process = start(argv, self._plane.directory / "controller.log", env=environment)

    def stop(self) -> int:
        """Ask it to end, so that it gives its Lease back, and return its exit code; 0 where it does not run."""
        if self._process is None:
            return 0
        self._process.terminate()
        code = self._process.wait(timeout=TIMEOUT)
        self._process = None
        return code

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it see and do nothing until `go_on`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it work again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """Return all that it has logged."""
        return (self._plane.directory / "controller.log").read_text(errors="replace")

    def http(self, path: str) -> tuple[int, str]:
        """Return status and text of a page of its endpoint; status 0 where there is no answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""


def wait_for(
    condition: Callable[[], object], what: str, *, timeout: float = TIMEOUT, dump: Callable[[], str] = lambda: ""
) -> None:
    """Return when `condition` holds; fail with `what` was waited for when it never does."""
    controlplane.wait_for(condition, what, timeout, dump)


@pytest.fixture(name="wait_for", scope="session")
def _wait_for() -> Callable[..., None]:
    """Wait for a condition."""
    return wait_for


@pytest.fixture(scope="session")
def bare_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without CRDs."""
    directory = tmp_path_factory.mktemp("control-plane")
    plane = ControlPlane(directory)
    try:
        plane.start()
        plane.kubectl("apply", "-f", str(ROOT / "deploy" / "admission"))
        plane.kubectl("apply", "-f", str(ROOT / "deploy" / "rbac" / "controller.yaml"))
        yield plane
    finally:
        plane.stop()
        shutil.rmtree(directory, ignore_errors=True)


class Running:
    """A control plane with CRDs and a running controller, and what was seen before the CRDs came."""

    def __init__(self, plane: ControlPlane, controller: Controller) -> None:
        self.plane = plane
        self.controller = controller
        self.before_crds: tuple[int, str] = (0, "")


@pytest.fixture(scope="session")
def running(bare_plane: ControlPlane) -> Iterator[Running]:
    """A controller that was started before the CRDs were installed."""
    controller = Controller(bare_plane)
    both = Running(bare_plane, controller)
    controller.start()
    try:

        def waits_for_crds() -> bool:
            both.before_crds = controller.http("/readyz")
            text = both.before_crds[1]
            logged = "install the CustomResourceDefinitions" in controller.log()
            return logged and text.count("CustomResourceDefinition") == CRDS and "nodes" not in text

        wait_for(waits_for_crds, "the controller to miss its CRDs", dump=lambda: bare_plane.log("controller"))
        bare_plane.kubectl("apply", "-f", str(ROOT / "deploy" / "crds"))
        wait_for(
            lambda: controller.http("/readyz")[0] == 200,
            "the controller to be ready",
            dump=lambda: bare_plane.log("controller"),
        )
        yield both
    finally:
        controller.kill()


@pytest.fixture(scope="session")
def single_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A control plane and controller of a cluster without IPv6."""
    plane = ControlPlane(tmp_path_factory.mktemp("single-stack"), "10.96.0.0/16")
    controller = Controller(plane)
    try:
        plane.start()
        plane.kubectl("apply", "-f", str(ROOT / "deploy" / "rbac" / "controller.yaml"))
        plane.kubectl("apply", "-f", str(ROOT / "deploy" / "crds"))
        controller.start()
        wait_for(lambda: controller.http("/readyz")[0] == 200, "the controller to be ready", dump=controller.log)
        yield Running(plane, controller)
    finally:
        controller.kill()
        plane.stop()
        shutil.rmtree(plane.directory, ignore_errors=True)


class World:
    """One test's own namespace and unique key in the shared cluster."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.plane = running.plane
        self._token = secrets.token_hex(4)
        self.namespace = f"test-{self._token}"
        self.key = f"zone-{self._token}"
        self._nodes: dict[str, None] = {}
        self._addresses = 0
        self.plane.write("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def node(self, name: str, value: str | None = None, *, status: Manifest | None = None, **labels: str) -> str:
        """Add a Node of the unit `value`, with a status where one is given; return its full name."""
        full = f"{name}-{self.namespace}"
        all_labels = {**labels, **({self.key: value} if value is not None else {})}
        if status:
            # Made with it: a node that is heard of only later is a node that came back.
            node = {"metadata": {"name": full, "labels": all_labels}, "status": status}
            self.plane.write("POST", "/api/v1/nodes", node)
            self._nodes[full] = None
        else:
            self._apply_node(full, all_labels)
        return full

    def _apply_node(self, name: str, labels: Manifest) -> None:
        """Make a Node, or have it carry these labels and no other ones of ours."""
        # An empty map would be a field of its own, and ours.
        metadata = {"name": name, **({"labels": labels} if labels else {})}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        path = f"/api/v1/nodes/{name}?fieldManager=test&force=true"
        self.plane.write("PATCH", path, node, "application/apply-patch+yaml")
        self._nodes[name] = None

    def report_node(self, node: str, status: Manifest) -> None:
        """Write a Node's status, as its kubelet or the node lifecycle controller does."""
        self._report(f"/api/v1/nodes/{node}", status)

    def _report(self, path: str, status: Manifest) -> None:
        self.plane.write("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")

    def report_pods(self, ready: str, *pods: str) -> None:
        """Write the Ready condition of pods, as their kubelet or the node lifecycle controller does."""
        for pod in pods:
            status = {"conditions": [{"type": "Ready", "status": ready}]}
            self._report(f"/api/v1/namespaces/{self.namespace}/pods/{pod}", status)

    def pod(self, name: str, node: str, address: str, app: str = "grid", **spec: Any) -> None:
        """Add a ready pod on `node`, as a kubelet would have reported it; `spec` are further fields."""
        self.plane.write(
            "POST",
            f"/api/v1/namespaces/{self.namespace}/pods",
            {
                "metadata": {"name": name, "labels": {"app": app}},
                "spec": {"nodeName": node, "containers": [{"name": "web", "image": "web:1"}], **spec},
            },
        )
        self._report_ready(name, address)

    def make_pods_ready(self, node: str) -> None:
        """Bind this namespace's pods to `node` and report them ready, as scheduler and kubelet do."""
        wait_for(lambda: self.plane.objects("pods", self.namespace), "pods", dump=self.dump)
        for pod in self.plane.objects("pods", self.namespace):
            self.run_pod(pod["metadata"]["name"], node)

    def run_pod(self, name: str, node: str) -> None:
        """Bind one pod to `node` and report it ready."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self.plane.write("POST", f"/api/v1/namespaces/{self.namespace}/pods/{name}/binding", binding)
        self._addresses += 1
        self._report_ready(name, f"10.244.9.{self._addresses}")

    def _report_ready(self, pod: str, address: str) -> None:
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self._report(f"/api/v1/namespaces/{self.namespace}/pods/{pod}", status)

    def deployment_grid(self, name: str = "grid", **changes: Any) -> Manifest:
        """Return a DeploymentGrid; `changes` replace fields of its spec."""
        labels = {"app": name[:63].rstrip("-.")}
        template = {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]}]},
            },
        }
        return self._grid("DeploymentGrid", name, {"gridUniqKey": self.key, "template": template, **changes})

    def workload_grid(self, kind: str, name: str = "grid", **changes: Any) -> Manifest:
        """Return a workload grid of any kind; `changes` replace fields of its spec."""
        grid = self.deployment_grid(name, **changes)
        if kind == "DaemonSetGrid" and "template" not in changes:
            del grid["spec"]["template"]["replicas"]
        return {**grid, "kind": kind}

    def nodes(self, *values: str) -> None:
        """Add one Node for each unit in `values`."""
        for value in values:
            self._apply_node(f"{value.lower().replace('_', '-')}-{self.namespace}", {self.key: value})

    def service_grid(self, name: str = "grid", **changes: Any) -> Manifest:
        """Return a ServiceGrid for the pods of the DeploymentGrid of that name."""
        template = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 80}]}
        return self._grid("ServiceGrid", name, {"gridUniqKey": self.key, "template": template, **changes})

    def _grid(self, kind: str, name: str, spec: Manifest) -> Manifest:
        metadata = {"name": name, "namespace": self.namespace}
        return {"apiVersion": "tkeedge.io/v1", "kind": kind, "metadata": metadata, "spec": spec}

    def children(self) -> dict[str, Manifest]:
        """Return this namespace's Deployments by name."""
        return {item["metadata"]["name"]: item for item in self.plane.objects("deployments", self.namespace)}

    def wait_children(self, *names: str) -> dict[str, Manifest]:
        """Wait until exactly these Deployments exist, and return them."""
        wait_for(lambda: self.children().keys() == set(names), f"the Deployments {names}", dump=self.dump)
        return self.children()

    def condition(self, name: str = "grid", type: str = "Ready", kind: str = "dg") -> Manifest:
        """Return one condition of a grid, {} where there is none yet."""
        grid = self.plane.get(kind, name, self.namespace) or {}
        conditions: list[Manifest] = grid.get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == type), {})

    def wait_condition(self, reason: str, name: str = "grid", type: str = "Ready", kind: str = "dg") -> Manifest:
        """Wait until a condition has this reason, and return it."""
        found: Manifest = {}

        def told() -> bool:
            nonlocal found
            found = self.condition(name, type, kind)
            return found.get("reason") == reason

        wait_for(told, f"{kind} {name}: {type} {reason}", dump=lambda: f"{found}\n{self.dump()}")
        return found

    def wait_status(self, wanted: Manifest, name: str = "grid", kind: str = "dg") -> Manifest:
        """Wait until these fields of a grid's status are so, and return the whole status."""
        status: Manifest = {}

        def told() -> bool:
            nonlocal status
            status = (self.plane.get(kind, name, self.namespace) or {}).get("status", {})
            return wanted.items() <= status.items()

        wait_for(told, f"{kind} {name}: {wanted}", dump=lambda: f"{status}\n{self.dump()}")
        return status

    def wait_degraded(self, name: str = "grid") -> Manifest:
        """Wait until a grid has a problem, and return the condition."""
        found: Manifest = {}

        def told() -> bool:
            nonlocal found
            found = self.condition(name, "Degraded")
            return found.get("status") == "True"

        wait_for(told, f"{name} to be degraded", dump=self.dump)
        return found

    def wait_quiet(self, seconds: float = 3.5) -> None:
        """Wait until the controller has written nothing of this test's for longer than it holds a status back."""
        state = (0, time.monotonic())

        def quiet() -> bool:
            nonlocal state
            refs = [event["objectRef"] for event in self.plane.audited()]
            names = (f"{ref.get('namespace')}/{ref.get('name')}" for ref in refs)
            writes = sum(self._token in name for name in names)
            if writes != state[0]:
                state = (writes, time.monotonic())
            return time.monotonic() - state[1] >= seconds

        wait_for(quiet, "the controller to be quiet", dump=self.dump)

    def writes(self) -> list[str]:
        """Return the controller's writes in this namespace so far, as verb, resource and name; events left out."""
        return [
            " ".join(
                (event["verb"], "/".join((ref["resource"], ref.get("subresource", ""))).rstrip("/"), ref["name"])
            )
            for event in self.plane.audited()
            for ref in [event["objectRef"]]
            if ref.get("namespace") == self.namespace and ref["resource"] != "events"
        ]

    def unit_writes(self) -> list[str]:
        """Return the writes to NodeUnits and NodeGroups of the test's key so far, as verb and resource."""
        return [
            f"{event['verb']} {'/'.join((ref['resource'], ref.get('subresource', ''))).rstrip('/')}"
            for event in self.plane.audited()
            for ref in [event["objectRef"]]
            if ref["resource"] in ("nodeunits", "nodegroups") and self.key in ref.get("name", "")
        ]

    def dump(self) -> str:
        """Return what helps to see why a wait was in vain."""
        grids = self.plane.kubectl("get", "dg,sg,deploy,svc", "-n", self.namespace, "-o", "wide").stdout
        return f"{grids}\n{self.plane.log('controller')}"

    def clean(self) -> None:
        """Remove nodes and namespace, without waiting for it; no kubelet is there for pods to end gracefully."""
        for node in self._nodes:
            if self.plane.get("node", node) is not None:
                self.plane.write("DELETE", f"/api/v1/nodes/{node}")
        self.plane.write("DELETE", f"/api/v1/namespaces/{self.namespace}/pods?gracePeriodSeconds=0")
        self.plane.write("DELETE", f"/api/v1/namespaces/{self.namespace}")


@pytest.fixture
def world(running: Running) -> Iterator[World]:
    """A namespace and a unique key of one's own in the shared cluster."""
    world = World(running)
    try:
        yield world
    finally:
        world.clean()


@pytest.fixture
def new_controller(running: Running) -> Iterator[Callable[[], Controller]]:
    """Return a function that makes a further replica, not started, ended after the test."""
    made: list[Controller] = []

    def make() -> Controller:
        made.append(Controller(running.plane))
        return made[-1]

    yield make
    for controller in made:
        controller.kill()


@pytest.fixture
def alone(world: World) -> Iterator[None]:
    """Stop the shared controller for a test."""
    controller = world.running.controller
    assert controller.stop() == 0
    yield
    controller.start()
    wait_for(lambda: controller.http("/readyz")[0] == 200, "the shared controller to be ready again")
