"""Nodes without an agent, from the start or switched later."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from sitegrid.lab.lab import Lab
from sitegrid.lab.sites import Node, Sites

NewLab = Callable[..., Lab]


def _server(lab: Lab, node: str, client: str) -> str:
    config = json.loads((lab.layout.node(node) / f"{client}.kubeconfig").read_text())
    server: str = config["clusters"][0]["cluster"]["server"]
    return server


def _running(lab: Lab) -> set[str]:
    return {process.name for process in lab.status().processes if process.running}


@pytest.mark.timeout(180)
def test_agent_can_be_taken_away_and_given_back(new_lab: NewLab) -> None:
    """A stock node runs no agent and asks the API server; `set_agent` switches kube-proxy and CoreDNS both ways."""
    lab = new_lab()
    lab.up(Sites((Node("a"), Node("stock", agent=False))), controller=False)
    assert {"agent@a", "kube-proxy@a", "coredns@a", "kube-proxy@stock", "coredns@stock"} <= _running(lab)
    assert "agent@stock" not in _running(lab)
    assert [_server(lab, node, "kube-proxy") for node in ("a", "stock")] == [
        "https://127.0.0.1:10353",
        "https://172.31.0.1:6443",
    ]
    lab.set_agent("a", False)
    assert "agent@a" not in _running(lab)
    assert {_server(lab, "a", client) for client in ("kube-proxy", "coredns")} == {"https://172.31.0.1:6443"}
    lab.set_agent("stock", True)
    assert "agent@stock" in _running(lab)
    assert {node.name: node.agent for node in lab.status().nodes} == {"a": False, "stock": True}
