from __future__ import annotations

from pathlib import Path

from sitegrid.lab.config import LabConfig
from sitegrid.lab.sites import Node


def test_orders_survive_the_file(tmp_path: Path) -> None:
    """What `up` writes is what the supervisor reads."""
    config = LabConfig(
        name="x",
        binaries={"etcd": "/bin/etcd"},
        port=1,
        nodes=[Node("a", {"zone": "b"}, agent=False)],
        controller=True,
        agents=False,
        user_namespace=True,
        environment={"PATH": "/bin"},
    )
    config.write(tmp_path / "lab.json")
    assert LabConfig.read(tmp_path / "lab.json") == config
