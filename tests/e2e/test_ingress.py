"""A real ingress controller: straight at the API server it finds no endpoint of a grid, at an agent its own unit's.

Traefik runs in a node's own network, as ``hostNetwork`` has it, with an account of its own. It sends requests to
endpoints, past kube-proxy's rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sitegrid.lab.addresses import AGENT_URL, API_SERVER_URL
from sitegrid.lab.clients import Clients, Target, wait_until
from sitegrid.lab.lab import Lab
from sitegrid.lab.matrix import Matrix
from sitegrid.lab.pki import write_kubeconfig, write_private
from tests.support.faultsite import metrics
from tests.support.inlab import running_in

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NODE, SITE, PORT = "node12", "NodeUnit1", 8000
OPTIONS = (
    *("--providers.kubernetesingress", "--providers.kubernetesingress.ingressclass=traefik"),
    *(f"--entrypoints.web.address=:{PORT}", "--log.level=INFO"),
    *("--global.checknewversion=false", "--global.sendanonymoususage=false"),
)
POD_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod has the files of its ServiceAccount."""
OBJECTS = """
apiVersion: v1
kind: Namespace
metadata: {name: ingress}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: traefik, namespace: ingress}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: traefik}
rules:
- {apiGroups: [""], resources: [services, secrets, nodes], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses, ingressclasses], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses/status], verbs: [update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: traefik}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: traefik}
subjects: [{kind: ServiceAccount, name: traefik, namespace: ingress}]
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: traefik}
spec: {controller: traefik.io/ingress-controller}
---
apiVersion: v1
kind: Service
metadata: {name: everywhere}
spec: {selector: {appGrid: nginx}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: entry}
spec:
  ingressClassName: traefik
  rules:
  - http:
      paths:
      - {path: /grid, pathType: Prefix, backend: {service: {name: servicegrid-demo-svc, port: {number: 80}}}}
      - {path: /plain, pathType: Prefix, backend: {service: {name: everywhere, port: {number: 80}}}}
"""


class Entry:
    """The node's entry from outside, and clients that use it."""

    def __init__(self, lab: Lab, clients: Clients, program: Path) -> None:
        self.lab = lab
        self.clients = clients
        self._program = program

    @contextmanager
    def running(self, server: str, *, in_cluster: bool = False) -> Iterator[None]:
        """Run the controller while the block lasts, not waiting for it.

        It finds the `server` in a kubeconfig, or as a pod does, by its environment and the files of its account.
        """
        account, program = self.lab.layout.node(NODE) / "traefik", [str(self._program), *OPTIONS]
        token = self.lab.kubectl("create", "token", "traefik", "--namespace=ingress").stdout.strip()
        authority = (self.lab.layout.pki / "ca.crt").read_bytes()
        if in_cluster:
            write_private(account / "token", token.encode())
            write_private(account / "ca.crt", authority)
            _, _, host_port = server.rpartition("/")
            host, _, port = host_port.partition(":")
            environment = [f"KUBERNETES_SERVICE_HOST={host}", f"KUBERNETES_SERVICE_PORT={port}"]
            mount = f'mkdir -p {POD_ACCOUNT}; mount --bind "$0" {POD_ACCOUNT}; exec "$@"'
            argv = ["unshare", "--mount", "sh", "-ec", mount, str(account), "env", *environment, *program]
        else:
            write_kubeconfig(account / "kubeconfig", server=server, user={"token": token}, ca=authority)
            argv = ["env", f"KUBECONFIG={account / 'kubeconfig'}", *program]
        with running_in(self.lab, NODE, argv, self.lab.layout.logs / "traefik.log"):
            yield

    def way(self, path: str) -> Target:
        """Return a client's way to one of the Ingress's paths."""
        return NODE, f"{self.clients.node_url(NODE, PORT)}{path}"

    def measure(self, path: str, requests: int) -> Matrix:
        """Count who answers."""
        return self.clients.measure([self.way(path)], self.clients.members("zone"), requests)

    def losses(self) -> set[str]:
        """Return why a few requests to the grid's Service are not answered."""
        return {reason for _, reason in self.measure("grid", 3).losses}

    def pods(self) -> set[str]:
        """Return the pods that answer for the grid's Service; all of them, as Traefik takes them in turn."""
        return set(self.clients.ask(self.way("grid"), 12)["answers"])

    def scale(self, replicas: int | None) -> None:
        """Have that many pods in the site, the grid's own number where it is None."""
        overrides = [{"units": {"names": [SITE]}, "replicas": replicas}] if replicas is not None else None
        patch = json.dumps({"spec": {"overrides": overrides}})
        self.lab.kubectl("patch", "dg", "deploymentgrid-demo", "--type=merge", "-p", patch)


