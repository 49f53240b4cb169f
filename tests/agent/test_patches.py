"""Per-site Services: what a grid's Service has different in the node's unit is shown, and nothing of other units."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sitegrid.agent.patches import PatchedServices, Patches
from sitegrid.wire.codec import Item
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.labels import (
    GRID_UNIQ_KEY,
    MANAGED_BY,
    SERVICE_PATCH,
    SERVICE_PROXY_NAME,
    SITEGRID,
    UNIT,
    UNIT_SERVICE_NAME,
)
from sitegrid.wire.protobuf import wrap, write_bytes, write_event
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.servicepatch import ServicePatch

WEB = "/api/v1/namespaces/default/services/web"
PROXY = {"Accept": "application/json", "Authorization": "Bearer t"}


def _service(name: str = "web", **labels: str) -> dict[str, Any]:
    meta = {
        "name": name,
        "namespace": "default",
        "labels": {GRID_UNIQ_KEY: "zone", SERVICE_PROXY_NAME: SITEGRID, **labels},
    }
    ports = [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}]
    return {"kind": "Service", "apiVersion": "v1", "metadata": meta, "spec": {"type": "NodePort", "ports": ports}}


def _patch_slice(unit: str, text: str, service: str = "web", key: str = "zone") -> dict[str, Any]:
    labels = {UNIT: unit, UNIT_SERVICE_NAME: service, GRID_UNIQ_KEY: key, MANAGED_BY: SITEGRID, SERVICE_PATCH: ""}
    meta = {
        "name": f"{service}-{unit}-patch",
        "namespace": "default",
        "labels": labels,
        "annotations": {SERVICE_PATCH: text},
    }
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [],
    }


def _ip(address: str) -> str:
    return ServicePatch((address,)).text()


@pytest.fixture
def scene(api: Any, objects: Any) -> None:
    """A grid's Service with a patch in two units, and an ordinary Service."""
    api.put(objects.services, _service())
    plain = _service("plain")
    plain["metadata"]["labels"] = {}
    api.put(objects.services, plain)
    api.put(objects.slices, _patch_slice("zone.u1", _ip("10.1.1.1")))
    api.put(objects.slices, _patch_slice("zone.u2", _ip("10.66.1.1")))


async def _shown(site: Any, objects: Any) -> dict[str, Any]:
    """Return the Services that a LIST shows, by name."""
    status, body = await site.get(objects.services)
    assert status == 200, body
    return {item["metadata"]["name"]: item for item in body["items"]}


@pytest.mark.usefixtures("scene")
async def test_a_list_and_a_get_show_the_own_units_patch(site: Any, objects: Any) -> None:
    """Of the grid's Service alone; the other unit's patch is in no byte, and the slices are not shown."""
    found = await _shown(site, objects)
    assert found["web"]["spec"]["externalIPs"] == ["10.1.1.1"]
    assert "externalIPs" not in found["plain"]["spec"]
    one = json.loads((await site.request("GET", WEB, PROXY))[2])
    assert one["spec"]["externalIPs"] == ["10.1.1.1"]
    assert one["metadata"]["resourceVersion"] == found["web"]["metadata"]["resourceVersion"]
    assert await site.names(objects.slices) == []
    path = f"{objects.slices.replace('endpointslices', 'namespaces/default/endpointslices')}/web-zone.u1-patch"
    assert (await site.request("GET", path, PROXY))[0] == 404
    assert b"10.66." not in site.received


@pytest.mark.usefixtures("scene")
async def test_a_changed_patch_is_heard_of_with_a_higher_version(site: Any, api: Any, objects: Any) -> None:
    """A new patch, none, and one again: each is a MODIFIED that client-go takes for a change."""
    before = int((await _shown(site, objects))["web"]["metadata"]["resourceVersion"])
    watch = (await site.list_and_watch(objects.services))[1]
    versions = [before]
    for change in (_ip("10.1.1.2"), "", _ip("10.1.1.3"), "not understood"):
        if change:
            api.put(objects.slices, _patch_slice("zone.u1", change))
        else:
            api.delete(objects.slices, "web-zone.u1-patch")
        event = await watch.next()
        assert (event["type"], event["object"]["metadata"]["name"]) == ("MODIFIED", "web")
        wanted = json.loads(change)["externalIPs"] if change.startswith("{") else None
        assert event["object"]["spec"].get("externalIPs") == wanted
        versions.append(int(event["object"]["metadata"]["resourceVersion"]))
    assert versions == sorted(set(versions))
    assert b"10.66." not in site.received


