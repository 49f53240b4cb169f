"""A grid's Service behind agents, held against its twin: the plain Service that each unit would have for itself.

Each unit has a namespace of its own with copies of the unit's pods and a Service of the same name and spec, which
Kubernetes' own controllers serve. Names are the same, so whatever Kubernetes derives from them must be too. No node
runs: pods and their states are written as kubelets would report them. Used by ``tests/controller/test_twins.py``.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from sitegrid.wire.protobufcodec import PROTOBUF
from tests.support.controlplane import free_port
from tests.support.kubeproto import as_dict, parse
from tests.support.processes import start

Manifest = dict[str, Any]

UNITS: Final = ("a", "b")
GRIDS: Final = "/apis/tkeedge.io/v1"
PATHS: Final = {
    "Service": ("/api/v1", "services"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "Endpoints": ("/api/v1", "endpoints"),
}
JSON: Final = "application/json"
MEDIA_TYPES: Final = (JSON, PROTOBUF.media_type)


class Pod(NamedTuple):
    """A pod of one unit, and what its kubelet reports."""

    name: str
    app: str = "web"
    node: int = 1
    """Which of the unit's nodes it is on."""
    ready: bool = True
    deleted: bool = False
    phase: str = "Running"
    families: str = "46"
    ports: Mapping[str, int] = {"http": 8080}
    udp: Mapping[str, int] = {}
    hostname: str = ""
    subdomain: str = ""

    def named(self, unit: str) -> str:
        """Return the pod's name in a unit."""
        return self.name.replace("*", unit) if "*" in self.name else f"{self.name}-{unit}"

    @property
    def made(self) -> tuple[object, ...]:
        """What a pod has from its beginning to its end."""
        return (self.app, self.node, self.ports, self.udp, self.hostname, self.subdomain)


Group = tuple[str, list[Manifest], list[Manifest]]
"""Endpoints of one address family and set of ports; which slice has which of them is nobody's business."""


class Answer(NamedTuple):
    """What a reader is told of one Service."""

    service: Manifest | None
    slices: list[Group]
    headless: set[bool]
    """Whether slices say that their Service is headless."""
    endpoints: Manifest | None


NOTHING: Final = Answer(None, [], set(), None)
"""Of what does not exist."""


