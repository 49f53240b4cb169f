"""What to write to a node so that it carries what its units want, and only for as long as it is a member.

Labels and annotations are server-side applied with a field manager per owner, never by force: what somebody else
set stays theirs, and applying nothing takes exactly ours off. Taints are one list of the Node, replaced as a whole
(core/v1, listType=atomic), so they are read, changed and written back with the resourceVersion, and which of them are
an owner's is noted on the node in the same write. A node whose owner claims it no more is marked, and let go after
the grace period (invariant I5); so deleting a NodeUnit, or mistyping its selector, empties no site at once.

Steps are found from nothing but the node as it is, so a crash after any of them loses nothing.
Held by ``tests/grid/test_setnode.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from sitegrid.api.meta import FIELD_MANAGER, ObjectMeta, parse_timestamp, timestamp
from sitegrid.api.nodeunits import NodeGroup, NodeUnit, Taint
from sitegrid.grid.membership import Claim, Decision, Owner
from sitegrid.grid.observed import Node
from sitegrid.grid.problem import Problem
from sitegrid.wire.labels import GROUP, short_hash

SET_NODE_CONFLICT: Final = "SetNodeConflict"
"""A label, annotation or taint that a NodeUnit wants on a node is there with another value, set by somebody else."""

_KINDS: Final = {f"{kind.lower()}.{GROUP}": kind for kind in (NodeUnit.KIND, NodeGroup.KIND)}
"""The kind of owner by the prefix of its annotations."""
_TAINTS: Final = "taints."
_LEAVING: Final = "leaving."

TaintId = tuple[str, str]
"""Key and effect, which tell a taint from the others of its node."""


class Record(Struct, frozen=True, omit_defaults=True):
    """An owner's annotation on a node: what it has put there by server-side apply."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    """By name, the hash of the value."""
    grace: int = 600
    """Seconds to keep it all, for when the owner cannot be asked any more."""


@dataclass(slots=True)
class Trace:
    """All that one owner has left on a node."""

    record: Record | None = None
    taints: frozenset[TaintId] = frozenset()
    leaving: str | None = None
    """Since when the owner claims the node no more (RFC 3339)."""

    def has_set(self, what: str, key: str, value: str) -> bool:
        """Tell whether the owner has set a label or annotation to this value."""
        if self.record is None:
            return False
        if what == "label":
            return self.record.labels.get(key) == value
        return self.record.annotations.get(key) == short_hash(value)


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply exactly these labels and annotations, as the owner; none at all lets the node go."""

    owner: Owner
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Patch:
    """Merge these annotations (None: take off), and replace the taints where given, if the node is as observed."""

    owner: Owner
    annotations: Mapping[str, str | None]
    taints: list[dict[str, str]] | None = None


Step = Apply | Patch


class Outcome(NamedTuple):
    """What there is to write, what cannot be set, and when to look again, in seconds."""

    steps: list[Step]
    problems: list[tuple[Owner, Problem]]
    wake_in: float | None


def field_manager(owner: Owner) -> str:
    """Return the field manager of the owner's labels and annotations; at most 128 characters (apimachinery)."""
    return f"{FIELD_MANAGER}-{owner.kind.lower()}-{owner.token}"


def traces(metadata: ObjectMeta) -> dict[Owner, Trace]:
    """Return what owners have left on the node; what is in an annotation that cannot be read is forgotten."""
    found: dict[Owner, Trace] = {}
    for name, text in metadata.annotations.items():
        prefix, _, token = name.partition("/")
        what = next((what for what in (_TAINTS, _LEAVING) if prefix.startswith(what)), "")
        kind = _KINDS.get(prefix.removeprefix(what))
        if kind is None:
            continue
        trace = found.setdefault(Owner(kind, token), Trace())
        if what == _LEAVING:
            trace.leaving = text
        elif what == _TAINTS:
            trace.taints = _taint_ids(text)
        else:
            trace.record = _record(text)
    return found


def held(left: Mapping[Owner, Trace]) -> dict[Owner, Mapping[str, str]]:
    """Return the labels that each owner has put on the node."""
    return {owner: trace.record.labels for owner, trace in left.items() if trace.record is not None}


def is_leaving(metadata: ObjectMeta, owner: Owner) -> bool:
    """Tell whether the owner claims the node no more, and it keeps its labels for a while."""
    return _annotation(owner, _LEAVING) in metadata.annotations


def plan_node(
    node: Node,
    decision: Decision,
    left: Mapping[Owner, Trace],
    *,
    frozen: Collection[Owner],
    grace: Mapping[Owner, int],
    now: datetime,
) -> Outcome:
    """Return what to write to `node` for what was decided; `left` is `traces` of it.

    `grace` has the grace period of every owner that still exists. Each step is right for the node as it is; after
    one of them the rest is to be found anew.
    """
    plan = _Plan(node, left, now)
    won = {claim.owner: claim for claim in decision.won}
    for owner in sorted(won.keys() | left.keys()):
        trace, claim = left.get(owner, Trace()), won.get(owner)
        if owner in frozen:
            continue
        if claim is not None:
            plan.stay(claim, trace)
        elif trace.record is None:
            plan.patch(owner, (), trace)
        else:
            seconds = 0 if owner in decision.yielding else grace.get(owner, trace.record.grace)
            plan.leave(owner, trace, seconds)
    return Outcome(plan.steps, plan.problems, min(plan.wakes, default=None))


