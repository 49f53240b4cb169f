"""Sequences of faults that were once answered wrongly, found by `test_statemachine` and replayed here for good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

GRID = {"tkeedge.io/grid-uniq-key": "zone", "service.kubernetes.io/service-proxy-name": "sitegrid"}

UNIT_SLICE = {
    **GRID,
    "tkeedge.io/service-name": "web",
    "service.kubernetes.io/headless": "",
    "endpointslice.kubernetes.io/managed-by": "sitegrid",
}


@pytest.fixture
def site(simulation: Any) -> Iterator[Any]:
    """Give a simulated site whose node is in u3 and r1, with every client at rest."""
    site = simulation.make()
    site.network.put(simulation.obj(simulation.nodes, "", "n1", {"zone": "u3", "rack": "r1"}))
    site.rest()
    yield site
    site.close()


def _relabel(site: Any, words: Any, **labels: str) -> None:
    site.network.put(words.obj(words.nodes, "", "n1", labels))
    site.relabelled()


def _put_unit_slice(site: Any, words: Any, name: str, unit: str, address: str) -> None:
    labels = {**UNIT_SLICE, "tkeedge.io/unit": unit}
    site.network.put(words.obj(words.slices, "a", name, labels, address))
    site.step()


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_a_node_that_returns_to_a_unit_keeps_what_stayed(site: Any, simulation: Any, lost: bool, cut: bool) -> None:
    """What the disk has of the former units is older than what clients were shown of the unit that stayed.

    The view went back to it and told a deletion, then forward again. With the WAN cut it must not go back either.
    """
    _relabel(site, simulation, zone="u1", rack="r1")
    site.rest()
    _put_unit_slice(site, simulation, "web-rack.r1", "rack.r1", "10.4.0.1")
    site.rest()
    if lost:
        site.network.forget_history()
    _relabel(site, simulation, zone="u3", rack="r1")
    if cut:
        site.loop.call_soon(lambda: setattr(site.network, "refusing", True))
    site.step()
    site.loop.advance(3)
    site.step()
    site.rest()


@pytest.mark.parametrize("disk", [False, True])
def test_a_client_does_not_resume_from_what_its_twin_was_told(site: Any, simulation: Any, disk: bool) -> None:
    """An agent is killed between two events; of the later one its successor tells a second client of the same kind.

    The first client was told the later one only, and must not go on from there.
    """
    network, first, twin = site.network, site.clients[0], site.clients[5]
    assert first.asks.target == twin.asks.target
    for wire in network.watches():
        if "tkeedge.io/unit" in str(wire.identity):
            wire.allowance = 0
    _put_unit_slice(site, simulation, "web-rack.r1", "rack.r1", "10.4.0.1")
    network.put(simulation.obj(simulation.slices, "a", "plain", {}, "10.9.0.1"))
    site.step()
    assert first.rv == network.rv
    kept = site.disk if disk else None
    site.stop_agent()
    site.start_agent(kept)
    twin.restart(streaming=False)
    for client in (twin, first):
        client.connect()
        site.loop.advance(1)
    site.rest()


def test_endpoints_are_made_without_the_api_server(site: Any, simulation: Any) -> None:
    """An agent that starts offline lists them from its disk, and answers a GET of one; of others it says 503."""
    network, client = site.network, site.clients[7]
    network.put(simulation.obj(simulation.services, "a", "web", GRID))
    _put_unit_slice(site, simulation, "web-rack.r1", "rack.r1", "10.4.0.1")
    network.put(simulation.obj(simulation.endpoints, "a", "plain", {}, "10.9.0.1"))
    site.rest()
    site.stop_agent()
    network.refusing = True
    site.start_agent(site.disk)
    client.restart(streaming=False)
    client.connect()
    site.loop.advance(1)
    assert {obj.name: obj.address for obj in client.store.values()} == {"web": "10.4.0.1", "plain": "10.9.0.1"}
    for name, status in (("web", 200), ("plain", 200), ("other", 503)):
        connection = simulation.client_connection(None, single=True)
        site.send(f"/api/v1/namespaces/a/endpoints/{name}", connection)
        site.step()
        assert connection.status == status
    site.rest()


def test_endpoints_of_a_relabelled_node_are_modified(site: Any, simulation: Any) -> None:
    """The Service stays, so its Endpoints do, with other addresses; without the Service's key they go."""
    network, client = site.network, site.clients[7]
    network.put(simulation.obj(simulation.services, "a", "web", GRID))
    _put_unit_slice(site, simulation, "web-zone.u3", "zone.u3", "10.3.0.1")
    _put_unit_slice(site, simulation, "web-zone.u1", "zone.u1", "10.1.0.1")
    site.rest()
    for labels, told in (
        ({"zone": "u1", "rack": "r1"}, "MODIFIED"),
        ({"rack": "r1"}, "DELETED"),
        ({"zone": "u3"}, "ADDED"),
    ):
        client.heard.clear()
        _relabel(site, simulation, **labels)
        site.rest()
        assert client.heard[0] == (told, "web")
        assert {event for event, _ in client.heard[1:]} <= {"MODIFIED"}


