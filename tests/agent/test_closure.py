"""Invariant I1, looked at from outside: no byte that a client gets names an endpoint of a foreign unit.

Foreign addresses begin with 10.66.; every test ends with the oracle that none of them was ever received.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import pytest

from sitegrid.wire.labels import label_value

SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


@pytest.fixture(autouse=True)
async def oracle(site: Any, api: Any, objects: Any) -> AsyncIterator[None]:
    """Set the scene, and look at every byte that clients received."""
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    api.put(objects.slices, objects.unit("zone.u2", "10.66.0.1"))
    api.put(objects.slices, objects.raw("web-abc", "10.66.0.2"))
    api.put(objects.slices, objects.plain("plain", "10.9.0.1"))
    yield
    assert b"10.66." not in site.received


async def test_a_list_shows_the_own_unit_and_what_is_no_grids(site: Any, objects: Any) -> None:
    """Own unit slice and ordinary slice, nothing else."""
    assert await site.names(objects.slices) == ["plain", "web-zone.u1"]


async def test_a_unit_slice_belongs_to_its_service_again(site: Any, objects: Any) -> None:
    """A client selects the slice by its Service's name, as it would at the API server."""
    selector = "kubernetes.io/service-name=web,!service.kubernetes.io/headless"
    assert await site.names(objects.slices, labelSelector=selector) == ["web-zone.u1"]


@pytest.mark.parametrize("label", ["tkeedge.io/unit", "tkeedge.io/service-name", "tkeedge.io/grid-uniq-key"])
async def test_nothing_can_be_selected_by_what_was_taken_off(site: Any, objects: Any, label: str) -> None:
    """A client that asks for the controller's own labels sees nothing."""
    assert await site.names(objects.slices, labelSelector=label) == []


async def test_a_watch_shows_the_own_unit_only(site: Any, api: Any, objects: Any) -> None:
    """Changes of foreign units, and of the slices that hold all units, are not heard of."""
    _, watch = await site.list_and_watch(objects.slices)
    api.put(objects.slices, objects.unit("zone.u2", "10.66.0.3"))
    api.put(objects.slices, objects.raw("web-abc", "10.66.0.4"))
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2"))
    assert await watch.summary(1) == [("MODIFIED", "web-zone.u1")]


async def test_a_relabelled_node_changes_units(site: Any, api: Any, objects: Any) -> None:
    """The old unit's slices go, the new one's come, and what is no grid's is not touched."""
    _, watch = await site.list_and_watch(objects.slices)
    api.put(objects.slices, objects.unit("zone.u3", "10.3.0.1"))
    api.put(objects.nodes, objects.node("n1", zone="u3", host="n1"))
    assert await watch.summary(2) == [("DELETED", "web-zone.u1"), ("ADDED", "web-zone.u3")]
    assert await site.names(objects.slices) == ["plain", "web-zone.u3"]


async def test_a_deleted_unit_slice_carries_no_endpoint(site: Any, api: Any, objects: Any) -> None:
    """What left the view is deleted by name; its addresses may be another unit's by now."""
    _, watch = await site.list_and_watch(objects.slices)
    api.put(objects.nodes, objects.node("n1", zone="u9"))
    event = await watch.next()
    assert (event["type"], event["object"]["endpoints"]) == ("DELETED", None)


async def test_a_second_label_adds_a_unit_and_leaves_the_first(site: Any, api: Any, objects: Any) -> None:
    """A node in a further unit gets that unit's slices; nothing is deleted and added again."""
    api.put(objects.slices, objects.unit("test.a1", "10.4.0.1", "other"))
    _, watch = await site.list_and_watch(objects.slices)
    api.put(objects.nodes, objects.node("n1", zone="u1", host="n1", test="a1"))
    assert await watch.summary(1) == [("ADDED", "other-test.a1")]
    api.put(objects.slices, objects.plain("marker", "10.9.0.2"))
    assert await watch.summary(1) == [("ADDED", "marker")]


async def test_an_empty_value_is_no_unit(site: Any, api: Any, objects: Any) -> None:
    """A label without a value puts a node into no unit."""
    api.put(objects.nodes, objects.node("n1", zone=""))
    await objects.eventually(lambda: not site.hub.node.units)
    assert await site.names(objects.slices) == ["plain"]