@pytest.mark.usefixtures("scene")
async def test_other_units_and_endpoints_are_not_heard_of(site: Any, api: Any, objects: Any) -> None:
    """Neither another unit's patch, nor the unit's endpoints, nor a slice that was written again, is an event."""
    watch = (await site.list_and_watch(objects.services))[1]
    api.put(objects.slices, _patch_slice("zone.u2", _ip("10.66.1.2")))
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    api.put(objects.slices, _patch_slice("zone.u1", _ip("10.1.1.1")))
    api.put(objects.services, _service(label="changed"))
    event = await watch.next()
    assert event["object"]["metadata"]["labels"] == {GRID_UNIQ_KEY: "zone", "label": "changed"}


@pytest.mark.usefixtures("scene")
async def test_a_relabelled_node_has_the_new_units_patch(site: Any, api: Any, objects: Any) -> None:
    """The former unit's patch is gone at once, though its source may still be there, and the new one's comes."""
    watch = (await site.list_and_watch(objects.services))[1]
    api.put(objects.slices, _patch_slice("zone.u3", _ip("10.3.1.1")))
    api.put(objects.nodes, objects.node("n1", zone="u3", host="n1"))
    seen: list[Any] = []
    while not seen or seen[-1]["object"]["spec"].get("externalIPs") != ["10.3.1.1"]:
        seen.append(await watch.next())
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in seen]
    assert versions == sorted(set(versions))
    assert b"10.66." not in site.received


@pytest.mark.usefixtures("scene")
async def test_a_node_that_leaves_its_unit_hears_no_more_of_the_patch(site: Any, api: Any, objects: Any) -> None:
    """The Service is told as deleted without it, and under no older version."""
    before = int((await _shown(site, objects))["web"]["metadata"]["resourceVersion"])
    watch = (await site.list_and_watch(objects.services))[1]
    api.put(objects.nodes, objects.node("n1", host="n1"))
    event = await watch.next()
    assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "web")
    assert event["object"]["metadata"]["labels"] == {GRID_UNIQ_KEY: "zone"}
    assert int(event["object"]["metadata"]["resourceVersion"]) >= before
    assert "externalIPs" not in event["object"]["spec"]


@pytest.mark.usefixtures("scene")
async def test_patches_need_no_watch_of_their_own(site: Any, api: Any, objects: Any) -> None:
    """What kube-proxy asks for is enough: patches come with its slices, in protobuf."""
    binary = "application/vnd.kubernetes.protobuf"
    for path in (objects.slices, objects.services):
        status, _ = await site.get(path, accept=binary)
        assert status == 200
    asked = [target for _, target, _ in api.requests if "watch=true" in target and "endpointslices" in target]
    assert len(asked) == 2  # those of the unit, and those that are no grid's


@pytest.mark.usefixtures("scene")
async def test_the_patch_is_there_without_the_api_server(api: Any, objects: Any, start_agent: Any) -> None:
    """From the disk, as the Service itself."""
    async with start_agent() as site:
        await _shown(site, objects)
        await objects.eventually(lambda: site.metrics.get("snapshots_unwritten") == 0)
    await api.stop()
    async with start_agent() as site:
        assert (await _shown(site, objects))["web"]["spec"]["externalIPs"] == ["10.1.1.1"]


class _Node:
    def __init__(self) -> None:
        self.known = True
        self.units = frozenset({"zone.u1"})


class _Source:
    def __init__(self) -> None:
        self.key = None
        self.objects: dict[str, Item] = {}
        self.rv = 0
        self.synced = self.listed = True
        self.listeners: list[Any] = []


def _slice_item(name: str, unit: str, text: str, rv: int, key: str) -> Item:
    labels = _patch_slice(unit, text, key=key)["metadata"]["labels"]
    meta = write_bytes(1, name.encode()) + write_bytes(3, b"default") + write_bytes(6, str(rv).encode())
    for number, found in ((11, labels), (12, {SERVICE_PATCH: text})):
        for name_, value in found.items():
            meta += write_bytes(number, write_bytes(1, name_.encode()) + write_bytes(2, value.encode()))
    return PROTOBUF.change(_event(write_bytes(1, meta))).item or Item("", 0, b"")


def _event(message: bytes) -> bytes:
    return write_event("ADDED", wrap("discovery.k8s.io/v1", "EndpointSlice", message))


