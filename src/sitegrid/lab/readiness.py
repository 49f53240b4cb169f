"""What a lab still waits for.

`Cluster` asks while it boots and after it has changed a node. Every part is asked by its own health endpoint, from
inside its network namespace; a Node by its Ready condition. Held by ``tests/lab/test_lab.py`` and
``tests/lab/test_crash.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError, DecodeError, Unreachable
from sitegrid.kube.resources import NODES
from sitegrid.lab import addresses
from sitegrid.lab.member import Member
from sitegrid.lab.network import netns_path
from sitegrid.lab.probe import http_status


async def api_server_ready(client: Client) -> bool:
    """Tell whether the API server says that it is ready."""
    try:
        await client.request("GET", "/readyz")
    except DecodeError:
        # Success: its "ok" is not JSON.
        return True
    except (ApiError, Unreachable):
        return False
    return True


async def get_nodes(client: Client) -> dict[str, dict[str, Any]] | None:
    """Return all Nodes by name, None where the API server does not answer."""
    try:
        return {node["metadata"]["name"]: node for node in (await client.list(NODES)).items}
    except (ApiError, Unreachable):
        return None


def is_ready(node: Mapping[str, Any]) -> bool:
    """Tell whether a Node's Ready condition is true."""
    conditions = node.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


async def unready_parts(client: Client, members: Iterable[Member], *, controller: bool) -> list[str]:
    """Return the names of the processes of `members` (and the controller) that are not ready."""
    nodes = await get_nodes(client) or {}
    found = await asyncio.gather(*(_unready_on(member, is_ready(nodes.get(member.name, {}))) for member in members))
    names = [name for names in found for name in names]
    if controller and await http_status(_port(addresses.CONTROLLER_METRICS), "/readyz") != 200:
        names.append("controller")
    return names


async def _unready_on(member: Member, node_ready: bool) -> list[str]:
    return [*([] if node_ready else [f"kubelet@{member.name}"]), *await unready_clients(member)]


async def unready_clients(member: Member) -> list[str]:
    """Return the names of what asks for Services on `member` and is not ready; needs no API server."""
    probes = {
        "kube-proxy": (addresses.KUBE_PROXY_HEALTH_PORT, "/healthz"),
        "coredns": (addresses.COREDNS_READY_PORT, "/ready"),
    }
    if member.agent:
        probes["agent"] = (_port(addresses.AGENT), "/sitegrid/readyz")
    netns = netns_path(member.name)
    statuses = await asyncio.gather(*(http_status(*probe, netns=netns) for probe in probes.values()))
    return [f"{name}@{member.name}" for name, status in zip(probes, statuses, strict=True) if status != 200]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def last_words(log: Path) -> str:
    """Return the last line of a log that the process itself wrote, before the stack of a Go program that panicked."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    own = [line for line in lines if line.strip() and not line.startswith("[lab]")]
    stacks = [place for place, line in enumerate(own) if line.startswith("goroutine ")]
    own = own[: stacks[-1]] if stacks else own
    return own[-1] if own else f"nothing in {log}"
