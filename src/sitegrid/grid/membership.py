"""Which nodes are to be members of which units, by what NodeUnits and NodeGroups declare.

`Declarers` is made once per change of those objects and then asked node by node; `decide` settles what is contested
on one node. What is won becomes the node's label by `sitegrid.grid.setnode`, and only that label makes it a member
for everybody else. A mistake is told as a `Problem` of the object that made it, and moves no node (invariant I5).
Held by ``tests/grid/test_membership.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import msgspec

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import LabelSelector, NodeGroup, NodeUnit, SetNode
from sitegrid.grid.labelselector import LabelSelector as Matcher
from sitegrid.grid.labelselector import parse_label_selector
from sitegrid.grid.nodelimits import STRICT, NodeLimits
from sitegrid.grid.nodeunits import UnitOfKey, seniority, speakers
from sitegrid.grid.problem import Problem
from sitegrid.wire.labels import MAX_LABEL_VALUE, hashed_name, is_label_value, label_value, looks_hashed
from sitegrid.wire.selectors import SelectorError

UNIT_DECLARED_TWICE: Final = "UnitDeclaredTwice"
"""Another NodeUnit, an older one, is for the same unit."""
CIRCULAR_SELECTOR: Final = "CircularSelector"
"""What a selector finds depends on labels that follow from what it finds."""
INVALID_SELECTOR: Final = "InvalidSelector"
"""Kubernetes would refuse the selector."""
NODE_IN_OTHER_UNIT: Final = "NodeInOtherUnit"
"""A node that is wanted is in another unit of the key."""


class Owner(NamedTuple):
    """A NodeUnit or NodeGroup, as nodes remember it."""

    kind: str
    token: str
    """Its name, made short enough for an annotation's name by `label_value`."""

    @classmethod
    def of(cls, item: NodeUnit | NodeGroup) -> Owner:
        """Return the owner that `item` is."""
        return cls(item.KIND, label_value(item.metadata.name))

    def __str__(self) -> str:
        return f"{self.kind} {self.token}"


@dataclass(frozen=True, slots=True)
class Claim:
    """An owner wants one node to be in a unit."""

    owner: Owner
    key: str
    value: str
    seniority: tuple[str, str] = ("", "")
    """Of two claims of which the node has neither yet, the one with the lesser prevails."""
    sets: SetNode = field(default_factory=SetNode)
    """What the node is to carry besides the unit's label."""
    grace: int = 600
    """Seconds that the node keeps it all when it is claimed no more."""
    by_name: bool = False
    """Whether the owner names this very node, rather than finding it."""
    by_label: bool = False
    """Whether the node is in the unit by a label that somebody else put on it; the owner leaves that label alone."""
    refused: Problem | None = None
    """Why the unit's label may not be put on the node; somebody else's may be there."""


