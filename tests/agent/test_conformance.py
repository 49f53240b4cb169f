"""For what is no grid's, the agent answers as the API server does: the same requests go to both."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlencode

import pytest

from sitegrid.wire.codec import Codec, ItemList
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.protobufcodec import PROTOBUF

pytestmark = pytest.mark.cluster

T = TypeVar("T")

SLICES = "/apis/discovery.k8s.io/v1/namespaces/conformance/endpointslices"
SERVICES = "/api/v1/namespaces/conformance/services"
ENDPOINTS = "/api/v1/namespaces/conformance/endpoints"
PATHS = pytest.mark.parametrize("path", [SLICES, SERVICES, ENDPOINTS])


@pytest.fixture(scope="module", autouse=True)
def scene(cluster: Any) -> None:
    """Put objects that are no grid's into a namespace of their own."""
    cluster.write("POST", "/api/v1/namespaces", {"metadata": {"name": "conformance"}})
    for name, labels in (("a", {"app": "x"}), ("b", {"app": "y", "tier": ""}), ("c", {}), ("d", {"n": "7"})):
        meta = {"name": name, "labels": labels}
        cluster.write("POST", SERVICES, {"metadata": meta, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}})
        cluster.write(
            "POST",
            SLICES,
            {"metadata": meta, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": []},
        )
        cluster.write("POST", ENDPOINTS, {"metadata": meta, "subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]})
    cluster.write(
        "POST", SERVICES, {"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}}
    )


def _ask(
    cluster: Any, agent: str, path: str, accept: str = "application/json"
) -> tuple[tuple[int, Any], tuple[int, Any]]:
    """Return status and body of API server and agent; list resourceVersions are of each one's moment."""

    def ask(base: str | None) -> tuple[int, Any]:
        status, body = cluster.request("GET", path, base=base, accept=accept)
        value = json.loads(body)
        if value["kind"].endswith("List"):
            value["metadata"].pop("resourceVersion")
            value["metadata"].pop("continue", None)
        return status, value

    return _both(ask, agent)


def _both(ask: Callable[[str | None], T], agent: str) -> tuple[T, T]:
    """Ask API server and agent at the same time: a watch of a second takes one, and not two."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, (None, agent))
    return first, second


@PATHS
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"labelSelector": "app"},
        {"labelSelector": "!app"},
        {"labelSelector": "app=x"},
        {"labelSelector": "app != x"},
        {"labelSelector": "app in (x,y),tier"},
        {"labelSelector": "app notin (x)"},
        {"labelSelector": "tier="},
        {"labelSelector": "tier in (,a)"},
        {"labelSelector": "n>5"},
        {"labelSelector": "n < 5"},
        {"labelSelector": " , "},
        {"labelSelector": "a in ()"},
        {"labelSelector": "a b"},
        {"labelSelector": "-a"},
        {"labelSelector": "a=-"},
        {"fieldSelector": "metadata.name=b"},
        {"fieldSelector": "metadata.name!=b,metadata.namespace==conformance"},
        {"fieldSelector": "spec.type=ClusterIP"},
        {"fieldSelector": "spec.clusterIP=None"},
        {"fieldSelector": "no.such=field"},
        {"fieldSelector": "nonsense"},
        {"fieldSelector": "metadata.name=a=b"},
        {"resourceVersion": "0"},
        {"resourceVersion": "0", "limit": "2"},
        {"resourceVersion": "x"},
        {"resourceVersion": "1", "resourceVersionMatch": "Sometimes"},
        {"resourceVersionMatch": "Exact"},
        {"resourceVersion": "0", "resourceVersionMatch": "Exact"},
        {"sendInitialEvents": "true"},
        {"watch": "true", "sendInitialEvents": "true"},
        {"watch": "true", "resourceVersionMatch": "NotOlderThan"},
        {"watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "Exact"},
        {"timeoutSeconds": "x"},
        {"limit": "x"},
        {"limit": "-1"},
        {"limit": "0"},
        {"limit": "+2"},
        {"limit": "2", "labelSelector": "app", "fieldSelector": "metadata.name!=a"},
        {"limit": "2.5"},
        {"limit": "99999999999999999999"},
        {"limit": "9223372036854775807"},
        {"limit": "-9223372036854775808"},
        {"limit": "9223372036854775808"},
        {"limit": ""},
        {"limit": "0x5"},
        {"limit": "\uff11"},
        {"limit": "1" * 5000},
        {"timeoutSeconds": ""},
        {"timeoutSeconds": "9223372036854775807"},
        {"timeout": "x"},
        {"timeout": "5"},
        {"timeout": "-1.5h2us"},
        {"timeout": "0"},
        {"resourceVersion": "18446744073709551616"},
        {"resourceVersion": "00"},
        {"resourceVersion": "0", "resourceVersionMatch": "exact"},
        {"resourceVersionMatch": "x", "sendInitialEvents": "no", "continue": "x"},
        {"watch": "true", "continue": "x"},
        {"continue": "x"},
        {"continue": "x", "resourceVersion": "5"},
        {"continue": "x", "resourceVersion": "5", "resourceVersionMatch": "NotOlderThan"},
        {"resourceVersion": "-1"},
        {"resourceVersion": "+1"},
        {"resourceVersion": "1e3"},
        {"resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"},
        {"resourceVersion": "1", "resourceVersionMatch": "NotOlderThan"},
        {"resourceVersion": "1"},
        {"resourceVersion": "", "resourceVersionMatch": "NotOlderThan"},
        {"watch": "false"},
        {"watch": "0"},
        {"watch": "false", "sendInitialEvents": "false"},
        {"watch": "true", "sendInitialEvents": "false"},
        {"watch": "true", "resourceVersion": "x"},
        {"watch": "true", "timeoutSeconds": "x"},
        {"watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "continue": "x"},
        {"watch": "true", "fieldSelector": "no.such=field"},
        {"allowWatchBookmarks": "true"},
        {"no-such-parameter": "1"},
        {"pretty": "true"},
    ],
    ids=urlencode,
)  # fmt: skip
def test_answers_are_equal(cluster: Any, cluster_agent: str, path: str, query: dict[str, str]) -> None:
    """Status and objects are the API server's; of refusals also reason and code."""
    target = f"{path}?{urlencode(query)}"
    (status, body), (own_status, own_body) = _ask(cluster, cluster_agent, target)
    assert own_status == status, own_body
    if status == 200:
        assert own_body == body
    else:
        assert (own_body.get("reason"), own_body["code"]) == (body.get("reason"), body["code"])


@pytest.mark.parametrize("version", [None, "", "0", "1", "x", "18446744073709551615"])
def test_contradictory_watches_are_refused_in_the_same_words(
    cluster: Any, cluster_agent: str, version: str | None
) -> None:
    """Every combination of a watch's options that the API server refuses gets its Status, word by word."""
    given_events = (None, "true", "false", "")
    pairs = [(match, events) for match in (None, "", "Exact", "x", "NotOlderThan") for events in given_events]
    legal = [(None, None), ("", None), *(("NotOlderThan", events) for events in given_events[1:])]
    for match, events in (pair for pair in pairs if pair not in legal):
        query = {"resourceVersion": version, "resourceVersionMatch": match, "sendInitialEvents": events}
        given = {name: value for name, value in query.items() if value is not None}
        first, second = _ask(cluster, cluster_agent, f"{SLICES}?{urlencode({'watch': '1', **given})}")
        assert second == first
        assert first[0] == 422


LABEL_SELECTORS = (
    "a,", ",a", "a,,b", "a b", "!a=b", "!", "!!a", "a=b=c", "a===b", "a!b", "a in b", "a in (", "a in (b",
    "a in (b c)",
    "a in (=)", "a in (b,=)", "a in (b))", "a in (b)c", "=b", "(a)", " , ", "a in", "a notin", "a>x", "a>", "a<1.5",
    "a>+1", "a>99999999999999999999", "a > 0x5", "-a", "a/", "/a", "A..b/c", "x/y/z", "a&b", "a=-b", "a=*",
    'a="b"', "a=b/c",
    "a\v", "a\a=b", "\x7f", "a>" + "9" * 5000, "a in (\u2028)",
    "a in (b,-,c/)", "a=" + "x" * 64, "a" * 64, "b" * 254 + "/a", "a\u00a0=b", "a=\u00e9", "a<\u00e9",
)  # fmt: skip
FIELD_SELECTORS = (
    "nonsense", "metadata.name", "metadata.name>a", "metadata.name=a=b", "metadata.name=a!=b", "metadata.name=\\x",
    "metadata.name=a\\", "=a", "spec.x=1", " metadata.name=a", "metadata.name =a", "metadata.uid=x", "!metadata.name",
    "d,\\\\", "z=1=2,a", "metadata.namespace!==\\\\,\\,",
)  # fmt: skip


@pytest.mark.parametrize(
    ("parameter", "selector"),
    [("labelSelector", text) for text in LABEL_SELECTORS] + [("fieldSelector", text) for text in FIELD_SELECTORS],
)
def test_illegal_selectors_are_refused_in_the_same_words(
    cluster: Any, cluster_agent: str, parameter: str, selector: str
) -> None:
    """LIST and WATCH by an illegal selector get the API server's Status, word by word."""
    for watch in ({}, {"watch": "true", "timeoutSeconds": "1"}):
        first, second = _ask(cluster, cluster_agent, f"{SLICES}?{urlencode({parameter: selector, **watch})}")
        assert second == first
        assert first[0] == 400


@PATHS
def test_pages_are_equal(cluster: Any, cluster_agent: str, path: str) -> None:
    """A list in pages of two has the same pages and the same remaining counts."""
    pages: list[list[Any]] = []
    for base in (None, cluster_agent):
        found, token = [], ""
        while True:
            query = {"limit": "2", **({"continue": token} if token else {})}
            body = json.loads(cluster.request("GET", f"{path}?{urlencode(query)}", base=base)[1])
            names = [item["metadata"]["name"] for item in body["items"]]
            found.append((names, body["metadata"].get("remainingItemCount")))
            token = body["metadata"].get("continue", "")
            if not token:
                break
        pages.append(found)
    assert pages[0] == pages[1]


@PATHS
def test_protobuf_lists_are_equal(cluster: Any, cluster_agent: str, path: str) -> None:
    """Every item of a protobuf list is the API server's, byte for byte."""
    lists = [
        PROTOBUF.item_list(cluster.request("GET", path, base=base, accept=PROTOBUF.media_type)[1]).items
        for base in (None, cluster_agent)
    ]
    assert [item.raw for item in lists[0]] == [item.raw for item in lists[1]]


@pytest.mark.parametrize(
    "path",
    [f"{path}/{name}" for path in (SLICES, SERVICES, ENDPOINTS) for name in ("a", "none")] + ["/api/v1/nodes"],
)
def test_single_objects_are_equal(cluster: Any, cluster_agent: str, path: str) -> None:
    """GET of one object, or of none, is the API server's answer."""
    first, second = _ask(cluster, cluster_agent, path)
    assert first == second


PROTO = PROTOBUF.media_type


@pytest.mark.parametrize("path", [SLICES, f"{SERVICES}/a"])
@pytest.mark.parametrize(
    "accept",
    [
        "", "*", "*/*", "application/*", "text/*", "*/json", "application/json", "APPLICATION/JSON", "text/html",
        "text/html,*/*;q=0.1", "application/json;q=0", "*/*;q=0", "application/json;q=x", "application/json;q=",
        f"*/*, {PROTO}", f"application/*,{PROTO}", f"{PROTO}, */*", f"*/*;q=1,{PROTO};q=0.1", f"{PROTO};q=0.1,*/*",
        f"application/json;q=0.5,{PROTO};q=0.5", f"application/json;q=0.5,{PROTO}", "application/xml",
        f"text/html,application/json;q=0.9,{PROTO};q=0.95,*/*;q=0.99", "application/json;stream=watch",
        "application/json;stream=x", f"application/json;stream=x,{PROTO}", "application/json;charset=utf-8",
        "application/json; pretty=0", "application/json;profile=x", "application/json;as=", "application/json;sv=x",
        "application/json;", "application/json,,", ",", ";", "application / json", "application/json/x",
        "application", "application/json;as=Nope;g=x;v=y", "application/json;g=meta.k8s.io", "application/json;v=v1",
        "application/json;as=Table;as=", "application/json;a=b=c", "application/json;as=Nope=x",
        "application/apply-patch+yaml", f"application/json;as=Nope;g=x;v=y,{PROTO};q=0.1",
    ],
)  # fmt: skip
def test_representations_are_chosen_alike(cluster: Any, cluster_agent: str, path: str, accept: str) -> None:
    """Whatever a client accepts: status and media type are the API server's, where the agent has that type."""
    answers = []
    for base in (None, cluster_agent):
        status, body = cluster.request("GET", path, base=base, accept=accept)
        answers.append((status, body[:4] == b"k8s\0"))
    assert answers[1] == answers[0]


@pytest.mark.parametrize(
    "accept", ["application/cbor", "application/yaml", "application/json;as=Table;g=meta.k8s.io;v=v1", "text/html"]
)
def test_other_representations_are_not_acceptable(cluster: Any, cluster_agent: str, accept: str) -> None:
    """What cannot be filtered exactly is 406."""
    assert cluster.request("GET", SLICES, base=cluster_agent, accept=accept)[0] == 406


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", [SLICES, f"{SLICES}/a", SERVICES, f"{SERVICES}/a", ENDPOINTS, f"{ENDPOINTS}/a"])
def test_other_methods_are_not_allowed(cluster: Any, cluster_agent: str, method: str, path: str) -> None:
    """Neither lists nor objects have them."""
    statuses = [cluster.request(method, path, base=base)[0] for base in (None, cluster_agent)]
    assert statuses == [405, 405]


@pytest.mark.parametrize(
    "path",
    [
        f"{SLICES}/",
        f"{SERVICES}/",
        f"{ENDPOINTS}/a/",
        f"{SLICES}/a/status",
        f"{SLICES}/a/b",
        f"{ENDPOINTS}/a/status",
        f"{SERVICES}/a/status",
        f"{SERVICES}/a/b",
        "/api/v1/services/a",
        "/api/v2/services",
        "/apis/discovery.k8s.io/v1beta1/endpointslices",
        "/apis/discovery.k8s.io/v2/endpointslices",
        "/apis/discovery.k8s.io/v1/namespaces/none/endpointslices",
        "/api/v1/namespaces/none/services",
        "/apis/discovery.k8s.io/v1",
        "/api/v1",
        "/version",
    ],
)
def test_odd_paths_lead_to_the_same(cluster: Any, cluster_agent: str, path: str) -> None:
    """Slashes at the end, subresources, versions and namespaces that there are not, and discovery."""
    answers = []
    for base in (None, cluster_agent):
        status, body = cluster.request("GET", path, base=base)
        value = json.loads(body)
        if value.get("kind", "").endswith("List") and "items" in value:
            value["metadata"].pop("resourceVersion")
        if value.get("kind") == "Status":
            value.pop("details", None)
        answers.append((status, value))
    assert answers[1] == answers[0]


def _events(
    cluster: Any, base: str | None, path: str, query: dict[str, str], accept: str = "application/json"
) -> bytes:
    """Return what a watch of one second answers."""
    target = f"{path}?{urlencode({'watch': 'true', 'timeoutSeconds': '1', **query})}"
    status, body = cluster.request("GET", target, base=base, accept=accept)
    assert status == 200, body
    return bytes(body)


@PATHS
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"resourceVersion": "0"},
        {"allowWatchBookmarks": "true"},
        {"resourceVersion": "0", "allowWatchBookmarks": "true"},
        {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"},
        {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"},
    ],
    ids=urlencode,
)  # fmt: skip
def test_watches_begin_alike(cluster: Any, cluster_agent: str, path: str, query: dict[str, str]) -> None:
    """Initial events, their bookmark, and the refusal of lost history are the API server's."""

    def told(base: str | None) -> list[Any]:
        events = [json.loads(line) for line in _events(cluster, base, path, query).splitlines()]
        for event in events:
            if event["type"] == "BOOKMARK":
                event["object"]["metadata"].pop("resourceVersion")
            if event["type"] == "ERROR":
                event["object"].pop("message")
        return sorted(events, key=json.dumps)

    first, second = _both(told, cluster_agent)
    assert second == first


def test_protobuf_initial_events_are_equal(cluster: Any, cluster_agent: str) -> None:
    """The frames of a streaming list are the API server's byte for byte, but for the bookmark's resourceVersion."""
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}

    def frames(base: str | None) -> list[bytes]:
        return list(PROTOBUF.frames().feed(_events(cluster, base, SLICES, query, PROTOBUF.stream_media_type)))

    first, second = _both(frames, cluster_agent)
    assert sorted(second[:-1]) == sorted(first[:-1])
    assert PROTOBUF.change(second[-1]).initial_events_end


@pytest.mark.parametrize("codec", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_resumed_watches_tell_the_same(cluster: Any, cluster_agent: str, codec: Codec, poll: Any) -> None:
    """From a list on, and from each event on, both tell of the same creation, change and deletion, in order."""

    def listed(base: str | None = cluster_agent) -> ItemList:
        return codec.item_list(cluster.request("GET", SLICES, base=base, accept=codec.media_type)[1])

    lists = {base: listed(base).rv for base in (None, cluster_agent)}
    body = {"metadata": {"name": "moving", "labels": {"v": "1"}}, "addressType": "IPv4", "endpoints": [], "ports": []}
    created = cluster.write("POST", SLICES, body)
    created["metadata"]["labels"]["v"] = "2"
    cluster.write("PUT", f"{SLICES}/moving", created)
    poll(lambda: any(item.key.endswith("/moving") for item in listed().items))
    cluster.write("DELETE", f"{SLICES}/moving")
    poll(lambda: all(not item.key.endswith("/moving") for item in listed().items))

    def told(base: str | None, rv: int) -> list[tuple[str, int, bytes]]:
        answer = _events(cluster, base, SLICES, {"resourceVersion": str(rv)}, codec.stream_media_type)
        changes = [codec.change(frame) for frame in codec.frames().feed(answer)]
        return [(change.type, change.rv, change.item.raw if change.item else b"") for change in changes]

    events = told(None, lists[None])
    assert [event[0] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert told(cluster_agent, lists[cluster_agent]) == events
    for index, (_, rv, _) in enumerate(events):
        assert told(cluster_agent, rv) == events[index + 1 :]


@pytest.mark.parametrize("codec", [JSON, PROTOBUF], ids=["json", "protobuf"])
@pytest.mark.parametrize(
    ("plural", "selection"),
    [
        ("/apis/discovery.k8s.io/v1/{}endpointslices", {"labelSelector": "!out,v notin (0)"}),
        ("/api/v1/{}services", {"labelSelector": "!out", "fieldSelector": "spec.clusterIP!=None"}),
    ],
    ids=["slices", "services"],
)
def test_entering_and_leaving_a_selection_is_told_the_same(
    cluster: Any, cluster_agent: str, codec: Codec, plural: str, selection: dict[str, str], poll: Any
) -> None:
    """What the agent selects by itself comes, changes and goes as the API server tells it, byte for byte."""
    everywhere, path = plural.format(""), plural.format("namespaces/default/")
    target = f"{everywhere}?{urlencode(selection)}"

    def listed(base: str | None = cluster_agent) -> ItemList:
        return codec.item_list(cluster.request("GET", target, base=base, accept=codec.media_type)[1])

    def known(base: str | None) -> list[bytes]:
        # Other tests' namespaces may have grids.
        return [item.raw for item in listed(base).items if item.key.startswith("default/")]

    poll(lambda: known(None) == known(cluster_agent))
    lists = {base: listed(base).rv for base in (None, cluster_agent)}
    body: dict[str, Any] = {"metadata": {"name": "leaving", "labels": {"out": ""}}}
    if "services" in plural:
        body["spec"] = {"ports": [{"port": 80}]}
    else:
        body |= {"addressType": "IPv4", "endpoints": [], "ports": []}
    current = cluster.write("POST", path, body)
    for labels in ({"v": "1"}, {"v": "2"}, {"out": "", "v": "3"}, {"v": "4"}):
        current["metadata"]["labels"] = labels
        current = cluster.write("PUT", f"{path}/leaving", current)
    poll(lambda: any(item.rv == int(current["metadata"]["resourceVersion"]) for item in listed().items))
    cluster.write("DELETE", f"{path}/leaving")
    poll(lambda: all(not item.key.endswith("/leaving") for item in listed().items))

    def told(base: str | None) -> list[tuple[str, int, bytes]]:
        query = {"resourceVersion": str(lists[base]), **selection}
        answer = _events(cluster, base, everywhere, query, codec.stream_media_type)
        changes = [codec.change(frame) for frame in codec.frames().feed(answer)]
        items = [(change.type, change.item) for change in changes if change.item is not None]
        return [(kind, item.rv, item.raw) for kind, item in items if item.key == "default/leaving"]

    events = told(None)
    assert [event[0] for event in events] == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
    assert told(cluster_agent) == events


def test_lost_history_is_told_as_the_api_server_tells_it(cluster: Any, cluster_agent: str) -> None:
    """A resourceVersion that the agent does not know is 200 and an ERROR event with 410 Expired."""
    (line,) = _events(cluster, cluster_agent, SLICES, {"resourceVersion": "1"}).splitlines()
    event = json.loads(line)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_a_resource_version_from_the_future_is_too_large(cluster: Any, cluster_agent: str) -> None:
    """A LIST not older than what does not exist yet is 504 with the cause that client-go looks for."""
    target = f"{SLICES}?resourceVersion=999999999&resourceVersionMatch=NotOlderThan"
    first, second = _ask(cluster, cluster_agent, target)
    assert second[0] == first[0] == 504
    assert second[1]["details"]["causes"] == first[1]["details"]["causes"]


def test_a_streaming_list_from_the_future_ends_with_the_same_error(cluster: Any, cluster_agent: str) -> None:
    """Initial events not older than what does not exist yet: 200, then an ERROR event with 504."""
    query = {"resourceVersion": "999999999", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}

    def told(base: str | None) -> Any:
        (event,) = (json.loads(line) for line in _events(cluster, base, SLICES, query).splitlines())
        assert event["object"].pop("message").startswith("Timeout: Too large resource version: 999999999, current: ")
        return event

    first, second = _both(told, cluster_agent)
    assert second == first


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/watch/namespaces/conformance/services",
        "/api/v1/watch/namespaces/conformance/services/a",
        "/api/v1/watch/namespaces/conformance/endpoints",
        "/api/v1/watch/namespaces/conformance/endpoints/a",
        "/apis/discovery.k8s.io/v1/watch/namespaces/conformance/endpointslices",
        "/apis/discovery.k8s.io/v1/watch/namespaces/conformance/endpointslices/a",
    ],
)
def test_deprecated_watch_paths_work(cluster: Any, cluster_agent: str, path: str) -> None:
    """/watch/ paths tell what the API server tells there."""

    def told(base: str | None) -> list[str]:
        lines = _events(cluster, base, path, {}).splitlines()
        return sorted(json.dumps(json.loads(line), sort_keys=True) for line in lines)

    first, second = _both(told, cluster_agent)
    assert second == first