class Scene:
    """Both: a namespace of grids and agents of two units, and two namespaces of twins."""

    def __init__(self, plane: Any, agent: Path) -> None:
        """Make namespaces and nodes on a running control plane; `agent` is the kubeconfig of agents' account."""
        self.plane = plane
        self._token = secrets.token_hex(4)
        self.key = f"zone-{self._token}"
        self.namespace = f"grids-{self._token}"
        self.twins = {unit: f"twin-{unit}-{self._token}" for unit in UNITS}
        self._agents: dict[str, tuple[int, subprocess.Popen[bytes]]] = {}
        self._seen: dict[tuple[str, str, str], dict[str, Answer]] = {}
        self._addresses: dict[tuple[str, str], int] = {}
        for namespace in (self.namespace, *self.twins.values()):
            plane.write("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        for unit in UNITS:
            for number in (1, 2):
                labels = {self.key: unit, "topology.kubernetes.io/zone": f"z{number}"}
                node = {"metadata": {"name": self.node(unit, number), "labels": labels}}
                plane.write("POST", "/api/v1/nodes", node)
            self._start_agent(unit, agent)

    def node(self, unit: str, number: int = 1) -> str:
        """Return the name of one of a unit's nodes."""
        return f"n{number}-{unit}-{self._token}"

    def _start_agent(self, unit: str, kubeconfig: Path) -> None:
        port = free_port()
        argv = [sys.executable, "-m", "sitegrid", "agent", f"--node-name={self.node(unit)}", "-v"]
        argv += [f"--kubeconfig={kubeconfig}", f"--listen=127.0.0.1:{port}"]
        self._agents[unit] = port, start(argv, self.plane.directory / f"agent-{unit}.log")

    def close(self) -> None:
        """End the agents, and remove the rest without waiting for it."""
        for _, process in self._agents.values():
            process.kill()
            process.wait()
        self.plane.write("DELETE", f"{GRIDS}/namespaces/{self.namespace}/servicegrids")
        for namespace in (self.namespace, *self.twins.values()):
            self.plane.write("DELETE", f"/api/v1/namespaces/{namespace}/pods?gracePeriodSeconds=0")
            self.plane.write("DELETE", f"/api/v1/namespaces/{namespace}")
        for unit in UNITS:
            for number in (1, 2):
                self.plane.write("DELETE", f"/api/v1/nodes/{self.node(unit, number)}")

    # What is written.
    def add_pods(self, pods: Iterable[Pod], unit: str) -> None:
        """Add pods of a unit to the grids' namespace and to the twin's."""
        for pod in pods:
            for namespace in (self.namespace, self.twins[unit]):
                self.add_pod(pod, unit, namespace)

    def add_pod(self, pod: Pod, unit: str, namespace: str) -> None:
        """Add one pod of a unit to a namespace; the unit's pod of that name has the same addresses everywhere."""
        ports = [{"name": key, "containerPort": value} for key, value in pod.ports.items()]
        ports += [{"name": key, "containerPort": value, "protocol": "UDP"} for key, value in pod.udp.items()]
        spec = {"nodeName": self.node(unit, pod.node), "terminationGracePeriodSeconds": 600}
        spec |= {key: value for key, value in (("hostname", pod.hostname), ("subdomain", pod.subdomain)) if value}
        spec |= {"containers": [{"name": "c", "image": "i", "ports": ports}]}
        meta = {"name": pod.named(unit), "labels": {"app": pod.app}}
        self.plane.write("POST", f"/api/v1/namespaces/{namespace}/pods", {"metadata": meta, "spec": spec})
        self.report(pod, unit, namespace)

    def change_pods(self, before: Iterable[Pod], after: Iterable[Pod], unit: str) -> None:
        """Bring a unit's pods from one state to another, in both namespaces; what cannot change is made anew."""
        old, new = ({pod.name: pod for pod in pods} for pods in (before, after))
        for name, pod in old.items():
            wanted = new.get(name)
            if wanted is None or wanted.made != pod.made:
                self.remove_pod(pod, unit)
            elif wanted != pod:
                for namespace in (self.namespace, self.twins[unit]):
                    self.report(wanted, unit, namespace)
        self.add_pods((pod for pod in new.values() if pod.name not in old or old[pod.name].made != pod.made), unit)

    def remove_pod(self, pod: Pod, unit: str, namespaces: Iterable[str] = ()) -> None:
        """Remove a pod, as a kubelet does once it has ended; from the grids' and the twin's namespace by default."""
        for namespace in namespaces or (self.namespace, self.twins[unit]):
            path = f"/api/v1/namespaces/{namespace}/pods/{pod.named(unit)}"
            self.plane.write("DELETE", f"{path}?gracePeriodSeconds=0")

    def bind(self, pod: Pod, unit: str, namespace: str) -> None:
        """Put a pod that somebody else has made on a node of the unit, as the scheduler does."""
        target = {"apiVersion": "v1", "kind": "Node", "name": self.node(unit, pod.node)}
        binding = _typed("v1", "Binding", pod.named(unit)) | {"target": target}
        self.plane.write("POST", f"/api/v1/namespaces/{namespace}/pods/{pod.named(unit)}/binding", binding)

    def addresses(self, pod: Pod, unit: str) -> dict[str, str]:
        """Return a pod's addresses by the name of their family; a name has the same ones in every namespace."""
        number = self._addresses.setdefault((unit, pod.name), len(self._addresses) + 1)
        known = {"4": f"10.{UNITS.index(unit) + 1}.0.{number}", "6": f"fd00:{unit}::{number:x}"}
        return {f"IPv{family}": known[family] for family in pod.families}

    def report(self, pod: Pod, unit: str, namespace: str) -> None:
        """Write a pod's state as a kubelet does; one that is `deleted` is asked to end."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod.named(unit)}"
        addresses = [*self.addresses(pod, unit).values()]
        status: Manifest = {"phase": pod.phase, "podIPs": [{"ip": address} for address in addresses]}
        status |= {"podIP": addresses[0]} if addresses else {}
        status["conditions"] = [{"type": "Ready", "status": "True" if pod.ready else "False"}]
        self.plane.write("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")
        if pod.deleted:
            self.plane.write("DELETE", path)

    def add_set(self, name: str, service: str, replicas: int) -> None:
        """Add a StatefulSetGrid of a Service's pods, and the StatefulSets that each unit would have without it."""
        labels = {"app": name}
        spec = {
            "replicas": replicas,
            "serviceName": service,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]
                },
            },
        }
        grid = _typed("tkeedge.io/v1", "StatefulSetGrid", name)
        grid["spec"] = {"gridUniqKey": self.key, "template": spec}
        self.plane.write("POST", f"{GRIDS}/namespaces/{self.namespace}/statefulsetgrids", grid)
        for unit, namespace in self.twins.items():
            twin = _typed("apps/v1", "StatefulSet", f"{name}-{unit}") | {"spec": spec}
            self.plane.write("POST", f"/apis/apps/v1/namespaces/{namespace}/statefulsets", twin)

    def has_pod(self, pod: Pod, unit: str, namespace: str) -> bool:
        """Tell whether a pod has been made."""
        return self.plane.get("pods", pod.named(unit), namespace) is not None

    def add(self, name: str, template: Manifest, twins: Mapping[str, Manifest] | None = None, **grid: Any) -> None:
        """Add a ServiceGrid and its twins, which are template and metadata but for what `twins` say of a unit's.

        `grid` are further fields of the ServiceGrid's spec.
        """
        self.add_grid(name, template, **grid)
        for unit, namespace in self.twins.items():
            own = (twins or {}).get(unit, {})
            twin = _typed("v1", "Service", name) | {"spec": template | own.get("spec", {})}
            twin["metadata"] |= own.get("metadata", {})
            self.plane.write("POST", f"/api/v1/namespaces/{namespace}/services", twin)

    def add_grid(self, name: str, template: Manifest, **grid: Any) -> None:
        """Add a ServiceGrid without a twin; `grid` are further fields of its spec."""
        spec = {"gridUniqKey": self.key, "serviceName": name, "template": template, **grid}
        path = f"{GRIDS}/namespaces/{self.namespace}/servicegrids"
        self.plane.write("POST", path, {**_typed("tkeedge.io/v1", "ServiceGrid", name), "spec": spec})

    def refuses(self, name: str, spec: Manifest) -> bool:
        """Tell whether Kubernetes would refuse a plain Service."""
        twin = _typed("v1", "Service", name) | {"spec": spec}
        command = ("create", "--dry-run=server", "-n", self.twins["a"], "-f", "-")
        return "is invalid" in self.plane.kubectl(*command, manifest=twin, check=False).stderr

    def is_degraded(self, name: str) -> bool:
        """Tell whether a ServiceGrid says that it has a problem."""
        grid = self.plane.get("sg", name, self.namespace)
        conditions = {item["type"]: item["status"] for item in grid.get("status", {}).get("conditions", ())}
        return conditions.get("Degraded") == "True"

    def change(self, name: str, spec: Manifest) -> None:
        """Change fields of a Service: of the grid's template and of the twins."""
        patch, kind = {"spec": {"template": spec}}, "application/merge-patch+json"
        self.plane.write("PATCH", f"{GRIDS}/namespaces/{self.namespace}/servicegrids/{name}", patch, kind)
        for namespace in self.twins.values():
            self.plane.write("PATCH", f"/api/v1/namespaces/{namespace}/services/{name}", {"spec": spec}, kind)

    # What is read.
    def shown(self, unit: str, media_type: str = JSON, *, again: bool = False) -> dict[str, Answer]:
        """Return what the unit's agent tells, by Service; as last time unless asked `again`."""
        return self._answers("agent", unit, media_type, again=again)

    def twin(self, unit: str, media_type: str = JSON, *, again: bool = False) -> dict[str, Answer]:
        """Return what the API server tells of the unit's twins, by Service; as last time unless asked `again`."""
        return self._answers("twin", unit, media_type, again=again)

    def _answers(self, reader: str, unit: str, media_type: str, *, again: bool) -> dict[str, Answer]:
        key = (reader, unit, media_type)
        if again or key not in self._seen:
            items = {kind: self._items(reader, unit, kind, media_type) for kind in PATHS}
            pods = self.plane.objects("pods", self.namespace if reader == "agent" else self.twins[unit])
            names = {item["metadata"]["uid"]: item["metadata"]["name"] for item in pods}
            self._seen[key] = _by_service(items, names)
        return self._seen[key]

    def path(self, reader: str, unit: str, kind: str) -> str:
        """Return where a reader asks for objects of a kind."""
        api, plural = PATHS[kind]
        return f"{api}/namespaces/{self.namespace if reader == 'agent' else self.twins[unit]}/{plural}"

    def _items(self, reader: str, unit: str, kind: str, media_type: str) -> list[Manifest]:
        body = self.get(reader, unit, self.path(reader, unit, kind), media_type)
        if media_type == JSON:
            items: list[Manifest] = json.loads(body)["items"]
            return items
        return [as_dict(parse(kind, item.raw)) for item in PROTOBUF.item_list(body).items]

    def get(self, reader: str, unit: str, path: str, media_type: str = JSON) -> bytes:
        """GET a path from the unit's agent or the API server, as administrator."""
        body: bytes = self.plane.read(path, media_type, self._agents[unit][0] if reader == "agent" else None)
        return body

    def log(self) -> str:
        """Return the ends of the logs of those in between."""
        return "\n".join(self.plane.log(name) for name in ("controller", *(f"agent-{unit}" for unit in UNITS)))

    def agent_ready(self, unit: str) -> bool:
        """Tell whether an agent knows its units; fails where it has ended."""
        port, process = self._agents[unit]
        assert process.poll() is None, (self.plane.directory / f"agent-{unit}.log").read_text(errors="replace")
        try:
            self.plane.read("/sitegrid/readyz", JSON, port)
        except OSError:
            return False
        return True