async def test_a_deleted_node_is_in_no_unit(site: Any, api: Any, objects: Any) -> None:
    """Without its Node the agent shows nothing of any grid."""
    _, watch = await site.list_and_watch(objects.slices)
    api.delete(objects.nodes, "n1", "")
    assert await watch.summary(1) == [("DELETED", "web-zone.u1")]


async def test_a_slice_that_moves_to_another_unit_goes(site: Any, api: Any, objects: Any) -> None:
    """A unit slice relabelled for another unit is deleted here, without its new endpoints."""
    _, watch = await site.list_and_watch(objects.slices)
    moved = objects.unit("zone.u2", "10.66.0.9")
    moved["metadata"]["name"] = "web-zone.u1"
    api.put(objects.slices, moved)
    assert await watch.summary(1) == [("DELETED", "web-zone.u1")]


async def test_a_slice_that_becomes_a_grids_goes(site: Any, api: Any, objects: Any) -> None:
    """An ordinary slice whose Service comes under a grid is not shown any more."""
    _, watch = await site.list_and_watch(objects.slices)
    api.put(objects.slices, objects.raw("plain", "10.66.0.5"))
    assert await watch.summary(1) == [("DELETED", "plain")]


async def test_a_resumed_watch_is_not_told_of_former_units(site: Any, api: Any, objects: Any) -> None:
    """A client that was away while the node changed units twice hears only how things are now."""
    _, body = await site.get(objects.slices)
    api.put(objects.slices, objects.unit("zone.u3", "10.66.3.1"))
    rv = body["metadata"]["resourceVersion"]
    # u3 is foreign in the end, so its address must not be sent; a view without readers goes through it unseen.
    api.put(objects.nodes, objects.node("n1", zone="u3"))
    await objects.eventually(lambda: any("default/web-zone.u3" in v.items for v in site.hub._views.values()))
    api.put(objects.nodes, objects.node("n1", zone="u1", host="n1"))
    await objects.eventually(lambda: any("default/web-zone.u1" in v.items for v in site.hub._views.values()))
    watch = await site.watch(objects.slices, resourceVersion=rv)
    events = [await watch.next() for _ in range(2)]
    assert {event["object"]["metadata"]["name"] for event in events} == {"web-zone.u1", "web-zone.u3"}
    assert [e["object"]["endpoints"] for e in events if e["type"] == "DELETED"] == [None]


async def test_a_hostile_event_is_not_passed_on(site: Any, api: Any, objects: Any) -> None:
    """An event that cannot be read changes nothing for clients, and the truth is listed anew."""
    _, watch = await site.list_and_watch(objects.slices)
    api.send_raw(objects.slices, b'{"type":"ADDED","object":{"metadata":{"name":"x"},"endpoints":"10.66.0.6"}}\n')
    await objects.eventually(lambda: site.metrics.get("undecodable_total") > 0)
    api.put(objects.slices, objects.plain("marker", "10.9.0.2"))
    assert await watch.summary(1) == [("ADDED", "marker")]


