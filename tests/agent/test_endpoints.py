"""core/v1 Endpoints of a grid's Service: what Kubernetes' own controller makes when there are the unit's pods only.

A twin of the grid's Service selects only the own unit's pods; the unit's slices are copies of the twin's.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sitegrid.wire.protobufcodec import PROTOBUF
from tests.support.processes import running

pytestmark = pytest.mark.cluster

NAMESPACE = "made"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
GRID = {"tkeedge.io/grid-uniq-key": "zone", "service.kubernetes.io/service-proxy-name": "sitegrid"}
PORTS = [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "metrics", "port": 9090, "targetPort": 9000}]
SERVICES: dict[str, dict[str, Any]] = {
    "web": {"ports": PORTS},
    "all": {"ports": PORTS, "publishNotReadyAddresses": True},
    "headless": {"clusterIP": "None"},
    "hosts": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]},
}
PODS = {
    # Name: last byte of the address, ready, has the named port, being deleted.
    "p1": (11, True, True, False),
    "p2": (12, True, True, False),
    "p3": (13, False, True, False),
    "p4": (14, True, False, False),
    "p5": (15, True, True, True),
}


def _pod(name: str, site: str, address: str, named: bool) -> dict[str, Any]:
    ports = [{"name": "web", "containerPort": 8080}] if named else []
    labels = {"app": "web", "site": site}
    meta: dict[str, Any] = {"name": name, "labels": labels, "finalizers": ["test/stay"]}
    spec = {"nodeName": f"n-{site}", "hostname": name, "subdomain": "hosts", "terminationGracePeriodSeconds": 600}
    return {"metadata": meta, "spec": {**spec, "containers": [{"name": "c", "image": "i", "ports": ports}]}}


def _start_pod(cluster: Any, name: str, site: str, address: str, ready: bool, named: bool, deleted: bool) -> None:
    pod = cluster.write("POST", f"{CORE}/pods", _pod(name, site, address, named))
    pod["status"] = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
    }
    cluster.write("PUT", f"{CORE}/pods/{name}/status", pod)
    if deleted:
        cluster.write("DELETE", f"{CORE}/pods/{name}")


@pytest.fixture(scope="module")
def controllers(cluster: Any) -> Iterator[None]:
    """Run Kubernetes' controllers of Endpoints and EndpointSlices."""
    argv = [str(cluster.binaries / "kube-controller-manager"), f"--kubeconfig={cluster.kubeconfig('admin-token')}"]
    argv += ["--leader-elect=false", "--secure-port=0", "--use-service-account-credentials=false"]
    argv += ["--controllers=endpoints-controller,endpointslice-controller"]
    # It begins with the Services of all tests before these, at 20 writes a second by default.
    argv += ["--kube-api-qps=500", "--kube-api-burst=500"]
    with running(argv, cluster.directory / "kcm.log"):
        yield


def _twin_slices(cluster: Any, name: str) -> list[dict[str, Any]]:
    selector = f"kubernetes.io/service-name=twin-{name},endpointslice.kubernetes.io/managed-by"
    found: list[dict[str, Any]] = json.loads(cluster.request("GET", f"{SLICES}?labelSelector={selector}")[1])["items"]
    return found


