"""``python -m benchmarks.agent.plain``: what objects of no grid, and Services of other keys, cost an agent.

One lab node with kube-proxy, CoreDNS and the kubelet behind its agent, in a cluster that gets more and more plain
Services, each with a slice, and then Services of a grid that the node has no unit of. At each size the node's
processes begin anew with an empty disk; then the agent does with what it has kept. Bytes are the node's WAN link's,
both ways. Nothing is judged: sizes, not ratios, are what this is for.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.agent.meter import Meter
from benchmarks.agent.stage import PARALLEL_WRITES, until
from sitegrid.kube.client import Client
from sitegrid.kube.config import load_config
from sitegrid.kube.resources import ENDPOINTSLICES, SERVICES, Resource
from sitegrid.lab.interruption import interrupt_on
from sitegrid.lab.lab import Lab
from sitegrid.lab.sites import Node, Sites
from sitegrid.wire.labels import GRID_UNIQ_KEY, SERVICE_NAME, SERVICE_PROXY_NAME, SITEGRID

NODE: Final = "n1"
CLIENTS: Final = ("kube-proxy", "coredns", "kubelet")
WATCHES: Final = 9
CHANGES: Final = 20
_MANAGER: Final = "kube-controller-manager"

Manifest = dict[str, Any]


def plain_service(number: int) -> Manifest:
    """Return a Service of no grid."""
    app = f"app-{number:05d}"
    return {
        "metadata": {"name": app, "namespace": "default", "labels": {"app.kubernetes.io/name": app, "tier": "web"}},
        "spec": {
            "selector": {"app.kubernetes.io/name": app},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }


def plain_slice(number: int, change: int = 0) -> Manifest:
    """Return the slice of a plain Service, with its two endpoints."""
    app = f"app-{number:05d}"
    endpoints = [
        {
            "addresses": [f"10.{200 + place}.{number >> 8}.{number & 255}"],
            "conditions": {"ready": change % 2 == 0, "serving": True, "terminating": False},
            "nodeName": f"site-{number % 300:03d}-{place}",
            "targetRef": {
                "kind": "Pod",
                "namespace": "default",
                "name": f"{app}-7d4b9c{number * 7919 % 100000:05d}-{place}",
                "uid": f"{number * 104729:08x}-0000-4000-8000-{number * 15485863 + place:012x}",
            },
        }
        for place in range(2)
    ]
    labels = {SERVICE_NAME: app, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
    labels |= {"app.kubernetes.io/name": app, "tier": "web"}
    return {
        "metadata": {"name": f"{app}-x{number * 7919 % 100000:05d}", "namespace": "default", "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def foreign_service(number: int) -> Manifest:
    """Return a grid's Service of a key that no label of the node has."""
    service = plain_service(number)
    service["metadata"]["name"] = f"other-{number:05d}"
    service["metadata"]["labels"] |= {GRID_UNIQ_KEY: "other", SERVICE_PROXY_NAME: SITEGRID}
    return service


@dataclass(frozen=True, slots=True)
class Row:
    """One size's figures, in bytes."""

    plain: int
    foreign: int
    start_bytes: int
    change_bytes: float
    fresh: int
    fresh_peak: int
    kept: int
    kept_peak: int

    def __str__(self) -> str:
        sizes = (self.fresh, self.fresh_peak, self.kept, self.kept_peak)
        memory = "".join(f"{size / 1e6:12.2f}" for size in sizes)
        return f"{self.plain:6d}{self.foreign:9d}{self.start_bytes / 1e3:12.0f}{self.change_bytes:11.0f}{memory}"


HEAD: Final = (
    f"{'plain':>6}{'foreign':>9}{'start kB':>12}{'change B':>11}"
    f"{'new MB':>12}{'peak MB':>12}{'kept MB':>12}{'peak MB':>12}"
)


