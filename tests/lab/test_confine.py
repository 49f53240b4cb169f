"""What agents run as in a lab, and what a confined process can do at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sitegrid.lab.components import Components
from sitegrid.lab.config import LabConfig
from sitegrid.lab.lab import Lab

PROBE = """
import json, os, sys
data, file, outside, *places = sys.argv[1:]

def attempt(do):
    try:
        do()
    except OSError as error:
        return type(error).__name__ if error.errno not in (30,) else "read-only"
    return "done"

print(json.dumps({
    "account": [os.getuid(), os.getgid(), os.getgroups()],
    "writes": {place: attempt(lambda: open(place + "/new", "w")) for place in places},
    "data": attempt(lambda: open(data + "/new", "w")),
    "file": open(file).read(),
    "file changed": attempt(lambda: open(file, "w")),
    "outside": attempt(lambda: open(outside)),
    "root again": attempt(lambda: os.setuid(0)),
}))
"""


def test_agents_are_nobody_and_can_write_to_their_data_only(lab: Lab) -> None:
    """Each runs without root, capabilities and groups; every mount but the data directory is read-only."""
    assert not LabConfig.read(lab.layout.config).user_namespace, "this is about labs that root starts"
    for process in lab.status().processes:
        name, _, node = process.name.partition("@")
        if name != "agent":
            continue
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        status = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
        assert status["Uid"] == status["Gid"] == ["65534"] * 4
        assert status["Groups"] == []
        assert {int(status[f"Cap{which}"][0], 16) for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert status["NoNewPrivs"] == ["1"]
        mounts = [line.split() for line in Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()]
        writable = [mount[4] for mount in mounts if "ro" not in mount[5].split(",")]
        assert writable == [str(lab.layout.agent_data(node))]


def test_a_confined_process_has_nothing_else(lab: Lab, tmp_path: Path) -> None:
    """It reads what it was given, though the way there is closed to others; it writes nowhere else; for good."""
    given, outside = tmp_path / "given", tmp_path / "outside"
    given.write_text("for the agent")
    outside.write_text("for others")
    given.chmod(0o600)
    tmp_path.chmod(0o700)
    parts = Components(LabConfig.read(lab.layout.config), lab.layout)
    argv = [*parts.confined(tmp_path / "data", given), sys.executable, "-c", PROBE]
    places = ["/", "/etc", "/usr", str(tmp_path), sys.prefix]
    done = lab.run(
        "node12", [*argv, str(tmp_path / "data"), str(given), str(outside), *places], capture_output=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert found == {
        "account": [65534, 65534, []],
        "writes": dict.fromkeys(places, "read-only"),
        "data": "done",
        "file": "for the agent",
        "file changed": "read-only",
        "outside": "FileNotFoundError",
        "root again": "PermissionError",
    }