def _typed(version: str, kind: str, name: str) -> Manifest:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


# What is the same for a grid's Service and its twin, and what need not be.
def _by_service(items: Mapping[str, list[Manifest]], pods: Mapping[str, str]) -> dict[str, Answer]:
    """Return what is told of each Service; `pods` are the names of those that there are, by uid."""
    slices: dict[str, list[Manifest]] = {}
    for item in items["EndpointSlice"]:
        # Kubernetes has a slice without endpoints where there is none, a unit has no slice.
        if item.get("endpoints"):
            slices.setdefault(item["metadata"]["labels"]["kubernetes.io/service-name"], []).append(item)
    services = {item["metadata"]["name"]: _service(item) for item in items["Service"]}
    endpoints = {item["metadata"]["name"]: _endpoints(item, pods) for item in items["Endpoints"]}
    return {
        name: Answer(
            services.get(name),
            _merged(slices.get(name, ()), pods),
            {"service.kubernetes.io/headless" in item["metadata"]["labels"] for item in slices.get(name, ())},
            endpoints.get(name),
        )
        for name in {*services, *slices, *endpoints}
    }


def _service(item: Manifest) -> Manifest:
    """Return a Service without what is of its moment and place, and without what makes it a grid's."""
    spec = dict(item["spec"])
    # A grid's Service need not have it; its endpoints are what it selects.
    spec.pop("selector", None)
    for name in ("clusterIP", "clusterIPs"):
        if name in spec:
            addresses = [spec[name]] if isinstance(spec[name], str) else spec[name]
            spec[name] = [
                "IPv6" if ":" in address else "IPv4" if "." in address else address for address in addresses
            ]
    # Whether one is allocated is the same, which one is not.
    if spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = True
    spec["ports"] = [{**port, "nodePort": bool(port.get("nodePort"))} for port in spec.get("ports", ())]
    metadata = item["metadata"]
    return {
        "labels": _labels(metadata),
        "annotations": {
            name: value for name, value in metadata.get("annotations", {}).items() if "tkeedge.io/" not in name
        },
        "finalizers": metadata.get("finalizers", []),
        "spec": spec,
        "status": item.get("status"),
    }


