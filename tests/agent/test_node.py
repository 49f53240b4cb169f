from __future__ import annotations

from typing import Any


async def test_units_are_the_nodes_labels(site: Any, objects: Any) -> None:
    """Every label with a value is a unit."""
    await objects.eventually(lambda: site.hub.node.known)
    assert site.hub.node.units == {"zone.u1", "host.n1"}


async def test_only_the_own_node_is_asked_for(site: Any, api: Any, objects: Any) -> None:
    """The agent follows one node, and of it the metadata only."""
    await objects.eventually(lambda: site.hub.node.known)
    asked = [(target, headers) for _, target, headers in api.requests if target.startswith(objects.nodes)]
    assert all("fieldSelector=metadata.name%3Dn1" in target for target, _ in asked)
    assert all("as=PartialObjectMetadata;" in headers["accept"] for _, headers in asked)


async def test_another_node_changes_nothing(site: Any, api: Any, objects: Any) -> None:
    """Were the API server to send other nodes: the own name counts."""
    await objects.eventually(lambda: site.hub.node.known)
    api.put(objects.nodes, objects.node("n2", zone="u2"))
    api.put(objects.nodes, objects.node("n1", zone="u3"))
    await objects.eventually(lambda: site.hub.node.units == {"zone.u3"})


async def test_a_heartbeat_is_no_change(site: Any, api: Any, objects: Any) -> None:
    """The same labels under a new resourceVersion touch no view."""
    await site.names(objects.slices)
    requests = len(api.requests)
    _, watch = await site.list_and_watch(objects.slices)
    api.put(objects.nodes, objects.node("n1", zone="u1", host="n1"))
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    assert await watch.summary(1) == [("ADDED", "a")]
    assert len(api.requests) == requests


async def test_units_survive_a_lost_connection(site: Any, api: Any, objects: Any) -> None:
    """A node that cannot be asked for keeps its units."""
    await objects.eventually(lambda: site.hub.node.known)
    await api.stop()
    await objects.eventually(lambda: site.metrics.get("upstream_failures_total", "unreachable") > 0)
    assert site.hub.node.units == {"zone.u1", "host.n1"}
    await api.start()
