"""What is written to nodes: exactly what is declared, restored exactly, nothing of others."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import SetNode, Taint
from sitegrid.grid.membership import Claim, Decision, Owner, decide
from sitegrid.grid.observed import Node, NodeSpec
from sitegrid.grid.setnode import SET_NODE_CONFLICT, Apply, Outcome, held, plan_node, traces

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class _Server:
    """One Node as the API server keeps it: labels and annotations with the managers that own them."""

    def __init__(
        self, labels: Mapping[str, str], annotations: Mapping[str, str], taints: list[dict[str, str]]
    ) -> None:
        self.fields = {("labels", k): v for k, v in labels.items()} | {
            ("annotations", k): v for k, v in annotations.items()
        }
        self.owned: dict[str, set[tuple[str, str]]] = {"others": set(self.fields)}
        self.taints = copy.deepcopy(taints)
        self.writes = 0

    def node(self) -> Node:
        def of(kind: str) -> dict[str, str]:
            return {key: value for (what, key), value in self.fields.items() if what == kind}

        metadata = ObjectMeta(name="n", labels=of("labels"), annotations=of("annotations"))
        return Node(metadata=metadata, spec=NodeSpec(copy.deepcopy(self.taints)))

    def write(self, step: Any) -> None:
        self.writes += 1
        if isinstance(step, Apply):
            self._apply(str(step.owner), {"labels": step.labels, "annotations": step.annotations})
            return
        for key, value in step.annotations.items():
            if value is None:
                self.fields.pop(("annotations", key), None)
            else:
                self.fields["annotations", key] = value
        if step.taints is not None:
            self.taints = step.taints

    def _apply(self, manager: str, wanted: Mapping[str, Mapping[str, str]]) -> None:
        fields = {(kind, key): value for kind, values in wanted.items() for key, value in values.items()}
        for field, value in fields.items():
            foreign = any(field in owned for other, owned in self.owned.items() if other != manager)
            assert not foreign or self.fields.get(field) == value, f"conflict: {field}"
        for field in self.owned.pop(manager, set()) - fields.keys():
            if not any(field in owned for owned in self.owned.values()):
                del self.fields[field]
        self.fields |= fields
        self.owned[manager] = set(fields)

    def settle(self, claims: list[Claim], now: datetime = NOW, **changes: Any) -> Outcome:
        """Write until nothing is left to write."""
        for _ in range(50):
            outcome = self.plan(claims, now, **changes)
            if not outcome.steps:
                return outcome
            self.write(outcome.steps[0])
        raise AssertionError("no rest")

    def plan(
        self, claims: list[Claim], now: datetime = NOW, *, frozen: tuple[Owner, ...] = (), grace: int = 600
    ) -> Outcome:
        node = self.node()
        left = traces(node.metadata)
        decision: Decision = decide(node.metadata, claims, held(left), frozen)
        known = {claim.owner: claim.grace for claim in claims} | dict.fromkeys(left, grace)
        return plan_node(node, decision, left, frozen=frozen, grace=known, now=now)


def _claim(name: str = "hz", *, key: str = "zone", grace: int = 600, **sets: Any) -> Claim:
    return Claim(Owner("NodeUnit", name), key, name, ("2026", name), SetNode(**sets), grace, by_name=True)


def _state(server: _Server) -> tuple[dict[tuple[str, str], str], list[dict[str, str]]]:
    return dict(server.fields), copy.deepcopy(server.taints)


def test_member_gets_label_and_what_is_set() -> None:
    """The unit's label, labels, annotations and taints, besides what was there."""
    server = _Server({"a": "b"}, {}, [{"key": "x", "effect": "NoSchedule"}])
    server.settle(
        [_claim(labels={"tier": "gold"}, annotations={"note": "hi"}, taints=[Taint("edge", "NoExecute", "y")])]
    )
    node = server.node()
    assert node.metadata.labels == {"a": "b", "zone": "hz", "tier": "gold"}
    assert node.metadata.annotations["note"] == "hi"
    assert node.spec.taints == [
        {"key": "x", "effect": "NoSchedule"},
        {"key": "edge", "value": "y", "effect": "NoExecute"},
    ]


def test_grace_period_comes_before_leaving() -> None:
    """A node that is claimed no more is marked, and let go only when the grace period is over (I5)."""
    server = _Server({}, {}, [])
    server.settle([_claim()])
    outcome = server.settle([], NOW)
    assert server.node().metadata.labels == {"zone": "hz"}
    assert outcome.wake_in == 600
    assert server.settle([], NOW + timedelta(seconds=599)).wake_in == 1
    assert server.node().metadata.labels == {"zone": "hz"}
    server.settle([], NOW + timedelta(seconds=600))
    assert server.node().metadata == ObjectMeta(name="n")


