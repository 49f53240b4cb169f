from __future__ import annotations

from pathlib import Path

import pytest

from sitegrid.lab.sites import Node, Sites, SitesError, default_sites, load_sites, parse_sites


def test_default_sites_are_the_articles() -> None:
    """The default file has the article's four nodes with its labels."""
    assert {node.name: dict(node.labels) for node in default_sites().nodes} == {
        "node12": {"zone": "NodeUnit1", "test": "a1"},
        "node14": {"zone": "NodeUnit1"},
        "node21": {"zone": "NodeUnit2"},
        "node23": {"zone": "NodeUnit2"},
    }


def test_order_labels_and_agent_are_kept() -> None:
    """Nodes come in the file's order, labels may be missing, `agent: false` makes a stock node."""
    sites = parse_sites("nodes:\n- {name: b, agent: false}\n- {name: a, labels: {zone: '', example.com/x: A.b_c}}\n")
    assert sites.nodes == (Node("b", {}, False), Node("a", {"zone": "", "example.com/x": "A.b_c"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [", "not YAML, line 1"),
        ("- a\n", "the file must be a mapping with 'nodes', not a list"),
        ("", "the file must be a mapping with 'nodes', not nothing"),
        ("nodes: []\n", "'nodes' must be a list with at least one node"),
        ("nodes: {name: a}\n", "'nodes' must be a list"),
        ("node: []\n", "unknown field 'node' (known: 'nodes')"),
        ("nodes: [a]\n", "node 1 must be a mapping"),
        ("nodes: [{labels: {}}]\n", "node 1: 'name' must be a string, not nothing"),
        ("nodes: [{name: 12}]\n", "node 1: 'name' must be a string, not 12"),
        ("nodes: [{name: a, label: {}}]\n", "node 1: unknown field 'label'"),
        ("nodes: [{name: Node12}]\n", "node name 'Node12' is no DNS label"),
        (f"nodes: [{{name: {'a' * 64}}}]\n", "is no DNS label"),
        ("nodes: [{name: a/b}]\n", "is no DNS label"),
        ("nodes: [{name: a}, {name: b}, {name: a}]\n", "node 'a' is listed twice"),
        ("nodes: [{name: a, labels: [zone]}]\n", "'labels' must be a mapping, not a list"),
        ("nodes: [{name: a, labels: {zone: 1}}]\n", "node 'a', label 'zone': the value must be a string, not 1"),
        ("nodes: [{name: a, labels: {zone: on}}]\n", "the value must be a string, not True; put it in quotes"),
        ("nodes: [{name: a, labels: {1: x}}]\n", "the key must be a string"),
        ("nodes: [{name: a, labels: {'a b': x}}]\n", "not a legal label key"),
        ("nodes: [{name: a, labels: {'A/b/c': x}}]\n", "not a legal label key"),
        ("nodes: [{name: a, labels: {/b: x}}]\n", "not a legal label key"),
        ("nodes: [{name: a, labels: {zone: 'a b'}}]\n", "'a b' is not a legal label value"),
        (f"nodes: [{{name: a, labels: {{zone: {'x' * 64}}}}}]\n", "is not a legal label value"),
        ("nodes: [{name: a, labels: {node-role.kubernetes.io/edge: ''}}]\n", "does not let a kubelet set this label"),
        ("nodes: [{name: a, labels: {kubernetes.io/hostname: b}}]\n", "does not let a kubelet set this label"),
        ("nodes: [{name: a, agent: 'no'}]\n", "'agent' must be true or false"),
        ("nodes: [{name: a, name: b}]\n", "key 'name' stands twice"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    """Every mistake is refused with its place and reason."""
    with pytest.raises(SitesError) as caught:
        parse_sites(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "key", ["topology.kubernetes.io/zone", "node.kubernetes.io/site", "x.kubelet.kubernetes.io/y"]
)
def test_labels_that_kubelets_may_set_are_accepted(key: str) -> None:
    """NodeRestriction's exceptions are known."""
    assert Node("a", {key: "v"}).labels == {key: "v"}


def test_too_many_nodes_are_refused() -> None:
    """More nodes than there are pod networks are refused before anything starts."""
    with pytest.raises(SitesError, match="1001 nodes"):
        Sites(tuple(Node(f"n{index}") for index in range(1001)))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file is a sentence with its path."""
    with pytest.raises(SitesError, match=r"cannot read the sites file .*nosuch\.yaml: No such file"):
        load_sites(tmp_path / "nosuch.yaml")


def test_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """A file that is not UTF-8 is a sentence with its path."""
    path = tmp_path / "sites.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SitesError, match=r"sites\.yaml: it is not UTF-8 text"):
        load_sites(path)


def test_errors_of_a_file_carry_its_path(tmp_path: Path) -> None:
    """A mistake in a file names the file."""
    path = tmp_path / "sites.yaml"
    path.write_text("nodes: []\n")
    with pytest.raises(SitesError, match=r"sites file .*sites\.yaml: 'nodes' must be"):
        load_sites(path)
