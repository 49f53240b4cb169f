"""The WAN switch: it takes the API server away, or makes it distant, and leaves the LAN."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from sitegrid.lab.lab import Lab, LabError
from sitegrid.lab.slowness import Slowness
from tests.support.faultsite import in_cloud


def _reaches_cloud(lab: Lab, node: str) -> bool:
    argv = ["curl", "-sk", "--connect-timeout", "2", "-m", "60", "-o", "/dev/null", "https://172.31.0.1:6443/livez"]
    return lab.run(node, argv).returncode == 0


@pytest.fixture
def wan(lab: Lab) -> Iterator[Lab]:
    """Return the shared lab; its uplinks are restored afterwards."""
    yield lab
    for node in lab.status().nodes:
        lab.restore_wan(node.name)


def test_cut_takes_the_cloud_and_leaves_the_lan(wan: Lab, pods: dict[str, str]) -> None:
    """The node loses the API server; pods of its own and of other sites still answer."""
    assert wan.cut_wan("node21") == ["node21"]
    assert not _reaches_cloud(wan, "node21")
    for address in pods.values():
        wan.run("node21", ["curl", "-sS", "-m", "5", f"http://{address}:8080"], capture_output=True, check=True)


def test_cut_swallows_packets(wan: Lab) -> None:
    """As on a real WAN nothing refuses the connection: it times out (curl's 28), not fails."""
    wan.cut_wan("node21")
    argv = ["curl", "-sk", "-m", "2", "https://172.31.0.1:6443/livez"]
    assert wan.run("node21", argv, capture_output=True).returncode == 28


def test_other_nodes_keep_their_wan(wan: Lab) -> None:
    """Only the named node is cut."""
    wan.cut_wan("node21")
    assert _reaches_cloud(wan, "node23")
    assert {node.name: node.wan for node in wan.status().nodes}["node23"] is True


def test_restore_brings_the_cloud_back(wan: Lab) -> None:
    """After `restore` the API server answers again, and the port is isolated as before."""
    wan.cut_wan("node21")
    wan.restore_wan("node21")
    assert _reaches_cloud(wan, "node21")
    assert next(node.wan for node in wan.status().nodes if node.name == "node21")


def test_a_whole_unit_is_cut_by_its_label(wan: Lab) -> None:
    """KEY=VALUE cuts all of a unit's nodes and no other."""
    assert wan.cut_wan("zone=NodeUnit2") == ["node21", "node23"]
    assert [node.name for node in wan.status().nodes if not node.wan] == ["node21", "node23"]
    assert wan.restore_wan("zone=NodeUnit2") == ["node21", "node23"]


def test_labels_are_the_nodes_present_ones(wan: Lab) -> None:
    """A label that the user has given later counts."""
    wan.kubectl("label", "node", "node14", "later=yes")
    try:
        assert wan.cut_wan("later=yes") == ["node14"]
    finally:
        wan.kubectl("label", "node", "node14", "later-")


def test_cut_twice_is_cut(wan: Lab) -> None:
    """Both verbs can be repeated."""
    wan.cut_wan("node12")
    assert wan.cut_wan("node12") == ["node12"]
    wan.restore_wan("node12")
    assert wan.restore_wan("node12") == ["node12"]


SLOW = Slowness(delay=0.2, jitter=0.02)
AT_LEAST = 2 * (SLOW.delay - SLOW.jitter)
"""Seconds of a round trip over such a link."""


def _round_trip(lab: Lab, node: str) -> float:
    """Return how many seconds a TCP connection to the API server takes."""
    argv = ["curl", "-sk", "-m", "60", "-o", "/dev/null", "-w", "%{time_connect}", "https://172.31.0.1:6443/livez"]
    return float(lab.run(node, argv, capture_output=True, check=True).stdout)


def _state(lab: Lab, node: str) -> tuple[bool, Slowness | None, set[str]]:
    """Return what is told of the node's WAN, and which relays run."""
    status = lab.status()
    found = next(one for one in status.nodes if one.name == node)
    return found.wan, found.slow, {process.name for process in status.processes if process.name.startswith("wan@")}


def test_a_slow_wan_takes_its_time(wan: Lab) -> None:
    """A round trip takes twice the delay; other nodes' do not; `restore` ends it and leaves nothing of it."""
    links = wan.run("node21", ["ip", "-d", "link", "show", "wan0"], capture_output=True).stdout
    ports = subprocess.run(in_cloud(wan, ["ip", "-br", "link"]), capture_output=True, check=True).stdout
    assert wan.slow_wan("node21", SLOW) == ["node21"]
    assert _state(wan, "node21") == (True, SLOW, {"wan@node21"})
    assert _round_trip(wan, "node21") > AT_LEAST
    assert _state(wan, "node23")[:2] == (True, None)
    wan.restore_wan("node21")
    assert _state(wan, "node21") == (True, None, set())
    assert _reaches_cloud(wan, "node21")
    assert wan.run("node21", ["ip", "-d", "link", "show", "wan0"], capture_output=True).stdout == links
    assert subprocess.run(in_cloud(wan, ["ip", "-br", "link"]), capture_output=True, check=True).stdout == ports


def test_each_verb_ends_the_one_before(wan: Lab) -> None:
    """A slow link can be made slower, cut, and made slow again; a connection that was open goes on."""
    slower = Slowness(delay=0.3, loss=0.01, rate=1_000_000)
    wan.slow_wan("node21", SLOW)
    wan.slow_wan("node21", slower)
    assert _state(wan, "node21") == (True, slower, {"wan@node21"})
    wan.cut_wan("node21")
    assert _state(wan, "node21") == (False, None, set())
    assert not _reaches_cloud(wan, "node21")
    wan.slow_wan("zone=NodeUnit2", SLOW)
    assert _state(wan, "node21") == (True, SLOW, {"wan@node21", "wan@node23"})
    assert _round_trip(wan, "node21") > AT_LEAST
    assert wan.restore_wan("zone=NodeUnit2") == ["node21", "node23"]


def test_a_relay_that_was_killed_is_there_again(wan: Lab) -> None:
    """Meanwhile packets vanish, as where a modem starts again."""
    wan.slow_wan("node21", SLOW)
    wan.process("wan@node21", "kill")
    assert _round_trip(wan, "node21") > AT_LEAST


@pytest.mark.parametrize(
    ("target", "message"), [("nosuch", "no node 'nosuch'"), ("zone=nosuch", "no node has the label zone=nosuch")]
)
def test_unknown_targets_are_named(wan: Lab, target: str, message: str) -> None:
    """A target that means nothing cuts nothing and says so."""
    with pytest.raises(LabError, match=message):
        wan.cut_wan(target)