def test_a_deleted_service_is_told_without_its_former_unit(site: Any, simulation: Any) -> None:
    """A client that reads late hears that the Service is gone, and nothing of what that unit had different."""
    network, client = site.network, site.clients[4]
    network.put(simulation.obj(simulation.services, "a", "web", GRID))
    labels = {**UNIT_SLICE, "tkeedge.io/unit": "zone.u3", "tkeedge.io/service-patch": ""}
    network.put(simulation.obj(simulation.slices, "a", "web-patch", labels, "10.3.0.1"))
    site.rest()
    assert {obj.address for obj in client.store.values()} == {"10.3.0.1"}
    client.heard.clear()
    _relabel(site, simulation, rack="r1")
    site.rest()
    assert client.heard == [("DELETED", "web")]


def test_a_late_patch_reaches_every_kind_of_client(site: Any, simulation: Any) -> None:
    """The next unit's slices are answered late: what it has different of a Service is told to all once it is known.

    What happens meanwhile in the unit that the node has left is not waited for.
    """
    network = site.network
    network.put(simulation.obj(simulation.services, "a", "web", GRID))
    labels = {**UNIT_SLICE, "tkeedge.io/unit": "zone.u1", "tkeedge.io/service-patch": ""}
    network.put(simulation.obj(simulation.slices, "a", "web-patch", labels, "10.1.0.1"))
    site.rest()
    network.slow = True
    _relabel(site, simulation, zone="u1", rack="r1")
    site.step()
    labels = {**labels, "tkeedge.io/unit": "zone.u3"}
    network.put(simulation.obj(simulation.slices, "a", "former-patch", labels, "10.3.0.1"))
    site.step()
    site.rest()
    assert [{obj.address for obj in site.clients[number].store.values()} for number in (3, 4)] == [{"10.1.0.1"}] * 2


def test_slices_that_went_together_take_their_endpoints_along(site: Any, simulation: Any) -> None:
    """After a lost history both slices of a Service are gone at once; the view is told of one after the other."""
    network, client = site.network, site.clients[7]
    network.put(simulation.obj(simulation.services, "a", "web", GRID))
    for name, address in (("web-1", "10.4.0.1"), ("web-2", "10.4.0.2")):
        _put_unit_slice(site, simulation, name, "rack.r1", address)
    site.rest()
    assert [obj.address for obj in client.store.values()] == ["10.4.0.1,10.4.0.2"]
    network.refusing = True
    network.reset()
    site.step()
    for name in ("web-1", "web-2"):
        network.delete(simulation.slices, ("a", name))
    network.forget_history()
    site.rest()
    assert [obj.address for obj in client.store.values()] == [""]