def test_node_that_is_claimed_again_is_marked_no_more() -> None:
    """A selector that was repaired in time has changed nothing."""
    server = _Server({}, {}, [])
    server.settle([_claim()])
    before = _state(server)
    server.settle([])
    server.settle([_claim()], NOW + timedelta(seconds=300))
    assert _state(server) == before


def test_deleted_owners_grace_period_is_remembered() -> None:
    """Of a NodeUnit that is gone the node itself knows how long to keep what it set."""
    server = _Server({}, {}, [])
    server.settle([_claim(grace=30)])
    node = server.node()
    left = traces(node.metadata)
    gone = Decision([], [], set())
    marked = plan_node(node, gone, left, frozen=(), grace={}, now=NOW)
    server.write(marked.steps[0])
    node = server.node()
    assert plan_node(node, gone, traces(node.metadata), frozen=(), grace={}, now=NOW).wake_in == 30


def test_moment_that_is_no_time_begins_the_grace_period_anew() -> None:
    """A mark that somebody broke, or that is in the future, does not let the node go."""
    for text in ("rubbish", "2030-01-01T00:00:00Z"):
        server = _Server({}, {}, [])
        server.settle([_claim()])
        server.fields["annotations", "leaving.nodeunit.tkeedge.io/hz"] = text
        assert server.settle([]).wake_in == 600


def test_zero_grace_lets_go_at_once() -> None:
    """Who wants it at once gets it at once, without a mark."""
    server = _Server({}, {}, [])
    server.settle([_claim(grace=0)])
    server.settle([], grace=0)
    assert server.node().metadata == ObjectMeta(name="n")


def test_unit_that_names_no_node_any_more_lets_go_after_the_grace_period() -> None:
    """Without `nodes` and `selector` it is about labels that others put, and not about those it has put itself."""
    server = _Server({}, {}, [])
    by_label = replace(_claim(labels={"tier": "gold"}), by_label=True, by_name=False)
    server.settle([_claim(labels={"tier": "gold"})])
    server.settle([by_label])
    assert server.node().metadata.labels == {"zone": "hz", "tier": "gold"}
    for step in server.plan([by_label], NOW + timedelta(seconds=600)).steps:
        server.write(step)
    server.settle([])
    assert server.node().metadata == ObjectMeta(name="n")


def test_node_labelled_by_hand_carries_what_is_set_until_the_label_goes() -> None:
    """Of a NodeUnit that names no members; the label itself is never ours."""
    server = _Server({"zone": "hz"}, {}, [])
    server.settle([replace(_claim(labels={"tier": "gold"}), by_label=True, by_name=False)])
    assert server.node().metadata.labels == {"zone": "hz", "tier": "gold"}
    server.settle([], grace=0)
    assert server.node().metadata == ObjectMeta(name="n", labels={"zone": "hz"})


def test_node_named_by_another_unit_moves_at_once() -> None:
    """It is taken from the unit that dropped it, whole, and given to the other."""
    server = _Server({}, {}, [])
    server.settle([_claim("old", labels={"tier": "gold"}, taints=[Taint("edge", "NoExecute")])])
    server.settle([_claim("new")])
    assert server.node().metadata.labels == {"zone": "new"}
    assert server.node().spec.taints == []


def test_suspended_owner_changes_nothing() -> None:
    """Neither what it sets nor that it lets go."""
    server = _Server({}, {}, [])
    server.settle([_claim()])
    frozen = (Owner("NodeUnit", "hz"),)
    assert server.plan([], frozen=frozen) == Outcome([], [], None)
    assert server.plan([_claim(labels={"new": "x"})], frozen=frozen).steps == []


def test_what_others_set_otherwise_is_left_and_reported() -> None:
    """A label, an annotation and a taint of others with another value stay; the rest is set."""
    server = _Server({"tier": "silver"}, {"note": "theirs"}, [{"key": "edge", "value": "no", "effect": "NoExecute"}])
    sets: dict[str, Any] = {
        "labels": {"tier": "gold", "more": "yes"},
        "annotations": {"note": "ours"},
        "taints": [Taint("edge", "NoExecute", "yes")],
    }
    outcome = server.settle([_claim(**sets)])
    node = server.node()
    assert node.metadata.labels == {"tier": "silver", "zone": "hz", "more": "yes"}
    assert node.metadata.annotations["note"] == "theirs"
    assert node.spec.taints == [{"key": "edge", "value": "no", "effect": "NoExecute"}]
    assert [problem.reason for _, problem in outcome.problems] == [SET_NODE_CONFLICT] * 3
    assert "node n has the label tier=silver already" in outcome.problems[0][1].message