def _service_item(rv: int) -> Item:
    meta = {"name": "web", "namespace": "default", "resourceVersion": str(rv)}
    return JSON.item(json.dumps({"metadata": meta, "spec": {"ports": []}}).encode())


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("service")),
        st.tuples(
            st.just("slice"),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["zone.u1", "zone.u2"]),
            st.sampled_from([_ip("10.1.1.1"), _ip("10.1.1.2"), "odd"]),
            st.sampled_from(["zone", "other"]),
        ),
        st.tuples(st.just("delete"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("units"), st.sampled_from([frozenset({"zone.u1"}), frozenset({"zone.u2"}), frozenset()])),
    ),
    max_size=12,
)


@given(_STEPS)
@example(
    [
        ("slice", "a", "zone.u2", '{"externalIPs":["10.1.1.1"]}', "zone"),
        ("service",),
        ("units", frozenset({"zone.u2"})),
    ]
)
def test_whatever_happens_the_one_patch_is_shown_and_versions_rise(steps: list[Any]) -> None:
    """The Service is shown with the one patch that is for its key and the node's unit, with two or none as it is.

    Whenever what is shown changed the version rose; where nothing changed it did not.
    """
    node, source, rv = _Node(), _Source(), 1
    patches = Patches(node, lambda units: "key", lambda key: source, lambda source: None)  # type: ignore
    patches.need()
    services = PatchedServices(patches, JSON)
    own, last = _service_item(rv), None
    for step in [("start",), *steps]:
        rv += 1
        source.rv = rv
        if step[0] == "service":
            own = _service_item(rv)
        elif step[0] == "slice":
            name, unit, text, key = step[1:]
            item = _slice_item(name, unit, text, rv, key)
            source.objects[item.key] = item
            patches.source_changed(source, item.key, None)  # type: ignore[arg-type]
        elif step[0] == "delete":
            gone = source.objects.pop(f"default/{step[1]}", None)
            patches.source_changed(source, f"default/{step[1]}", gone)  # type: ignore[arg-type]
        elif step[0] == "units":
            node.units = step[1]
            patches.units_changed()
        shown = services.shown(own, "zone")
        body = json.loads(shown.raw)
        for_us = [
            text
            for item in source.objects.values()
            for labels in [PROTOBUF.labels(item)]
            for text in [PROTOBUF.annotation(item, SERVICE_PATCH)]
            if labels[UNIT] in node.units and labels[GRID_UNIQ_KEY] == "zone" and text != "odd"
        ]
        wanted = json.loads(for_us[0])["externalIPs"] if len(for_us) == 1 else None
        assert body["spec"].get("externalIPs") == wanted
        assert body["metadata"].pop("resourceVersion") == str(shown.rv)
        assert shown.rv >= own.rv
        state = (own.rv, json.dumps(body))
        if last is not None:
            assert (shown.rv > last[1]) if state != last[0] else (shown.rv == last[1])
        last = (state, shown.rv)
        assert services.shown(own, "zone").raw == shown.raw


def test_a_view_is_not_ready_before_the_patches_are_known() -> None:
    """Else a kube-proxy that starts after its agent would take the site's addresses off for a moment."""
    node, source = _Node(), _Source()
    source.synced = False
    patches = Patches(node, lambda units: "key", lambda key: source, lambda source: None)  # type: ignore
    patches.need()
    assert not patches.ready
    source.synced = True
    patches.source_progressed(source)  # type: ignore[arg-type]
    assert patches.ready


def test_every_view_is_told_of_the_patches_of_a_new_unit() -> None:
    """All of them at once, though the newest version that the former units' source told is of no patch."""
    node, sources = _Node(), {"zone.u1": _Source(), "zone.u2": _Source()}
    told: list[set[str]] = []

    class View:
        def services_patched(self, keys: Any) -> None:
            told.append(set(keys))

    def source_key(units: Any) -> Any:
        return next(iter(units))

    for unit, source in sources.items():
        source.key = unit  # type: ignore[assignment]
    patches = Patches(node, source_key, sources.__getitem__, lambda source: None)  # type: ignore
    patches.need()
    patches.listeners += [View(), View()]
    item = _slice_item("a", "zone.u2", _ip("10.1.1.1"), 5, "zone")
    sources["zone.u2"].objects[item.key] = item
    sources["zone.u2"].rv, sources["zone.u1"].rv = 5, 9
    sources["zone.u2"].listed = False
    node.units = frozenset({"zone.u2"})
    patches.units_changed()
    assert not patches.ready
    told.clear()
    sources["zone.u2"].listed = True
    patches.source_progressed(sources["zone.u2"])  # type: ignore[arg-type]
    assert told == [{"default/web"}] * 2
    assert patches.ready
