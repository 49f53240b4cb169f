"""What `sitegrid connections` hears of an agent, by its own threads and over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from sitegrid.connections.follow import AgentError, Follower, Heard, Hidden, NodeUnits, Shown, Synced, ask_units
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES, Resource


async def told(heard: SimpleQueue[Heard], count: int) -> list[tuple[str, str]]:
    """Return kind and key of the next events."""
    events = [await asyncio.to_thread(heard.get, timeout=20) for _ in range(count)]
    return [(type(event).__name__, _key(event)) for event in events]


def _key(event: Heard) -> str:
    match event:
        case Shown(_, item):
            return item.key
        case Hidden(_, key):
            return key
        case Synced():
            return ""


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Resource], SimpleQueue[Heard]]]:
    """Return a function that begins to follow an agent's port."""
    monkeypatch.setattr("sitegrid.connections.follow._RETRY", 0.01)
    followers: list[Follower] = []

    def begin(port: int, resource: Resource) -> SimpleQueue[Heard]:
        heard: SimpleQueue[Heard] = SimpleQueue()
        followers.append(Follower("127.0.0.1", port, resource, heard))
        followers[-1].start()
        return heard

    yield begin
    for follower in followers:
        follower.stop()


def service(objects: Any, name: str, **labels: str) -> dict[str, Any]:
    """Return a Service."""
    return {**objects.plain(name, "10.9.0.1", **labels), "kind": "Service", "apiVersion": "v1"}


async def test_only_slices_of_the_own_units_are_heard_of(site: Any, api: Any, objects: Any, follow: Any) -> None:
    """First what there is, then changes, then that the node left the unit; nothing of what is no grid's."""
    api.put(objects.slices, objects.plain("other", "10.9.0.1"))
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    heard = follow(site.port, ENDPOINTSLICES)
    assert await told(heard, 2) == [("Shown", "default/web-zone.u1"), ("Synced", "")]
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2"))
    assert await told(heard, 1) == [("Shown", "default/web-zone.u1")]
    api.put(objects.nodes, objects.node("n1", zone="u2"))
    assert await told(heard, 1) == [("Hidden", "default/web-zone.u1")]
    units = await asyncio.to_thread(ask_units, "127.0.0.1", site.port)
    assert units == NodeUnits("n1", {"zone": "zone.u2"})


async def test_only_services_of_grids_are_heard_of(site: Any, api: Any, objects: Any, follow: Any) -> None:
    """Those of the node's keys."""
    grid = {"tkeedge.io/grid-uniq-key": "zone"}
    api.put(objects.services, service(objects, "plain"))
    api.put(objects.services, service(objects, "web", **grid))
    heard = follow(site.port, SERVICES)
    assert await told(heard, 2) == [("Shown", "default/web"), ("Synced", "")]


async def test_it_asks_the_api_server_for_nothing_that_kube_proxy_has_not(
    site: Any, api: Any, objects: Any, follow: Any
) -> None:
    """Of the two selections that are its own the API server has nothing to send."""
    kube_proxy = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"
    protobuf = "application/vnd.kubernetes.protobuf"
    for path in (objects.slices, objects.services):
        assert (await site.get(path, protobuf, labelSelector=kube_proxy))[0] == 200
    before = {target for _, target, _ in api.requests}
    for resource in (ENDPOINTSLICES, SERVICES):
        assert await told(follow(site.port, resource), 1) == [("Synced", "")]
    new = {target.partition("labelSelector=")[2].partition("&")[0] for _, target, _ in api.requests} - {
        target.partition("labelSelector=")[2].partition("&")[0] for target in before
    }
    assert new == {
        "endpointslice.kubernetes.io%2Fmanaged-by%3Dsitegrid%2C%21tkeedge.io%2Fgrid-uniq-key",
        "tkeedge.io%2Fgrid-uniq-key%2C%21tkeedge.io%2Fgrid-uniq-key",
    }


async def test_what_went_while_the_agent_was_away_is_heard_of(
    api: Any, objects: Any, start_agent: Any, follow: Any
) -> None:
    """An agent that ends hides nothing; the next one's state is told as differences."""
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2", "db"))
    async with start_agent(data_dir=None) as site:
        port = site.port
        heard = follow(port, ENDPOINTSLICES)
        assert len(await told(heard, 3)) == 3
    api.delete(objects.slices, "db-zone.u1")
    assert heard.empty()
    with pytest.raises(AgentError):
        await asyncio.to_thread(ask_units, "127.0.0.1", port)
    async with start_agent(data_dir=None, port=port):
        assert await told(heard, 3) == [
            ("Shown", "default/web-zone.u1"),
            ("Hidden", "default/db-zone.u1"),
            ("Synced", ""),
        ]
