"""`sitegrid controller`: what its options mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sitegrid.cli.main import main
from sitegrid.controller import process
from sitegrid.grid.nodelimits import NodeLimits
from sitegrid.lab.pki import write_kubeconfig


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[process.Settings]:
    """Have the controller's process only note its settings."""
    found: list[process.Settings] = []

    async def run(config: Any, settings: process.Settings) -> None:
        found.append(settings)

    config = tmp_path / "config"
    write_kubeconfig(config, server="https://127.0.0.1:1", user={}, ca=b"")
    monkeypatch.setenv("KUBECONFIG", str(config))
    monkeypatch.setattr(process, "run", run)
    return found


@pytest.mark.parametrize(
    ("argument", "ports"),
    [
        (None, range(30000, 32768)),
        ("20000-22767", range(20000, 22768)),
        ("20000+10", range(20000, 20011)),
        ("30080", range(30080, 30081)),
        ("1-65535", range(1, 65536)),
    ],
)
def test_node_port_range(settings: list[process.Settings], argument: str | None, ports: range) -> None:
    """It is given in kube-apiserver's words, and has its default."""
    assert main(["controller", *([f"--service-node-port-range={argument}"] if argument else [])]) == 0
    assert [found.node_ports for found in settings] == [ports]


@pytest.mark.parametrize("argument", ["", "0-10", "200-100", "1-65536", "a-b", "30000-", "-5"])
def test_node_port_range_that_is_none(
    settings: list[process.Settings], capsys: pytest.CaptureFixture[str], argument: str
) -> None:
    """A range that cannot be is told with an example, and nothing starts."""
    assert main(["controller", f"--service-node-port-range={argument}"]) == 2
    words = f"error: --service-node-port-range {argument}: not a range of ports such as 30000-32767\n"
    assert (settings, capsys.readouterr().err) == ([], words)


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ([], NodeLimits()),
        (
            ["--allowed-node-keys=topology.kubernetes.io/zone, node-restriction.kubernetes.io/*"],
            NodeLimits(("topology.kubernetes.io/zone", "node-restriction.kubernetes.io/*")),
        ),
        (["--allow-no-execute-taints"], NodeLimits(no_execute=True)),
    ],
)
def test_node_limits(settings: list[process.Settings], arguments: list[str], limits: NodeLimits) -> None:
    """Nothing is allowed by default."""
    assert main(["controller", *arguments]) == 0
    assert [found.node_limits for found in settings] == [limits]


@pytest.mark.parametrize("key", ["zone", "*", "kubernetes.io/*/x", "kubernetes.io/", "/x"])
def test_node_key_that_is_none(
    settings: list[process.Settings], capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """A slip does not allow more than was meant."""
    assert main(["controller", f"--allowed-node-keys={key}"]) == 2
    words = f"error: --allowed-node-keys {key}: not a key such as topology.kubernetes.io/zone\n"
    assert (settings, capsys.readouterr().err) == ([], words)
