"""However a lab ends, nothing of it is left; and a second lab is no neighbour of the first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sitegrid.lab import lab as lab_module
from sitegrid.lab.binaries import ensure_binaries
from sitegrid.lab.lab import Lab, LabError, LabNotRunning
from sitegrid.lab.sites import Node, Sites
from sitegrid.lab.slowness import Slowness

NewLab = Callable[..., Lab]
Until = Callable[[Callable[[], bool], str], None]

CONTROL_PLANE_ONLY = Sites(())
ONE_NODE = Sites((Node("a", {"zone": "x"}),))
SLOW = Slowness(delay=0.1)


def _up(lab: Lab, sites: Sites = CONTROL_PLANE_ONLY) -> None:
    lab.up(sites, controller=False, agents=False)


def _processes_of(lab: Lab) -> list[str]:
    """Return the host's processes that have the lab's directory in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(lab.layout.root) in line:
            found.append(line)
    return found


def _host() -> tuple[str, str, list[str]]:
    """Return the host's links, mounts and named network namespaces."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    netns = Path("/run/netns")
    return (
        links,
        Path("/proc/self/mounts").read_text(),
        sorted(path.name for path in netns.iterdir()) if netns.is_dir() else [],
    )


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of one node, for tests that change it and leave it running."""
    with Lab("one-node", directory=tmp_path_factory.mktemp("labs")) as lab:
        _up(lab, ONE_NODE)
        yield lab


def test_nothing_is_left_after_down(new_lab: NewLab) -> None:
    """`down` removes processes, links, mounts and the state directory; the host never saw a link or mount."""
    before = _host()
    lab = new_lab()
    _up(lab, ONE_NODE)
    assert _host() == before
    lab.down()
    assert _host() == before
    assert _processes_of(lab) == []
    assert not lab.layout.root.exists()
    assert not lab.running


def test_down_twice_is_down(new_lab: NewLab) -> None:
    """`down` of what is not there does nothing."""
    lab = new_lab()
    lab.down()
    lab.down()


@pytest.mark.parametrize("victim", ["supervisor", "its parent"])
def test_killed_supervisor_takes_all_with_it(new_lab: NewLab, until: Until, victim: str) -> None:
    """After SIGKILL of either of its two processes the kernel ends the rest; files alone are left."""
    lab = new_lab()
    _up(lab, ONE_NODE)
    lab.slow_wan("a", SLOW)
    (relay,) = (process.pid for process in lab.status().processes if process.name == "wan@a")
    pid = lab.supervisor_pid
    if victim == "its parent":
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(pid, signal.SIGKILL)
    until(lambda: not lab.running, "the supervisor is gone")
    until(lambda: not _processes_of(lab), "all its processes are gone")
    until(lambda: not Path(f"/proc/{relay}").exists(), "the slow WAN's relay is gone")
    with pytest.raises(LabNotRunning, match="not running"):
        lab.status()
    assert lab.layout.nodes.exists()


def test_up_clears_what_a_killed_lab_left(new_lab: NewLab, until: Until) -> None:
    """The next `up` works, and nothing that is left in the state directory is used."""
    lab = new_lab()
    _up(lab)
    os.kill(lab.supervisor_pid, signal.SIGKILL)
    until(lambda: not _processes_of(lab), "all its processes are gone")
    stale = lab.layout.nodes / "stale"
    stale.mkdir(parents=True)
    _up(lab)
    assert not stale.exists()
    assert lab.kubectl("get", "nodes").stdout == ""


