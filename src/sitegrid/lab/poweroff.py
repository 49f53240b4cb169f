"""A node's power cut: everything that runs on it ends at once, and nothing but its disk is left.

`Cluster.reboot_node` calls it after it has ended the node's own processes. What belongs to a node is told by network
namespace: that of the node and those of its pods, so commands entered by `lab exec` end as well. Invariant: when it
returns no process of the node runs. Held by ``tests/lab/test_reboot.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from sitegrid.lab import network

_POLL = 0.01


def pod_namespaces(pods: Path) -> list[Path]:
    """Return the network namespaces that the pods in the kubelet's directory `pods` had of their own."""
    names = []
    for file in pods.glob("*/netns"):
        path = Path(file.read_text(encoding="utf-8").strip())
        if path.name.startswith("pod-") and path.exists():
            names.append(path)
    return names


async def end_all(namespaces: Iterable[Path]) -> None:
    """Kill every process in the network `namespaces`, and return when they are gone."""
    inodes = {path.stat().st_ino for path in namespaces}
    while pids := _inside(inodes):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_POLL)


def _inside(inodes: set[int]) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        # A zombie is in no namespace any more.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns" / "net").stat().st_ino in inodes:
                found.append(int(entry.name))
    return found


async def power_off(node: str, pods: Path) -> None:
    """End everything in the namespaces of `node` and of its pods, and take the pods' namespaces away."""
    own = pod_namespaces(pods)
    await end_all([network.netns_path(node), *own])
    for path in own:
        network.delete_netns(path.name)
