"""`sitegrid demo` tells the truth: it plays to the end on a lab of its own, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_the_demo_holds_and_counts_two_thousand_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 0, no claim failed, at least 2,000 requests and none out of place; the pages show what it prints."""
    monkeypatch.setenv("SITEGRID_LAB_DIR", str(tmp_path))
    run = subprocess.run(
        [sys.executable, "-m", "sitegrid", "demo", "--name", "demo-test"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "FAILED" not in run.stdout
    counted = re.search(r"ok: 0 of (\d+) requests out of place", run.stdout)
    assert counted is not None
    assert int(counted[1]) >= 2_000
    assert list(tmp_path.iterdir()) == []
    printed = {_without_figures(line) for line in run.stdout.splitlines()}
    for page in ("README.md", "README.zh-CN.md"):
        block = (_ROOT / page).read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
        shown = {_without_figures(line) for line in block.splitlines()}
        assert shown - printed <= {"…"}, page


def _without_figures(line: str) -> str:
    """Return a line without what differs from run to run."""
    return re.sub(r"[0-9.]+", "0", " ".join(line.split()))
