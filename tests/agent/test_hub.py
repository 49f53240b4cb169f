from __future__ import annotations

import asyncio
from typing import Any

import pytest


async def test_a_view_is_kept_for_a_while(site: Any, api: Any, objects: Any) -> None:
    """A client that comes back soon costs no new list."""
    await site.names(objects.slices)
    before = len(api.requests)
    await site.names(objects.slices)
    assert len(api.requests) == before


async def test_a_view_without_clients_goes(site: Any, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last client left, the view and its sources are let go; the node is still followed."""
    monkeypatch.setattr("sitegrid.agent.hub.LINGER", 0.01)
    _, watch = await site.list_and_watch(objects.slices)
    assert site.metrics.get("sources") == 4
    watch.close()
    await objects.eventually(lambda: not site.hub._views)
    assert site.metrics.get("sources") == 1


async def test_an_idle_view_makes_room(site: Any, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are never more views than the limit: the one that has been idle for longest goes."""
    monkeypatch.setattr("sitegrid.agent.hub.MAX_VIEWS", 2)
    for selector in ("a", "b", "c"):
        await site.names(objects.slices, labelSelector=selector)
    assert [key.labels for key in site.hub._views] == ["b", "c"]


async def test_too_many_open_views_are_refused(site: Any, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all views are in use by a client, one more of it is 429."""
    monkeypatch.setattr("sitegrid.agent.hub.MAX_VIEWS", 1)
    await site.list_and_watch(objects.slices)
    status, _ = await site.get(objects.slices, labelSelector="a")
    assert status == 429


async def test_selections_that_leave_out_share_one_source(site: Any, api: Any, objects: Any) -> None:
    """kube-proxy's and CoreDNS's objects of no grid cross the WAN once; a selection that names some has its own."""
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    api.put(objects.slices, objects.plain("headless", "10.9.0.2", **{"service.kubernetes.io/headless": ""}))
    own = {"labelSelector": "!service.kubernetes.io/headless"}
    names, watch = await site.list_and_watch(objects.slices, **own)
    assert names == ["a"]
    assert await site.names(objects.slices) == ["a", "headless"]
    assert await site.names(objects.slices, fieldSelector="metadata.name!=a", **own) == []
    asked = [target for _, target, _ in api.requests if "slices" in target and "unit" not in target]
    assert len(asked) == 1
    api.put(objects.slices, objects.plain("headless", "10.9.0.3", **{"service.kubernetes.io/headless": "x"}))
    api.put(objects.slices, objects.plain("b", "10.9.0.4"))
    assert await watch.summary(1) == [("ADDED", "b")]
    for other in ({"labelSelector": "a=b"}, {"labelSelector": "a"}, {"fieldSelector": "metadata.name=a"}):
        await site.names(objects.slices, **other)
    asked = [target for _, target, _ in api.requests if "slices" in target and "unit" not in target]
    assert len(asked) == 4


async def test_many_clients_share_one_view(site: Any, api: Any, objects: Any) -> None:
    """Twenty watches of different programs are one view with three sources, and all hear the same."""
    watches = [(await site.list_and_watch(objects.slices))[1] for _ in range(19)]
    await site.request("GET", objects.slices, {"User-Agent": "another/1"})
    watches.append((await site.list_and_watch(objects.slices))[1])
    assert (site.metrics.get("views"), site.metrics.get("sources"), site.metrics.get("watchers")) == (1, 4, 20)
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    assert await asyncio.gather(*(watch.summary(1) for watch in watches)) == [[("ADDED", "a")]] * 20
