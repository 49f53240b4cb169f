"""Keeps a site's endpoints as they were while the cloud cannot see it: a lost WAN is not a lost pod.

When a node's kubelet is not heard of for the node monitor's grace period (50 s), Kubernetes' node lifecycle
controller sets the Node's conditions to Unknown and then its pods' Ready to False, and the endpointslice controller
takes their endpoints out of service. Where a single node of a site crashed, that is right. Where the whole site lost
its WAN it is wrong: the only consumers of a unit's slices are the unit's own nodes, which reach those pods as before;
they would get empty slices as soon as the WAN is back, and have an outage until the last kubelet has reported
(invariant I8).

So `carry_over` stands between Kubernetes' slices and the projection (`sitegrid.grid.slices`), and puts the former
state, which is read from the unit slices themselves, in the place of what is not news:

====================================  ============================================================================
all nodes of the unit are away        the unit's endpoints stay exactly as they are (no write at all)
a node has just gone away             its endpoints stay for `STAGGER`: the site's other nodes may follow
a node is away, but its unit is back  its endpoints stay until `RETURN` after the unit's first node was back
a node is back                        for `RETURN`, what is reported ready passes at once, what is being deleted or is
                                      gone goes at once, and what is not yet reported ready stays as it was
else                                  Kubernetes' reading, unchanged
====================================  ============================================================================

*Away* is Ready=Unknown only: a node that is NotReady was heard of, its kubelet said so. A pure function of what the
API server holds and the time, so that a restarted controller goes on where the former one was; `Hold.until` says when
to look again. Invariants: only conditions of endpoints that Kubernetes knows, or endpoints that were in the same
unit's slices before, are carried, and the projection sorts the result by unit as it always does (I1); a unit whose
nodes have all been heard of for `RETURN` is never touched. Called by ``sitegrid.controller.slices``; held by
``tests/grid/test_reachability.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from sitegrid.api.meta import parse_timestamp
from sitegrid.grid.observed import Endpoint, EndpointSlice, Node
from sitegrid.grid.units import Units
from sitegrid.wire.labels import ALIASES, UNIT, unit_id

STAGGER: Final = timedelta(seconds=20)
"""How long after a node went away the other nodes of its site may follow, if it was their common WAN: kubelets renew
their Leases every 10 s, each at its own time, and the node lifecycle controller looks every 5 s, so at most 15 s; the
rest is for a sweep over a large cluster."""

RETURN: Final = timedelta(seconds=90)
"""How long after its return a kubelet may take to report its pods. Its watch of pods is back after at most 60 s
(client-go's reflector waits up to 30 s, with a jitter of as much again), its status manager compares every 10 s
(syncPeriod); the rest is for the nodes of a site that return one after another."""

_NEW: Final = timedelta(seconds=10)
"""A node heard of without a break since its first seconds was never away: that takes 10 s of silence and more."""
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

_Identity = tuple[str, str, tuple[str, ...], str]
"""Node, address type, addresses, the pod's uid: what makes two states those of one endpoint."""


class Reach(NamedTuple):
    """What the cloud knows of one node's kubelet."""

    ready: str = ""
    """Status of the condition Ready: True, False, Unknown; empty where there is none."""
    since: datetime = _LONG_AGO
    """Since when the node has been away, or else heard of without a break."""
    ready_since: datetime = _LONG_AGO
    """Since when `ready` has been what it is."""
    new: bool = False
    """Whether `since` is the node's beginning, so that it never was away."""

    @property
    def away(self) -> bool:
        """Whether the cloud does not hear of the node."""
        return self.ready == "Unknown"


class Hold(NamedTuple):
    """Why a node's endpoints stay as they were."""

    away: bool
    """Whether the node is away; else it has returned, and its kubelet may not have reported its pods yet."""
    until: datetime | None
    """When it ends; None for as long as the whole unit is away."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The slices to project, and when the projection has to be done again."""

    sources: list[EndpointSlice]
    until: datetime | None = None
    """When the first hold ends that changed something here; None where no time makes a difference."""


def reach_of(node: Node) -> Reach:
    """Return what a Node's conditions say.

    A node that comes back has all the conditions that its kubelet reports set anew at once, while later on each
    changes for itself; so the oldest of their transitions is the moment of its return, whatever Ready or a lack of
    memory did since.
    """
    moments = {
        condition.type: (condition.status, parse_timestamp(condition.last_transition_time or "") or _LONG_AGO)
        for condition in node.status.conditions or ()
    }
    ready, ready_since = moments.get("Ready", ("", _LONG_AGO))
    if ready == "Unknown":
        return Reach(ready, ready_since, ready_since)
    # A condition that the kubelet never reports stays Unknown from the node's beginning, and says nothing.
    since = min((moment for status, moment in moments.values() if status != "Unknown"), default=_LONG_AGO)
    created = parse_timestamp(node.metadata.creation_timestamp)
    return Reach(ready, since, ready_since, created is not None and since <= created + _NEW)


def find_holds(
    units: Units, reaches: Mapping[str, Reach], unit_of_node: Mapping[str, str], now: datetime
) -> dict[str, Hold]:
    """Return the nodes whose endpoints are to stay as they were.

    `reaches` has at least every node that is away or was within `RETURN`; all others count as heard of since long
    ago.
    """
    holds: dict[str, Hold] = {}
    for value in {unit_of_node[node] for node in reaches if node in unit_of_node}:
        known = {node: reaches.get(node, _SETTLED) for node in units[value].nodes}
        back = min((reach.since for reach in known.values() if not reach.away), default=None)
        for node, reach in known.items():
            if back is None:
                holds[node] = Hold(away=True, until=None)
                continue
            if reach.away:
                until = max(_after(reach.since, STAGGER), _after(back, RETURN))
            elif reach.new:
                continue
            else:
                until = _after(reach.since, RETURN)
            if until > now:
                holds[node] = Hold(reach.away, until)
    return holds


def carry_over(
    key: str,
    sources: Iterable[EndpointSlice],
    unit_slices: Iterable[EndpointSlice],
    unit_of_node: Mapping[str, str],
    holds: Mapping[str, Hold],
) -> Carried:
    """Return the slices to project: `sources` (Kubernetes' own), where nodes are held with the state in
    `unit_slices`.

    `unit_slices` are those of the same Service as they are now, `key` is its unique key.
    """
    sources = [*sources]
    if not holds:
        return Carried(sources)
    former = _former(key, unit_slices, unit_of_node, holds)
    state = {_identity(item.address_type, endpoint): endpoint for item, endpoint in former}
    ends: set[datetime] = set()
    seen: set[_Identity] = set()
    result: list[EndpointSlice] = []
    for source in sources:
        endpoints = []
        for endpoint in source.endpoints or ():
            hold = holds.get(endpoint.node_name or "")
            if hold is None:
                endpoints.append(endpoint)
            elif hold.until is not None:  # else the unit is away: nothing is taken from here, all from its slices
                identity = _identity(source.address_type, endpoint)
                seen.add(identity)
                kept = _held(endpoint, state.get(identity), hold)
                endpoints.append(kept)
                if kept is not endpoint:
                    ends.add(hold.until)
        result.append(msgspec.structs.replace(source, endpoints=endpoints))
    for item, endpoint in former:
        hold = holds[endpoint.node_name or ""]
        if hold.until is None:
            result.append(msgspec.structs.replace(item, endpoints=[endpoint]))
        elif hold.away and _identity(item.address_type, endpoint) not in seen:
            # Deleted in the cloud only: it runs until its kubelet hears of that.
            result.append(msgspec.structs.replace(item, endpoints=[endpoint]))
            ends.add(hold.until)
    return Carried(result, min(ends, default=None))


def silenced(wanted: Iterable[EndpointSlice], present: Iterable[EndpointSlice]) -> set[str]:
    """Return the nodes of endpoints that are to be no longer ready, though nobody deleted them.

    That is what the node lifecycle controller does to the pods of a node after it has set the node to Unknown; nodes
    and slices are watched apart, so the latter may be seen first.
    """
    ready = {(e.node_name, *e.addresses) for item in present for e in item.endpoints or () if e.ready}
    return {
        e.node_name
        for item in wanted
        for e in item.endpoints or ()
        if e.node_name and not e.ready and not e.conditions.terminating and (e.node_name, *e.addresses) in ready
    }


def _former(
    key: str, unit_slices: Iterable[EndpointSlice], unit_of_node: Mapping[str, str], holds: Mapping[str, Hold]
) -> list[tuple[EndpointSlice, Endpoint]]:
    """Return the endpoints of held nodes that are in the slices of the unit that their node is in now (I1).

    Aliases are left out: they follow from the endpoints that they stand for.
    """
    ids = {node: unit_id(key, unit_of_node[node]) for node in holds}
    return [
        (item, endpoint)
        for item in unit_slices
        if ALIASES not in item.metadata.labels
        for endpoint in item.endpoints or ()
        if endpoint.node_name in ids and ids[endpoint.node_name] == item.metadata.labels.get(UNIT)
    ]


def _held(endpoint: Endpoint, former: Endpoint | None, hold: Hold) -> Endpoint:
    """Return an endpoint as it is to be while its node is held, the same object where Kubernetes' reading counts."""
    conditions = endpoint.conditions
    if former is None or endpoint.ready or former.conditions == conditions:
        return endpoint
    if conditions.terminating and not hold.away:
        return endpoint  # its kubelet is back and ends it
    return msgspec.structs.replace(endpoint, conditions=former.conditions)


def _identity(address_type: str, endpoint: Endpoint) -> _Identity:
    uid = endpoint.target_ref.uid if endpoint.target_ref is not None else ""
    return (endpoint.node_name or "", address_type, tuple(endpoint.addresses), uid)


def _after(moment: datetime, span: timedelta) -> datetime:
    """Return the moment `span` later; a kubelet with a wild clock may name the last moments of time."""
    return moment + span if moment <= _LATEST else moment


_LATEST: Final = datetime.max.replace(tzinfo=UTC) - max(STAGGER, RETURN)
_SETTLED: Final = Reach()
