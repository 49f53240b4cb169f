"""Whoever is not behind an agent sees a grid's Service without endpoints, whatever it is and whatever it reads.

Each test asks straight at the API server as one kind of reader does, and asks the same of a plain Service over the
same pods, which has its endpoints: what reads nothing of the grid's could have read.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab.addresses import CLUSTER_DOMAIN
from sitegrid.lab.clients import Clients, wait_until
from sitegrid.lab.config import LabConfig
from sitegrid.lab.lab import Lab
from sitegrid.lab.manifests import example
from sitegrid.lab.pki import write_kubeconfig
from tests.support import labelblind
from tests.support.coredns import Dns, coredns
from tests.support.inlab import running_in
from tests.support.processes import start

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SERVICES = ("shut-svc", "shut-port-svc", "db-svc")
"""Grids' Services: one with a cluster address, one with a node port, a headless one."""
OPEN = {"shut-svc": "open", "shut-port-svc": "open", "db-svc": "open-names"}
"""The plain Service over the same pods."""
NODE_PORTS = {"shut-port-svc": 30085, "open": 30086}
OUTSIDER = "outsider"
"""A node without an agent, in no unit."""
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
OBJECTS = """
apiVersion: tkeedge.io/v1
kind: ServiceGrid
metadata: {name: shut}
spec:
  gridUniqKey: zone
  template: {selector: {appGrid: nginx}, ports: [{port: 80}]}
---
apiVersion: tkeedge.io/v1
kind: ServiceGrid
metadata: {name: shut-port}
spec:
  gridUniqKey: zone
  template: {type: NodePort, selector: {appGrid: nginx}, ports: [{port: 80, nodePort: 30085}]}
---
apiVersion: v1
kind: Service
metadata: {name: open}
spec: {type: NodePort, selector: {appGrid: nginx}, ports: [{port: 80, nodePort: 30086}]}
---
apiVersion: v1
kind: Service
metadata: {name: open-names}
spec: {clusterIP: None, selector: {appGrid: db}, ports: [{name: http, port: 80}]}
"""
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
ENDPOINTS = "/api/v1/namespaces/default/endpoints"


@dataclass(slots=True)
class Outsider:
    """Somebody with a credential for the API server, who was never told of sitegrid."""

    lab: Lab
    history: list[dict[str, Any]] = field(default_factory=list)
    """Every state that an EndpointSlice or Endpoints has had since before the Services were made."""

    def get(self, path: str) -> Any:
        """Return what the API server answers."""
        return json.loads(self.lab.kubectl("get", "--raw", path).stdout)

    def changes(self, path: str, since: str) -> list[dict[str, Any]]:
        """Return every state of the objects of a list since a resourceVersion, as the API server tells a watch."""
        told = self.lab.kubectl("get", "--raw", f"{path}?watch=1&resourceVersion={since}&timeoutSeconds=1").stdout
        events = [json.loads(line) for line in told.splitlines()]
        assert "ERROR" not in {event["type"] for event in events}, events
        return [event["object"] for event in events]

    def pods(self, service: str) -> dict[str, str]:
        """Return the addresses of the pods behind a Service by their names, as a plain one selects them."""
        selector = self.get(f"/api/v1/namespaces/default/services/{OPEN[service]}")["spec"]["selector"]
        items = self.get(f"/api/v1/namespaces/default/pods?labelSelector=appGrid%3D{selector['appGrid']}")["items"]
        return {item["metadata"]["name"]: item["status"]["podIP"] for item in items if "podIP" in item["status"]}


def addresses(obj: dict[str, Any]) -> list[str]:
    """Return what an EndpointSlice or Endpoints object holds."""
    found = [address for endpoint in obj.get("endpoints") or () for address in endpoint["addresses"]]
    for subset in obj.get("subsets") or ():
        found += [entry["ip"] for kind in ("addresses", "notReadyAddresses") for entry in subset.get(kind, ())]
    return sorted(found)


