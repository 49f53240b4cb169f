"""`sitegrid lab` as a user types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sitegrid.cli.main import main
from sitegrid.lab.lab import Lab


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory of labs."""
    monkeypatch.setenv("SITEGRID_LAB_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def shared(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the arguments that name the shared lab."""
    monkeypatch.setenv("SITEGRID_LAB_DIR", str(lab.layout.root.parent))
    return ["--name", lab.name]


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["kubeconfig"],
        ["exec", "a", "--", "true"],
        ["kubectl", "get", "nodes"],
        ["wan", "cut", "a"],
        ["wan", "slow", "a", "--loss", "5%"],
        ["node", "add", "a"],
        ["node", "reboot", "a"],
        ["process", "stop", "etcd"],
    ],
)
def test_verbs_need_a_running_lab(home: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Without a lab every verb says how to start one."""
    assert main(["lab", *words]) == 1
    assert capsys.readouterr().err == "error: lab 'default' is not running; start it with `sitegrid lab up`\n"


def test_down_without_a_lab_succeeds(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`down` is for scripts that clean up: nothing to do is no failure; who has mistyped the name sees the others."""
    (home / "demo").mkdir()
    assert main(["lab", "down", "--name", "demoo"]) == 0
    assert capsys.readouterr().err == "there is no lab 'demoo'; there are demo\n"


def test_what_a_lab_has_left_is_cleared(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory of a lab that is gone is listed, and `down` removes it."""
    (home / "demo").mkdir()
    assert main(["lab", "list"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()][1:] == [["demo", "ended"]]
    assert main(["lab", "down", "--name", "demo"]) == 0
    assert capsys.readouterr().err == "lab 'demo' is gone\n"
    assert main(["lab", "list"]) == 0
    assert capsys.readouterr() == ("", "there is no lab; start one with `sitegrid lab up`\n")


def test_a_hint_names_the_lab(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What to type to start a lab has its name in it."""
    assert main(["lab", "--name", "x", "status"]) == 1
    assert capsys.readouterr().err == "error: lab 'x' is not running; start it with `sitegrid lab up --name x`\n"


def test_bad_name_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is no name is refused before it becomes a path."""
    assert main(["lab", "status", "--name", "../x"]) == 1
    assert "lab name '../x'" in capsys.readouterr().err


def test_bad_sites_file_starts_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in the sites file is one line, and no lab is begun."""
    (home / "sites.yaml").write_text("nodes: [{name: A}]\n")
    assert main(["lab", "up", "--sites", str(home / "sites.yaml")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "sites.yaml: node name 'A' is no DNS label" in error
    assert not (home / "default").exists()


def test_status_is_a_table(shared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The table has nodes with labels and processes with states."""
    assert main(["lab", "status", *shared]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["node12", "Ready", "up", "yes", "172.30.1.1", "test=a1,zone=NodeUnit1"] in rows
    assert any(row[:1] == ["kube-proxy@node12"] and row[2] == "running" for row in rows)


def test_status_is_json(shared: list[str], capsys: pytest.CaptureFixture[str], lab: Lab) -> None:
    """`-o json` has the same for scripts."""
    assert main(["lab", "status", *shared, "-o", "json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["kubeconfig"] == str(lab.kubeconfig)
    assert {"name": "node14", "labels": {"zone": "NodeUnit1"}, "wan": True}.items() <= status["nodes"][1].items()


def test_running_labs_are_listed(shared: list[str], capsys: pytest.CaptureFixture[str], lab: Lab) -> None:
    """`lab list` tells the names, for who has forgotten one, and where each kubeconfig is."""
    assert main(["lab", "list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["NAME", "STATE", "KUBECONFIG"], [lab.name, "running", str(lab.kubeconfig)]]
    assert main(["lab", "list", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": lab.name, "running": True}]


@pytest.mark.parametrize("options", [[], ["--keep"]])
def test_a_demo_leaves_a_lab_alone_that_runs(
    shared: list[str],
    options: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lab: Lab,
) -> None:
    """Who has kept the first demo's lab and types `demo` again does not lose it."""
    monkeypatch.setattr("sitegrid.lab.interruption.interrupt_on", lambda *_: None)  # SIGTERM is the test run's
    assert main(["demo", *shared, *options]) == 1
    shown = capsys.readouterr()
    assert (
        shown.err
        == f"error: lab {lab.name!r} is already running; end it with `sitegrid lab down --name {lab.name}` first\n"
    )
    assert lab.running


def test_kubeconfig_is_a_path(shared: list[str], capsys: pytest.CaptureFixture[str], lab: Lab) -> None:
    """`lab kubeconfig` prints the path and nothing else, for $(…)."""
    assert main(["lab", "kubeconfig", *shared]) == 0
    assert capsys.readouterr().out == f"{lab.kubeconfig}\n"


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_exec_exits_as_the_command(shared: list[str], command: str, code: int) -> None:
    """The exit code is the command's, 128 + N for signal N."""
    assert main(["lab", "exec", *shared, "node12", "--", "sh", "-c", command]) == code


@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_kubectl_is_the_labs_own(shared: list[str], dashes: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """No kubectl of the machine is needed; options, output and exit code are kubectl's."""
    assert main(["lab", *shared, "kubectl", *dashes, "get", "nodes", "-o", "name"]) == 0
    assert "node/node12\n" in capfd.readouterr().out
    assert main(["lab", *shared, "kubectl", *dashes, "-n", "kube-system", "get", "lease", "--no-headers"]) == 0
    assert "sitegrid-controller" in capfd.readouterr().out
    assert main(["lab", *shared, "kubectl", *dashes, "get", "nonsense"]) == 1


def test_wan_says_what_it_cut(shared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`wan` names the nodes, so that a label that matches more than meant is seen."""
    assert main(["lab", "wan", "cut", *shared, "zone=NodeUnit2"]) == 0
    assert main(["lab", "wan", "restore", *shared, "zone=NodeUnit2"]) == 0
    assert capsys.readouterr().out == "WAN cut: node21, node23\nWAN restored: node21, node23\n"


def test_wan_says_how_slow_it_is(shared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`wan slow` repeats what it was told, and `status` has it in its table and for scripts."""
    try:
        assert main(["lab", "wan", "slow", *shared, "node21", "--delay", "30ms", "--rate=1mbit", "--loss", "5%"]) == 0
        assert capsys.readouterr().out == "WAN slow (30ms, 5% loss, 1000kbit): node21\n"
        main(["lab", "status", *shared])
        assert re.search("^node21 .* slow: 30ms, 5% loss, 1000kbit  ", capsys.readouterr().out, re.MULTILINE)
        main(["lab", "status", *shared, "-o", "json"])
        slow = {node["name"]: node["slow"] for node in json.loads(capsys.readouterr().out)["nodes"]}
        assert slow["node21"] == {"delay": 0.03, "jitter": 0.0, "loss": 0.05, "rate": 1_000_000}
        assert slow["node23"] is None
    finally:
        assert main(["lab", "wan", "restore", *shared, "node21"]) == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["slow", "node21"], "say what is slow: --delay, --loss or --rate"),
        (["slow", "node21", "--delay", "300"], "--delay 300: use a time such as 300ms or 1.5s"),
        (["cut", "node21", "--loss", "5%"], "--delay, --jitter, --loss and --rate are for `wan slow` alone"),
    ],
)
def test_nonsense_of_wan_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], error: str
) -> None:
    """Before any lab is asked."""
    assert main(["lab", "wan", *words]) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_label_without_value_is_refused(shared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`--label` takes KEY=VALUE."""
    assert main(["lab", "node", "add", *shared, "x", "--label", "zone"]) == 2
    assert capsys.readouterr().err == "error: --label zone: use KEY=VALUE\n"
