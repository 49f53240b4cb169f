from __future__ import annotations

from typing import Any

import pytest

from sitegrid.wire.labels import label_value, unit_id


async def test_health_and_readiness(site: Any, objects: Any) -> None:
    """The process is healthy at once, and ready once it knows its node's units."""
    assert (await site.request("GET", "/sitegrid/healthz"))[0] == 200
    await objects.eventually(lambda: site.hub.node.known)
    assert (await site.request("GET", "/sitegrid/readyz"))[0] == 200


async def test_the_units_are_told_by_their_keys(site: Any, api: Any, objects: Any) -> None:
    """As the labels have them that Services of grids carry; what is relabelled is told at once."""
    await objects.eventually(lambda: site.hub.node.known)
    page = {"node": "n1", "units": {"host": "host.n1", "zone": "zone.u1"}}
    assert await site.get("/sitegrid/units") == (200, page)
    api.put(objects.nodes, objects.node("n1", zone="", **{"example.com/room": "A 1"}))
    await objects.eventually(lambda: "zone.u1" not in site.hub.node.units)
    (key, unit), *others = (await site.get("/sitegrid/units"))[1]["units"].items()
    assert (key, unit, others) == (label_value("example.com/room"), unit_id("example.com/room", "A 1"), [])


async def test_an_agent_that_never_heard_of_its_node_answers_nothing(
    api: Any, site: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown units are 503 with Retry-After on every guarded collection, and not ready."""
    monkeypatch.setattr("sitegrid.agent.view.READY_TIMEOUT", 0.05)
    api.silent = True
    assert (await site.request("GET", "/sitegrid/readyz"))[0] == 503
    for path in (objects.slices, objects.services, objects.slices + "?watch=1", "/sitegrid/units"):
        status, headers, _ = await site.request("GET", path)
        assert (status, headers["retry-after"]) == (503, "1")


async def test_metrics_are_prometheus_text(site: Any, objects: Any) -> None:
    """Counters and gauges can be scraped."""
    await site.names(objects.slices)
    _, headers, body = await site.request("GET", "/sitegrid/metrics")
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE sitegrid_agent_events_sent_total counter" in body
    assert b'sitegrid_agent_requests_total{route="view"} 1' in body
    assert b"sitegrid_agent_units 2" in body


async def test_own_pages_are_few(site: Any) -> None:
    """Unknown pages under /sitegrid/ are 404 and are not passed on."""
    assert (await site.request("GET", "/sitegrid/other"))[0] == 404


@pytest.mark.parametrize("path", ["/api/v1/services", "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/b"])
async def test_a_guarded_read_has_no_body_and_no_upgrade(site: Any, path: str) -> None:
    """A body or an upgrade on a guarded path is 400."""
    assert (await site.request("GET", path, body=b"{}"))[0] == 400
    assert (await site.request("GET", path, {"Connection": "Upgrade", "Upgrade": "websocket"}))[0] == 400


async def test_a_repeated_parameter_is_refused(site: Any, objects: Any) -> None:
    """Which of two the API server would take is not ours to guess."""
    status, _, _ = await site.request("GET", objects.slices + "?labelSelector=a&labelSelector=b")
    assert status == 400


async def test_grid_services_are_served_again(site: Any, api: Any, objects: Any) -> None:
    """A grid's Service loses the proxy name for this node, one of another proxy keeps its own."""
    labels = {"tkeedge.io/grid-uniq-key": "zone", "service.kubernetes.io/service-proxy-name": "sitegrid"}
    other = {"service.kubernetes.io/service-proxy-name": "other"}
    for name, own in (("web", labels), ("foreign", other)):
        meta = {"name": name, "namespace": "default", "labels": own}
        api.put(
            objects.services, {"kind": "Service", "apiVersion": "v1", "metadata": meta, "spec": {"clusterIP": "None"}}
        )
    assert await site.names(objects.services) == ["foreign", "web"]
    assert await site.names(objects.services, labelSelector="!service.kubernetes.io/service-proxy-name") == ["web"]
    assert await site.names(objects.services, fieldSelector="spec.clusterIP=None") == ["web"]
    assert await site.names(objects.services, fieldSelector="spec.clusterIP!=None") == []


async def test_an_internal_error_is_500_and_nothing_else(
    site: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the agent itself is answered as such; nothing is passed through because of it."""

    def fail(*arguments: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("sitegrid.agent.server.list_options", fail)
    status, body = await site.get(objects.slices)
    assert (status, body["code"]) == (500, 500)


@pytest.mark.parametrize(("labels", "fields", "status"), [(64, 0, 200), (63, 1, 200), (65, 0, 400), (60, 5, 400)])
async def test_selectors_have_few_terms(site: Any, objects: Any, labels: int, fields: int, status: int) -> None:
    """Each object is held against each term, so that thousands of terms would stall the agent with every change."""
    selectors = {
        "labelSelector": ",".join(f"!k{number}" for number in range(labels)),
        "fieldSelector": ",".join(f"metadata.name!=n{number}" for number in range(fields)),
    }
    answer, body = await site.get(objects.services, **selectors)
    assert answer == status, body
    assert status == 200 or "more than 64" in body["message"]
