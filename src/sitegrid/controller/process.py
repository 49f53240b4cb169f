"""The controller as a process: reflectors, leader election, endpoint, and an end on request.

Called by `sitegrid controller`. Replicas that do not lead observe as well, so that taking over takes no time. On
SIGTERM or SIGINT the work is cancelled, then the Lease is given back, so that another replica goes on at once.
Held by ``tests/controller/test_faults.py``.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sitegrid.controller.cluster import Cluster
from sitegrid.controller.endpoint import serve
from sitegrid.controller.manager import Manager
from sitegrid.controller.metrics import Metrics
from sitegrid.grid.nodelimits import STRICT, NodeLimits
from sitegrid.grid.servicepatches import NODE_PORTS
from sitegrid.kube.client import Client
from sitegrid.kube.config import Config
from sitegrid.kube.events import EventRecorder
from sitegrid.kube.leader import LeaderElection

log = logging.getLogger(__name__)

NAME = "sitegrid-controller"
"""The Lease's name, and the events' reporting controller (with our group)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    identity: str
    """Unique among the replicas."""
    leader_elect: bool = True
    leader_elect_namespace: str = "kube-system"
    """Where the Lease is."""
    metrics_address: tuple[str, int] | None = None
    """Host and port of the endpoint, None for none."""
    node_ports: range = NODE_PORTS
    """kube-apiserver's --service-node-port-range."""
    node_limits: NodeLimits = STRICT
    """What NodeUnits may put on nodes."""


async def run(config: Config, settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Client(config) as client:
        work = asyncio.create_task(_work(client, settings))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                log.info("stopping")
        finally:
            for task in (work, stopping):
                task.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)


async def _work(client: Client, settings: Settings) -> None:
    metrics = Metrics()
    cluster = Cluster()
    recorder = EventRecorder(client, component=f"tkeedge.io/{NAME}", instance=settings.identity)
    manager = Manager(
        cluster, client, recorder, metrics, node_ports=settings.node_ports, node_limits=settings.node_limits
    )
    async with AsyncExitStack() as stack:
        if settings.metrics_address is not None:
            host, port = settings.metrics_address
            port = await stack.enter_async_context(serve(host, port, metrics.registry, cluster.unsynced))
            log.info("serving /healthz, /readyz and /metrics on %s:%d", host, port)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        for reflector in cluster.reflect(client):
            tasks.create_task(reflector.run())
        tasks.create_task(cluster.optional.run(client))
        tasks.create_task(recorder.run())

        async def lead() -> None:
            metrics.leader.set(1)
            try:
                await manager.lead()
            finally:
                metrics.leader.set(0)

        if not settings.leader_elect:
            await lead()
        else:
            election = LeaderElection(
                client, namespace=settings.leader_elect_namespace, name=NAME, identity=settings.identity
            )
            metrics.leader.set(0)
            await election.run(lead)
