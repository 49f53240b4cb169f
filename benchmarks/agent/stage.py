"""The lab that the figures are taken in: a control plane and two nodes, with nothing running but what is measured.

`Stage` boots it, stops what could write or talk by itself (controllers, scheduler, kubelets, CoreDNS), sends the
objects of `world.py`, and starts and stops the measured processes. Invariant: leaving it, in whatever way, ends the
lab. Both nodes exist all the time, but only one side's processes run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from benchmarks.agent.meter import Meter
from benchmarks.agent.world import KEY, NAMESPACE, Change, Manifest, Scale, World
from sitegrid.api.meta import FIELD_MANAGER
from sitegrid.grid.observed import EndpointSlice
from sitegrid.grid.slices import manifest, unselected, untracked
from sitegrid.kube.client import Client
from sitegrid.kube.config import load_config
from sitegrid.kube.resources import ENDPOINTSLICES, SERVICES, Resource
from sitegrid.kube.transport import ssl_context
from sitegrid.lab.bootstrap import lift_admission
from sitegrid.lab.lab import Lab
from sitegrid.lab.sites import Node, Sites
from sitegrid.wire.labels import UNIT, unit_id

T = TypeVar("T")

PARALLEL_WRITES: Final = 24
STOCK: Final = "stock"
"""The node whose kube-proxy asks the API server itself."""

_KUBERNETES: Final = "kube-controller-manager"
"""Field manager of what Kubernetes' own controllers write; its name is among the bytes on the wire."""
_WAN: Final = "wan0"
_AGENT_PAGES: Final = 10351
_COREDNS_READY: Final = 8181
_PATIENCE: Final = 120.0
"""Seconds after which something that should have happened is a failure."""
_POLL: Final = 0.25


class StageError(Exception):
    """The measurement could not be made; the text says why."""


