"""docs/troubleshooting.md, docs/closure.md: each of their commands works as it stands, on a lab with the example."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sitegrid.lab.clients import Clients
from sitegrid.lab.lab import Lab

pytestmark = pytest.mark.cluster

_DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = [
    line[2:]
    for page in ("troubleshooting.md", "closure.md")
    for line in (_DOCS / page).read_text(encoding="utf-8").splitlines()
    if line.startswith("$ ") and "port-forward" not in line  # which does not end; test_outsiders.py has it
]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_answers(lab: Lab, walkthrough: Clients, command: str) -> None:
    """It exits with 0; all but the list of what is wrong say something about a cluster that is well."""
    # Tests before this one may have cut sites off for so long that the cloud has to hear of their pods again.
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "dg/deploymentgrid-demo", "sg/servicegrid-demo")
    path = [str(Path(sys.executable).parent), os.environ["KUBEBUILDER_ASSETS"], os.environ["PATH"]]
    own = {"KUBECONFIG": str(lab.kubeconfig), "SITEGRID_LAB_DIR": str(lab.layout.root.parent)}
    done = subprocess.run(
        ["bash", "-c", command.replace("sitegrid lab", f"sitegrid lab --name {lab.name}")],
        env={**os.environ, **own, "PATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) != ("unitStates" in command)