@pytest.fixture(scope="module")
def entry(lab: Lab, walkthrough: Clients, traefik: Path) -> Iterator[Entry]:
    """Make what a user makes for an ingress controller, and an Ingress of a grid's Service and of a plain one."""
    lab.kubectl("apply", "-f", "-", input=OBJECTS)
    yield Entry(lab, walkthrough, traefik)
    lab.kubectl("delete", "--wait=false", "-f", "-", input=OBJECTS)


def test_straight_at_the_api_server_it_has_no_endpoint(entry: Entry) -> None:
    """The plain Service is answered by all sites, the grid's, in the same Ingress, by nobody."""
    with entry.running(API_SERVER_URL):
        entry.clients.until_answered([entry.way("plain")])
        assert wait_until(lambda: entry.measure("plain", 12).misplaced > 0)
        matrix = entry.measure("grid", 20)
    assert matrix.lost == matrix.requests, "\n" + matrix.render()
    assert {reason for _, reason in matrix.losses} == {"answer: http 404"}, matrix.losses


@pytest.mark.parametrize("in_cluster", [False, True], ids=["by kubeconfig", "as a pod"])
def test_at_the_agent_it_has_its_own_sites_endpoints(entry: Entry, in_cluster: bool) -> None:
    """No request to the grid's Service leaves the site; its pods are followed as they come and go."""
    with entry.running(AGENT_URL, in_cluster=in_cluster):
        entry.clients.until_answered([entry.way("plain"), entry.way("grid")])
        assert wait_until(lambda: entry.measure("plain", 12).misplaced > 0)
        matrix = entry.measure("grid", 200)
        assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()
        entry.scale(3)
        try:
            assert wait_until(lambda: len(entry.pods()) == 3)
        finally:
            entry.scale(None)
        assert wait_until(lambda: len(entry.pods()) == 2)


def test_it_goes_on_while_the_wan_is_cut(entry: Entry) -> None:
    """Without its API server, and with an agent that starts again from its disk, it loses no request."""
    with entry.running(AGENT_URL):
        entry.clients.until_answered([entry.way("grid")])
        assert wait_until(lambda: metrics(entry.lab, NODE).get("snapshots_unwritten") == 0)
        members = entry.clients.members("zone")
        with entry.clients.sending([entry.way("grid")], members) as seen:
            entry.lab.cut_wan(f"zone={SITE}")
            try:
                assert wait_until(lambda: metrics(entry.lab, NODE).get("wan_down") == 1)
                entry.lab.process(f"agent@{NODE}", "kill")
                assert wait_until(lambda: metrics(entry.lab, NODE).get("wan_down") == 1)
                assert entry.measure("grid", 200).lost == 0
            finally:
                entry.lab.restore_wan(f"zone={SITE}")
            assert wait_until(lambda: metrics(entry.lab, NODE).get("wan_down") == 0)
        matrix = seen[entry.way("grid")]
        assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()
        assert matrix.requests >= 200


def test_one_that_starts_without_a_wan_serves_once_it_is_back(entry: Entry) -> None:
    """The agent keeps no Ingresses: until the API server has told of them, the controller knows no path."""
    entry.lab.cut_wan(f"zone={SITE}")
    try:
        assert wait_until(lambda: metrics(entry.lab, NODE).get("wan_down") == 1)
        with entry.running(AGENT_URL):
            assert wait_until(lambda: entry.losses() == {"answer: http 404"})
            entry.lab.restore_wan(f"zone={SITE}")
            entry.clients.until_answered([entry.way("grid")])
            assert entry.measure("grid", 50).misplaced == 0
    finally:
        entry.lab.restore_wan(f"zone={SITE}")
