"""A node's power is cut: nothing of it runs on, and all of it comes back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from sitegrid.lab.lab import Lab, LabError
from sitegrid.lab.slowness import Slowness

PARTS = ("kubelet@node14", "agent@node14", "kube-proxy@node14", "coredns@node14")


def pids(lab: Lab) -> dict[str, int | None]:
    """Return the node's processes."""
    return {process.name: process.pid for process in lab.status().processes if process.name in PARTS}


def containers(lab: Lab) -> dict[str, Any]:
    """Return pod address and container of the node's pod."""
    items = json.loads(lab.kubectl("get", "pods", "-l", "app=everywhere", "-o", "json").stdout)["items"]
    [pod] = [item for item in items if item["spec"].get("nodeName") == "node14"]
    [status] = pod["status"]["containerStatuses"]
    return {"uid": pod["metadata"]["uid"], "address": pod["status"]["podIP"], "restarts": status["restartCount"],
            "id": status["containerID"], "ready": status["ready"]}  # fmt: skip


def everything_kept(lab: Lab, node: str) -> bool:
    """Tell whether all that the node's agent knows is on its disk."""
    argv = ["curl", "-s", "http://127.0.0.1:10351/sitegrid/metrics"]
    return "sitegrid_agent_snapshots_unwritten 0" in lab.run(node, argv, capture_output=True).stdout.splitlines()


def test_a_rebooted_node_starts_everything_anew(
    lab: Lab, pods: dict[str, str], until: Callable[[Callable[[], bool], str], None]
) -> None:
    """Processes, rules and entered commands are gone; the pod runs again under its address."""
    # The kubelet's pods come from the agent: one not on its disk yet would be new to the kubelet.
    until(lambda: everything_kept(lab, "node14"), "the agent has written what it knows")
    before, pod = pids(lab), containers(lab)
    lab.run("node14", ["nft", "add", "table", "ip", "left-over"], check=True)
    with subprocess.Popen(lab.command("node14", ["sleep", "1000"])) as inside:
        lab.reboot_node("node14")
        assert inside.wait(20) != 0
    after = pids(lab)
    assert after.keys() == before.keys() == set(PARTS)
    assert all(after.values())
    assert not set(after.values()) & set(before.values())
    assert "left-over" not in lab.run("node14", ["nft", "list", "tables"], capture_output=True).stdout
    until(lambda: containers(lab)["id"] != pod["id"] and containers(lab)["ready"], "the pod runs again")
    now = containers(lab)
    assert (now["uid"], now["address"], now["restarts"]) == (pod["uid"], pod["address"], pod["restarts"] + 1)
    answer = lab.run("node12", ["curl", "-sf", "-m", "5", f"http://{pods['node14']}:8080/"], capture_output=True)
    assert json.loads(answer.stdout)["node"] == "node14"


def test_a_reboot_leaves_the_wan_as_it_is(lab: Lab, until: Callable[[Callable[[], bool], str], None]) -> None:
    """A node whose uplink is cut boots without it, from its disk; a slow one stays as slow."""
    until(lambda: everything_kept(lab, "node14"), "the agent has written what it knows")
    argv = ["curl", "-sk", "-m", "1", "https://172.31.0.1:6443/livez"]
    lab.cut_wan("node14")
    try:
        lab.reboot_node("node14")
        assert lab.run("node14", argv, capture_output=True).returncode == 28
        lab.slow_wan("node14", Slowness(delay=1.0))
        lab.reboot_node("node14")
        assert lab.run("node14", argv, capture_output=True).returncode == 28
        lab.slow_wan("node14", Slowness(delay=0.01))
        assert lab.run("node14", [*argv, "-m", "60"], capture_output=True).stdout == "ok"
    finally:
        lab.restore_wan("node14")


def test_a_node_that_is_not_there_cannot_be_rebooted(lab: Lab) -> None:
    """The answer is a sentence."""
    with pytest.raises(LabError, match="no node 'node99'"):
        lab.reboot_node("node99")