class Inside:
    """A helper process in one node, see `inside.py`."""

    def __init__(self, lab: Lab, node: str) -> None:
        script = str(Path(__file__).with_name("inside.py"))
        self._process = subprocess.Popen(
            lab.command(node, [sys.executable, script]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> Any:
        """Ask one question; raises `StageError` where the helper has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError as error:
            raise StageError(f"the helper in the node has ended: {error}") from error
        if not line:
            raise StageError("the helper in the node has ended")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._process.communicate()


class Side:
    """One node of the stage: its WAN, its kube-proxy, perhaps its agent."""

    def __init__(self, lab: Lab, node: str, inside: Inside) -> None:
        self._lab = lab
        self._inside = inside
        self.node = node

    def start(self, name: str) -> Meter:
        """Start ``kube-proxy`` or another process of the node."""
        self._lab.process(f"{name}@{self.node}", "start")
        return until(lambda: self._meter(name), f"{name} runs")

    def _meter(self, name: str) -> Meter | None:
        for process in self._lab.status().processes:
            if process.name == f"{name}@{self.node}" and process.pid is not None:
                return Meter(process.pid)
        return None

    def stop(self, *names: str) -> None:
        """Stop processes of the node."""
        for name in names:
            self._lab.process(f"{name}@{self.node}", "stop")

    def wan_bytes(self) -> int:
        """Return what the node's WAN link has carried so far, both ways, headers included."""
        carried: int = self._inside.ask(wan=_WAN)
        return carried

    def wait_rules(self, count: int) -> float:
        """Return the monotonic time at which there were rules for `count` endpoints, waiting for it."""

        def complete() -> tuple[float] | None:
            found, at = self._inside.ask(progress=True)
            return (at,) if found >= count else None

        (at,) = until(complete, f"kube-proxy on {self.node} has rules for {count} endpoints")
        return at

    def endpoints(self) -> set[str]:
        """Return the addresses of all endpoints that there ever was a rule for."""
        return set(self._inside.ask(all=True))

    def wait_rule(self, address: str) -> float:
        """Return the monotonic time at which the rules for `address` came, waiting for it."""
        at = self._inside.ask(when=address, timeout=_PATIENCE)
        if at is None:
            raise StageError(f"no rule for {address} on {self.node} after {_PATIENCE:.0f} s")
        return float(at)

    def wait_page(self, port: int, path: str) -> None:
        """Wait until a page at the node's loopback answers 200."""
        until(lambda: self._inside.ask(port=port, get=path)[0] == 200, f"{self.node} answers at port {port}")

    def wait_agent(self) -> None:
        """Wait until the agent knows its units."""
        self.wait_page(_AGENT_PAGES, "/sitegrid/readyz")

    def wait_coredns(self) -> None:
        """Wait until CoreDNS has synced."""
        self.wait_page(_COREDNS_READY, "/ready")

    def metric(self, port: int, name: str) -> float:
        """Return the sum of all series of a metric; 0 where there is none."""
        path = "/sitegrid/metrics" if port == _AGENT_PAGES else "/metrics"
        _, body = self._inside.ask(port=port, get=path)
        return sum(
            float(line.rpartition(" ")[2]) for line in body.splitlines() if line.startswith((f"{name} ", f"{name}{{"))
        )

    def agent_metric(self, name: str) -> float:
        """Return a number of the agent's own counting."""
        return self.metric(_AGENT_PAGES, f"sitegrid_agent_{name}")


class Stage:
    """A lab named `name` of the size `scale`; use it with ``async with``."""

    def __init__(self, name: str, scale: Scale, progress: Callable[[str], None]) -> None:
        self._lab = Lab(name)
        self._progress = progress
        self._closing = contextlib.ExitStack()
        self._api: Client | None = None
        self.scale = scale
        self.own_unit = scale.units // 2
        own = World.node(self.own_unit, 0)
        self._sites = Sites((Node(STOCK, {}, agent=False), Node(own, {KEY: World.unit(self.own_unit)}, agent=True)))
        self._own_node = own
        self._sides: dict[str, Side] = {}

    async def __aenter__(self) -> Stage:
        try:
            self._closing.enter_context(self._lab)
            self._lab.up(self._sites, controller=False, progress=self._progress)
            self._silence()
            for node in (STOCK, self._own_node):
                inside = Inside(self._lab, node)
                self._closing.callback(inside.close)
                self._sides[node] = Side(self._lab, node, inside)
            self._api = await Client(load_config(str(self._lab.kubeconfig))).__aenter__()
            # What the controllers write is written here by the administrator.
            await lift_admission(self._api)
        except BaseException:
            self._closing.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._closing:
            if self._api is not None:
                await self._api.__aexit__(kind, value, trace)

    @property
    def stock(self) -> Side:
        """The node without an agent."""
        return self._sides[STOCK]

    @property
    def own(self) -> Side:
        """The node with one."""
        return self._sides[self._own_node]

    @property
    def api(self) -> Client:
        """The administrator's client."""
        if self._api is None:
            raise StageError("the stage is not open")
        return self._api

    def _silence(self) -> None:
        """Stop all that would write objects or use the WAN while others are measured."""
        for name in ("kube-controller-manager", "kube-scheduler"):
            self._lab.process(name, "stop")
        for node in (STOCK, self._own_node):
            for name in ("kubelet", "coredns", "kube-proxy"):
                self._lab.process(f"{name}@{node}", "stop")
        self._lab.process(f"agent@{self._own_node}", "stop")
        # A start is that of a new node: what the agent kept so far would have it ask for all that was written since.
        for entry in self._lab.layout.agent_data(self._own_node).iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    # --- objects ---

    async def write_stock(self) -> World:
        """Write the Services and slices of a cluster without sitegrid."""
        return await self._write_sources(World(self.scale, closed=False))

    async def write_grid(self) -> World:
        """Write the same cluster as sitegrid has it: closed Services, their slices, and the unit slices.

        Those of the own unit are written as the controller does it. Nobody here ever receives the others, and a
        plain create takes the API server less than half as long.
        """
        world = await self._write_sources(World(self.scale, closed=True))
        unit_slices = [item for name in world.names for item in world.unit_slices(name)]
        self._progress(f"writing {len(unit_slices)} unit slices")
        own = unit_id(KEY, World.unit(self.own_unit))
        await self._all(
            self._show(item)
            if item.metadata.labels[UNIT] == own
            else self.api.create(ENDPOINTSLICES, manifest(item), field_manager=FIELD_MANAGER)
            for item in unit_slices
        )
        return world

    async def _write_sources(self, world: World) -> World:
        async def create(service: Manifest) -> list[Manifest]:
            if not service["metadata"].get("ownerReferences"):
                made = await self.api.create(SERVICES, service, field_manager="kubectl-create")
                return world.sources(made, made)
            made = await self.api.apply(SERVICES, service, field_manager=FIELD_MANAGER)
            beside = world.sites_service(made)
            assert beside is not None
            return world.sources(made, await self.api.apply(SERVICES, beside, field_manager=FIELD_MANAGER))

        sources = [item for items in await self._all(create(item) for item in world.services()) for item in items]
        self._progress(f"writing {len(sources)} slices of {self.scale}")
        await self._all(self.api.create(ENDPOINTSLICES, item, field_manager=_KUBERNETES) for item in sources)
        return world

    async def clear(self, world: World) -> None:
        """Delete what `write_stock` wrote."""
        await self._all(self.api.delete(SERVICES, name, NAMESPACE) for name in world.names)
        for name in world.names:
            await self.api.request(
                "DELETE",
                ENDPOINTSLICES.path(NAMESPACE),
                params={"labelSelector": f"kubernetes.io/service-name={name}"},
            )

    async def write_source(self, change: Change) -> None:
        """Write a Service's own slice after a change, as the endpointslice controller does."""
        await self._replace(change.source, _KUBERNETES)

    async def write_unit_slice(self, change: Change) -> None:
        """Write a unit slice after a change, as sitegrid's controller does."""
        await self._write_untracked(change.unit_slice)

    async def write_burst(self, changes: Iterable[Change]) -> None:
        """Write unit slices of the own unit as fast as the API server takes them."""
        await self._all(self.write_unit_slice(change) for change in changes)

    async def write_foreign_burst(self, changes: Iterable[Change]) -> None:
        """Write unit slices of others as fast as the API server takes them, which is faster without a patch."""
        await self._all(self._replace(manifest(change.unit_slice), FIELD_MANAGER) for change in changes)

    async def _replace(self, item: Manifest, manager: str) -> None:
        metadata = item["metadata"]
        path = ENDPOINTSLICES.path(metadata["namespace"], metadata["name"])
        await self.api.request("PUT", path, params={"fieldManager": manager}, body=item)

    async def _show(self, item: EndpointSlice) -> None:
        await self.api.create(ENDPOINTSLICES, unselected(item), field_manager=FIELD_MANAGER)
        await self._write_untracked(item)

    async def _write_untracked(self, item: EndpointSlice) -> None:
        await self.api.patch(ENDPOINTSLICES, item.metadata.name, untracked(item), item.metadata.namespace)

    async def listed_bytes(self, resource: Resource, label_selector: str) -> int:
        """Return the size of a list in protobuf, as a node would get it."""
        path = f"{resource.path()}?{urlencode({'labelSelector': label_selector})}"
        return await asyncio.to_thread(_protobuf_size, self._lab, path)

    async def _all(self, calls: Iterable[Awaitable[Any]]) -> list[Any]:
        """Await `calls`, a few at a time; they are made only when their turn comes."""
        results: list[Any] = []
        source: Iterator[Awaitable[Any]] = iter(calls)

        async def work() -> None:
            for call in source:
                results.append(await call)

        await asyncio.gather(*(work() for _ in range(PARALLEL_WRITES)))
        return results


def until(found: Callable[[], T | None], what: str) -> T:
    """Return what `found` returns once it is true; raises `StageError` after `_PATIENCE`."""
    deadline = time.monotonic() + _PATIENCE
    while not (result := found()):
        if time.monotonic() > deadline:
            raise StageError(f"waited {_PATIENCE:.0f} s in vain until {what}")
        time.sleep(_POLL)
    return result


def _protobuf_size(lab: Lab, path: str) -> int:
    config = load_config(str(lab.kubeconfig))
    request = urllib.request.Request(config.server + path, headers={"Accept": "application/vnd.kubernetes.protobuf"})
    https = urllib.request.HTTPSHandler(context=ssl_context(config))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
    with opener.open(request, timeout=60) as response:
        return len(response.read())
