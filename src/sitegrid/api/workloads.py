"""DeploymentGrid, StatefulSetGrid and DaemonSetGrid as users write them (tkeedge.io/v1).

One spec with what all kinds have, one more with what only kinds with replicas have; a further kind is a spec and an
object here, a row in `sitegrid.grid.kinds` and a definition in `sitegrid.api.schema`. Descriptions and rules become
the CRDs; defaults are applied when a grid is read, never written (invariant I3). Held by ``tests/api`` and
``tests/controller``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, Struct, field

from sitegrid.api.grids import GridUniqKey, template_field
from sitegrid.api.matchers import MATCHER_RULES, UnitMatcher
from sitegrid.api.meta import ObjectMeta
from sitegrid.api.status import STATUS, GridStatus
from sitegrid.wire.labels import GROUP

DEFAULT_TEMPLATE: Final = "default"
"""The name by which `templates` and `defaultTemplateName` mean `spec.template` itself."""
MAX_OVERRIDES: Final = 1000
MAX_POOL: Final = 64
MAX_UNITS: Final = 10000

_TemplateName = Annotated[
    str, Meta(description="The name of an entry of templatePool, or 'default'.", max_length=253)
]


class Removal(Struct, rename="camel", frozen=True):
    """What happens to the child of a unit that has no nodes any more, or that `units` no longer includes."""

    grace_period_seconds: Annotated[
        int,
        Meta(
            description=(
                "How long a unit must have no nodes, or be left out by `units`, before its child is deleted, in "
                "seconds; 600 where not given. A node that is not ready still counts as a node of its unit."
            ),
            ge=0,
            le=2**31 - 1,
        ),
    ] = 600
    policy: Annotated[
        Literal["Delete", "Retain"],
        Meta(description="Delete (the default) deletes the child after the grace period; Retain keeps it for ever."),
    ] = "Delete"


class UnitSelection(Struct, rename="camel", frozen=True, omit_defaults=True):
    """Which units of the key the grid is for; all where nothing is said."""

    include: Annotated[
        UnitMatcher | None,
        Meta(description="Only these units; all where not given.", extra_json_schema=MATCHER_RULES),
    ] = None
    exclude: Annotated[
        UnitMatcher | None,
        Meta(description="Not these units, even where they are included.", extra_json_schema=MATCHER_RULES),
    ] = None


class Override(Struct, rename="camel", frozen=True, omit_defaults=True, kw_only=True):
    """What is different in some units."""

    name: Annotated[
        str, Meta(description="What the override is called in messages and by `sitegrid explain`.", max_length=253)
    ] = ""
    units: Annotated[UnitMatcher, Meta(description="The units it is for.", extra_json_schema=MATCHER_RULES)]
    patch: Annotated[
        dict[str, Any] | None,
        template_field(
            "A strategic merge patch of the child's spec: maps are merged, containers, env and the like by name; "
            "null or $patch: delete takes something away."
        ),
    ] = None
    replicas: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None,
        Meta(description="Short form of the patch {replicas: N}; not for DaemonSets."),
    ] = None


def _companion(description: str, forbidden: str) -> Meta:
    """Return the annotation of a spec that each unit gets, in which sitegrid sets the field `forbidden`."""
    return Meta(
        description=description,
        extra_json_schema={
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": {
                forbidden: {
                    "type": "object",
                    "description": "Not allowed here: sitegrid sets it for each unit.",
                    "x-kubernetes-preserve-unknown-fields": True,
                }
            },
            "x-kubernetes-validations": [
                {
                    "rule": f"!has(self.{forbidden})",
                    "message": f"leave {forbidden} out: sitegrid sets it for each unit",
                }
            ],
        },
    )


class WorkloadGridSpec(Struct, rename="camel", frozen=True, kw_only=True):
    """Which units get a workload, and what it is."""

    grid_uniq_key: GridUniqKey
    template: Annotated[
        dict[str, Any],
        template_field(
            "The spec of the workload that each unit gets, as Kubernetes defines it. The unit's label, node selector "
            "and tolerations of unreachable nodes are added to it, and $(unit.name), $(unit.key) and "
            "$(unit.values.NAME) are replaced in it."
        ),
    ]
    units: Annotated[
        UnitSelection | None, Meta(description="Which units of the key the grid is for; all where not given.")
    ] = None
    overrides: Annotated[
        list[Override],
        Meta(
            description="What is different in some units: applied to the template in this order, the last one wins.",
            max_length=MAX_OVERRIDES,
        ),
    ] = field(default_factory=list)
    pod_disruption_budget: Annotated[
        dict[str, Any] | None,
        _companion(
            "A PodDisruptionBudget for each unit: its spec as Kubernetes defines it (policy/v1), without selector.",
            "selector",
        ),
    ] = None
    removal: Annotated[Removal, Meta(description="What happens to children of units that are gone or left out.")] = (
        field(default_factory=Removal)
    )


class ReplicatedGridSpec(WorkloadGridSpec, rename="camel", frozen=True, kw_only=True):
    """What only workloads with replicas have: canary templates, and autoscaling."""

    template_pool: Annotated[
        dict[str, Annotated[dict[str, Any], template_field("A whole spec, as `template`.")]],
        Meta(
            description="Further templates, by name.",
            extra_json_schema={"maxProperties": MAX_POOL},
        ),
    ] = field(default_factory=dict)
    templates: Annotated[
        dict[str, _TemplateName],
        Meta(
            description="Which unit (by name) uses which entry of templatePool; 'default' is `template`.",
            extra_json_schema={"maxProperties": MAX_UNITS},
        ),
    ] = field(default_factory=dict)
    default_template_name: Annotated[
        str,
        Meta(
            description=(
                "The entry of templatePool for the units that `templates` does not name; `template` where it is not "
                "given or 'default'."
            ),
            max_length=253,
        ),
    ] = ""
    auto_delete_unused_template: Annotated[
        bool,
        Meta(
            description=(
                "Whether sitegrid deletes entries of templatePool that neither `templates` nor `defaultTemplateName` "
                "names. Where false, the default, they are only reported."
            )
        ),
    ] = False
    autoscaling: Annotated[
        dict[str, Any] | None,
        _companion(
            "A HorizontalPodAutoscaler for each unit: its spec as Kubernetes defines it (autoscaling/v2), without "
            "scaleTargetRef. Replicas are its alone then: those of the template are left out, unless they are 0.",
            "scaleTargetRef",
        ),
    ] = None


class DeploymentGridSpec(ReplicatedGridSpec, rename="camel", frozen=True, kw_only=True):
    """Which units get a Deployment, and what it is."""


class StatefulSetGridSpec(ReplicatedGridSpec, rename="camel", frozen=True, kw_only=True):
    """Which units get a StatefulSet, and what it is."""


class DaemonSetGridSpec(WorkloadGridSpec, rename="camel", frozen=True, kw_only=True):
    """Which units get a DaemonSet, and what it is."""


class WorkloadGrid(Struct, rename="camel", kw_only=True):
    """What all workload grids are; planning and the controller know no more of a kind."""

    KIND: ClassVar[str] = ""
    GROUP: ClassVar[str] = GROUP

    metadata: ObjectMeta
    spec: WorkloadGridSpec
    status: Annotated[GridStatus, STATUS] = field(default_factory=GridStatus)


class DeploymentGrid(WorkloadGrid, rename="camel", kw_only=True):
    """DeploymentGrid runs one Deployment in every unit of a unique key, pinned to the unit's nodes."""

    KIND: ClassVar[str] = "DeploymentGrid"

    spec: Annotated[
        DeploymentGridSpec, Meta(description="Which units get a Deployment, and what it is; written by the user.")
    ]


class StatefulSetGrid(WorkloadGrid, rename="camel", kw_only=True):
    """StatefulSetGrid runs one StatefulSet in every unit of a unique key, pinned to the unit's nodes."""

    KIND: ClassVar[str] = "StatefulSetGrid"

    spec: Annotated[
        StatefulSetGridSpec, Meta(description="Which units get a StatefulSet, and what it is; written by the user.")
    ]


class DaemonSetGrid(WorkloadGrid, rename="camel", kw_only=True):
    """DaemonSetGrid runs one DaemonSet in every unit of a unique key, pinned to the unit's nodes."""

    KIND: ClassVar[str] = "DaemonSetGrid"

    spec: Annotated[
        DaemonSetGridSpec, Meta(description="Which units get a DaemonSet, and what it is; written by the user.")
    ]