async def test_an_api_server_that_ignores_selectors_leaks_nothing(site: Any, api: Any, objects: Any) -> None:
    """The agent looks at every object itself: it does not believe that what it asked for is what it got."""
    _, watch = await site.list_and_watch(objects.slices)
    foreign, raw = objects.unit("zone.u2", "10.66.0.7"), objects.raw("raw", "10.66.0.8")
    for obj in (foreign, raw):
        obj["metadata"]["resourceVersion"] = "999"
        api.send_raw(objects.slices, json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n")
    api.put(objects.slices, objects.plain("marker", "10.9.0.2"))
    assert await watch.summary(1) == [("ADDED", "marker")]


@pytest.mark.parametrize("name", ["web-zone.u2", "web-abc"])
async def test_a_foreign_slice_does_not_exist(site: Any, objects: Any, name: str) -> None:
    """GET of a slice that is not the node's is 404, as the API server words it."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{name}"
    status, body = await site.get(path)
    assert (status, body["reason"]) == (404, "NotFound")
    assert body["message"] == f'endpointslices.discovery.k8s.io "{name}" not found'


async def test_an_own_slice_can_be_got(site: Any, objects: Any) -> None:
    """GET shows an own unit slice with the labels that LIST shows."""
    _, body = await site.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-zone.u1")
    assert body["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
    assert body["endpoints"][0]["addresses"] == ["10.1.0.1"]


async def test_a_page_is_not_continued_over_a_change_of_units(site: Any, api: Any, objects: Any) -> None:
    """The rest of a paged list is 410 once one of its slices is not the node's any more."""
    _, first = await site.get(objects.slices, limit=1)
    api.put(objects.nodes, objects.node("n1", zone="u9"))
    await objects.eventually(lambda: site.hub.node.units == {"zone.u9"})
    status, body = await site.get(objects.slices, limit=1, **{"continue": first["metadata"]["continue"]})
    assert (status, body["reason"]) == (410, "Expired")


async def test_a_slow_first_answer_is_503_not_everything(site: Any, api: Any, objects: Any, monkeypatch: Any) -> None:
    """While the API server has not answered, a LIST is 503 with Retry-After."""
    monkeypatch.setattr("sitegrid.agent.view.READY_TIMEOUT", 0.05)
    api.silent = True
    status, headers, _ = await site.request("GET", objects.slices)
    assert status == 503
    assert headers["retry-after"] == "1"


async def test_each_unit_change_reaches_every_open_watch(site: Any, api: Any, objects: Any) -> None:
    """All clients, whatever they select, hear of a change of units."""
    watches = [(await site.list_and_watch(objects.slices, labelSelector=text))[1] for text in ("", "!a", "!b")]
    api.put(objects.nodes, objects.node("n1", zone="u9"))
    found = await asyncio.gather(*(watch.summary(1) for watch in watches))
    assert found == [[("DELETED", "web-zone.u1")]] * 3


REPRESENTATIONS = [
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "application/yaml",
    "application/cbor",
    "application/json;as=Table;q=0",
    "application/json;stream=other",
]


@pytest.mark.parametrize("accept", REPRESENTATIONS)
@pytest.mark.parametrize(
    "target",
    [
        "/apis/discovery.k8s.io/v1/endpointslices",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-zone.u2",
        "/apis/discovery.k8s.io/v1/watch/endpointslices",
        "/apis/discovery.k8s.io/v1/endpointslices?watch=true",
        "/apis/discovery.k8s.io/v1/endpointslices?watch=true&sendInitialEvents=true"
        "&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
        "/api/v1/services",
        "/api/v1/namespaces/default/services/web",
        "/api/v1/namespaces/default/endpoints/web",
    ],
)
async def test_what_cannot_be_represented_exactly_is_not_acceptable(
    site: Any, api: Any, target: str, accept: str
) -> None:
    """Every reading path refuses every representation but plain JSON and protobuf, and asks nobody for it."""
    status, body = (await site.request("GET", target, {"Accept": accept}))[::2]
    assert (status, json.loads(body)["reason"]) == (406, "NotAcceptable")
    assert not [headers for _, _, headers in api.requests if headers["accept"] == accept]


async def test_of_several_accepted_representations_an_exact_one_is_taken(site: Any, objects: Any) -> None:
    """Two Accept headers are one list: what kubectl offers besides a Table is what it gets."""
    head = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io\r\nAccept: application/json\r\nConnection: close\r\n"
    reader, _ = await site.raw(f"GET {objects.slices} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
    answer = await reader.read()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["kind"] == "EndpointSliceList"


async def test_a_changed_key_swaps_the_slices(site: Any, api: Any, objects: Any) -> None:
    """A ServiceGrid with another key: the old unit's slice goes, the one of the new key's own unit comes."""
    api.put(objects.nodes, objects.node("n1", zone="u1", rack="r1"))
    _, watch = await site.list_and_watch(objects.slices)
    api.put(objects.slices, objects.unit("rack.r1", "10.1.0.7"))
    api.put(objects.slices, objects.unit("rack.r2", "10.66.0.7"))
    api.delete(objects.slices, "web-zone.u1")
    api.delete(objects.slices, "web-zone.u2")
    assert await watch.summary(2) == [("ADDED", "web-rack.r1"), ("DELETED", "web-zone.u1")]


async def test_a_deleted_servicegrid_takes_service_and_slices_along(site: Any, api: Any, objects: Any) -> None:
    """Clients hear of both deletions under the versions of the deletions, and of nothing else."""
    labels = {"tkeedge.io/grid-uniq-key": "zone", "service.kubernetes.io/service-proxy-name": "sitegrid"}
    meta = {"name": "web", "namespace": "default", "labels": labels}
    api.put(
        objects.services, {"kind": "Service", "apiVersion": "v1", "metadata": meta, "spec": {"clusterIP": "None"}}
    )
    _, slices = await site.list_and_watch(objects.slices)
    _, services = await site.list_and_watch(objects.services)
    api.delete(objects.services, "web")
    first = api.rv
    for name in ("web-zone.u1", "web-zone.u2", "web-abc"):
        api.delete(objects.slices, name)
    gone = [await services.next(), await slices.next()]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in gone]
    assert [event["type"] for event in gone] == ["DELETED", "DELETED"]
    assert versions == [first, first + 1]
    api.put(objects.slices, objects.plain("marker", "10.9.0.2"))
    assert await slices.summary(1) == [("ADDED", "marker")]


def _grid_service(name: str, key: str) -> dict[str, Any]:
    labels = {"tkeedge.io/grid-uniq-key": key, "service.kubernetes.io/service-proxy-name": "sitegrid"}
    meta = {"name": name, "namespace": "default", "labels": labels}
    return {"kind": "Service", "apiVersion": "v1", "metadata": meta, "spec": {"clusterIP": "10.96.0.1"}}


async def test_a_grids_service_is_only_where_its_key_is(site: Any, api: Any, objects: Any) -> None:
    """A relabelled node loses the Services of the key that it lost and gets those of the new one; others stay."""
    for name, key in (("web", "zone"), ("other", "rack"), ("always", "host")):
        api.put(objects.services, _grid_service(name, key))
    api.put(
        objects.services, {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "default"}}
    )
    names, watch = await site.list_and_watch(objects.services)
    assert names == ["always", "p", "web"]
    api.put(objects.nodes, objects.node("n1", rack="r1", host="n1"))
    assert sorted(await watch.summary(2)) == [("ADDED", "other"), ("DELETED", "web")]
    api.put(objects.services, _grid_service("web", "zone"))
    api.delete(objects.nodes, "n1", "")
    assert sorted(await watch.summary(2)) == [("DELETED", "always"), ("DELETED", "other")]
    assert await site.names(objects.services) == ["p"]


