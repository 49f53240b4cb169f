"""What a running lab can be asked to do: from requests of the control socket to calls of its `Cluster`.

The supervisor hands every request to `Verbs.answer`; `Lab` on the host sends them.
Held by ``tests/lab/test_lab.py`` and ``tests/lab/test_wan.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from sitegrid.lab.cluster import Cluster
from sitegrid.lab.errors import LabError
from sitegrid.lab.member import Member
from sitegrid.lab.processes import Process
from sitegrid.lab.readiness import is_ready
from sitegrid.lab.sites import Node
from sitegrid.lab.slowness import Slowness

_AUTOMATIC_LABELS: Final = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    }
)
"""Labels that every kubelet gives its Node; they say nothing about sites."""


class Verbs:
    """Answers control requests for `cluster`; `end` ends the lab."""

    def __init__(self, cluster: Cluster, end: Callable[[], None]) -> None:
        self._cluster = cluster
        self._end = end
        self.booted = False

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what `request` asks for and return the answer; raises `LabError` for what cannot be done."""
        match request:
            case {"verb": "status"}:
                return await self._status()
            case {"verb": "down"}:
                self._end()
                return {}
        if not self.booted:
            raise LabError("the lab is still starting")
        match request:
            case {"verb": "wan", "up": bool(up), "slow": slow, "target": str(target)}:
                members = await self._targets(target)
                slowness = Slowness(**slow) if slow is not None else None
                for member in members:
                    await self._cluster.set_wan(member, up=up, slow=slowness)
                return {"nodes": [member.name for member in members]}
            case {"verb": "node-add", "name": str(name), "labels": dict(labels), "agent": bool(agent)}:
                await self._cluster.add_node(Node(name, labels, agent))
            case {"verb": "node-reboot", "node": str(name)}:
                await self._cluster.reboot_node(self._cluster.member(name))
            case {"verb": "set-agent", "node": str(name), "agent": bool(agent)}:
                await self._cluster.set_agent(self._cluster.member(name), agent)
            case {"verb": "process", "name": str(name), "action": str(action)}:
                await _act(self._cluster.process(name), action)
            case _:
                raise LabError(f"unknown control request {request.get('verb')!r}")
        return {}

    async def _status(self) -> dict[str, Any]:
        nodes = await self._cluster.nodes()
        return {
            "nodes": [
                {
                    "name": member.name,
                    "labels": _labels(nodes, member),
                    "wan": member.wan,
                    "slow": asdict(member.slow) if member.slow is not None else None,
                    "ready": None if nodes is None else is_ready(nodes.get(member.name, {})),
                    "agent": member.agent,
                    "address": member.addresses.lan,
                }
                for member in self._cluster.members.values()
            ],
            "processes": [
                {
                    "name": name,
                    "pid": process.pid,
                    "running": process.pid is not None,
                    "restarts": process.restarts,
                    "memory": _resident(process.pid),
                }
                for name, process in self._cluster.processes.items()
            ],
        }

    async def _targets(self, target: str) -> list[Member]:
        """Return the node named `target`, or all with the label ``KEY=VALUE``."""
        key, separator, value = target.partition("=")
        if not separator:
            return [self._cluster.member(target)]
        nodes = await self._cluster.nodes()
        members = [member for member in self._cluster.members.values() if _labels(nodes, member).get(key) == value]
        if not members:
            raise LabError(f"no node has the label {target}")
        return members


async def _act(process: Process, action: str) -> None:
    async with process.changing:
        match action:
            case "start":
                process.start()
            case "stop":
                await process.stop()
            case "restart":
                await process.stop()
                process.start()
            case "replace":
                await process.replace()
            case "reload":
                process.signal(signal.SIGHUP)
            case "kill":
                process.signal(signal.SIGKILL)
            case _:
                raise LabError(f"unknown action {action!r}: use start, stop, restart, replace, reload or kill")


def _labels(nodes: Mapping[str, Any] | None, member: Member) -> dict[str, str]:
    """Return the Node's labels but for the automatic ones; those it began with while the API server is silent."""
    if nodes is None or member.name not in nodes:
        return dict(member.node.labels)
    labels: dict[str, str] = nodes[member.name]["metadata"].get("labels") or {}
    return {key: value for key, value in labels.items() if key not in _AUTOMATIC_LABELS}


def _resident(pid: int | None) -> int | None:
    """Return the resident memory of a process in bytes, None where it does not run."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