def _labels(metadata: Manifest) -> Manifest:
    return {name: value for name, value in metadata.get("labels", {}).items() if not name.startswith("tkeedge.io/")}


def in_order(items: Iterable[Any]) -> list[Any]:
    """Return what is a set to Kubernetes in some order that is always the same."""
    return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def _merged(slices: Iterable[Manifest], pods: Mapping[str, str]) -> list[Group]:
    groups: dict[str, Group] = {}
    for item in slices:
        ports = in_order(item.get("ports") or ())
        group = groups.setdefault(json.dumps([item["addressType"], ports]), (item["addressType"], ports, []))
        group[2].extend(_referred(endpoint, pods) for endpoint in item["endpoints"])
    return in_order((family, ports, in_order(endpoints)) for family, ports, endpoints in groups.values())


def _referred(endpoint: Manifest, pods: Mapping[str, str]) -> Manifest:
    """Return an endpoint, or an address of Endpoints, with the name of the pod that has the uid it refers to."""
    reference = endpoint.get("targetRef")
    if reference is None:
        return endpoint
    assert reference.keys() == {"kind", "name", "namespace", "uid"}
    found = {"kind": reference["kind"], "name": reference["name"], "pod": pods.get(reference["uid"])}
    return {**endpoint, "targetRef": found}


def _endpoints(item: Manifest, pods: Mapping[str, str]) -> Manifest:
    """Return Endpoints without what is of their moment, and without the order that a hash gives."""
    subsets = []
    for subset in item.get("subsets", ()):
        kept = {"ports": in_order(subset.get("ports", ()))}
        for name in ("addresses", "notReadyAddresses"):
            kept[name] = in_order(_referred(address, pods) for address in subset.get(name, ()))
        subsets.append(kept)
    return {"labels": _labels(item["metadata"]), "subsets": in_order(subsets)}