@pytest.fixture(scope="module")
def outsider(lab: Lab, walkthrough: Clients) -> Iterator[Outsider]:
    """Make grids' Services of each kind and plain ones beside them; return once all sites are served."""
    outsider = Outsider(lab)
    since = {path: outsider.get(path)["metadata"]["resourceVersion"] for path in (SLICES, ENDPOINTS)}
    database = str(example("statefulsetgrid.yaml"))
    lab.kubectl("apply", "-f", "-", input=OBJECTS)
    lab.kubectl("apply", "-f", database)
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "sg/shut", "sg/shut-port", "ssg/db", "sg/db")
    for service in SERVICES:
        walkthrough.until_answered([("node12", f"http://{service}/")])
    for path, version in since.items():
        outsider.history += outsider.changes(path, version)
    yield outsider
    lab.kubectl("delete", "--wait=false", "-f", "-", input=OBJECTS)
    lab.kubectl("delete", "--wait=false", "-f", database)


@pytest.mark.parametrize("service", SERVICES)
def test_endpointslices_of_its_name_are_empty(outsider: Outsider, service: str) -> None:
    """A reader of EndpointSlices by their Service's name, as all consumers are, finds no endpoint."""

    def read(name: str) -> list[str]:
        items = outsider.get(f"{SLICES}?labelSelector=kubernetes.io/service-name%3D{name}")["items"]
        return sorted(address for item in items for address in addresses(item))

    assert wait_until(lambda: read(OPEN[service]) == sorted(outsider.pods(service).values()))
    assert read(service) == []


@pytest.mark.parametrize("service", SERVICES)
def test_endpoints_of_its_name_are_empty(outsider: Outsider, service: str) -> None:
    """A reader of core/v1 Endpoints finds none, or none with an address."""

    def read(name: str) -> list[str]:
        items = outsider.get(f"{ENDPOINTS}?fieldSelector=metadata.name%3D{name}")["items"]
        return sorted(address for item in items for address in addresses(item))

    assert wait_until(lambda: read(OPEN[service]) == sorted(outsider.pods(service).values()))
    assert read(service) == []


@pytest.mark.parametrize("service", SERVICES)
def test_at_no_moment_there_was_an_endpoint(outsider: Outsider, service: str) -> None:
    """Who watches while a grid's Service is made and its pods become ready is told of no endpoint either."""

    def told(name: str) -> set[str]:
        states = [obj for obj in outsider.history if name in (obj["metadata"]["name"], service_name(obj))]
        return {address for obj in states for address in addresses(obj)}

    assert told(OPEN[service]) >= set(outsider.pods(service).values())
    assert told(service) == set()


def service_name(obj: dict[str, Any]) -> str | None:
    """Return the Service whose slice this is, for everybody who reads slices."""
    name: str | None = obj["metadata"].get("labels", {}).get("kubernetes.io/service-name")
    return name


@pytest.fixture(scope="module")
def dns(outsider: Outsider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dns]:
    """Run a CoreDNS as kubeadm runs its two: with CoreDNS's own account, straight at the API server."""
    config, directory = LabConfig.read(outsider.lab.layout.config), tmp_path_factory.mktemp("coredns")
    token = outsider.lab.kubectl("create", "token", "coredns", "--namespace=kube-system").stdout.strip()
    kubeconfig, authority = directory / "kubeconfig", (outsider.lab.layout.pki / "ca.crt").read_bytes()
    write_kubeconfig(kubeconfig, server=f"https://127.0.0.1:{config.port}", user={"token": token}, ca=authority)
    with coredns(Path(config.binaries["coredns"]), kubeconfig, directory, fqdn("open")) as client:
        yield client


def fqdn(name: str) -> str:
    """Return the whole DNS name of a Service, or of something of it."""
    return f"{name}.default.svc.{CLUSTER_DOMAIN}"