def test_replaced_owner_leaves_no_gap() -> None:
    """When one NodeUnit replaces another for the same unit, the label is never off the node."""
    server = _Server({}, {}, [])
    old, new = Claim(Owner("NodeUnit", "old"), "zone", "hz"), Claim(Owner("NodeUnit", "new"), "zone", "hz")
    server.settle([old])
    server.settle([new])
    outcome = server.plan([new], NOW + timedelta(seconds=600))
    for step in outcome.steps:
        server.write(step)
        assert server.node().metadata.labels == {"zone": "hz"}
    server.settle([new], NOW + timedelta(seconds=600))
    assert [*traces(server.node().metadata)] == [Owner("NodeUnit", "new")]


def test_changed_set_node_is_changed_on_members() -> None:
    """New values replace the old ones, and what is set no more goes."""
    server = _Server({}, {}, [])
    server.settle(
        [_claim(labels={"a": "1", "b": "1"}, taints=[Taint("t", "NoExecute", "1"), Taint("u", "NoExecute")])]
    )
    server.settle([_claim(labels={"a": "2"}, taints=[Taint("t", "NoExecute", "2")])])
    assert server.node().metadata.labels == {"zone": "hz", "a": "2"}
    assert server.node().spec.taints == [{"key": "t", "value": "2", "effect": "NoExecute"}]


def test_label_taken_off_by_hand_comes_back() -> None:
    """What a member is to carry is repaired."""
    server = _Server({}, {}, [])
    server.settle([_claim(labels={"tier": "gold"}, taints=[Taint("t", "NoExecute")])])
    before = _state(server)
    del server.fields["labels", "tier"]
    server.taints = []
    server.settle([_claim(labels={"tier": "gold"}, taints=[Taint("t", "NoExecute")])])
    assert _state(server) == before


def test_taint_of_two_units_stays_until_the_last_leaves() -> None:
    """Two keys' units may set the same taint."""
    server = _Server({}, {}, [])
    taints = [Taint("edge", "NoExecute")]
    one, two = _claim("hz", grace=0, taints=taints), _claim("r1", key="rack", grace=0, taints=taints)
    server.settle([one, two])
    server.settle([two], grace=0)
    assert len(server.node().spec.taints) == 1
    server.settle([], grace=0)
    assert server.node().spec.taints == []


def test_unreadable_record_is_written_anew() -> None:
    """An annotation that somebody broke is no reason to stop."""
    server = _Server({}, {}, [])
    server.settle([_claim()])
    server.fields["annotations", "nodeunit.tkeedge.io/hz"] = "{"
    server.settle([_claim()])
    assert traces(server.node().metadata)[Owner("NodeUnit", "hz")].record is not None


_keys = st.sampled_from(["a", "b", "c"])
_texts = st.sampled_from(["1", "2"])
_maps = st.dictionaries(_keys, _texts, max_size=3)
_taints = st.lists(
    st.builds(Taint, key=_keys, effect=st.sampled_from(["NoSchedule", "NoExecute"]), value=_texts),
    max_size=3,
    unique_by=lambda taint: (taint.key, taint.effect),
)
_sets = st.fixed_dictionaries({"labels": _maps, "annotations": _maps, "taints": _taints})


def _builtin(taints: list[Taint]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = msgspec.to_builtins(taints)
    return found


@given(_maps, _maps, _taints, st.lists(_sets, min_size=1, max_size=3))
def test_leaving_restores_exactly(
    labels: dict[str, str], annotations: dict[str, str], taints: list[Taint], life: list[dict[str, Any]]
) -> None:
    """Whatever was set, changed and set again: who leaves takes all of it along and nothing else."""
    server = _Server(labels, annotations, _builtin(taints))
    before = _state(server)
    for sets in life:
        server.settle([_claim(**sets)])
        assert before[0].items() <= server.fields.items()
        assert all(taint in server.taints for taint in before[1])
    server.settle([], grace=0)
    assert _state(server) == before


@given(_maps, _taints, _sets, _sets)
def test_two_owners_leave_nothing(
    labels: dict[str, str], taints: list[Taint], first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Units of two keys that set the same things, in either order of leaving."""
    for order in (0, 1):
        server = _Server(labels, {}, _builtin(taints))
        before = _state(server)
        claims = [_claim("hz", grace=0, **first), _claim("r1", key="rack", grace=0, **second)]
        server.settle(claims)
        server.settle([claims[order]], grace=0)
        server.settle([], grace=0)
        assert _state(server) == before


@given(_maps, _taints, _sets)
def test_second_pass_writes_nothing(labels: dict[str, str], taints: list[Taint], sets: dict[str, Any]) -> None:
    """At rest there is nothing to write (I7)."""
    server = _Server(labels, {}, _builtin(taints))
    server.settle([_claim(**sets)])
    writes = server.writes
    server.settle([_claim(**sets)])
    assert server.writes == writes
