from __future__ import annotations

import pytest

from sitegrid.agent.reads import DEFAULT, Reads, ReadsError, parse_reads
from sitegrid.agent.request import Body, Request


def _request(target: str, *, client: str = "kube-proxy/v1", method: str = "GET", **headers: str) -> Request:
    request = Request(Body(lambda flow: None))
    request.method, request.target = method, target
    fields = {"user-agent": client, "authorization": "Bearer t", **headers}
    request.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items() if value]
    return request


def _find(reads: Reads, target: str, **settings: str) -> tuple[str, str, str] | None:
    read = reads.find(_request(target, **settings))
    return None if read is None else (read.resource.plural, read.namespace, read.name)


@pytest.mark.parametrize(
    ("target", "client", "found"),
    [
        ("/api/v1/nodes?fieldSelector=metadata.name%3Dn1", "kube-proxy/v1", ("nodes", "", "")),
        ("/api/v1/nodes/n1", "kube-proxy/v1", ("nodes", "", "n1")),
        ("/apis/networking.k8s.io/v1/servicecidrs?watch=true", "kube-proxy/v1", ("servicecidrs", "", "")),
        ("/api/v1/namespaces", "CoreDNS/1.15 (linux)", ("namespaces", "", "")),
        ("/api/v1/namespaces/default", "coredns/1", ("namespaces", "", "default")),
        ("/api/v1/namespaces/default/pods", "coredns/1", ("pods", "default", "")),
        ("/api/v1/namespaces/default/pods/a", "coredns/1", ("pods", "default", "a")),
    ],
)
def test_reads_of_configured_clients_are_found(target: str, client: str, found: tuple[str, str, str]) -> None:
    """LIST, WATCH and GET of the client's resources are recognised."""
    assert _find(parse_reads(DEFAULT), target, client=client) == found


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("/api/v1/namespaces", {}),
        ("/api/v1/nodes", {"client": "curl/8"}),
        ("/api/v1/nodes", {"client": ""}),
        ("/api/v1/nodes", {"method": "POST"}),
        ("/api/v1/nodes", {"authorization": ""}),
        ("/api/v1/nodes", {"impersonate_user": "somebody"}),
        ("/api/v1/nodes", {"content_length": "2"}),
        ("/api/v1/nodes/n1/status", {}),
        ("/api/v1/watch/nodes", {}),
        ("/api/v1/namespaces/default/nodes", {}),
        ("/api/v2/nodes", {}),
        ("/apis/apps/v1/nodes", {}),
        ("/api/v1/nodes/", {}),
        ("//api/v1/nodes", {}),
        ("/api/v1/../v1/nodes", {}),
        ("/api/v1/%6eodes", {}),
        ("/", {}),
        ("*", {}),
    ],
)
def test_everything_else_is_not(target: str, settings: dict[str, str]) -> None:
    """Other clients, methods, resources and spellings are passed through."""
    assert _find(parse_reads(DEFAULT), target, **settings) is None


def test_secrets_are_kept_only_when_switched_on() -> None:
    """The kubelet's preset has none, and no entry can name them."""
    path = "/api/v1/namespaces/default/secrets?watch=true"
    assert _find(parse_reads("kubelet"), path, client="kubelet/v1") is None
    assert _find(parse_reads("kubelet", secrets=True), path, client="kubelet/v1") == ("secrets", "default", "")
    assert _find(parse_reads("kubelet", secrets=True), path, client="kube-proxy/v1") is None
    with pytest.raises(ReadsError, match="secrets"):
        parse_reads("kubelet:secrets")


def test_any_client_can_be_configured() -> None:
    """CLIENT:RESOURCE+RESOURCE adds to the presets; the empty list keeps nothing."""
    reads = parse_reads("coredns, flanneld:nodes+namespaces")
    assert _find(reads, "/api/v1/nodes", client="flanneld/0.1") == ("nodes", "", "")
    assert _find(reads, "/api/v1/namespaces", client="coredns/1") == ("namespaces", "", "")
    assert _find(parse_reads(""), "/api/v1/nodes") is None


@pytest.mark.parametrize("text", ["kube_proxy", "x:unknown", "x:", "kubelet,,y"])
def test_mistakes_are_told(text: str) -> None:
    """An unknown preset or resource is an error that names what there is."""
    with pytest.raises(ReadsError):
        parse_reads(text)
