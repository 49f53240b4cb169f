"""Every benchmark runs to its end at a small size and prints all its rows; no figure is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.planning.__main__ import run as run_planning
from benchmarks.wire.__main__ import run as run_wire

_ROOT = Path(__file__).parents[2]


@pytest.mark.cluster
def test_agent_benchmark_takes_all_its_figures(tmp_path: Path) -> None:
    """Both sides are measured on a real control plane, every row has its figures, and no lab is left."""
    argv = [sys.executable, "-m", "benchmarks.agent", "--scale", "20x2", "-o", "json"]
    environment = {**os.environ, "SITEGRID_LAB_DIR": str(tmp_path)}
    done = subprocess.run(argv, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    figures: dict[str, dict[str, Any]] = {figure["name"].strip(): figure for figure in document["figures"]}
    assert len(figures) == 20
    assert all(figure["sitegrid"] is not None for figure in figures.values())
    # What needs no full size to be true: a unit's slices are fewer bytes than all units'.
    start = figures["of which EndpointSlices (protobuf)"]
    assert start["sitegrid"] < start["reference"]
    assert not document["judged"]
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_scale_is_refused() -> None:
    """A wrong size is one sentence, before a lab is started."""
    argv = [sys.executable, "-m", "benchmarks.agent", "--scale", "1x5"]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "at least 2 units" in done.stderr


def test_planning_benchmark_takes_all_its_figures() -> None:
    """The second plan is empty, or `run` itself would raise."""
    report = run_planning(units=20)
    assert len(report.figures) == 4
    assert "second pass" in report.to_text()


def test_wire_benchmark_takes_all_its_figures() -> None:
    """Both representations of the sample can be read."""
    report = run_wire(slices=20)
    assert len(report.figures) == 3
    assert "watch event" in report.to_text()
