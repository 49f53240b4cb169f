"""The command as a process: what shells and scripts see of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sitegrid.cli.main import main

_CRDS = (sys.executable, "-m", "sitegrid", "crds")


def test_a_reader_that_goes_away_is_no_trace() -> None:
    """`sitegrid crds | true` ends as if SIGPIPE had ended it, in silence."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(_CRDS, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_said() -> None:
    """Output that could not be written is a failure in one line, not a success."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(_CRDS, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_what_the_machine_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An OSError from anywhere below names the file and the reason."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("SITEGRID_LAB_DIR", str(tmp_path / "file"))
    assert main(["lab", "down"]) == 1
    error = capsys.readouterr().err
    assert error.endswith("Not a directory\n")
    assert error.count("\n") == 1


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted command says nothing more."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sitegrid.api.schema.crd_files", interrupted)
    assert main(["crds"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_controllers_address_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the address and the reason, once."""
    config = tmp_path / "kubeconfig"
    config.write_text(
        "{current-context: a, contexts: [{name: a, context: {cluster: a}}], "
        'clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]}'
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["controller", "--kubeconfig", str(config), "--metrics-address", address]) == 1
    assert capsys.readouterr().err == f"error: cannot listen on {address}: Address already in use\n"
