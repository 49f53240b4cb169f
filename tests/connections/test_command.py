"""`sitegrid connections` as a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sitegrid.lab.requirements import check_requirements

_COMMAND = (sys.executable, "-m", "sitegrid", "connections")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--agent=10351"], "--agent 10351 is not HOST:PORT"),
        (["--agent=127.0.0.1:0"], "--agent 127.0.0.1:0 is not HOST:PORT"),
        (["--grace=-1"], "--grace is a number of seconds, 0 or more"),
        (["--grace=nan"], "--grace is a number of seconds, 0 or more"),
    ],
)
def test_mistakes_are_told(options: list[str], said: str) -> None:
    """In one line, with exit code 2."""
    done = subprocess.run([*_COMMAND, *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")


def test_a_missing_right_is_told_at_once() -> None:
    """Not when a connection is to be ended. Other capabilities are not needed."""
    user = ["--user", "--map-root-user"] if check_requirements() else []
    without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]
    argv = ["unshare", *user, "--net", "--", *without, *_COMMAND]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "it takes CAP_NET_ADMIN in the node's network namespace" in done.stderr