def test_two_labs_do_not_meet(new_lab: NewLab, one_node: Lab) -> None:
    """Two labs with the same nodes run side by side, each with its own cluster."""
    other = new_lab("other")
    _up(other, ONE_NODE)
    other.kubectl("create", "configmap", "mark")
    assert one_node.kubectl("get", "configmap", "mark", check=False).returncode == 1
    other.down()
    assert "node/a\n" in one_node.kubectl("get", "nodes", "-o", "name").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupted_up_leaves_nothing(tmp_path: Path, until: Until, number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM while it starts: exit code 130, no process, no directory."""
    environment = {**os.environ, "SITEGRID_LAB_DIR": str(tmp_path)}
    argv = [sys.executable, "-m", "sitegrid", "lab", "up", "--name", "cut", "--no-controller", "--no-agents"]
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "starting" in line:
            break
    lab = Lab("cut", directory=tmp_path)
    until(lambda: len(_processes_of(lab)) >= 4, "parts of the lab run")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert _processes_of(lab) == []
    assert list(tmp_path.iterdir()) == []


def test_lab_whose_up_was_killed_ends_by_itself(tmp_path: Path, until: Until) -> None:
    """Where `up` is killed before the lab is ready nobody knows of the lab, so it ends."""
    environment = {**os.environ, "SITEGRID_LAB_DIR": str(tmp_path)}
    argv = [sys.executable, "-m", "sitegrid", "lab", "up", "--name", "cut", "--no-controller", "--no-agents"]
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "starting" in line:
            break
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not _processes_of(Lab("cut", directory=tmp_path)), "the lab has ended")
    Lab("cut", directory=tmp_path).down()
    assert list(tmp_path.iterdir()) == []


def test_part_that_cannot_run_is_reported(new_lab: NewLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that ends again and again is named with its last words; logs are kept, nothing else is."""
    programs = ensure_binaries(progress=lambda _: None)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho I am broken\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(lab_module, "ensure_binaries", lambda progress: {**programs, "etcd": broken})
    lab = new_lab()
    with pytest.raises(LabError, match=r"^etcd keeps ending: I am broken$"):
        _up(lab)
    assert _processes_of(lab) == []
    assert {entry.name for entry in lab.layout.root.iterdir()} == {"lock", "logs"}


def test_without_root_it_works_as_well(new_lab: NewLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user namespace of its own, as every user but root gets one, a lab has nodes, exec and a WAN switch."""
    monkeypatch.setattr(lab_module, "check_requirements", lambda: True)
    lab = new_lab()
    _up(lab, ONE_NODE)
    assert lab.run("a", ["ip", "-br", "link", "show", "wan0"], capture_output=True, check=True).stdout
    lab.cut_wan("a")
    assert [(node.ready, node.wan) for node in lab.status().nodes] == [(True, False)]
    lab.slow_wan("a", SLOW)
    argv = ["curl", "-sk", "-m", "60", "-o", "/dev/null", "-w", "%{time_connect}", "https://172.31.0.1:6443/livez"]
    assert float(lab.run("a", argv, capture_output=True, check=True).stdout) > 2 * SLOW.delay


def test_status_without_the_api_server(one_node: Lab, until: Until) -> None:
    """While the API server is away readiness is unknown and labels are those of the start; then all goes on."""
    lab = one_node
    lab.process("kube-apiserver", "stop")
    first = lab.status().nodes[0]
    assert (first.name, first.ready, dict(first.labels)) == ("a", None, {"zone": "x"})
    assert lab.cut_wan("zone=x") == ["a"]
    lab.restore_wan("a")
    lab.process("kube-apiserver", "start")
    until(lambda: lab.kubectl("get", "--raw", "/readyz", check=False).stdout == "ok", "the API server is back")
    until(lambda: lab.status().nodes[0].ready is True, "the node is ready")


def test_state_in_run_is_refused() -> None:
    """A lab has a /run of its own, which would hide its state from it."""
    with pytest.raises(LabError, match=r"a /run of its own"):
        Lab(directory=Path("/run/sitegrid-test")).up()


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """An unusable state directory is a sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"cannot use the directory .*file/default: Not a directory"):
        Lab(directory=tmp_path / "file").up()


def test_added_node_is_ready_and_stays_labelled(one_node: Lab) -> None:
    """`add_node` returns with a Ready node of the given labels, reached by the older nodes' pods."""
    lab = one_node
    lab.add_node("b", {"zone": "y"})
    node = json.loads(lab.kubectl("get", "node", "b", "-o", "json").stdout)
    assert node["metadata"]["labels"]["zone"] == "y"
    assert [(status.name, status.ready) for status in lab.status().nodes] == [("a", True), ("b", True)]
    routes = lab.run("a", ["ip", "route"], capture_output=True, check=True).stdout
    assert "10.244.2.0/24 via 172.30.1.2" in routes
    with pytest.raises(LabError, match="node 'b' exists already"):
        lab.add_node("b", {})
