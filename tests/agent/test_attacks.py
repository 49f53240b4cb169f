"""Ways around the gate, tried on a real API server: what a client on a node might use to see or reach other sites."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sitegrid.wire.labels import GRID_UNIQ_KEY, SERVICE_PROXY_NAME, SITEGRID

pytestmark = pytest.mark.cluster

NAMESPACE = "attacks"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(autouse=True, scope="module")
def scene(cluster: Any) -> Iterator[None]:
    """A grid's Service for this node's key, one of another key, and one of no grid."""
    cluster.write("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for name, key in (("here", "zone"), ("elsewhere", "rack"), ("plain", "")):
        labels = {GRID_UNIQ_KEY: key, SERVICE_PROXY_NAME: SITEGRID} if key else {}
        spec = {"ports": [{"port": 80}], "selector": {"a": name}}
        cluster.write("POST", SERVICES, {"metadata": {"name": name, "labels": labels}, "spec": spec})
    yield
    for name in ("here", "elsewhere", "plain"):
        cluster.write("DELETE", f"{SERVICES}/{name}")


def _ask(cluster: Any, agent: str | None, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    status, answer = cluster.request(method, path, body, base=agent, headers=MERGE if body is not None else None)
    return status, json.loads(answer)


def test_a_status_shows_what_the_service_shows(cluster: Any, cluster_agent: str) -> None:
    """GET of the subresource is rewritten as the Service is, and does not exist where that does not."""
    _, service = _ask(cluster, cluster_agent, "GET", f"{SERVICES}/here")
    assert _ask(cluster, cluster_agent, "GET", f"{SERVICES}/here/status") == (200, service)
    assert SERVICE_PROXY_NAME not in service["metadata"]["labels"]
    status, body = _ask(cluster, cluster_agent, "GET", f"{SERVICES}/elsewhere/status")
    assert (status, body["reason"]) == (404, "NotFound")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "elsewhere?dryRun=All"),
        ("PATCH", "elsewhere/status?dryRun=All"),
        ("PUT", "elsewhere?dryRun=All"),
        ("DELETE", "elsewhere?dryRun=All"),
        ("GET", "elsewhere/proxy"),
    ],
)
def test_what_is_not_shown_does_not_exist_for_any_method(
    cluster: Any, cluster_agent: str, method: str, path: str
) -> None:
    """No answer shows a grid's Service on a node that is in no unit of its key, whatever the client may do."""
    status, body = _ask(cluster, cluster_agent, method, f"{SERVICES}/{path}", None if method == "GET" else {})
    assert (status, body["message"]) == (404, 'services "elsewhere" not found')


@pytest.mark.parametrize("name", ["here", "here:80", "http:here:80"])
def test_the_api_server_connects_to_no_grids_service(cluster: Any, cluster_agent: str, name: str) -> None:
    """It would take an endpoint of any site."""
    status, body = _ask(cluster, cluster_agent, "GET", f"{SERVICES}/{name}/proxy/x%20y")
    assert (status, body["reason"]) == (405, "MethodNotAllowed")
    assert "any site's endpoint" in body["message"]


@pytest.mark.parametrize("path", ["plain/proxy/x%20y//z", "plain:80/proxy/", "none/proxy/a/../b", "a:b:c:d/proxy"])
def test_other_services_are_connected_to(cluster: Any, cluster_agent: str, path: str) -> None:
    """What is no grid's is the API server's affair, whatever the path behind it is."""
    answers = [_ask(cluster, base, "GET", f"{SERVICES}/{path}") for base in (None, cluster_agent)]
    assert answers[1] == answers[0]


def test_a_grids_services_are_not_deleted_with_all_others(cluster: Any, cluster_agent: str) -> None:
    """The answer of a deletion of a collection is what was deleted; without a grid's it is passed through."""
    status, body = _ask(cluster, cluster_agent, "DELETE", f"{SERVICES}?dryRun=All")
    assert (status, body["reason"]) == (405, "MethodNotAllowed")
    path = "/api/v1/namespaces/kube-public/services?dryRun=All"
    answers = [_ask(cluster, base, "DELETE", path) for base in (None, cluster_agent)]
    assert answers[1][0] == answers[0][0] == 200


def test_who_may_list_and_not_watch_is_listed_to(cluster: Any, cluster_agent: str, poll: Any) -> None:
    """What is kept is watched; a credential that may not do that gets the API server's answer to its own request."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rules = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
    cluster.write("POST", f"{rbac}/clusterroles", {"metadata": {"name": "list-only"}, "rules": rules})
    binding = {
        "metadata": {"name": "list-only"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "list-only"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}],
    }
    agent = {"User-Agent": "kube-proxy/v1"}

    def ask(base: str | None, query: str = "") -> tuple[int, Any]:
        path = f"/api/v1/nodes{query}"
        status, body = cluster.request("GET", path, base=base, token="reader-token", headers=agent)
        return status, json.loads(body).get("message")

    assert ask(cluster_agent) == ask(None)
    cluster.write("POST", f"{rbac}/clusterrolebindings", binding)
    poll(lambda: ask(None)[0] == 200)
    assert ask(cluster_agent)[0] == 200
    assert ask(cluster_agent, "?watch=1") == ask(None, "?watch=1")
    cluster.write("DELETE", f"{rbac}/clusterrolebindings/list-only")
    cluster.write("DELETE", f"{rbac}/clusterroles/list-only")