async def test_services_of_other_keys_are_not_asked_for(site: Any, api: Any, objects: Any) -> None:
    """They cost the node nothing: it asks for those of its labels, also for one whose name is no label's value."""
    api.put(objects.nodes, objects.node("n1", **{"example.com/site": "a", "zone": "u1", "none": ""}))
    slashed = label_value("example.com/site")
    for name, key in (("web", "zone"), ("slashed", slashed), ("other", "rack"), ("valueless", "none")):
        api.put(objects.services, _grid_service(name, key))
    await objects.eventually(lambda: slashed in site.hub.node.keys)
    assert await site.names(objects.services) == ["slashed", "web"]
    asked = [
        parse_qs(target.partition("?")[2]) for _, target, _ in api.requests if target.startswith(objects.services)
    ]
    selectors = {query["labelSelector"][0] for query in asked}
    assert selectors == {"!tkeedge.io/grid-uniq-key", f"tkeedge.io/grid-uniq-key in ({slashed},zone)"}


async def test_services_that_stay_are_not_told_of_when_the_keys_change(site: Any, api: Any, objects: Any) -> None:
    """What changes while the next keys' Services are listed is told once, from whichever source says it first."""
    api.put(objects.services, _grid_service("web", "zone"))
    api.put(objects.services, _grid_service("other", "rack"))
    _, watch = await site.list_and_watch(objects.services)
    api.put(objects.nodes, objects.node("n1", zone="u1", rack="r1"))
    assert await watch.summary(1) == [("ADDED", "other")]
    api.put(objects.services, _grid_service("web", "zone"))
    assert await watch.summary(1) == [("MODIFIED", "web")]
    api.put(objects.nodes, objects.node("n1", zone="u1"))
    assert await watch.summary(1) == [("DELETED", "other")]
    api.delete(objects.services, "web")
    assert await watch.summary(1) == [("DELETED", "web")]


@pytest.mark.parametrize("key", ["zone", "rack"])
async def test_what_is_written_by_hand_for_a_grids_service_is_not_shown(
    site: Any, api: Any, objects: Any, key: str
) -> None:
    """A slice without our labels, as a mirror of written Endpoints, is no unit's while a grid has its Service.

    So it is where the node has the grid's key, and where it has not.
    """
    written = {"kubernetes.io/service-name": "web"}
    api.put(objects.slices, objects.plain("early", "10.9.0.2", **written))
    names, watch = await site.list_and_watch(objects.slices)
    assert names == ["early", "plain", "web-zone.u1"]
    api.put(objects.services, _grid_service("web", key))
    assert await watch.summary(1) == [("DELETED", "early")]
    api.put(objects.slices, objects.plain("mirrored", "10.66.0.9", **written))
    api.put(objects.slices, objects.plain("marker", "10.9.0.3"))
    assert await watch.summary(1) == [("ADDED", "marker")]
    for selection in (
        {},
        {"labelSelector": "kubernetes.io/service-name=web"},
        {"fieldSelector": "metadata.name=mirrored"},
    ):
        assert not {"early", "mirrored"} & {*await site.names(objects.slices, **selection)}
    api.delete(objects.slices, "mirrored")
    api.delete(objects.services, "web")
    assert await watch.summary(1) == [("ADDED", "early")]


