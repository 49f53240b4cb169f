"""However a test run or the demo ends, its labs and the programs beside them end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.processes import running

pytestmark = pytest.mark.cluster

Until = Callable[[Callable[[], bool], str], None]

ROOT = Path(__file__).resolve().parents[2]
A_TEST = """
import signal
from sitegrid.lab.sites import Sites
from tests.support.processes import running

def test_that_waits(new_lab, tmp_path):
    new_lab().up(Sites(()), controller=False, agents=False)
    with running(["sh", "-c", "sleep 1000 # $0", tmp_path]):
        (tmp_path / "ready").touch()
        signal.pause()
"""


def _named(path: Path) -> list[str]:
    """Return the command lines of the host's processes that name `path`."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if str(path) in line]


def _host() -> tuple[str, str]:
    """Return the host's links and mounts."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return links, Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "with workers"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_test_run_leaves_nothing(
    tmp_path: Path, until: Until, number: signal.Signals, workers: Sequence[str]
) -> None:
    """SIGTERM to pytest ends its labs and programs in order; after SIGKILL they end by themselves, workers' too."""
    (tmp_path / "test_inner.py").write_text(A_TEST)
    (tmp_path / "tmp").mkdir()
    before, base = _host(), tmp_path / "run"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    argv += [f"--basetemp={base}", *workers, str(tmp_path / "test_inner.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    log = tmp_path / "log"
    with running(argv, log, cwd=ROOT, env=environment) as process:
        until(lambda: any(base.glob("**/ready")) or process.poll() is not None, "the inner test waits")
        assert process.poll() is None, log.read_text()
        process.send_signal(number)
        until(lambda: process.poll() is not None, "pytest has ended")
    assert process.returncode == (pytest.ExitCode.INTERRUPTED if number == signal.SIGTERM else -number)
    until(lambda: not _named(base), "all its processes are gone")
    assert _host() == before
    assert [*(tmp_path / "tmp").iterdir()] == []
    if number == signal.SIGTERM:
        assert [*base.glob("**/labs/*")] == []


@pytest.mark.parametrize(
    ("number", "line"),
    [(signal.SIGTERM, "starting"), (signal.SIGKILL, "$ kubectl get nodes")],
    ids=["SIGTERM", "SIGKILL"],
)
def test_a_demo_leaves_no_lab(tmp_path: Path, until: Until, number: signal.Signals, line: str) -> None:
    """The demo's lab ends with the demo, while it starts or later; only a killed one leaves files for the next."""
    argv = [sys.executable, "-m", "sitegrid", "demo", "--name", "ended"]
    environment = {**os.environ, "SITEGRID_LAB_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    with running(argv, log, env=environment) as process:
        until(lambda: line in log.read_text() or process.poll() is not None, f"the demo says {line!r}")
        assert process.poll() is None, log.read_text()
        process.send_signal(number)
        until(lambda: process.poll() is not None, "the demo has ended")
    assert process.returncode == (130 if number == signal.SIGTERM else -number)
    until(lambda: not _named(tmp_path / "ended"), "all its processes are gone")
    if number == signal.SIGTERM:
        assert [path.name for path in tmp_path.iterdir()] == ["log"]
