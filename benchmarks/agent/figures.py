"""Turns what was measured into the table, and says what is wanted of each figure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from benchmarks.agent.measure import Behind, Start, Straight
from benchmarks.agent.world import Scale
from benchmarks.report import Figure, Report, at_most, fewer, smaller

ALL_AT_START: Final = 100
"""How many times fewer bytes a start takes with what sitegrid does not change: Services, handshakes, and kube-proxy's
own requests. What a node needs of the EndpointSlices is a row of its own."""
AGENT_MEMORY: Final = 30e6
"""Bytes that the agent may have resident, with kube-proxy and CoreDNS attached."""
OWN_EVENT: Final = 50e-6
"""CPU seconds that the agent may use for one event of its own unit."""
NOTHING: Final = 1e-6
"""CPU seconds per event for other units: less than it takes to receive one."""
NO_BYTES: Final = 1.0
"""Bytes per change in another unit: bookmarks of a handful of watches come when they like, at rest or later."""

_NOTES: Final = (
    "A list is smaller than what crosses the WAN for it: events of a streaming list, and pages, have envelopes.",
    "WAN bytes are counted at the node's link, both ways, with TLS and packet headers. Those of changes in other",
    "units are what goes beyond the cost of open connections at rest: keepalives, and a bookmark a minute per watch.",
    "kube-proxy's CPU includes its `nft` children.",
    "Change to rule: from the write of the slice that the node reads to the kernel's announcement of the rule.",
)


def report(scale: Scale, straight: Straight, behind: Behind) -> Report:
    """Return the report of one run."""
    figures = [
        Figure("WAN bytes at start", "B", straight.start.bytes, behind.start.bytes, fewer(ALL_AT_START)),
        Figure("  of which EndpointSlices (protobuf)", "B", straight.start.slices, behind.start.slices, fewer(300)),
        Figure("  of which Services (protobuf)", "B", straight.start.services, behind.start.services),
        Figure("  of which TLS, HTTP, packet headers, all else", "B", _rest(straight.start), _rest(behind.start)),
        Figure("WAN bytes per change, own unit", "B", straight.own.bytes, behind.own.bytes, fewer(15)),
        Figure(
            "WAN bytes per change, other unit", "B", straight.other.bytes, behind.other.bytes, at_most(NO_BYTES, "0")
        ),
        Figure("WAN bytes at rest, per minute", "B", straight.start.rest * 60, behind.start.rest * 60),
        Figure("CPU at start, kube-proxy (+ agent)", "s", straight.start.cpu, behind.start.cpu),
        Figure("CPU per change, own unit", "s", straight.own.cpu, behind.own.cpu),
        Figure("CPU per change, other unit", "s", straight.other.cpu, behind.other.cpu),
        Figure(
            f"agent CPU per event, {behind.burst_events} of other units",
            "s",
            None,
            behind.burst_cpu / behind.burst_events,
            at_most(NOTHING, "0"),
        ),
        Figure(
            "agent CPU per event, own unit, in a burst",
            "s",
            None,
            behind.own_event_cpu,
            at_most(OWN_EVENT, "<= 50 us"),
        ),
        Figure("memory of kube-proxy", "B", straight.start.proxy_memory, behind.start.proxy_memory),
        _agent_memory("memory of the agent", behind.start.agent_memory),
        _agent_memory("  after the bursts", behind.busy_agent_memory),
        _agent_memory("  after the bursts, CoreDNS attached too", behind.full_agent_memory),
        Figure("memory of kube-proxy (+ agent)", "B", straight.start.memory, behind.start.memory, smaller()),
        Figure("peak memory of kube-proxy", "B", straight.start.proxy_peak, behind.start.proxy_peak),
        Figure("kube-proxy's start to rules", "s", straight.start.seconds, behind.start.seconds),
        Figure("change to rule, own unit", "s", straight.own.latency, behind.own.latency),
    ]
    return Report(
        title=f"Node: kube-proxy straight at the API server / behind the agent, {scale}",
        reference="straight",
        figures=figures,
        notes=_NOTES,
        judged=scale == Scale(),
        context={"scale": asdict(scale), "straight": asdict(straight), "behind": asdict(behind)},
    )


def _rest(start: Start) -> int:
    return start.bytes - start.slices - start.services


def _agent_memory(name: str, memory: int) -> Figure:
    return Figure(name, "B", None, memory, at_most(AGENT_MEMORY, "<= 30 MB"))