@pytest.fixture(scope="module")
def scene(cluster: Any, controllers: None, poll: Any, objects: Any) -> None:
    """Grid Services over the pods of two sites, their twins over one site, and that site's unit slices."""
    cluster.write("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for site in ("u1", "u2"):
        # Kubernetes makes no slice for a pod on a node that it does not know.
        cluster.write("POST", objects.nodes, objects.node(f"n-{site}", zone=site))
    for name, (byte, *state) in PODS.items():
        _start_pod(cluster, name, "u1", f"10.1.9.{byte}", *state)
    _start_pod(cluster, "foreign", "u2", "10.66.0.1", True, True, False)
    for name, spec in SERVICES.items():
        for prefix, labels, selector in (("", GRID, {}), ("twin-", {}, {"site": "u1"})):
            meta = {"name": prefix + name, "labels": {**labels, "team": "a"}}
            body = {"metadata": meta, "spec": {**spec, "selector": {"app": "web", **selector}}}
            cluster.write("POST", f"{CORE}/services", body)
    for name in SERVICES:

        def settled(name: str = name) -> bool:
            # Not only that they are there: what is copied below must be their last state.
            found = [endpoint for item in _twin_slices(cluster, name) for endpoint in item["endpoints"] or ()]
            states = {e["addresses"][0]: (e["conditions"]["serving"], e["conditions"]["terminating"]) for e in found}
            return states == {f"10.1.9.{byte}": (ready, deleted) for byte, ready, _, deleted in PODS.values()}

        poll(settled, 60, f"the slices of twin-{name}")
        for number, twin in enumerate(_twin_slices(cluster, name)):
            obj = objects.unit("zone.u1", "", name)
            obj["metadata"] |= {"namespace": NAMESPACE, "name": f"{name}-{number}"}
            if SERVICES[name].get("clusterIP"):
                obj["metadata"]["labels"]["tkeedge.io/headless"] = ""
            cluster.write("POST", SLICES, obj | {key: twin.get(key) for key in ("endpoints", "ports", "addressType")})
    foreign = objects.unit("zone.u2", "10.66.0.1", "web")
    foreign["metadata"]["namespace"] = NAMESPACE
    cluster.write("POST", SLICES, foreign)


def _normal(body: dict[str, Any]) -> dict[str, Any]:
    """Return Endpoints without what is of their own moment, and without the order that a hash gives."""
    found = copy.deepcopy(body)
    for name in ("uid", "managedFields", "annotations", "resourceVersion", "creationTimestamp"):
        found["metadata"].pop(name, None)
    found["metadata"]["name"] = found["metadata"]["name"].removeprefix("twin-")
    found["metadata"]["labels"].pop("tkeedge.io/grid-uniq-key", None)
    for subset in found.get("subsets", []):
        subset.get("ports", []).sort(key=json.dumps)
    found.get("subsets", []).sort(key=json.dumps)
    return found


def _one(cluster: Any, name: str, base: str | None = None) -> dict[str, Any]:
    status, body = cluster.request("GET", f"{CORE}/endpoints/{name}", base=base)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("name", SERVICES)
def test_they_are_what_kubernetes_would_make(cluster: Any, cluster_agent: str, name: str, poll: Any) -> None:
    """GET shows Kubernetes' Endpoints of the twin, under the grid's Service's name."""
    last: list[Any] = []

    def equal() -> bool:
        last[:] = [_normal(_one(cluster, name, cluster_agent)), _normal(_one(cluster, f"twin-{name}"))]
        return bool(last[0] == last[1])

    try:
        poll(equal, 60)
    except AssertionError:
        assert last[0] == last[1]
    assert last[0]["subsets"]


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("path", ["/api/v1/endpoints", f"{CORE}/endpoints"])
def test_a_list_has_them_beside_those_of_no_grid(cluster: Any, cluster_agent: str, path: str) -> None:
    """In all namespaces and in one: made ones, twins as they are, and never Kubernetes' own of a grid."""
    status, body = cluster.request("GET", path, base=cluster_agent)
    assert status == 200, body
    assert b"10.66." not in body
    items = {i["metadata"]["name"]: i for i in json.loads(body)["items"] if i["metadata"]["namespace"] == NAMESPACE}
    assert items.keys() == {prefix + name for name in SERVICES for prefix in ("", "twin-")}
    for name in SERVICES:
        assert items[f"twin-{name}"]["subsets"] == _one(cluster, f"twin-{name}")["subsets"]
        single = {key: value for key, value in _one(cluster, name, cluster_agent).items() if key in items[name]}
        assert items[name] == single


@pytest.mark.usefixtures("scene")
def test_selectors_select_by_what_is_shown(cluster: Any, cluster_agent: str) -> None:
    """By the Service's labels, by what Kubernetes adds, and by name."""

    def names(query: str) -> list[str]:
        body = cluster.request("GET", f"{CORE}/endpoints?{query}", base=cluster_agent)[1]
        return [item["metadata"]["name"] for item in json.loads(body)["items"]]

    assert len(names("labelSelector=team%3Da")) == 2 * len(SERVICES)
    assert names("labelSelector=service.kubernetes.io/headless&fieldSelector=metadata.name%3Dhosts") == ["hosts"]
    assert names("labelSelector=service.kubernetes.io/service-proxy-name") == []
    assert names("fieldSelector=metadata.name!%3Dweb,metadata.name!%3Dtwin-web,metadata.name%3Dall") == ["all"]


@pytest.mark.usefixtures("scene")
def test_protobuf_is_understood_by_kubernetes_clients(cluster: Any, cluster_agent: str) -> None:
    """The protobuf of one port and one subset is the API server's, but for the metadata."""
    own, twin = (
        PROTOBUF.item(cluster.request("GET", f"{CORE}/endpoints/{name}", base=base, accept=PROTOBUF.media_type)[1])
        for name, base in (("headless", cluster_agent), ("twin-headless", None))
    )
    assert b"10.1.9.11" in own.raw
    assert own.raw[own.raw.index(b"10.1.9.11") :] == twin.raw[twin.raw.index(b"10.1.9.11") :]
    listed = cluster.request("GET", f"{CORE}/endpoints", base=cluster_agent, accept=PROTOBUF.media_type)[1]
    assert own.raw in [item.raw for item in PROTOBUF.item_list(listed).items]


@pytest.mark.usefixtures("scene")
def test_a_client_without_the_right_gets_the_api_servers_refusal(cluster: Any, cluster_agent: str) -> None:
    """Endpoints are listed with the client's own credential, which must be allowed to."""
    for path in (f"{CORE}/endpoints", f"{CORE}/endpoints/web"):
        for token in ("reader-token", None):
            answers = [cluster.request("GET", path, base=base, token=token)[0] for base in (None, cluster_agent)]
            assert answers == [403, 403]


@pytest.mark.usefixtures("scene")
def test_a_change_is_one_event(cluster: Any, cluster_agent: str, poll: Any) -> None:
    """A watch from a list hears of a changed slice as one modification of the Service's Endpoints."""
    rv = json.loads(cluster.request("GET", f"{CORE}/endpoints", base=cluster_agent)[1])["metadata"]["resourceVersion"]
    slice_ = json.loads(cluster.request("GET", f"{SLICES}/hosts-0")[1])
    slice_["endpoints"] = slice_["endpoints"][:1]
    cluster.write("PUT", f"{SLICES}/hosts-0", slice_)

    def addresses(endpoints: dict[str, Any]) -> int:
        return sum(len(subset.get("addresses", [])) for subset in endpoints.get("subsets", []))

    # So that the watch has it at once, and all its time for what should not come.
    poll(lambda: addresses(_one(cluster, "hosts", cluster_agent)) <= 1)
    target = f"{CORE}/endpoints?watch=true&timeoutSeconds=2&resourceVersion={rv}"
    (line,) = cluster.request("GET", target, base=cluster_agent)[1].splitlines()
    event = json.loads(line)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("MODIFIED", "hosts")
    assert addresses(event["object"]) <= 1
