"""What is asked of agent and kernel, and when."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sitegrid.connections.conntrack import Address, ConntrackError, Flow
from sitegrid.connections.follow import AgentError, Hidden, NodeUnits, Shown, Synced
from sitegrid.connections.ledger import Ledger
from sitegrid.connections.run import Closer, endpoints_of, frontends_of, packed
from sitegrid.wire.codec import Item
from sitegrid.wire.labels import GRID_UNIQ_KEY, SERVICE_NAME
from sitegrid.wire.protobuf import write_bytes
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES
from tests.support.kubeproto import CLASSES

GRACE = 5.0


def service(**spec: object) -> Item:
    """Return the Service default/web."""
    spec = {"clusterIP": "10.96.0.1", "ports": [{"protocol": "TCP", "port": 80, "nodePort": 30080}], **spec}
    return Item("default/web", 1, CLASSES["Service"](spec=spec).SerializeToString(), {GRID_UNIQ_KEY: "zone"})


def endpoint_slice(*ips: str) -> Item:
    """Return a slice of it."""
    endpoints = [{"addresses": [ip], "nodeName": "n2"} for ip in ips]
    ports = [{"protocol": "TCP", "port": 8080}]
    raw = CLASSES["EndpointSlice"](endpoints=endpoints, ports=ports, addressType="IPv4").SerializeToString()
    return Item("default/web-a", 1, raw, {SERVICE_NAME: "web"})


def flow(number: int, *, asked: str = "10.96.0.1", answering: str = "10.244.2.7") -> Flow:
    """Return a connection to the Service."""
    return Flow(Address(6, packed(asked), 80), Address(6, packed(answering), 8080), (2, bytes([number])))


class Table:
    """Flows, and how often they were asked for; `broken` is what the kernel says instead."""

    def __init__(self, *flows: Flow) -> None:
        self.present = list(flows)
        self.asked = 0
        self.broken: ConntrackError | None = None

    def flows(self) -> Iterable[Flow]:
        """Return them."""
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        return list(self.present)

    def delete(self, flow: Flow) -> bool:
        """Take one away."""
        self.present.remove(flow)
        return True


class Scene:
    """A node in unit zone.a with a connection to its Service, and one that is nobody's business."""

    def __init__(self) -> None:
        self.now = 0.0
        self.units: NodeUnits | AgentError = NodeUnits("n1", {"zone": "zone.a"})
        self.asked = 0
        self.other = flow(2, asked="10.96.0.9")
        self.table = Table(flow(1), self.other)
        self.closer = Closer(Ledger(GRACE), self.table, self._units, lambda: self.now)
        self.closer.hear(Shown(SERVICES, service()))
        self.closer.hear(Shown(ENDPOINTSLICES, endpoint_slice("10.244.2.7")))
        assert self.closer.step() is None

    def _units(self) -> NodeUnits:
        self.asked += 1
        if isinstance(self.units, AgentError):
            raise self.units
        return self.units

    def leave(self) -> None:
        """Leave the unit."""
        self.units = NodeUnits("n1", {})
        self.closer.hear(Hidden(ENDPOINTSLICES, "default/web-a"))
        self.closer.hear(Hidden(SERVICES, "default/web"))


@pytest.fixture
def scene() -> Scene:
    """Return one."""
    return Scene()


def test_a_former_units_connection_is_ended_after_the_grace(scene: Scene) -> None:
    """And looked for again, since kube-proxy may have its rules later; then nobody is asked any more."""
    scene.leave()
    assert scene.closer.step() == 1.0
    assert (scene.table.asked, len(scene.table.present)) == (0, 2)
    scene.now += GRACE
    assert scene.closer.step() == 1.0
    assert scene.table.present == [scene.other]
    scene.table.present.append(flow(3))
    scene.now += 1
    scene.closer.step()
    assert scene.table.present == [scene.other]
    scene.now += 100
    assert scene.closer.step() is None


def test_at_rest_nobody_is_asked(scene: Scene) -> None:
    """Changes of the own unit ask the agent once at most, and never the kernel."""
    asked = scene.asked
    scene.closer.hear(Shown(ENDPOINTSLICES, endpoint_slice("10.244.2.7", "10.244.2.8")))
    scene.closer.hear(Shown(SERVICES, service()))
    scene.closer.hear(Synced(SERVICES))
    assert scene.closer.step() is None
    assert (scene.asked, scene.table.asked) == (asked, 0)


def test_while_the_agent_tells_no_units_nothing_is_ended(scene: Scene) -> None:
    """It is asked again; what it says then counts."""
    scene.leave()
    left, scene.units = scene.units, AgentError("starting")
    for _ in range(3):
        assert scene.closer.step() == 1.0
        scene.now += GRACE
    assert scene.table.asked == 0
    scene.units = left
    scene.closer.step()
    scene.now += GRACE
    scene.closer.step()
    assert scene.table.present == [scene.other]


def test_a_kernel_that_fails_is_asked_again(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """One failure is no end."""
    scene.leave()
    scene.closer.step()
    scene.now += GRACE
    scene.table.broken = ConntrackError(12, "Cannot allocate memory")
    assert scene.closer.step() == 1.0
    assert "Cannot allocate memory" in caplog.text
    scene.table.broken = None
    scene.closer.step()
    assert scene.table.present == [scene.other]


def test_what_is_not_understood_changes_nothing(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """The last that was understood stays."""
    scene.closer.hear(Shown(ENDPOINTSLICES, Item("default/web-a", 2, write_bytes(2, b"\x0a"), {SERVICE_NAME: "web"})))
    scene.closer.hear(Shown(SERVICES, service(clusterIP="nowhere")))
    assert caplog.text.count("not understood") == 2
    scene.leave()
    scene.closer.step()
    scene.now += GRACE
    scene.closer.step()
    assert scene.table.present == [scene.other]


def test_addresses_are_the_same_however_they_are_written() -> None:
    """The kernel's are bytes."""
    found = frontends_of(service(clusterIP="fd00:0::1"))
    assert Address(6, packed("fd00::1"), 80) in found.addresses
    assert found.node_ports == {(6, 30080)}
    assert [endpoint.address for endpoint in endpoints_of(endpoint_slice("10.244.2.7"))] == [flow(1).answering]
