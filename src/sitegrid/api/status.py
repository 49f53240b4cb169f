"""What the controller reports on a grid: counts, conditions, and the units that have a problem.

Written by `sitegrid.controller`, made by `sitegrid.grid.status`. Lists are bounded, so that a grid of thousands of
units stays a small object.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

MAX_PROBLEM_UNITS: Final = 20
"""How many units with a problem the status names; the condition's message counts the rest."""


class Condition(Struct, rename="camel", frozen=True):
    """One aspect of the grid's state."""

    type: Annotated[str, Meta(description="Ready, Progressing or Degraded.", max_length=316)]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="Whether the condition holds.")]
    reason: Annotated[str, Meta(description="The cause in one word, for programs.", max_length=1024)]
    message: Annotated[str, Meta(description="The cause in a sentence, for people.", max_length=32768)]
    last_transition_time: Annotated[
        str,
        Meta(
            description="When the condition's status last changed.",
            extra_json_schema={"format": "date-time"},
        ),
    ]
    observed_generation: Annotated[int, Meta(description="The generation of the grid that was looked at.")] = 0


class ProblemUnit(Struct, rename="camel", frozen=True):
    """A unit whose child could not be made as wanted."""

    name: Annotated[str, Meta(description="The unit: the value of the unique key on its nodes.")]
    reason: Annotated[str, Meta(description="The cause in one word, for programs.")]
    message: Annotated[str, Meta(description="The cause in a sentence, for people.")]


_CONDITIONS = Meta(
    description="Ready, Progressing and Degraded, each with a reason and a message.",
    extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
)
_PROBLEM_UNITS = Meta(
    description="Units whose child could not be made as wanted, at most 20; conditions count all of them.",
    max_length=MAX_PROBLEM_UNITS,
    extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
)


class GridStatus(Struct, rename="camel", frozen=True):
    """What the controller last saw of a workload grid."""

    observed_generation: Annotated[int, Meta(description="The generation of the spec that this status is about.")] = 0
    units: Annotated[int, Meta(description="Units of the unique key, each to have its own workload.", ge=0)] = 0
    updated_units: Annotated[
        int, Meta(description="Units whose workload runs nothing but the current template.", ge=0)
    ] = 0
    ready_units: Annotated[int, Meta(description="Units whose workload has all its pods ready.", ge=0)] = 0
    conditions: Annotated[list[Condition], _CONDITIONS] = field(default_factory=list)
    problem_units: Annotated[list[ProblemUnit], _PROBLEM_UNITS] = field(default_factory=list)


class ServiceGridStatus(Struct, rename="camel", frozen=True):
    """What the controller last saw of a ServiceGrid."""

    observed_generation: Annotated[int, Meta(description="The generation of the spec that this status is about.")] = 0
    service_name: Annotated[str, Meta(description="The Service that this grid made for all units.")] = ""
    units: Annotated[int, Meta(description="Units of the unique key, each closed to the others.", ge=0)] = 0
    conditions: Annotated[list[Condition], _CONDITIONS] = field(default_factory=list)