def _asked_for_all_grids(api: Any, objects: Any) -> int:
    queries = [parse_qs(target.partition("?")[2]) for _, target, _ in api.requests if objects.services in target]
    return sum(query["labelSelector"] == ["tkeedge.io/grid-uniq-key"] for query in queries)


async def test_other_keys_services_are_asked_for_only_if_somebody_wrote_a_slice(
    site: Any, api: Any, objects: Any
) -> None:
    """Not for slices of Kubernetes' own controller, nor for the API server's own; once for all that there are."""
    api.put(objects.slices, objects.plain("kubernetes", "10.9.0.9", **{"kubernetes.io/service-name": "kubernetes"}))
    assert await site.names(objects.slices) == ["kubernetes", "plain", "web-zone.u1"]
    assert not _asked_for_all_grids(api, objects)
    for name in ("a", "b"):
        api.put(objects.slices, objects.plain(name, "10.9.0.1", **{"kubernetes.io/service-name": name}))
    await objects.eventually(lambda: _asked_for_all_grids(api, objects))
    _, watch = await site.list_and_watch(objects.slices, labelSelector="kubernetes.io/service-name in (a,b)")
    api.put(objects.services, _grid_service("a", "rack"))
    assert await watch.summary(1) == [("DELETED", "a")]
    assert _asked_for_all_grids(api, objects) == 1


