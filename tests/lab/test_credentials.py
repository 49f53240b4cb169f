from __future__ import annotations

import json
from pathlib import Path

import pytest

from sitegrid.lab.credentials import Credentials
from sitegrid.lab.layout import Layout

TOKENS = {"agent": "agent-token", "kube-proxy": "proxy-token", "coredns": "dns-token", "kubelet": "node-token"}


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    """Return credentials of a lab in an empty directory."""
    return Credentials(Layout(tmp_path))


def _cluster_and_user(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    config = json.loads(path.read_text())
    return config["clusters"][0]["cluster"], config["users"][0]["user"]


@pytest.mark.parametrize(
    ("client", "token"), [("kube-proxy", "proxy-token"), ("coredns", "dns-token"), ("kubelet", "node-token")]
)
def test_node_clients_ask_the_agent(tmp_path: Path, credentials: Credentials, client: str, token: str) -> None:
    """With an agent, the node's clients ask it with TLS (or client-go would send no token), each with its own."""
    credentials.write_node_clients("a", TOKENS, through_agent=True)
    cluster, user = _cluster_and_user(tmp_path / "nodes" / "a" / f"{client}.kubeconfig")
    assert cluster["server"] == "https://127.0.0.1:10353"
    assert cluster["certificate-authority-data"]
    assert user == {"token": token}


@pytest.mark.parametrize("client", ["kube-proxy", "coredns", "kubelet"])
def test_clients_of_a_stock_node_ask_the_api_server(tmp_path: Path, credentials: Credentials, client: str) -> None:
    """Without an agent they ask the API server over the WAN and verify it."""
    credentials.write_node_clients("a", TOKENS, through_agent=False)
    cluster, _ = _cluster_and_user(tmp_path / "nodes" / "a" / f"{client}.kubeconfig")
    assert cluster["server"] == "https://172.31.0.1:6443"
    assert cluster["certificate-authority-data"]


def test_the_user_gets_the_hosts_port(tmp_path: Path, credentials: Credentials) -> None:
    """The user's kubeconfig leads to the port that the lab has on the host's loopback."""
    credentials.write_control_plane(12345)
    cluster, _ = _cluster_and_user(tmp_path / "kubeconfig")
    assert cluster["server"] == "https://127.0.0.1:12345"


def test_no_key_is_readable_by_others(tmp_path: Path, credentials: Credentials) -> None:
    """Every file that is written is its owner's alone."""
    credentials.write_control_plane(1)
    credentials.write_node_servers("a", "172.30.1.1")
    credentials.write_controller("t")
    credentials.write_node_clients("a", TOKENS, through_agent=True)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o600}
