"""Makes the status of NodeUnits and NodeGroups: nodes, counts, grids, and what is wrong with what was declared.

Called by the controller. A status that says the same is equal to the former, so that nothing is written (invariant
I7); lists are bounded, so that a unit of thousands of nodes stays a small object. Held by
``tests/grid/test_nodeunitstatus.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sitegrid.api.meta import timestamp
from sitegrid.api.nodeunits import (
    MAX_LISTED,
    MAX_LISTED_GRIDS,
    NodeGroup,
    NodeGroupStatus,
    NodeUnit,
    NodeUnitStatus,
)
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.status import Condition
from sitegrid.api.workloads import WorkloadGrid
from sitegrid.grid.blueprint import matcher_of
from sitegrid.grid.membership import Owner
from sitegrid.grid.observed import Node
from sitegrid.grid.overrides import MatcherError, Unit
from sitegrid.grid.problem import Problem
from sitegrid.grid.setnode import is_leaving
from sitegrid.grid.status import DEGRADED, READY

UNKNOWN_NODES: Final = "UnknownNodes"
"""A NodeUnit names nodes that do not exist (yet)."""
MAX_MESSAGE: Final = 1024

_State = tuple[bool, str, str]
"""A condition's status, reason and message."""


def runs_in(grid: WorkloadGrid | ServiceGrid, unit: Unit) -> bool:
    """Tell whether the grid is for the unit; a ServiceGrid is for all. One that cannot be understood is for none."""
    if isinstance(grid, ServiceGrid) or grid.spec.units is None:
        return True
    include, exclude = grid.spec.units.include, grid.spec.units.exclude
    try:
        included = include is None or matcher_of(include).matches(unit)
        return included and not (exclude is not None and matcher_of(exclude).matches(unit))
    except MatcherError:
        return False


def unit_status(
    node_unit: NodeUnit,
    nodes: Iterable[Node],
    grids: Sequence[str],
    problems: Sequence[Problem],
    *,
    unknown: Sequence[str] = (),
    now: datetime,
) -> NodeUnitStatus:
    """Return the status of a NodeUnit: `nodes` carry its label, `grids` run there, `unknown` are named in vain."""
    members = sorted(nodes, key=lambda node: node.metadata.name)
    ready = sum(node.ready for node in members)
    owner = Owner.of(node_unit)
    if unknown:
        problems = [*problems, _unknown_nodes(unknown)]
    label = f"{node_unit.spec.grid_uniq_key}={node_unit.unit}"
    states = {READY: _ready(label, len(members), ready, problems), DEGRADED: _degraded(problems)}
    return NodeUnitStatus(
        observed_generation=node_unit.metadata.generation,
        unit=node_unit.unit,
        nodes=[node.metadata.name for node in members[:MAX_LISTED]],
        node_count=len(members),
        ready_nodes=ready,
        leaving_nodes=sum(is_leaving(node.metadata, owner) for node in members),
        grids=[*grids[:MAX_LISTED_GRIDS]],
        grid_count=len(grids),
        conditions=_conditions(states, node_unit, now),
    )


def group_status(
    group: NodeGroup,
    units: Collection[str],
    nodes: Collection[Node],
    grids: Sequence[str],
    problems: Sequence[Problem],
    *,
    now: datetime,
) -> NodeGroupStatus:
    """Return the status of a NodeGroup: `units` are the values of its key, `nodes` those that carry one."""
    ready = sum(node.ready for node in nodes)
    states = {READY: _ready(group.spec.grid_uniq_key, len(nodes), ready, problems), DEGRADED: _degraded(problems)}
    return NodeGroupStatus(
        observed_generation=group.metadata.generation,
        units=sorted(units)[:MAX_LISTED],
        unit_count=len(units),
        node_count=len(nodes),
        ready_nodes=ready,
        grids=[*grids[:MAX_LISTED_GRIDS]],
        grid_count=len(grids),
        conditions=_conditions(states, group, now),
    )


def conditions_of(
    item: Any, label: str, nodes: int, ready: int, problems: Sequence[Problem], *, now: datetime
) -> list[Condition]:
    """Return the conditions of a declared object: of so many `nodes` with its `label`, some are `ready`."""
    return _conditions({READY: _ready(label, nodes, ready, problems), DEGRADED: _degraded(problems)}, item, now)


def _unknown_nodes(names: Sequence[str]) -> Problem:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Problem(UNKNOWN_NODES, f"there is no node {shown}; what is declared for it waits until it comes")


def _ready(label: str, total: int, ready: int, problems: Sequence[Problem]) -> _State:
    if problems:
        _, reason, message = _degraded(problems)
        return (False, reason, message)
    if not total:
        return (False, "NoNodes", f"no node carries the label {label}")
    if ready < total:
        return (False, "NodesNotReady", f"{ready} of {total} nodes are ready")
    return (True, "NodesReady", f"all {total} nodes are ready")


def _degraded(problems: Sequence[Problem]) -> _State:
    if not problems:
        return (False, "AsExpected", "all is as declared")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = problems[0].message
    limit = MAX_MESSAGE - len(more)
    return (True, problems[0].reason, (message if len(message) <= limit else message[: limit - 1] + "…") + more)


def _conditions(states: dict[str, _State], item: NodeUnit | NodeGroup, now: datetime) -> list[Condition]:
    known = {condition.type: condition for condition in item.status.conditions}
    conditions = []
    for name, (holds, reason, message) in states.items():
        former = known.get(name)
        since = former.last_transition_time if former and former.status == str(holds) else timestamp(now)
        conditions.append(
            Condition(
                type=name,
                status="True" if holds else "False",
                reason=reason,
                message=message,
                last_transition_time=since,
                observed_generation=item.metadata.generation,
            )
        )
    return conditions
