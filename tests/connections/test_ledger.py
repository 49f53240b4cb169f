"""What may be cut: a former unit's endpoints, by the Service, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.connections.conntrack import Address, Flow
from sitegrid.connections.ledger import SWEEPS, Endpoint, Frontends, Ledger

TCP, UDP = 6, 17
GRACE = 5.0
VIP = Address(TCP, b"\x0a\x60\x00\x01", 80)
NODE_PORT = (TCP, 30080)
FRONTENDS = Frontends(frozenset({VIP}), frozenset({NODE_PORT}))
SERVICE = "default/web"


def at(last: int, port: int = 80) -> Address:
    """Return a pod's address."""
    return Address(TCP, bytes((10, 244, 0, last)), port)


def flow(asked: Address, answering: Address) -> Flow:
    """Return a connection."""
    return Flow(asked, answering, (2, b""))


class Node:
    """The node n1 with a ledger; `zone` is its label."""

    def __init__(self, zone: str = "a") -> None:
        self.ledger = Ledger(GRACE)
        self.now = 100.0
        self.zone = zone
        self.ledger.show_service(SERVICE, "zone", FRONTENDS)

    def show(self, name: str, **endpoints: int) -> None:
        """Show a slice; endpoints are the last bytes of their addresses by node."""
        self.ledger.show_slice(name, SERVICE, [Endpoint(at(last), node) for node, last in endpoints.items()])
        self.tell()

    def tell(self) -> None:
        """Tell the units of now."""
        self.ledger.tell_units("n1", {"zone": f"zone.{self.zone}"} if self.zone else {}, self.now)

    def relabel(self, zone: str, *slices: str) -> None:
        """Change the label; the agent hides the slices."""
        self.zone = zone
        for name in slices:
            self.ledger.hide_slice(name)
        self.tell()

    def cut(self, candidates: Iterable[int], asked: Address = VIP, *, after: float = GRACE) -> set[int]:
        """Return to which endpoints connections are cut `after` so many seconds."""
        self.now += after
        self.tell()
        due = self.ledger.due(self.now)
        return {last for last in candidates if due.includes(flow(asked, at(last)))}


@pytest.mark.parametrize("zone", ["b", ""])
def test_a_unit_that_the_node_left_is_cut_after_the_grace(zone: str) -> None:
    """Not before, and only for so long."""
    node = Node()
    node.show("web-a", n2=2, n3=3)
    node.relabel(zone, "web-a")
    assert node.cut((2, 3), after=GRACE - 0.1) == set()
    assert node.cut((2, 3, 4), after=0.1) == {2, 3}
    assert node.cut((2, 3), after=SWEEPS - 0.1) == {2, 3}
    assert node.cut((2, 3), after=0.1) == set()
    assert not node.ledger.unsettled


@pytest.mark.parametrize(
    ("asked", "answering", "cut"),
    [
        (VIP, at(2), True),
        (Address(TCP, b"\xac\x1e\x01\x03", 30080), at(2), True),  # a node port, at whichever address
        (Address(TCP, b"\x0a\x60\x00\x09", 80), at(2), False),  # another Service of the same pod
        (VIP._replace(port=81), at(2), False),
        (VIP._replace(protocol=UDP), at(2), False),
        (VIP, at(2, 81), False),
        (VIP, at(9), False),
        (at(2), at(2), False),  # the pod's own address
    ],
)
def test_only_what_the_service_made_is_cut(asked: Address, answering: Address, cut: bool) -> None:
    """A connection is meant by both what was asked and who answers."""
    node = Node()
    node.show("web-a", n2=2)
    node.relabel("b", "web-a")
    node.cut(())
    assert node.ledger.due(node.now).includes(flow(asked, answering)) is cut


def test_a_pods_own_address_is_not_a_node_port() -> None:
    """Also where the pod listens on a port of the same number."""
    node = Node()
    node.ledger.show_slice("web-a", SERVICE, [Endpoint(at(2, 30080), "n2")])
    node.tell()
    node.relabel("b", "web-a")
    node.cut(())
    due = node.ledger.due(node.now)
    assert due.includes(flow(VIP, at(2, 30080)))
    assert not due.includes(flow(at(2, 30080), at(2, 30080)))


def test_pods_that_end_in_the_own_unit_are_left_to_kubernetes() -> None:
    """Whether they leave their slice or the slice goes: the node is where it was."""
    node = Node()
    node.show("web-a", n2=2, n3=3)
    node.show("web-a", n2=2)
    assert node.cut((2, 3)) == set()
    node.relabel("a", "web-a")
    assert node.cut((2, 3)) == set()
    node.relabel("b")
    assert node.cut((2, 3)) == set()


