from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.agent.gate import Kind, decide
from sitegrid.wire.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES

COLLECTION = "/apis/discovery.k8s.io/v1"
GUARDED = [
    f"{COLLECTION}/endpointslices",
    f"{COLLECTION}/namespaces/a/endpointslices",
    f"{COLLECTION}/namespaces/a/endpointslices/b",
    f"{COLLECTION}/watch/endpointslices",
    f"{COLLECTION}/watch/namespaces/a/endpointslices/b",
    "/api/v1/endpoints",
    "/api/v1/namespaces/a/endpoints",
    "/api/v1/namespaces/a/endpoints/b",
    "/api/v1/watch/endpoints",
]
EVERYWHERE = [
    f"{COLLECTION}/namespaces//endpointslices",
    f"{COLLECTION}/watch/namespaces//endpointslices",
    f"{COLLECTION}/namespaces//endpointslices/b",
    "/api/v1/namespaces//endpoints",
    "/api/v1/watch/namespaces//endpoints/",
    "/api/v1/namespaces//services",
]
"""An empty namespace is all of them to the API server."""


@pytest.mark.parametrize(
    ("path", "kind", "namespace", "name", "watch"),
    [
        (f"{COLLECTION}/endpointslices", Kind.VIEW, "", "", False),
        (f"{COLLECTION}/namespaces/a/endpointslices", Kind.VIEW, "a", "", False),
        (f"{COLLECTION}/watch/endpointslices", Kind.VIEW, "", "", True),
        (f"{COLLECTION}/watch/namespaces/a/endpointslices", Kind.VIEW, "a", "", True),
        (f"{COLLECTION}/watch/namespaces/a/endpointslices/b", Kind.VIEW, "a", "b", True),
        (f"{COLLECTION}/namespaces/a/endpointslices/b", Kind.OBJECT, "a", "b", False),
    ],
)
def test_slices_are_routed(path: str, kind: Kind, namespace: str, name: str, watch: bool) -> None:
    """Every reading path of EndpointSlices leads to the handler that filters it."""
    assert decide("GET", path + "?limit=1")[:5] == (kind, ENDPOINTSLICES, namespace, name, watch)


def test_services_are_routed() -> None:
    """Services are read from a view, single ones are looked at, and the rest is passed through."""
    assert decide("GET", "/api/v1/services")[:2] == (Kind.VIEW, SERVICES)
    assert decide("GET", "/api/v1/services/")[:2] == (Kind.VIEW, SERVICES)
    assert decide("GET", "/api/v1/namespaces/a/services/b")[:2] == (Kind.OBJECT, SERVICES)
    assert decide("POST", "/api/v1/namespaces/a/services").kind is Kind.PASS
    route = decide("GET", "/api/v1/namespaces/a/services/b/other")
    assert (route.kind, route.status) == (Kind.REFUSED, 404)


@pytest.mark.parametrize("subresource", ["", "/status"])
@pytest.mark.parametrize(("method", "status"), [("PUT", 405), ("PATCH", 0), ("DELETE", 0)])
def test_writes_of_services_are_looked_at(method: str, status: int, subresource: str) -> None:
    """What shows or changes a Service is not passed through before it is known whose it is."""
    route = decide(method, f"/api/v1/namespaces/a/services/b{subresource}")
    assert (*route[:4], route.status) == (Kind.SERVICE, SERVICES, "a", "b", status)


def test_the_deletion_of_all_services_is_looked_at() -> None:
    """The answer would show them."""
    route = decide("DELETE", "/api/v1/namespaces/a/services")
    assert (*route[:4], route.status) == (Kind.SERVICE, SERVICES, "a", "", 405)


def test_a_status_is_the_whole_service() -> None:
    """GET of the subresource is looked at as that of the Service is."""
    assert decide("GET", "/api/v1/namespaces/a/services/b/status")[:4] == (Kind.OBJECT, SERVICES, "a", "b")


@pytest.mark.parametrize("name", ["b", "b:80", "https:b:443", "http:b:", "b:"])
@pytest.mark.parametrize("rest", ["", "/", "/x", "/status", "/a%20b//c", "/a;b", "/%3f"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "BREW"])
def test_connections_to_services_are_looked_at(method: str, name: str, rest: str) -> None:
    """Whatever is asked of the pod behind: the API server chooses it among all sites'."""
    route = decide(method, f"/api/v1/namespaces/a/services/{name}/proxy{rest}")
    assert (*route[:4], route.status) == (Kind.SERVICE, SERVICES, "a", "b", 405)


@pytest.mark.parametrize("rest", ["/..", "/../../c/proxy", "/%2e%2e/status", "%2f..", "/../../../../../endpoints"])
def test_a_connection_to_a_service_does_not_hide_another_path(rest: str) -> None:
    """What might be taken for another resource is not the pod's affair."""
    assert decide("GET", f"/api/v1/namespaces/a/services/b/proxy{rest}").kind is Kind.REFUSED