@pytest.mark.parametrize("service", SERVICES)
def test_dns_names_no_endpoint(outsider: Outsider, dns: Dns, service: str) -> None:
    """A DNS server knows no endpoint of it by the name that CoreDNS makes of an address, nor by the pod's own."""
    for pod, address in outsider.pods(service).items():
        dashed = address.replace(".", "-")
        # What a pod is called depends on its Service: a plain one with another name does not say so.
        assert wait_until(lambda: dns.ask("A", fqdn(f"{dashed}.{OPEN[service]}")) == [address])  # noqa: B023
        for name in (dashed, pod):
            assert dns.ask("A", fqdn(f"{name}.{service}")) == []


def test_dns_has_nothing_for_a_headless_name(outsider: Outsider, dns: Dns) -> None:
    """The name of a headless one has no address, and no SRV record with or without a port's name."""
    addresses = sorted(outsider.pods("db-svc").values())
    assert wait_until(lambda: dns.ask("A", fqdn("open-names")) == addresses)
    assert dns.ask("A", fqdn("db-svc")) == []
    for prefix in ("", "_http._tcp."):
        assert len(set(dns.ask("SRV", fqdn(f"{prefix}open-names")) or ())) == len(addresses)
        assert dns.ask("SRV", fqdn(f"{prefix}db-svc")) == []


@pytest.fixture(scope="module")
def stock_node(outsider: Outsider, walkthrough: Clients) -> Iterator[str]:
    """Add a node without an agent."""
    outsider.lab.add_node(OUTSIDER, {}, agent=False)
    walkthrough.pod(OUTSIDER)
    yield OUTSIDER
    outsider.lab.set_agent(OUTSIDER, True)


@contextmanager
def blind_proxy(lab: Lab, node: str, *labels: str) -> Iterator[None]:
    """Have the node's kube-proxy ask an API server that does not hear what it says of `labels`, or of any label."""
    kubeconfig, blind, port = lab.layout.node(node) / "kube-proxy.kubeconfig", "blind.kubeconfig", 10399
    straight = lab.layout.node(node) / blind
    straight.write_bytes(kubeconfig.read_bytes())
    argv = ["python3", "-I", "-S", labelblind.__file__, str(port), str(straight), *labels]
    with running_in(lab, node, argv, lab.layout.logs / "labelblind.log"):
        write_kubeconfig(kubeconfig, server=f"http://127.0.0.1:{port}", user={}, ca=b"")
        lab.process(f"kube-proxy@{node}", "restart")
        try:
            yield
        finally:
            kubeconfig.write_bytes(straight.read_bytes())
            lab.process(f"kube-proxy@{node}", "restart")


@pytest.mark.parametrize("labels", [(PROXY_NAME,), ()], ids=["proxy-name", "no label at all"])
def test_a_proxy_that_ignores_the_label_reaches_nothing(
    outsider: Outsider, walkthrough: Clients, stock_node: str, labels: tuple[str, ...]
) -> None:
    """A kube-proxy that takes the Service for everybody's has rules for it, and they lead nowhere."""
    ways = {
        service: (f"http://{service}/", *([walkthrough.node_url(stock_node, port)] if port else ()))
        for service in (*SERVICES, "open")
        for port in [NODE_PORTS.get(service)]
    }
    lab = outsider.lab
    # What its own kube-proxy has written, or was about to, says nothing of the other one.
    lab.process(f"kube-proxy@{stock_node}", "stop")
    lab.run(stock_node, ["nft", "add table ip kube-proxy; delete table ip kube-proxy"], check=True)
    with blind_proxy(lab, stock_node, *labels):
        for url in ways["open"]:
            assert wait_until(lambda url=url: bool(walkthrough.ask((stock_node, url), 1)["answers"]))  # type: ignore[misc]
        for service in SERVICES:
            for url in ways[service]:
                assert walkthrough.ask((stock_node, url), 5, timeout=1.0)["answers"] == {}, url
        # It does know the Service: that it has no endpoint is all that closes it here.
        rules = lab.run(stock_node, ["nft", "list", "table", "ip", "kube-proxy"], capture_output=True).stdout
        assert outsider.get("/api/v1/namespaces/default/services/shut-svc")["spec"]["clusterIP"] in rules