def test_a_neighbour_is_kept_when_the_fallback_ends() -> None:
    """It was the user's own wish; nothing was relabelled."""
    node = Node()
    node.show("web-a", n9=9)
    node.show("web-a", n2=2)
    assert node.cut((2, 9)) == set()


def test_what_the_new_unit_has_is_kept() -> None:
    """A site that is renamed node by node, or a neighbour that the new unit falls back to."""
    node = Node()
    node.show("web-a", n2=2, n3=3)
    node.relabel("b", "web-a")
    node.show("web-b", n2=2)
    assert node.cut((2, 3)) == {3}


def test_the_nodes_own_pods_are_kept() -> None:
    """They are in the node's unit whatever it is; the new slices that say so may come late."""
    node = Node()
    node.show("web-a", n1=1, n2=2)
    node.relabel("b", "web-a")
    assert node.cut((1, 2)) == {2}


def test_a_node_that_comes_back_in_time_loses_nothing() -> None:
    """Also before its unit's slices are shown again; and a second leave counts anew."""
    node = Node()
    node.show("web-a", n2=2)
    node.relabel("b", "web-a")
    node.now += GRACE - 1
    node.relabel("a")
    assert node.cut((2,)) == set()
    node.show("web-a", n2=2)
    node.relabel("b", "web-a")
    assert node.cut((2,), after=GRACE - 1) == set()
    assert node.cut((2,), after=1) == {2}


def test_another_keys_unit_is_not_concerned() -> None:
    """Each Service goes by the unit of its own key."""
    node = Node()
    node.ledger.show_service("default/lab", "test", Frontends(frozenset({VIP}), frozenset()))
    node.ledger.show_slice("lab-a", "default/lab", [Endpoint(at(7), "n7")])
    node.ledger.tell_units("n1", {"zone": "zone.a", "test": "test.a"}, node.now)
    node.ledger.hide_slice("lab-a")
    node.ledger.tell_units("n1", {"zone": "zone.b", "test": "test.a"}, node.now)
    assert not node.ledger.due(node.now + GRACE).frontends


def test_a_service_that_goes_first_is_known_as_it_was() -> None:
    """A node that is in no unit is shown no Service; its connections had its address."""
    node = Node()
    node.show("web-a", n2=2)
    node.relabel("", "web-a")
    assert node.cut((2,)) == {2}


def test_a_slice_of_no_known_service_makes_nothing_former() -> None:
    """Its unit is nobody's to know."""
    ledger = Ledger(GRACE)
    ledger.show_slice("x", "default/x", [Endpoint(at(2), "n2")])
    ledger.tell_units("n1", {"zone": "zone.a"}, 0.0)
    ledger.hide_slice("x")
    ledger.tell_units("n1", {"zone": "zone.b"}, 0.0)
    assert not ledger.due(GRACE).frontends
    assert not ledger.unsettled


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("label"), st.sampled_from(["a", "b", "c", ""])),
        st.tuples(st.just("pods"), st.sampled_from("abc"), st.sets(st.integers(1, 6), max_size=4)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 4.0, 30.0])),
    ),
    max_size=25,
)


@given(STEPS)
def test_nothing_of_the_own_unit_is_ever_cut(steps: list[tuple[Any, ...]]) -> None:
    """Whatever happens: not what is shown, not the node's own pod (1), not what was never another unit's."""
    node = Node("")
    pods: dict[str, set[int]] = {"a": set(), "b": set(), "c": set()}
    shown_in: dict[int, set[str]] = {last: set() for last in range(1, 7)}

    def show() -> None:
        if node.zone:
            current = pods[node.zone]
            node.show(f"web-{node.zone}", **{f"n{last}": last for last in current})
            for last in current:
                shown_in[last].add(node.zone)

    for step in steps:
        match step:
            case ("label", zone):
                node.relabel(zone, *([f"web-{node.zone}"] if node.zone and zone != node.zone else []))
                show()
            case ("pods", zone, lasts):
                pods[zone] = lasts - set(itertools.chain(*(pods[other] for other in pods if other != zone)))
                show()
            case ("wait", seconds):
                node.now += float(seconds)
        cut = node.cut(range(1, 7), after=0.0)
        assert 1 not in cut
        assert not cut & (pods[node.zone] if node.zone else set())
        assert all(shown_in[last] - {node.zone} for last in cut)