class Declarers:
    """What all NodeUnits and NodeGroups together declare, within `limits`; never changes."""

    def __init__(
        self, node_units: Iterable[NodeUnit], node_groups: Iterable[NodeGroup], limits: NodeLimits = STRICT
    ) -> None:
        alive = [unit for unit in node_units if not unit.metadata.deletion_timestamp]
        groups = [group for group in node_groups if not group.metadata.deletion_timestamp]
        self.problems: dict[Owner, Problem] = {}
        """The mistakes that are in the objects themselves, whatever the nodes are."""
        self.refusals: dict[Owner, Problem] = {}
        """What is left out of setNode, since it may not be put on nodes; all else counts."""
        self._limits = limits
        units = [self._limited(unit) for unit in alive]
        every: list[NodeUnit | NodeGroup] = [*units, *groups]
        self.suspended = {Owner.of(unit) for unit in units if unit.spec.suspend}
        self.grace = {Owner.of(item): item.spec.removal.grace_period_seconds for item in every}
        self._by_node: dict[str, list[NodeUnit]] = {}
        self._by_label: dict[UnitOfKey, NodeUnit] = {}
        self._by_requirement: dict[tuple[str, str], list[tuple[NodeUnit, Matcher]]] = {}
        """Selectors that want one of some values of a label, by each: of thousands a node is held against few."""
        self._by_selector: list[tuple[NodeUnit, Matcher]] = []
        """All other selectors."""
        self._found: list[NodeGroup] = []
        self._grouped: list[tuple[NodeGroup, Mapping[str, frozenset[str]]]] = []
        self._flow = _Flow()
        spoken = speakers(units)
        for item in sorted(every, key=lambda item: seniority(item.metadata)):
            try:
                if isinstance(item, NodeUnit):
                    self._add_unit(item, spoken)
                else:
                    self._add_group(item, units)
            except SelectorError as error:
                self.problems[Owner.of(item)] = Problem(INVALID_SELECTOR, f"spec.selector: {error}")

    @property
    def frozen(self) -> Collection[Owner]:
        """The owners that change no node: suspended, or with a mistake that leaves open what they mean."""
        return self.suspended | self.problems.keys()

    def told(self, owner: Owner) -> list[Problem]:
        """Return what there is to tell of what an owner declares, whatever the nodes are; the worst first."""
        found = (self.problems.get(owner), self.refusals.get(owner))
        return [problem for problem in found if problem is not None]

    def claims(self, node: ObjectMeta) -> list[Claim]:
        """Return who wants the node in which unit, the most senior first."""
        found = []
        for claim in self._claims(node):
            refused = None if claim.by_label else self._limits.refused_unit(claim.key, node.name)
            found.append(claim if refused is None else replace(claim, refused=refused))
        return sorted(found, key=lambda claim: claim.seniority)

    def _claims(self, node: ObjectMeta) -> Iterator[Claim]:
        named = self._by_node.get(node.name, [])
        for unit in named:
            yield _claim(unit, by_name=True)
        selectors = [found for label in node.labels.items() for found in self._by_requirement.get(label, ())]
        for unit, selector in (*selectors, *self._by_selector):
            if selector.matches(node.labels) and not any(unit is other for other in named):
                yield _claim(unit)
        if self._by_label:
            for label in node.labels.items():
                if (declared := self._by_label.get(label)) is not None:
                    yield _claim(declared, by_label=True)
        for group in self._found:
            values = [node.labels.get(key, "") for key in group.spec.auto_find_node_keys]
            if all(values):
                yield _group_claim(group, joined_value(values))
        for group, sources in self._grouped:
            for key, units in sources.items():
                if (value := node.labels.get(key, "")) in units:
                    yield _group_claim(group, value)

    def _limited(self, unit: NodeUnit) -> NodeUnit:
        """Return the NodeUnit without what may not be put on nodes, which is noted."""
        sets, refusal = self._limits.within(unit.spec.set_node)
        if refusal is None:
            return unit
        self.refusals[Owner.of(unit)] = refusal
        return msgspec.structs.replace(unit, spec=msgspec.structs.replace(unit.spec, set_node=sets))

    def _add_unit(self, unit: NodeUnit, spoken: Mapping[UnitOfKey, NodeUnit]) -> None:
        spec, owner = unit.spec, Owner.of(unit)
        speaker = spoken[spec.grid_uniq_key, unit.unit]
        if speaker is not unit:
            message = f"NodeUnit {speaker.metadata.name} is for {spec.grid_uniq_key}={unit.unit} already; delete one"
            self.problems[owner] = Problem(UNIT_DECLARED_TWICE, message)
            return
        sets = {*spec.set_node.labels}
        reads: set[str] = set()
        # A label that may not be put on nodes is found on them instead.
        (reads if self._limits.is_reserved(spec.grid_uniq_key) else sets).add(spec.grid_uniq_key)
        if spec.selector is not None:
            selector = _parsed(spec.selector)
            reads |= {requirement.key for requirement in selector.requirements}
            if not self._flows(owner, reads, sets):
                return
            self._add_selector(unit, selector)
        for name in spec.nodes:
            self._by_node.setdefault(name, []).append(unit)
        if not spec.nodes and spec.selector is None and spec.set_node != SetNode():
            if not self._flows(owner, {spec.grid_uniq_key}, spec.set_node.labels):
                return
            self._by_label[spec.grid_uniq_key, unit.unit] = unit

    def _add_selector(self, unit: NodeUnit, selector: Matcher) -> None:
        wanted = next((requirement for requirement in selector.requirements if requirement.operator == "in"), None)
        if wanted is None:
            self._by_selector.append((unit, selector))
            return
        for value in wanted.values:
            self._by_requirement.setdefault((wanted.key, value), []).append((unit, selector))

    def _add_group(self, group: NodeGroup, units: Iterable[NodeUnit]) -> None:
        spec, owner = group.spec, Owner.of(group)
        key = spec.grid_uniq_key
        sources: dict[str, set[str]] = {}
        if spec.selector is not None:
            selector = _parsed(spec.selector)
            for unit in units:
                if unit.spec.grid_uniq_key != key and selector.matches(unit.metadata.labels):
                    sources.setdefault(unit.spec.grid_uniq_key, set()).add(unit.unit)
        if not self._flows(owner, {*spec.auto_find_node_keys, *sources}, {key}):
            return
        if spec.auto_find_node_keys:
            self._found.append(group)
        if sources:
            self._grouped.append((group, {source: frozenset(sources[source]) for source in sorted(sources)}))

    def _flows(self, owner: Owner, reads: Collection[str], sets: Collection[str]) -> bool:
        """Tell whether labels `sets` may follow from labels `reads`; that they may not is a problem of the owner."""
        key = self._flow.add(reads, sets)
        if key is None:
            return True
        self.problems[owner] = Problem(
            CIRCULAR_SELECTOR,
            f"what is selected depends on the label {key}, which this or another NodeUnit or NodeGroup sets on what "
            "is selected: select by labels that nothing here sets",
        )
        return False


