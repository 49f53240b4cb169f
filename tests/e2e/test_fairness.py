"""A process on a node that takes all that its agent gives to anybody keeps nobody else from what is theirs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitegrid.lab.clients import wait_until
from sitegrid.lab.lab import Lab
from tests.support.faultsite import FAULTY, PLAIN_URL, URL, FaultSite, check_nothing_happened, metrics

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

HOSTILE = Path(__file__).parents[1] / "support" / "hostile.py"
LATE = """
apiVersion: v1
kind: Service
metadata: {name: late}
spec:
  selector: {app: kiosk}
  ports: [{port: 80}]
"""
GROWTH = 8_000_000
"""Bytes that an agent may have more after the attack than before it."""


@pytest.fixture
def late(lab: Lab) -> Iterator[None]:
    """Take the Service away that is made during the attack."""
    yield
    lab.kubectl("delete", "--ignore-not-found", "-f", "-", input=LATE)


def memory(lab: Lab) -> int:
    """Return what the agent of the faulty node has resident, in bytes."""
    return next(process.memory or 0 for process in lab.status().processes if process.name == f"agent@{FAULTY}")


@pytest.mark.usefixtures("late")
def test_a_hostile_process_keeps_no_kube_proxy_from_its_start(site: FaultSite, lab: Lab) -> None:
    """kube-proxy starts again and follows what is new, no request is lost, and the agent becomes small again."""
    site.settle()
    before = memory(lab)
    argv = lab.command(FAULTY, [sys.executable, str(HOSTILE), "10351"])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attack:
        try:
            assert attack.stdout is not None
            assert attack.stdout.readline() == "at it\n"
            assert wait_until(lambda: metrics(lab, FAULTY).get("refused_clients_total", 0) > 0)

            def restart() -> None:
                lab.process(f"kube-proxy@{FAULTY}", "restart")
                lab.kubectl("apply", "-f", "-", input=LATE)
                # The rules before the restart have no such Service: whoever answers, follows.
                assert wait_until(lambda: site.answers(FAULTY, 20, ("http://late/",)))

            check_nothing_happened(site.fault("hostile process", restart, (FAULTY,)))
            assert site.answers(FAULTY, 50, (URL, PLAIN_URL))
        finally:
            assert attack.stdin is not None
            attack.stdin.close()
    print(f"agent: {before / 1e6:.1f} MB before, {memory(lab) / 1e6:.1f} MB at the end of the attack")
    assert wait_until(lambda: metrics(lab, FAULTY)["connections"] < 20)
    assert wait_until(lambda: memory(lab) <= before + GROWTH, seconds=120), memory(lab)
