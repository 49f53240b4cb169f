"""The WAN switch: it takes the API server away and leaves the LAN."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sitegrid.lab.lab import Lab, LabError


def _reaches_cloud(lab: Lab, node: str) -> bool:
    argv = ["curl", "-sk", "-m", "2", "-o", "/dev/null", "https://172.31.0.1:6443/livez"]
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


@pytest.mark.parametrize(
    ("target", "message"), [("nosuch", "no node 'nosuch'"), ("zone=nosuch", "no node has the label zone=nosuch")]
)
def test_unknown_targets_are_named(wan: Lab, target: str, message: str) -> None:
    """A target that means nothing cuts nothing and says so."""
    with pytest.raises(LabError, match=message):
        wan.cut_wan(target)
