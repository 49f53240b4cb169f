"""Finds the state of each unit of a workload grid, and makes the bounded list of them in its status.

Called for each status. The list is bounded by its size, so that a grid of thousands of units stays an object far
below what etcd takes; who is not ready comes first, and how many are left out is said. Held by
``tests/grid/test_status.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeVar

import msgspec

from sitegrid.api.status import UnitEndpoints, UnitState
from sitegrid.api.workloads import WorkloadGrid
from sitegrid.grid.kinds import PodCounts, WorkloadKind
from sitegrid.grid.observed import Workload
from sitegrid.grid.plan import Plan
from sitegrid.grid.problem import Problem
from sitegrid.grid.templates import Template, template_of

MAX_BYTES: Final = 96 * 1024
"""Largest list of states, in bytes of JSON; about 1,000 units."""
MAX_MESSAGE: Final = 256
"""Longest message of one unit, in characters."""

_RANK: Final = {"Degraded": 0, "NotReady": 1, "Progressing": 2, "Suspended": 3, "Ready": 4}
S = TypeVar("S", UnitState, UnitEndpoints)
_State = Literal["Degraded", "Suspended", "Progressing", "NotReady", "Ready"]


class GridUnits:
    """The units of a grid as they are after `plan` was carried out."""

    def __init__(self, kind: WorkloadKind, grid: WorkloadGrid, plan: Plan, failures: Mapping[str, Problem]) -> None:
        self._grid = grid
        self.children = plan.children
        self.suspended = plan.suspended
        self._pods = {value: kind.pods(child) for value, child in plan.children.items() if child is not None}
        seen = {value for value in self._pods if _seen(plan.children[value])}
        self.updated = {value for value in seen if value not in plan.outdated and is_updated(self._pods[value])}
        """Units whose child runs nothing but the current template."""
        self.ready = {value for value in seen if is_ready(self._pods[value])}
        """Units whose child has all its pods ready."""
        self.unavailable = {
            value for value, pods in self._pods.items() if pods.ready == 0 and (pods.wanted > 0 or value not in seen)
        } | (plan.children.keys() - self._pods.keys())
        """Units that are to run pods and have none ready."""
        self.problems = self._worst_first({**self._own_problems(), **failures, **plan.problems})
        """Why a unit's child is not as wanted, or not well."""

    def states(self) -> list[UnitState]:
        """Return the state of each unit, those that are not ready first."""
        states = (self._state(value) for value in self.children.keys() | self.problems.keys() if value)
        return sorted(states, key=lambda state: (_RANK[state.state], state.name))

    def _state(self, value: str) -> UnitState:
        pods = self._pods.get(value, PodCounts(0, 0, 0, 0, 0))
        problem = self.problems.get(value)
        template = template_of(self._grid.spec, value)
        return UnitState(
            name=value,
            state=self._kind_of_state(value, problem),
            replicas=pods.wanted,
            updated_replicas=pods.updated,
            ready_replicas=pods.ready,
            template=template.name if isinstance(template, Template) else "",
            reason="" if problem is None else problem.reason,
            message="" if problem is None else shortened(problem.message, MAX_MESSAGE),
        )

    def _kind_of_state(self, value: str, problem: Problem | None) -> _State:
        if problem is not None:
            return "Degraded"
        if value in self.suspended:
            return "Suspended"
        if value not in self.updated:
            return "Progressing"
        return "Ready" if value in self.ready else "NotReady"

    def _own_problems(self) -> dict[str, Problem]:
        """Return what children's own conditions complain of: pods refused (quota), or no progress."""
        found = {}
        for value, child in self.children.items():
            for condition in child.status.conditions if child is not None else ():
                failed = (condition.type == "ReplicaFailure" and condition.status == "True") or (
                    condition.type == "Progressing" and condition.status == "False"
                )
                if failed:
                    found[value] = Problem(condition.reason or condition.type, condition.message)
                    break
        return found

    def _worst_first(self, problems: Mapping[str, Problem]) -> dict[str, Problem]:
        """Sort by how bad it is: the grid's own first, then units without any ready pod, then by name."""
        return dict(
            sorted(
                problems.items(), key=lambda item: (item[0] in self.ready, item[0] not in self.unavailable, item[0])
            )
        )


def is_updated(pods: PodCounts) -> bool:
    """Tell whether there are none but pods of the current template (as `kubectl rollout status` does)."""
    return pods.updated >= pods.to_update and pods.total <= pods.updated


def is_ready(pods: PodCounts) -> bool:
    """Tell whether all pods that are to be are ready."""
    return pods.ready >= pods.wanted


def bounded_states(states: list[S], limit: int = MAX_BYTES) -> tuple[list[S], int]:
    """Return the first of `states` that fit into `limit` bytes of JSON, and how many are left out."""
    if len(msgspec.json.encode(states)) <= limit:
        return states, 0
    size = 2
    for position, state in enumerate(states):
        size += len(msgspec.json.encode(state)) + 1
        if size > limit:
            return states[:position], len(states) - position
    return states, 0


def shortened(text: str, limit: int) -> str:
    """Return `text` in at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _seen(child: Workload | None) -> bool:
    """Tell whether the child's controller has looked at it as it is now."""
    return child is not None and child.status.observed_generation >= child.metadata.generation