async def test_a_slice_that_nobody_knows_yet_holds_up_no_others(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is not known whose Service it is for, it is not shown; the others are once that may take long."""
    monkeypatch.setattr("sitegrid.agent.source._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("sitegrid.agent.source._LONGEST_PAUSE", 0.01)
    api.put(objects.slices, objects.plain("written", "10.9.0.1", **{"kubernetes.io/service-name": "a"}))
    api.put(objects.nodes, objects.node("n1"))
    api.refusals[objects.services] = (403, b"{}")
    names, watch = await site.list_and_watch(objects.slices)
    assert names == ["plain"]
    api.refusals.clear()
    assert await watch.summary(1) == [("ADDED", "written")]


@pytest.mark.parametrize("key", ["zone", "rack"])
async def test_what_is_written_by_hand_for_a_grids_service_does_not_exist(
    site: Any, api: Any, objects: Any, key: str
) -> None:
    """GET of such a slice, and of Endpoints, is 404, whether the Service is shown here or not."""
    api.put(objects.services, _grid_service("web", key))
    api.put(objects.slices, objects.plain("mirrored", "10.66.0.9", **{"kubernetes.io/service-name": "web"}))
    meta = {"name": "web", "namespace": "default"}
    subsets = [{"addresses": [{"ip": "10.66.0.9"}], "ports": [{"port": 80}]}]
    api.put("/api/v1/endpoints", {"kind": "Endpoints", "apiVersion": "v1", "metadata": meta, "subsets": subsets})
    assert (await site.get(f"{SLICES}/mirrored"))[0] == 404
    assert (await site.get("/api/v1/namespaces/default/endpoints/web"))[0] == 404
    assert (await site.get(f"{SLICES}/plain"))[0] == 200


async def test_a_service_that_exposes_a_grids_workload_is_a_plain_one(site: Any, api: Any, objects: Any) -> None:
    """`kubectl expose` copies a child's labels, Kubernetes copies them on: it is shown as what it is, and no more.

    The child may be another unit's; whoever exposes it asks for its pods. Nothing of a grid is shown by it.
    """
    labels = {"tkeedge.io/grid": "web", "tkeedge.io/unit": "zone.u2"}
    meta = {"name": "exposed", "namespace": "default", "labels": labels}
    kinds = {"services": "Service", "endpoints": "Endpoints"}
    subsets = [{"addresses": [{"ip": "10.9.0.7"}], "ports": [{"port": 80}]}]
    services = await site.watch(objects.services)
    for path, kind in kinds.items():
        body: dict[str, Any] = {"subsets": subsets} if kind == "Endpoints" else {"spec": {"ports": [{"port": 80}]}}
        api.put(f"/api/v1/{path}", {"kind": kind, "apiVersion": "v1", "metadata": {**meta}, **body})
    assert await services.summary(1) == [("ADDED", "exposed")]
    copied = {
        **labels,
        "kubernetes.io/service-name": "exposed",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    api.put(objects.slices, objects.plain("exposed-abc", "10.9.0.7", **copied))
    assert "exposed-abc" in await site.names(objects.slices)
    assert await site.names(objects.slices, labelSelector="kubernetes.io/service-name=exposed") == ["exposed-abc"]
    assert (await site.get(f"{SLICES}/exposed-abc"))[1]["endpoints"][0]["addresses"] == ["10.9.0.7"]
    for path in kinds:
        assert await site.names(f"/api/v1/{path}", labelSelector="tkeedge.io/unit=zone.u2") == ["exposed"]
        status, found = await site.get(f"/api/v1/namespaces/default/{path}/exposed")
        assert (status, found["metadata"]["labels"]) == (200, labels)


async def test_a_changed_grids_service_is_one_event(site: Any, api: Any, objects: Any) -> None:
    """A change of the Service, and a change of its key where the node is in units of both, are modifications."""
    api.put(objects.nodes, objects.node("n1", zone="u1", rack="r1"))
    await objects.eventually(lambda: site.hub.node.keys == {"zone", "rack"})
    api.put(objects.services, _grid_service("web", "zone"))
    _, watch = await site.list_and_watch(objects.services)
    changed = _grid_service("web", "zone")
    changed["spec"]["sessionAffinity"] = "ClientIP"
    for state in (changed, _grid_service("web", "rack")):
        api.put(objects.services, state)
        assert await watch.summary(1) == [("MODIFIED", "web")]


async def test_a_service_of_another_key_comes_and_goes(site: Any, api: Any, objects: Any) -> None:
    """A key by which the node is in no unit takes the Service away, and the former one brings it back."""
    api.put(objects.services, _grid_service("web", "zone"))
    _, watch = await site.list_and_watch(objects.services)
    for key, told in (("rack", "DELETED"), ("zone", "ADDED")):
        api.put(objects.services, _grid_service("web", key))
        assert await watch.summary(1) == [(told, "web")]


async def test_a_grids_service_elsewhere_does_not_exist(site: Any, api: Any, objects: Any) -> None:
    """GET of a grid's Service is 404 on a node that is in no unit of its key."""
    api.put(objects.services, _grid_service("web", "zone"))
    api.put(objects.services, _grid_service("other", "rack"))
    await objects.eventually(lambda: site.hub.node.known)
    assert (await site.get("/api/v1/namespaces/default/services/web"))[0] == 200
    status, body = await site.get("/api/v1/namespaces/default/services/other")
    assert (status, body["message"]) == (404, 'services "other" not found')


@pytest.mark.parametrize("path", ["/api/v1/namespaces/default/services/web", f"{SLICES}/web-zone.u1"])
async def test_while_the_units_are_unknown_a_grids_object_is_503(
    site: Any, api: Any, objects: Any, path: str
) -> None:
    """Neither shown nor said not to exist, until the node is known."""
    api.put(objects.services, _grid_service("web", "zone"))
    await objects.eventually(lambda: site.hub.node.known)
    site.hub.node.known, site.hub.node.units, site.hub.node.keys = False, frozenset(), frozenset()
    status, headers, _ = await site.request("GET", path)
    assert (status, headers["retry-after"]) == (503, "1")


async def test_what_stayed_is_not_touched_by_a_lost_history(site: Any, api: Any, objects: Any) -> None:
    """After 410 upstream clients hear the differences only, while their watches stay open."""
    _, watch = await site.list_and_watch(objects.slices)
    await objects.eventually(lambda: len(api.watchers) >= 3)
    api.expired_below = api.rv + 100
    api.rv += 100
    await api.stop()
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.8"))
    api.put(objects.slices, objects.unit("zone.u2", "10.66.0.8"))
    await api.start()
    event = await watch.next()
    assert (event["type"], event["object"]["metadata"]["name"]) == ("MODIFIED", "web-zone.u1")
    api.put(objects.slices, objects.plain("marker", "10.9.0.2"))
    assert await watch.summary(1) == [("ADDED", "marker")]
