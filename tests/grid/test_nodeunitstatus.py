"""What NodeUnits and NodeGroups report: counts, bounded lists, and conditions that move only when they change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import MAX_LISTED, NodeGroup, NodeGroupSpec, NodeUnit, NodeUnitSpec
from sitegrid.api.status import Condition
from sitegrid.grid.nodeunitstatus import MAX_MESSAGE, group_status, unit_status
from sitegrid.grid.observed import Node, NodeCondition, NodeStatus
from sitegrid.grid.problem import Problem

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROBLEM = Problem("NodeInOtherUnit", "node a is elsewhere")


def _unit(**spec: object) -> NodeUnit:
    metadata = ObjectMeta(name="hz", generation=3)
    return NodeUnit(metadata=metadata, spec=msgspec.convert({"gridUniqKey": "zone", **spec}, NodeUnitSpec))


def _nodes(count: int, ready: int, **annotations: str) -> list[Node]:
    return [
        Node(
            metadata=ObjectMeta(name=f"n{number:04}", annotations=annotations),
            status=NodeStatus([NodeCondition("Ready", "True" if number < ready else "Unknown")]),
        )
        for number in reversed(range(count))
    ]


def _of(conditions: list[Condition]) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in conditions}


def test_counts_nodes_and_grids() -> None:
    """Nodes in the order of their names, how many are ready, and which grids run there."""
    status = unit_status(_unit(), _nodes(3, 2), ["ServiceGrid a/b"], [], now=NOW)
    assert (status.unit, status.nodes, status.node_count, status.ready_nodes) == (
        "hz",
        ["n0000", "n0001", "n0002"],
        3,
        2,
    )
    assert (status.grids, status.grid_count, status.observed_generation) == (["ServiceGrid a/b"], 1, 3)
    assert _of(status.conditions) == {"Ready": ("False", "NodesNotReady"), "Degraded": ("False", "AsExpected")}


def test_ready_when_all_nodes_are() -> None:
    """A unit with all nodes ready and no mistake is Ready; one without nodes is not."""
    assert _of(unit_status(_unit(), _nodes(2, 2), [], [], now=NOW).conditions)["Ready"] == ("True", "NodesReady")
    status = unit_status(_unit(), [], [], [], now=NOW)
    assert _of(status.conditions)["Ready"] == ("False", "NoNodes")
    assert status.conditions[0].message == "no node carries the label zone=hz"


def test_first_problem_is_told_and_the_others_counted() -> None:
    """Also that nodes are unknown, after what is worse."""
    status = unit_status(_unit(), _nodes(1, 1), [], [PROBLEM], unknown=["x", "y"], now=NOW)
    assert _of(status.conditions) == {"Ready": ("False", PROBLEM.reason), "Degraded": ("True", PROBLEM.reason)}
    assert status.conditions[0].message == "node a is elsewhere (and 1 more)"
    unknown = unit_status(_unit(), [], [], [], unknown=["a", "b", "c", "d"], now=NOW)
    assert unknown.conditions[1].message.startswith("there is no node a, b, c and 1 more;")


def test_leaving_nodes_are_counted() -> None:
    """Nodes that are no members any more and carry the label for a while."""
    nodes = _nodes(2, 2, **{"leaving.nodeunit.tkeedge.io/hz": "2026-01-01T00:00:00Z"})
    assert unit_status(_unit(), nodes, [], [], now=NOW).leaving_nodes == 2


def test_thousands_of_nodes_stay_a_small_object() -> None:
    """Lists are cut, counts are not, and a message is no book."""
    grids = [f"DeploymentGrid namespace-{number}/grid" for number in range(1000)]
    status = unit_status(_unit(), _nodes(5000, 5000), grids, [Problem("X", "y" * 10000)], now=NOW)
    assert (len(status.nodes), status.node_count, status.grid_count) == (MAX_LISTED, 5000, 1000)
    assert len(status.conditions[0].message) == MAX_MESSAGE
    assert len(msgspec.json.encode(status)) < 16 * 1024


def test_same_state_is_the_same_status() -> None:
    """A condition's time moves only when its status does, so that nothing is written at rest (I7)."""
    unit = _unit()
    unit.status = unit_status(unit, _nodes(2, 1), [], [], now=NOW)
    later = NOW + timedelta(hours=1)
    assert unit_status(unit, _nodes(2, 1), [], [], now=later) == unit.status
    ready = unit_status(unit, _nodes(2, 2), [], [], now=later)
    assert [condition.last_transition_time for condition in ready.conditions] == [
        "2026-01-01T01:00:00Z",
        "2026-01-01T00:00:00Z",
    ]


def test_group_counts_units() -> None:
    """A NodeGroup tells the units, and the nodes of all of them."""
    group = NodeGroup(metadata=ObjectMeta(name="zone"), spec=NodeGroupSpec(grid_uniq_key="zone"))
    status = group_status(group, {"b", "a"}, _nodes(3, 1), ["ServiceGrid a/b"], [], now=NOW)
    assert (status.units, status.unit_count, status.node_count, status.ready_nodes) == (["a", "b"], 2, 3, 1)
    many = group_status(group, {f"u{number}" for number in range(5000)}, [], [], [], now=NOW)
    assert (len(many.units), many.unit_count) == (MAX_LISTED, 5000)