class Crowd:
    """The lab and its growing cluster."""

    def __init__(self, lab: Lab, client: Client) -> None:
        self._lab = lab
        self._client = client
        self._plain = self._foreign = self._round = 0

    async def grow(self, plain: int, foreign: int) -> None:
        """Have so many plain Services, each with a slice, and so many of another key."""
        begin, self._plain = self._plain, plain
        others, self._foreign = self._foreign, foreign
        await self._create(SERVICES, (plain_service(number) for number in range(begin, plain)), "kubectl-create")
        await self._create(ENDPOINTSLICES, (plain_slice(number) for number in range(begin, plain)), _MANAGER)
        await self._create(SERVICES, (foreign_service(number) for number in range(others, foreign)), "sitegrid")

    async def _create(self, resource: Resource, objects: Iterator[Manifest], manager: str) -> None:
        async def work() -> None:
            for item in objects:
                body = {"apiVersion": resource.api_version, "kind": resource.kind, **item}
                await self._client.create(resource, body, field_manager=manager)

        await asyncio.gather(*(work() for _ in range(PARALLEL_WRITES)))

    def _processes(self, verb: str, *names: str) -> None:
        for name in names:
            self._lab.process(f"{name}@{NODE}", verb)

    def _wan_bytes(self) -> int:
        found = self._lab.run(NODE, ["cat", "/proc/net/dev"], capture_output=True).stdout
        line = next(line for line in found.splitlines() if line.strip().startswith("wan0:"))
        fields = line.partition(":")[2].split()
        return int(fields[0]) + int(fields[8])

    def _metrics(self) -> dict[str, float]:
        argv = ["curl", "-s", "-m", "5", "http://127.0.0.1:10351/sitegrid/metrics"]
        lines = self._lab.run(NODE, argv, capture_output=True).stdout.splitlines()
        pairs = (line.rpartition(" ") for line in lines if line.startswith("sitegrid_agent_"))
        return {name.removeprefix("sitegrid_agent_"): float(value) for name, _, value in pairs}

    def _settled(self) -> bool:
        found = self._metrics()
        return (found.get("watchers"), found.get("snapshots_unwritten")) == (WATCHES, 0)

    def _agent(self) -> Meter:
        pids = (process.pid for process in self._lab.status().processes if process.name == f"agent@{NODE}")
        return Meter(next(pid for pid in pids if pid is not None))

    async def measure(self) -> Row:
        """Begin anew with an empty disk, then with what was kept; return what both cost."""
        self._processes("stop", *CLIENTS, "agent")
        for entry in self._lab.layout.agent_data(NODE).iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        before = self._wan_bytes()
        self._processes("start", "agent", *CLIENTS)
        until(self._settled, "all clients watch")
        start_bytes = self._wan_bytes() - before
        fresh = self._agent()
        memory, peak = fresh.memory(), fresh.peak_memory()
        change_bytes = await self._change() if self._plain else 0.0
        self._processes("stop", *CLIENTS, "agent")
        self._processes("start", "agent", *CLIENTS)
        until(self._settled, "all clients watch")
        kept = self._agent()
        return Row(
            self._plain, self._foreign, start_bytes, change_bytes, memory, peak, kept.memory(), kept.peak_memory()
        )

    async def _change(self) -> float:
        """Change slices one by one; return the bytes for each."""
        self._round += 1  # each slice is written once, and is another one than in the last round
        before, events = self._wan_bytes(), self._metrics()["events_sent_total"]
        for number in range(CHANGES):
            item = plain_slice(number, self._round)
            path = ENDPOINTSLICES.path("default", item["metadata"]["name"])
            body = {"apiVersion": ENDPOINTSLICES.api_version, "kind": ENDPOINTSLICES.kind, **item}
            await self._client.request("PUT", path, params={"fieldManager": _MANAGER}, body=body)
        # kube-proxy and CoreDNS hear of each.
        until(lambda: self._metrics()["events_sent_total"] >= events + 2 * CHANGES, "clients hear of the changes")
        return (self._wan_bytes() - before) / CHANGES


@asynccontextmanager
async def crowd(name: str) -> AsyncIterator[Crowd]:
    """Boot a lab in which nobody else writes."""
    with Lab(name) as lab:
        lab.up(Sites((Node(NODE, {"zone": "here"}),)), controller=False)
        for process in ("kube-controller-manager", "kube-scheduler"):
            lab.process(process, "stop")
        async with Client(load_config(str(lab.kubeconfig))) as client:
            yield Crowd(lab, client)


async def run(sizes: list[int], foreign: int) -> None:
    """Print a row for each of `sizes`, and one with `foreign` Services of another key besides."""
    async with crowd("bench-plain") as measured:
        print(HEAD, flush=True)
        for plain, others in [*((size, 0) for size in sizes), (sizes[-1], foreign)]:
            await measured.grow(plain, others)
            print(await measured.measure(), flush=True)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent.plain", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 1000, 3000], help="numbers of plain Services")
    parser.add_argument("--foreign", type=int, default=1000, help="number of Services of another key")
    args = parser.parse_args()
    interrupt_on(signal.SIGINT, signal.SIGTERM)
    asyncio.run(run(args.sizes, args.foreign))
    return 0


if __name__ == "__main__":
    sys.exit(main())
