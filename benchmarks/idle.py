"""``python -m benchmarks.idle``: what sitegrid writes while nothing happens, by the API server's own audit log (I7).

A lab of sixteen nodes in eight sites runs every kind of grid, with NodeUnits and NodeGroups declared and generated.
When it has settled it is left alone for SITEGRID_IDLE_SECONDS (300) but for heartbeats: kubelets renew their Leases,
and every condition of every Node gets a new time each five seconds. Wanted are no writes at all. The one Lease that
says which controller leads is counted by itself: it is how a second replica learns that the first has died.
Run by ``make bench-idle``; ``tests/e2e/test_idle.py`` does the same on the tests' lab for a shorter time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sitegrid.kube.client import Client
from sitegrid.kube.config import load_config
from sitegrid.kube.resources import NODES
from sitegrid.lab.interruption import interrupt_on
from sitegrid.lab.lab import Lab
from sitegrid.lab.sites import Node, Sites

MANIFEST: Final = Path(__file__).parent / "idle.yaml"
READY: Final = ("dg/idle", "ssg/idle", "dsg/idle", "sg/idle", "sg/idle-headless", "nu/idle-declared", "sedg/idle")
SETTLED: Final = 10.0
"""Seconds without a write after which a cluster counts as settled."""
_HEARTBEAT: Final = 5.0


def writes(lab: Lab, after: int = 0) -> tuple[Counter[str], int]:
    """Return what sitegrid's accounts have written since the audit log had `after` lines, and its lines now."""
    lines = lab.layout.audit_log.read_text(encoding="utf-8").splitlines()
    found: Counter[str] = Counter()
    for line in lines[after:]:
        event = json.loads(line)
        resource = event["objectRef"]["resource"]
        found["lease" if resource == "leases" else f"{event['verb']} {resource}"] += 1
    return found, len(lines)


async def settle(lab: Lab, patience: float = 180.0) -> None:
    """Return when sitegrid has written nothing for `SETTLED` seconds. Raises TimeoutError."""
    async with asyncio.timeout(patience):
        _, mark = writes(lab)
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < SETTLED:
            await asyncio.sleep(1.0)
            new, mark = writes(lab, mark)
            if set(new) - {"lease"}:
                quiet_since = time.monotonic()


async def beat(lab: Lab, seconds: float) -> int:
    """Give every Node's conditions a new time each five seconds, for so long; return how many were given."""
    beats, end = 0, time.monotonic() + seconds
    async with Client(load_config(str(lab.kubeconfig))) as client:
        while (left := end - time.monotonic()) > 0:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            for node in (await client.list(NODES)).items:
                conditions = [{**c, "lastHeartbeatTime": now} for c in node["status"]["conditions"]]
                status = {"status": {"conditions": conditions}}
                await client.patch(NODES, node["metadata"]["name"], status, subresource="status")
                beats += 1
            await asyncio.sleep(min(left, _HEARTBEAT))
    return beats


async def measure(lab: Lab, seconds: float) -> tuple[Counter[str], int]:
    """Return what sitegrid writes to a settled cluster in so many seconds, and how many heartbeats there were."""
    await settle(lab)
    _, mark = writes(lab)
    beats = await beat(lab, seconds)
    return writes(lab, mark)[0], beats


def main() -> int:
    """Run it; the exit code is 1 where anything was written."""
    interrupt_on(signal.SIGTERM)
    seconds = float(os.environ.get("SITEGRID_IDLE_SECONDS", "300"))
    nodes = tuple(Node(f"n{i}", {"zone": f"site{i // 2}", "rack": f"r{i % 4}"}) for i in range(16))
    with Lab("bench-idle") as lab:
        lab.up(Sites(nodes), progress=lambda text: print(text, file=sys.stderr, flush=True))
        lab.kubectl("apply", "-f", str(MANIFEST))
        lab.kubectl("wait", "--for=condition=Ready", "--timeout=300s", *READY)
        found, beats = asyncio.run(measure(lab, seconds))
    leases = found.pop("lease", 0)
    print(f"{len(nodes)} nodes, {seconds:.0f} s, {beats} heartbeats of conditions, besides the kubelets' Leases")
    print(f"sitegrid's writes: {found.total()} {dict(found) or ''}; renewals of the leader's Lease: {leases}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