class _Flow:
    """Which label keys follow from which, without a circle."""

    def __init__(self) -> None:
        self._sets: dict[str, set[str]] = {}

    def add(self, reads: Collection[str], sets: Collection[str]) -> str | None:
        """Add that `sets` follow from `reads`; return a key of `reads` that would then follow from itself."""
        seen: set[str] = set()
        todo = [*sets]
        while todo:
            key = todo.pop()
            if key not in seen:
                seen.add(key)
                todo += self._sets.get(key, ())
        circular = sorted(seen.intersection(reads))
        if circular:
            return circular[0]
        for key in reads:
            self._sets.setdefault(key, set()).update(sets)
        return None


class Decision(NamedTuple):
    """What becomes of the claims on one node."""

    won: list[Claim]
    lost: list[tuple[Claim, Problem]]
    yielding: set[Owner]
    """Owners that claim the node no more and give it free at once, since another one names it."""


def decide(
    node: ObjectMeta, claims: Iterable[Claim], held: Mapping[Owner, Mapping[str, str]], frozen: Collection[Owner]
) -> Decision:
    """Return which of `claims` (the most senior first) prevail on the node.

    `held` has, by owner, the labels that it has put on the node. Who has the node keeps it; nobody's label is
    overwritten.
    """
    decision = Decision([], [], set())
    by_key: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.by_label or claim.refused is not None:
            # A label that it has put there itself is none of somebody else's: the node was dropped, and is leaving.
            if node.labels.get(claim.key) == claim.value and claim.key not in held.get(claim.owner, {}):
                if claim.sets != SetNode():
                    decision.won.append(replace(claim, by_label=True))
            elif claim.refused is not None:
                decision.lost.append((claim, claim.refused))
        else:
            by_key.setdefault(claim.key, []).append(claim)
    for key, contest in by_key.items():
        _decide_key(decision, node, contest, {o: labels[key] for o, labels in held.items() if key in labels}, frozen)
    return decision


def _decide_key(
    decision: Decision,
    node: ObjectMeta,
    contest: list[Claim],
    held: Mapping[Owner, str],
    frozen: Collection[Owner],
) -> None:
    key = contest[0].key
    present = node.labels.get(key)
    holders = {owner for owner, value in held.items() if value == present}
    keeping = [claim for claim in contest if claim.value == present]
    moving = [claim for claim in contest if {claim.owner} == holders]
    if present is None:
        chosen = contest[0]
    elif keeping or moving:
        chosen = (keeping or moving)[0]
    else:
        if holders and not holders & {*frozen} and any(claim.by_name for claim in contest):
            decision.yielding.update(holders)
        who = f"{min(holders)}, which lets it go after its grace period" if holders else "somebody else"
        remedy = "" if holders else f": take its label off, kubectl label node {node.name} {key}-"
        problem = Problem(
            NODE_IN_OTHER_UNIT,
            f"node {node.name} is in unit {present or '(empty)'} of {key} already, put there by {who}{remedy}",
        )
        decision.lost.extend((claim, problem) for claim in contest)
        return
    for claim in contest:
        if claim.value == chosen.value:
            decision.won.append(claim)
        else:
            message = f"node {node.name} is in unit {chosen.value} of {key} already, by {chosen.owner}"
            decision.lost.append((claim, Problem(NODE_IN_OTHER_UNIT, message)))


def joined_value(values: list[str]) -> str:
    """Return the unit of a combination of label values: joined by '-', with a hash where that could be another's."""
    plain = "-".join(values)
    ambiguous = any("-" in value for value in values[:-1]) or (len(values) > 1 and looks_hashed(plain))
    if is_label_value(plain) and not ambiguous:
        return plain
    return hashed_name(plain, *values, max_length=MAX_LABEL_VALUE)


def _claim(unit: NodeUnit, *, by_name: bool = False, by_label: bool = False) -> Claim:
    spec = unit.spec
    rank, grace = seniority(unit.metadata), spec.removal.grace_period_seconds
    return Claim(
        Owner.of(unit), spec.grid_uniq_key, unit.unit, rank, spec.set_node, grace, by_name=by_name, by_label=by_label
    )


def _group_claim(group: NodeGroup, value: str) -> Claim:
    grace = group.spec.removal.grace_period_seconds
    return Claim(Owner.of(group), group.spec.grid_uniq_key, value, seniority(group.metadata), grace=grace)


def _parsed(selector: LabelSelector) -> Matcher:
    parsed = parse_label_selector(msgspec.to_builtins(selector))
    if parsed.empty:
        raise SelectorError("it is empty and would select everything")
    return parsed
