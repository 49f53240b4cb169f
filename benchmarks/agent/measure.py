"""Takes the figures: first a cluster without sitegrid, then the same cluster with it, on one `Stage`.

Every figure is a difference of counters that the kernel keeps (link bytes, CPU clocks, resident pages) around
something that is waited for by its effect: the rules that kube-proxy wrote. Invariant: a node behind the agent that
has rules for anything but its own unit's endpoints is a failure of the run, not a figure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from benchmarks.agent.meter import Meter
from benchmarks.agent.stage import Side, Stage, StageError
from benchmarks.agent.world import KEY, Change, Scale, World
from sitegrid.kube.resources import ENDPOINTSLICES, SERVICES
from sitegrid.wire.labels import GRID_UNIQ_KEY, HEADLESS, MANAGED_BY, SERVICE_PROXY_NAME, SITEGRID, UNIT, unit_id

GAP: Final = 1.2
"""Seconds between two changes: kube-proxy writes rules at most once a second, and is not to wait for that."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for one figure."""

    changes: int
    """Single changes that a figure is the mean (of times: the median) of."""
    settle: float
    """Seconds between the last rule and the reading of memory and bytes: what follows a sync belongs to it."""
    rest: float
    """Seconds of doing nothing."""
    foreign_burst: int
    own_burst: int


FULL: Final = Effort(changes=15, settle=5.0, rest=20.0, foreign_burst=10_000, own_burst=10_000)
QUICK: Final = Effort(changes=3, settle=1.0, rest=1.0, foreign_burst=200, own_burst=40)
"""For sizes whose figures are not judged."""

Progress = Callable[[str], None]
Write = Callable[[Change], Awaitable[None]]


@dataclass(slots=True)
class Cost:
    """What changes cost one side, per change."""

    bytes: float
    cpu: float
    seconds: list[float] = field(default_factory=list)
    """From the write to the rule, of each change that was waited for."""

    @property
    def latency(self) -> float:
        """Return the median of `seconds`."""
        return median(self.seconds)


@dataclass(slots=True)
class Start:
    """What it costs one side to begin."""

    bytes: int
    slices: int
    """Of which EndpointSlices, as one list in protobuf."""
    services: int
    """Of which Services, likewise."""
    cpu: float
    seconds: float
    """From kube-proxy's start until all rules are there."""
    rest: float
    """Bytes per second on the WAN when nothing changes."""
    proxy_memory: int
    proxy_peak: int
    agent_memory: int = 0

    @property
    def memory(self) -> int:
        """Return kube-proxy and agent together."""
        return self.proxy_memory + self.agent_memory


@dataclass(slots=True)
class Straight:
    """kube-proxy at the API server."""

    start: Start
    own: Cost
    other: Cost


@dataclass(slots=True)
class Behind:
    """kube-proxy behind the agent."""

    start: Start
    own: Cost
    other: Cost
    burst_events: int
    burst_cpu: float
    """The agent's CPU seconds for all events of the burst for other units."""
    own_event_cpu: float
    """The agent's CPU seconds for one event of a burst for its own unit."""
    agent_bytes_at_start: float
    """What the agent itself read at start, by its own count: bodies, without HTTP, TLS and packet headers."""
    busy_agent_memory: int
    """After the bursts."""
    full_agent_memory: int
    """After the bursts, with CoreDNS attached as well."""