class _Plan:
    """Collects the outcome for one node."""

    def __init__(self, node: Node, left: Mapping[Owner, Trace], now: datetime) -> None:
        self._node = node
        self._left = left
        self._now = now
        self.steps: list[Step] = []
        self.problems: list[tuple[Owner, Problem]] = []
        self.wakes: list[float] = []

    def stay(self, claim: Claim, trace: Trace) -> None:
        """Have the node carry what the owner wants of a member."""
        owner, meta = claim.owner, self._node.metadata
        unit = {} if claim.by_label else {claim.key: claim.value}
        labels = self._settable(owner, "label", {**claim.sets.labels, **unit}, meta.labels)
        annotations = self._settable(owner, "annotation", claim.sets.annotations, meta.annotations)
        wanted = Record(labels, {key: short_hash(value) for key, value in annotations.items()}, claim.grace)
        if trace.record != wanted or not (
            labels.items() <= meta.labels.items() and annotations.items() <= meta.annotations.items()
        ):
            text = msgspec.json.encode(wanted, order="deterministic").decode()
            self.steps.append(Apply(owner, labels, {**annotations, _annotation(owner): text}))
        self.patch(owner, claim.sets.taints, trace)

    def leave(self, owner: Owner, trace: Trace, grace: int) -> None:
        """Let the node go, once the grace period is over."""
        since = parse_timestamp(trace.leaving) if trace.leaving else None
        if grace and (since is None or since > self._now + timedelta(seconds=1)):
            self.steps.append(Patch(owner, {_annotation(owner, _LEAVING): timestamp(self._now)}))
            return
        left = 0.0 if since is None else (since + timedelta(seconds=grace) - self._now).total_seconds()
        if grace and left > 0:
            self.wakes.append(left)
        else:
            # Taints and the moment come off by `patch`, once the record is gone.
            self.steps.append(Apply(owner))

    def patch(self, owner: Owner, wanted: Iterable[Taint], trace: Trace) -> None:
        """Have the node carry the taints `wanted`, and of the owner's no others, and no mark of leaving."""
        taints = [*self._node.spec.taints]
        ours = set()
        for taint in wanted:
            if self._tainted(owner, taints, taint, trace):
                ours.add((taint.key, taint.effect))
        shared = {taint for other, left in self._left.items() if other != owner for taint in left.taints}
        going = trace.taints - ours - shared - {(taint.key, taint.effect) for taint in wanted}
        taints = [taint for taint in taints if _taint_id(taint) not in going]
        annotations: dict[str, str | None] = {}
        name, mark = _annotation(owner, _TAINTS), _annotation(owner, _LEAVING)
        text = msgspec.json.encode(sorted(ours)).decode() if ours else None
        if self._node.metadata.annotations.get(name) != text:
            annotations[name] = text
        if mark in self._node.metadata.annotations:
            annotations[mark] = None
        changed = taints != self._node.spec.taints
        if annotations or changed:
            self.steps.append(Patch(owner, annotations, taints if changed else None))

    def _tainted(self, owner: Owner, taints: list[dict[str, str]], wanted: Taint, trace: Trace) -> bool:
        """Put `wanted` into `taints`; tell whether it is the owner's then, alone or together with other owners."""
        this = (wanted.key, wanted.effect)
        others = {taint for other, left in self._left.items() if other != owner for taint in left.taints}
        for position, taint in enumerate(taints):
            if _taint_id(taint) != this:
                continue
            if taint.get("value", "") == wanted.value:
                return this in trace.taints or this in others
            if this in trace.taints and this not in others:
                taints[position] = _new_taint(wanted)
                return True
            self._conflict(owner, "taint", f"{wanted.key}:{wanted.effect}", wanted.value, taint.get("value", ""))
            return False
        taints.append(_new_taint(wanted))
        return True

    def _settable(
        self, owner: Owner, what: str, wanted: Mapping[str, str], present: Mapping[str, str]
    ) -> dict[str, str]:
        """Return what of `wanted` the owner sets: what is not there, is its own, or shared with other owners.

        What somebody else has set to the same value is as wanted, and stays theirs alone.
        """
        settable = {}
        for key, value in wanted.items():
            if key not in present:
                settable[key] = value
                continue
            setters = {other for other, left in self._left.items() if left.has_set(what, key, present[key])}
            if present[key] == value:
                if setters:
                    settable[key] = value
            elif setters == {owner}:
                settable[key] = value
            else:
                self._conflict(owner, what, key, value, present[key])
        return settable

    def _conflict(self, owner: Owner, what: str, key: str, value: str, present: str) -> None:
        message = (
            f"node {self._node.metadata.name} has the {what} {key}={present} already, set by somebody else; it is "
            f"left as it is, not {value or 'empty'}"
        )
        self.problems.append((owner, Problem(SET_NODE_CONFLICT, message)))


def _annotation(owner: Owner, what: str = "") -> str:
    return f"{what}{owner.kind.lower()}.{GROUP}/{owner.token}"


def _record(text: str) -> Record:
    try:
        return msgspec.json.decode(text, type=Record)
    except msgspec.DecodeError:
        return Record()


def _taint_ids(text: str) -> frozenset[TaintId]:
    try:
        return frozenset(msgspec.json.decode(text, type=list[TaintId]))
    except msgspec.DecodeError:
        return frozenset()


def _taint_id(taint: Mapping[str, str]) -> TaintId:
    return (taint.get("key", ""), taint.get("effect", ""))


def _new_taint(taint: Taint) -> dict[str, str]:
    value = {"value": taint.value} if taint.value else {}
    return {"key": taint.key, **value, "effect": taint.effect}