@pytest.mark.parametrize("service", SERVICES)
def test_the_api_servers_own_proxy_finds_no_endpoint(outsider: Outsider, service: str) -> None:
    """``kubectl get --raw …/services/NAME:PORT/proxy/`` is answered by the API server itself: there is nothing."""

    def proxied(name: str) -> str:
        port = "http" if name in ("db-svc", "open-names") else "80"
        path = f"/api/v1/namespaces/default/services/{name}:{port}/proxy/"
        return outsider.lab.kubectl("get", "--raw", path, check=False).stderr

    # The lab's API server has no way to pods: its error names the one that it chose.
    refused = proxied(OPEN[service])
    assert any(f"dial tcp {address}:80" in refused for address in outsider.pods(service).values()), refused
    # What it does not find are Endpoints.
    assert proxied(service) == f'Error from server (NotFound): services "{service}" not found\n'


@contextmanager
def forwarded(lab: Lab, service: str) -> Iterator[str]:
    """Run ``kubectl port-forward`` for a Service's first port; yield the first line that it says."""
    argv = lab.kubectl_argv(["port-forward", f"svc/{service}", ":80"])
    with start(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as forwarding:
        assert forwarding.stdout is not None
        try:
            yield forwarding.stdout.readline().decode()
        finally:
            forwarding.kill()


@pytest.mark.parametrize("service", SERVICES)
def test_port_forward_picks_no_pod(outsider: Outsider, service: str) -> None:
    """``kubectl port-forward`` to a grid's Service would have a pod of any site; it is refused."""
    with forwarded(outsider.lab, OPEN[service]) as said:
        assert said.startswith("Forwarding from")
    with forwarded(outsider.lab, service) as said:
        assert "without a selector" in said


def sites_of(outsider: Outsider, service: str) -> str:
    """Return the name of the Service that has the endpoints of all sites, found by its label."""
    (found,) = outsider.get(f"/api/v1/namespaces/default/services?labelSelector=tkeedge.io/sites-of%3D{service}")[
        "items"
    ]
    assert found["spec"]["clusterIP"] == "None"
    name: str = found["metadata"]["name"]
    return name


@pytest.mark.parametrize("service", SERVICES)
def test_all_sites_are_behind_a_service_of_their_own(outsider: Outsider, dns: Dns, service: str) -> None:
    """Who asks for all sites on purpose, as monitoring does, finds each endpoint, and its node, there and by DNS."""
    pods, name = outsider.pods(service), sites_of(outsider, service)

    def read() -> dict[str, str]:
        items = outsider.get(f"{SLICES}?labelSelector=kubernetes.io/service-name%3D{name}")["items"]
        endpoints = [endpoint for item in items for endpoint in item["endpoints"] if endpoint.get("nodeName")]
        return {endpoint["targetRef"]["name"]: endpoint["addresses"][0] for endpoint in endpoints}

    assert wait_until(lambda: read() == pods)
    assert wait_until(lambda: dns.ask("A", fqdn(name)) == sorted(pods.values()))


@pytest.mark.parametrize("service", SERVICES)
def test_port_forward_to_all_sites(outsider: Outsider, service: str) -> None:
    """``kubectl port-forward`` to that Service gets to one of the pods."""
    with forwarded(outsider.lab, sites_of(outsider, service)) as said:
        url = f"http://127.0.0.1:{said.split()[2].rpartition(':')[2]}/"
        done = subprocess.run(["curl", "-sS", "--noproxy", "*", url], capture_output=True, check=True)
    assert json.loads(done.stdout)["pod"] in outsider.pods(service)