class Measurement:
    """Both sides on one stage."""

    def __init__(self, stage: Stage, progress: Progress) -> None:
        self._stage = stage
        self._scale = stage.scale
        self._effort = FULL if stage.scale == Scale() else QUICK
        self._progress = progress

    async def straight(self) -> Straight:
        """Measure a cluster without sitegrid, and take its objects away again."""
        stage, side = self._stage, self._stage.stock
        world = await stage.write_stock()
        self._progress("starting kube-proxy straight at the API server")
        slices = await stage.listed_bytes(ENDPOINTSLICES, f"!{HEADLESS}")
        services = await stage.listed_bytes(SERVICES, f"!{SERVICE_PROXY_NAME}")
        endpoints = self._scale.services * self._scale.units * self._scale.endpoints
        start, meters = await self._start(side, endpoints, slices, services)
        self._progress("changing single endpoints")
        own = await self._changes(side, meters, world, lambda _: stage.own_unit, _nothing, stage.write_source)
        other = await self._changes(side, meters, world, self._other_unit, _nothing, stage.write_source)
        side.stop("kube-proxy")
        await stage.clear(world)
        return Straight(start, own, other)

    async def behind(self) -> Behind:
        """Measure the same cluster with sitegrid."""
        stage, side = self._stage, self._stage.own
        world = await stage.write_grid()
        self._progress("starting the agent, and kube-proxy behind it")
        unit = unit_id(KEY, World.unit(stage.own_unit))
        slices = await stage.listed_bytes(ENDPOINTSLICES, f"{UNIT}={unit},{MANAGED_BY}={SITEGRID}")
        slices += await stage.listed_bytes(ENDPOINTSLICES, f"!{HEADLESS},!{GRID_UNIQ_KEY}")
        services = await stage.listed_bytes(SERVICES, GRID_UNIQ_KEY)
        services += await stage.listed_bytes(SERVICES, f"!{SERVICE_PROXY_NAME},!{GRID_UNIQ_KEY}")
        endpoints = self._scale.services * self._scale.endpoints
        start, meters = await self._start(side, endpoints, slices, services, agent=True)
        read_at_start = side.agent_metric("upstream_bytes_total")
        self._progress("changing single endpoints")
        own = await self._changes(
            side, meters, world, lambda _: stage.own_unit, stage.write_source, stage.write_unit_slice
        )
        agent = meters[0]
        other, burst_events, burst_cpu = await self._foreign(side, meters, world, start.rest)
        own_event_cpu = await self._own_burst(side, agent, world)
        if foreign := world.foreign(side.endpoints(), stage.own_unit):
            raise StageError(f"{side.node} had rules for {len(foreign)} endpoints of other units: {foreign[:5]}")
        busy_agent_memory = agent.memory()
        side.start("coredns")
        side.wait_coredns()
        await asyncio.sleep(self._effort.settle)
        return Behind(
            start=start,
            own=own,
            other=other,
            burst_events=burst_events,
            burst_cpu=burst_cpu,
            own_event_cpu=own_event_cpu,
            agent_bytes_at_start=read_at_start,
            busy_agent_memory=busy_agent_memory,
            full_agent_memory=agent.memory(),
        )

    # --- steps ---

    async def _start(
        self, side: Side, endpoints: int, slices: int, services: int, *, agent: bool = False
    ) -> tuple[Start, list[Meter]]:
        """Start what is to be measured on `side` and wait for its rules; return the agent's meter first."""
        before = side.wan_bytes()
        meters = []
        if agent:
            meters.append(side.start("agent"))
            side.wait_agent()
        began = time.monotonic()
        proxy = side.start("kube-proxy")
        meters.append(proxy)
        seconds = side.wait_rules(endpoints) - began
        await asyncio.sleep(self._effort.settle)
        start = Start(
            bytes=side.wan_bytes() - before,
            slices=slices,
            services=services,
            cpu=sum(meter.cpu() for meter in meters),
            seconds=seconds,
            rest=0.0,
            proxy_memory=proxy.memory(),
            proxy_peak=proxy.peak_memory(),
            agent_memory=meters[0].memory() if agent else 0,
        )
        before, began = side.wan_bytes(), time.monotonic()
        await asyncio.sleep(self._effort.rest)
        start.rest = (side.wan_bytes() - before) / (time.monotonic() - began)
        return start, meters

    async def _changes(
        self,
        side: Side,
        meters: list[Meter],
        world: World,
        unit: Callable[[int], int],
        prepare: Write,
        write: Write,
    ) -> Cost:
        """Make changes one by one, each in the unit that `unit` names, and wait for each one's rule."""
        await asyncio.sleep(GAP)
        bytes_before, cpu_before = side.wan_bytes(), sum(meter.cpu() for meter in meters)
        cost = Cost(0, 0)
        for number in range(self._effort.changes):
            change = world.replace_pod(world.names[number % len(world.names)], unit(number))
            await prepare(change)
            began = time.monotonic()
            await write(change)
            cost.seconds.append(side.wait_rule(change.address) - began)
            await asyncio.sleep(GAP)
        cost.bytes = (side.wan_bytes() - bytes_before) / self._effort.changes
        cost.cpu = (sum(meter.cpu() for meter in meters) - cpu_before) / self._effort.changes
        return cost

    async def _foreign(self, side: Side, meters: list[Meter], world: World, rest: float) -> tuple[Cost, int, float]:
        """Change endpoints of other units: singly as the control plane does, then a burst of unit slices.

        Bytes are those beyond what the open watches cost at `rest`, in bytes per second.
        """
        stage, agent = self._stage, meters[0]
        burst = self._effort.foreign_burst
        self._progress(f"changing {burst} endpoints of other units")
        bytes_before, cpu_before, began = side.wan_bytes(), [meter.cpu() for meter in meters], time.monotonic()
        for number in range(self._effort.changes):
            change = world.replace_pod(world.names[number % len(world.names)], self._other_unit(number))
            await stage.write_source(change)
            await stage.write_unit_slice(change)
        before = agent.cpu()
        await stage.write_foreign_burst(
            world.replace_pod(world.names[number % len(world.names)], self._other_unit(number // len(world.names)))
            for number in range(burst)
        )
        await asyncio.sleep(GAP)
        burst_cpu = agent.cpu() - before
        events = self._effort.changes + burst
        idle = rest * (time.monotonic() - began)
        cost = Cost(
            max(0.0, side.wan_bytes() - bytes_before - idle) / events,
            (sum(meter.cpu() for meter in meters) - sum(cpu_before)) / events,
        )
        return cost, burst, burst_cpu

    async def _own_burst(self, side: Side, agent: Meter, world: World) -> float:
        """Return the agent's CPU seconds per event when its own unit's endpoints change as fast as they can."""
        stage, burst = self._stage, self._effort.own_burst
        self._progress(f"changing {burst} endpoints of the own unit")
        events, before = side.agent_metric("upstream_events_total"), agent.cpu()
        await stage.write_burst(
            world.replace_pod(world.names[number % len(world.names)], stage.own_unit) for number in range(burst)
        )
        # Writes of one slice may have overtaken each other; of these each is the last one.
        last = [world.replace_pod(name, stage.own_unit) for name in world.names]
        for change in last:
            await stage.write_unit_slice(change)
        for change in last:
            side.wait_rule(change.address)
        cpu = agent.cpu() - before
        written = burst + len(last)
        seen = side.agent_metric("upstream_events_total") - events
        if seen < written:
            raise StageError(f"the agent has seen {seen:.0f} of {written} events of its own unit")
        return cpu / written

    def _other_unit(self, number: int) -> int:
        """Return a unit that is not the own one, another one for each of the next numbers."""
        unit = number % (self._scale.units - 1)
        return unit if unit < self._stage.own_unit else unit + 1


async def _nothing(change: Change) -> None:
    """Prepare nothing."""
