"""What the controller reports on a grid: counts, conditions, and the state of each unit.

Written by `sitegrid.controller`, made by `sitegrid.grid.status`. Lists are bounded, so that a grid of thousands of
units stays a small object. Held by ``tests/api/test_crds.py`` and ``tests/grid/test_status.py``.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

MAX_UNKNOWN_UNITS: Final = 100
"""How many names that no unit has the status tells."""
MAX_FALLBACK_STATES: Final = 100
"""How many units that use another's endpoints the status tells."""


STATUS: Final = Meta(
    description="What the controller last saw; written by the controller.",
    # What users write here the API server drops, but it refuses fields that it does not know.
    extra_json_schema={"x-kubernetes-preserve-unknown-fields": True},
)
"""Of the field `status` of all kinds that other makers have as well, whose manifests apply as they are."""
ObservedGeneration = Annotated[int, Meta(description="The generation of the spec that this status is about.")]

_ATOMIC: Final = {"x-kubernetes-list-type": "atomic"}
"""Written whole, since managedFields would otherwise name every entry once more."""
_UnknownUnits = list[Annotated[str, Meta(description="The name that no unit has.")]]


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


class UnitState(Struct, rename="camel", frozen=True, omit_defaults=True):
    """One unit of a workload grid."""

    name: Annotated[str, Meta(description="The unit: the value of the unique key on its nodes.")]
    state: Annotated[
        Literal["Degraded", "Suspended", "Progressing", "NotReady", "Ready"],
        Meta(
            description=(
                "Ready; NotReady: pods are missing; Progressing: the template of the unit is being rolled out; "
                "Suspended: its NodeUnit is suspended, nothing is changed; Degraded: see reason."
            )
        ),
    ]
    replicas: Annotated[int, Meta(description="Pods that the unit is to have.")] = 0
    updated_replicas: Annotated[int, Meta(description="Pods of the unit's current template.")] = 0
    ready_replicas: Annotated[int, Meta(description="Pods that are ready.")] = 0
    template: Annotated[str, Meta(description="The entry of templatePool that the unit uses, if any.")] = ""
    reason: Annotated[str, Meta(description="The cause in one word, for programs.")] = ""
    message: Annotated[str, Meta(description="The cause in a sentence, for people.")] = ""


_CONDITIONS = Meta(
    description="Ready, Progressing and Degraded, each with a reason and a message.",
    extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
)


class GridStatus(Struct, rename="camel", frozen=True):
    """What the controller last saw of a workload grid."""

    observed_generation: ObservedGeneration = 0
    units: Annotated[int, Meta(description="Units that the grid is for, each to have its own workload.", ge=0)] = 0
    updated_units: Annotated[
        int, Meta(description="Units whose workload runs nothing but the current template.", ge=0)
    ] = 0
    ready_units: Annotated[int, Meta(description="Units whose workload has all its pods ready.", ge=0)] = 0
    unavailable_units: Annotated[int, Meta(description="Units that are to run pods and have none ready.", ge=0)] = 0
    conditions: Annotated[list[Condition], _CONDITIONS] = field(default_factory=list)
    unit_states: Annotated[
        list[UnitState],
        Meta(
            description="The state of each unit, those that are not ready first; of very many only the first.",
            extra_json_schema=_ATOMIC,
        ),
    ] = field(default_factory=list)
    unit_states_omitted: Annotated[
        int, Meta(description="How many units unitStates leaves out, since there are too many.", ge=0)
    ] = 0
    unused_templates: Annotated[
        list[Annotated[str, Meta(description="The name of the entry.")]],
        Meta(
            description="Entries of templatePool that neither templates nor defaultTemplateName names.",
            extra_json_schema=_ATOMIC,
        ),
    ] = field(default_factory=list)
    unknown_units: Annotated[
        _UnknownUnits,
        Meta(
            description=(
                "Names in units, overrides and templates that no unit has; at most 100. No error, since the site may "
                "come later."
            ),
            extra_json_schema=_ATOMIC,
        ),
    ] = field(default_factory=list)


class FallbackState(Struct, rename="camel", frozen=True):
    """A unit that uses another's endpoints."""

    unit: Annotated[str, Meta(description="The unit that has no ready endpoint of its own.")]
    to: Annotated[str, Meta(description="The unit whose endpoints it uses.")]


class UnitEndpoints(Struct, rename="camel", frozen=True):
    """The endpoints that one unit has of its own."""

    unit: Annotated[str, Meta(description="The unit: the value of the unique key on its nodes.")]
    ready: Annotated[int, Meta(description="Endpoints that take requests.", ge=0)] = 0
    total: Annotated[int, Meta(description="Endpoints, ready or not.", ge=0)] = 0


class ServiceGridStatus(Struct, rename="camel", frozen=True):
    """What the controller last saw of a ServiceGrid."""

    observed_generation: ObservedGeneration = 0
    service_name: Annotated[str, Meta(description="The Service that this grid made for all units.")] = ""
    sites_service: Annotated[
        str,
        Meta(
            description=(
                "The headless Service beside it that has the selector, and so the endpoints of all units. Nodes with "
                "an agent do not see it."
            )
        ),
    ] = ""
    units: Annotated[int, Meta(description="Units of the unique key, each closed to the others.", ge=0)] = 0
    served_units: Annotated[int, Meta(description="Units with a ready endpoint of their own.", ge=0)] = 0
    conditions: Annotated[list[Condition], _CONDITIONS] = field(default_factory=list)
    unit_endpoints: Annotated[
        list[UnitEndpoints],
        Meta(
            description=(
                "How many endpoints each unit has of its own, units without a ready one first; of very many units "
                "only the first."
            ),
            extra_json_schema=_ATOMIC,
        ),
    ] = field(default_factory=list)
    unit_endpoints_omitted: Annotated[
        int, Meta(description="How many units unitEndpoints leaves out, since there are too many.", ge=0)
    ] = 0
    fallback_units: Annotated[
        int, Meta(description="Units that use another unit's endpoints at the moment, as spec.fallback allows.", ge=0)
    ] = 0
    fallbacks: Annotated[
        list[FallbackState],
        Meta(
            description="Which units those are, and whose endpoints they use; at most 100.",
            extra_json_schema=_ATOMIC,
        ),
    ] = field(default_factory=list)
    unknown_units: Annotated[
        _UnknownUnits,
        Meta(
            description="Names in the spec that no unit has; at most 100. No error, since the site may come later.",
            extra_json_schema=_ATOMIC,
        ),
    ] = field(default_factory=list)