def test_endpoints_are_routed() -> None:
    """core/v1 Endpoints are read from a view, single ones are looked at."""
    assert decide("GET", "/api/v1/endpoints")[:2] == (Kind.VIEW, ENDPOINTS)
    assert decide("GET", "/api/v1/watch/namespaces/a/endpoints")[:3] == (Kind.VIEW, ENDPOINTS, "a")
    assert decide("GET", "/api/v1/namespaces/a/endpoints/b")[:4] == (Kind.OBJECT, ENDPOINTS, "a", "b")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "get", "BREW"])
@pytest.mark.parametrize("path", GUARDED)
def test_guarded_resources_are_read_only(method: str, path: str) -> None:
    """No other method shows what it did to endpoints."""
    route = decide(method, path)
    assert (route.kind, route.status) == (Kind.REFUSED, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/apis/discovery.k8s.io/v1beta1/endpointslices",
        "/apis/discovery.k8s.io/v2/endpointslices",
        "/api/v2/endpoints",
        f"{COLLECTION}/namespaces/a/endpointslices/b/status",
        f"{COLLECTION}/endpointslices/b",
    ],
)
def test_what_does_not_exist_is_not_found(path: str) -> None:
    """Versions, subresources and spellings that Kubernetes does not have are 404 here."""
    route = decide("GET", path)
    assert (route.kind, route.status) == (Kind.REFUSED, 404)


@pytest.mark.parametrize(
    "path",
    ["/api", "/apis/discovery.k8s.io/v1", "/api/v1/nodes", "/apis/apps/v1/deployments", "/version", "/openapi/v3",
     "/api/v1/namespaces/endpoints", "/apis/x.io/v1/endpointslices", "/api/v1/namespaces/a/pods/endpoints/log",
     "/api/v1/namespaces/services/pods", "/", "/api/v1/namespaces/a/pods/b/proxy/a%20b//c"],
)  # fmt: skip
def test_all_else_is_passed_through(path: str) -> None:
    """Names that look guarded in another place do not make a request special."""
    assert decide("GET", path).kind is Kind.PASS


@pytest.mark.parametrize("target", ["http://x/api/v1/endpoints", "*", "", "api/v1/endpoints", "/api/v1/nodes#x"])
def test_a_target_that_is_no_path_is_refused(target: str) -> None:
    """Absolute and other request targets are 400."""
    assert (decide("GET", target).kind, decide("GET", target).status) == (Kind.REFUSED, 400)


@st.composite
def _spellings(draw: st.DrawFn) -> str:
    """Return a guarded path, spelled differently: escapes (also twice), empty and dot segments."""
    path = draw(st.sampled_from([*GUARDED, *EVERYWHERE]))
    out = ""
    for character in path:
        how = draw(st.sampled_from(["", "", "", "", "escape", "twice", "extra"]))
        if how == "escape":
            out += f"%{ord(character):02x}"
        elif how == "twice":
            out += f"%25{ord(character):02X}"
        elif how == "extra" and character == "/":
            out += draw(
                st.sampled_from(["//", "/./", "/x/../", "/%2e/", "/x/%2E%2e/", "/%2f", ";x/", ";/", "%3bx=1/"])
            )
        else:
            out += character
    return out + draw(st.sampled_from(["", "/", "/.", ";x=1", "?watch=true"]))


@pytest.mark.parametrize("path", EVERYWHERE)
@pytest.mark.parametrize("slash", ["//", "%2f/", "/%2f", "%2f%2F", "%252f/", "/\\"])
def test_an_empty_namespace_is_no_way_around(path: str, slash: str) -> None:
    """What the API server takes for all namespaces is not passed through, however the slashes are written."""
    assert decide("GET", path.replace("//", slash)).kind is Kind.REFUSED


@given(_spellings())
def test_no_spelling_gets_around_the_gate(target: str) -> None:
    """However a guarded path is spelled, it is filtered or refused, never passed through (I1)."""
    route = decide("GET", target if target.startswith("/") else "/" + target.lstrip("/"))
    assert route.kind is not Kind.PASS


@given(st.text(alphabet="abcdefghij.-", min_size=1, max_size=10))
def test_names_are_taken_as_they_are(name: str) -> None:
    """A plain object name is not mistaken for anything else."""
    if name not in (".", ".."):
        assert decide("GET", f"/api/v1/namespaces/a/services/{quote(name)}")[:4] == (Kind.OBJECT, SERVICES, "a", name)


def test_own_pages_do_not_shadow_the_api() -> None:
    """Only paths under /sitegrid/ are the agent's own."""
    assert decide("GET", "/sitegrid/readyz").kind is Kind.OWN
    assert decide("GET", "/readyz").kind is Kind.PASS
    assert decide("GET", "/sitegridx").kind is Kind.PASS
