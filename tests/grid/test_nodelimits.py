"""What NodeUnits may put on nodes: nothing of Kubernetes' domains, nothing that evicts, unless it is allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.nodeunits import SetNode, Taint
from sitegrid.grid.nodelimits import NODE_KEY_REFUSED, STRICT, NodeLimits

RESERVED = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "node-role.kubernetes.io/control-plane",
    "node-restriction.kubernetes.io/site",
    "node.alpha.kubernetes.io/ttl",
    "failure-domain.beta.kubernetes.io/zone",
    "k8s.io/x",
    "cluster-autoscaler.k8s.io/x",
    "Node-Role.Kubernetes.io/x",
]
FREE = [
    "zone",
    "kubernetes.io",
    "example.com/zone",
    "mykubernetes.io/x",
    "notk8s.io/x",
    "kubernetes.io.example.com/x",
]
OWN = ["tkeedge.io/unit", "nodeunit.tkeedge.io/other", "taints.nodeunit.tkeedge.io/other"]


@pytest.mark.parametrize("key", [*RESERVED, *OWN])
def test_reserved_keys_are_refused_everywhere(key: str) -> None:
    """As labels, annotations and taints; all else of setNode counts."""
    sets = SetNode(
        {key: "x", "tier": "gold"}, {key: "x", "note": "hi"}, [Taint(key, "NoSchedule"), Taint("a", "NoSchedule")]
    )
    allowed, problem = STRICT.within(sets)
    assert allowed == SetNode({"tier": "gold"}, {"note": "hi"}, [Taint("a", "NoSchedule")])
    assert problem is not None
    assert problem.reason == NODE_KEY_REFUSED
    assert problem.message.startswith(f"setNode without labels {key}; annotations {key}; taints {key}:NoSchedule: ")


@pytest.mark.parametrize("key", FREE)
def test_other_keys_are_not(key: str) -> None:
    """Neither names without a prefix, nor domains that only look alike."""
    sets = SetNode({key: "x"}, {key: "x"}, [Taint(key, "NoSchedule")])
    assert STRICT.within(sets) == (sets, None)
    assert STRICT.refused_unit(key, "n") is None


def test_no_execute_is_refused() -> None:
    """Of one key only that effect; it is allowed by an option of its own."""
    sets = SetNode(taints=[Taint("edge", "NoExecute"), Taint("edge", "NoSchedule")])
    allowed, problem = STRICT.within(sets)
    assert allowed.taints == [Taint("edge", "NoSchedule")]
    assert problem is not None
    assert "edge:NoExecute" in problem.message
    assert "--allow-no-execute-taints" in problem.message
    assert NodeLimits(no_execute=True).within(sets) == (sets, None)
    assert NodeLimits(keys=("edge", "*")).within(sets)[1] is not None


@pytest.mark.parametrize(
    ("allowed", "key", "whether"),
    [
        ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone", True),
        ("topology.kubernetes.io/zone", "topology.kubernetes.io/zones", False),
        ("node-restriction.kubernetes.io/*", "node-restriction.kubernetes.io/site", True),
        ("node-restriction.kubernetes.io/*", "node-role.kubernetes.io/site", False),
    ],
)
def test_keys_are_allowed_by_name_or_by_prefix(allowed: str, key: str, whether: bool) -> None:
    """A key, or all that begin so."""
    limits = NodeLimits(keys=(allowed,))
    sets = SetNode(labels={key: "x"})
    assert (limits.within(sets) == (sets, None)) is whether
    assert (limits.refused_unit(key, "n") is None) is whether


@pytest.mark.parametrize("key", OWN)
def test_own_keys_cannot_be_allowed(key: str) -> None:
    """A note on a node says whose a label or taint is: it would have others' taints taken off."""
    assert NodeLimits(("*", key), no_execute=True).within(SetNode(annotations={key: "x"}))[0] == SetNode()


_key = st.sampled_from([*RESERVED, *FREE, *OWN])
_taint = st.builds(Taint, _key, st.sampled_from(["NoSchedule", "NoExecute"]))
_sets = st.builds(
    SetNode,
    st.dictionaries(_key, st.just("x"), max_size=4),
    st.dictionaries(_key, st.just("x"), max_size=4),
    st.lists(_taint, max_size=4, unique_by=lambda taint: (taint.key, taint.effect)),
)


@given(_sets)
def test_what_is_left_is_within_the_limits(sets: SetNode) -> None:
    """Once is enough, nothing reserved stays, and whatever is left out is named."""
    allowed, problem = STRICT.within(sets)
    assert STRICT.within(allowed) == (allowed, None)
    assert (problem is None) == (allowed == sets)
    kept = {*allowed.labels, *allowed.annotations, *(taint.key for taint in allowed.taints)}
    assert kept <= {*FREE}
    assert all(taint.effect != "NoExecute" for taint in allowed.taints)
    wanted = {*sets.labels, *sets.annotations, *(taint.key for taint in sets.taints)}
    assert all(key in problem.message for key in wanted - {*FREE} if problem is not None)
