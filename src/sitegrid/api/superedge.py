"""SuperEdge's kinds, so that manifests written for it apply unchanged: superedge.io/v1 and site.superedge.io.

The grids are our own kinds under another group, with SuperEdge's `status.states` besides; NodeUnit and NodeGroup have
fields of their own, which `sitegrid.grid.superedge` turns into our NodeUnits. What SuperEdge leaves out, or spells in
two ways (its v1alpha1 has `setnode`, its v1alpha2 `setNode`), may be left out and spelt so here; no stored object may
be one that cannot be decoded, or nothing at all would be observed. Optional: the controller looks at these kinds only
where the CRDs carry `OPTIONAL_API`. Held by ``tests/api`` and ``tests/controller/superedge``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, Struct, field

from sitegrid.api.grids import GridUniqKey, template_field
from sitegrid.api.meta import ObjectMeta
from sitegrid.api.nodeunits import MAX_LISTED, MAX_MEMBERS
from sitegrid.api.servicegrids import ServiceGrid, ServiceGridSpec
from sitegrid.api.status import STATUS, Condition, GridStatus, ObservedGeneration, ServiceGridStatus
from sitegrid.api.workloads import DeploymentGrid, DeploymentGridSpec, StatefulSetGrid, StatefulSetGridSpec
from sitegrid.wire.labels import GROUP

SUPEREDGE: Final = "superedge.io"
SITE: Final = "site.superedge.io"
SITE_VERSIONS: Final = ("v1alpha2", "v1alpha1", "v1")
"""The first is stored. All have one schema with both spellings, since nothing converts between them."""
OPTIONAL_API: Final = f"{GROUP}/optional-api"
"""Label of our CRDs of other groups: the controller works on these kinds for as long as it is there."""

GRID_SELECTOR: Final = f"{SUPEREDGE}/grid-selector"
"""Label of all that SuperEdge's controller made: the name of the grid."""
GRID_UNIQ_KEY: Final = f"{SUPEREDGE}/grid-uniq-key"
MEMBER_OF_GROUP: Final = f"nodegroups.{SUPEREDGE}"
"""Value of the label that SuperEdge puts on a NodeGroup's NodeUnits; its key is the NodeGroup's name."""
MEMBER_OF_UNIT: Final = f"nodeunits.{SUPEREDGE}"
"""Value of the label that SuperEdge puts on a NodeUnit's nodes; its key is the NodeUnit's name."""

_KEY_REQUIRED: Final = {
    "x-kubernetes-validations": [
        {
            "rule": "has(self.gridUniqKey)",
            "message": "gridUniqKey is missing: name the node label key whose values are the units, such as 'zone'",
        }
    ]
}
_STATES: Final = Meta(
    description="The status of each unit's workload, by unit; of very many units only those that unitStates has.",
    extra_json_schema={"x-kubernetes-map-type": "atomic"},
)
_State = Annotated[
    dict[str, Any],
    Meta(
        description="Replicas, ready replicas, and the condition Available.",
        extra_json_schema={"x-kubernetes-preserve-unknown-fields": True},
    ),
]
_SPEC: Final = Meta(description="As for tkeedge.io's grid of this kind.", extra_json_schema=_KEY_REQUIRED)
_TEMPLATE: Final = template_field(
    "The spec of the workload that each unit gets, as Kubernetes defines it; not needed where templatePool and "
    "defaultTemplateName have one."
)


class StatedGridStatus(GridStatus, rename="camel", frozen=True):
    """The status of our grids, and SuperEdge's `states`."""

    states: Annotated[dict[str, _State], _STATES] = field(default_factory=dict)


class SuperEdgeDeploymentGridSpec(DeploymentGridSpec, rename="camel", frozen=True, kw_only=True):
    """A DeploymentGrid's spec in which everything may be left out."""

    grid_uniq_key: GridUniqKey = ""
    template: Annotated[dict[str, Any], _TEMPLATE] = field(default_factory=dict)


class SuperEdgeStatefulSetGridSpec(StatefulSetGridSpec, rename="camel", frozen=True, kw_only=True):
    """A StatefulSetGrid's spec in which everything may be left out."""

    grid_uniq_key: GridUniqKey = ""
    template: Annotated[dict[str, Any], _TEMPLATE] = field(default_factory=dict)


class SuperEdgeDeploymentGrid(DeploymentGrid, rename="camel", kw_only=True):
    """DeploymentGrid runs one Deployment in every unit of a unique key, as SuperEdge's does."""

    GROUP: ClassVar[str] = SUPEREDGE

    spec: Annotated[SuperEdgeDeploymentGridSpec, _SPEC] = field(default_factory=SuperEdgeDeploymentGridSpec)
    status: Annotated[StatedGridStatus, STATUS] = field(default_factory=StatedGridStatus)


class SuperEdgeStatefulSetGrid(StatefulSetGrid, rename="camel", kw_only=True):
    """StatefulSetGrid runs one StatefulSet in every unit of a unique key, as SuperEdge's does."""

    GROUP: ClassVar[str] = SUPEREDGE

    spec: Annotated[SuperEdgeStatefulSetGridSpec, _SPEC] = field(default_factory=SuperEdgeStatefulSetGridSpec)
    status: Annotated[StatedGridStatus, STATUS] = field(default_factory=StatedGridStatus)


class SuperEdgeServiceGridSpec(ServiceGridSpec, rename="camel", frozen=True, kw_only=True):
    """A ServiceGrid's spec in which everything may be left out."""

    grid_uniq_key: GridUniqKey = ""
    template: Annotated[
        dict[str, Any],
        template_field("The spec of the Service, as Kubernetes defines it (core/v1 ServiceSpec)."),
    ] = field(default_factory=dict)


class SuperEdgeServiceGrid(ServiceGrid, rename="camel"):
    """ServiceGrid makes one Service for all units, closed: a node reaches only the endpoints of its own unit."""

    GROUP: ClassVar[str] = SUPEREDGE

    spec: Annotated[SuperEdgeServiceGridSpec, _SPEC] = field(default_factory=SuperEdgeServiceGridSpec)
    status: Annotated[ServiceGridStatus, STATUS] = field(default_factory=ServiceGridStatus)


_Value = Annotated[str, Meta(description="The value.")]


class Requirement(Struct, rename="camel", frozen=True):
    """One requirement of a label selector; an odd operator is reported, not refused."""

    key: Annotated[str, Meta(description="The label key that the requirement is about.")] = ""
    operator: Annotated[str, Meta(description="In, NotIn, Exists or DoesNotExist.")] = ""
    values: Annotated[list[_Value], Meta(description="The values, for In and NotIn.")] = field(default_factory=list)


class Selector(Struct, rename="camel", frozen=True):
    """A label selector, and annotations, which SuperEdge declares and never reads."""

    match_labels: Annotated[dict[str, _Value], Meta(description="Labels that must have exactly these values.")] = (
        field(default_factory=dict)
    )
    match_expressions: Annotated[list[Requirement], Meta(description="Further requirements.")] = field(
        default_factory=list
    )
    annotations: Annotated[
        dict[str, _Value], Meta(description="Not used, neither here nor by SuperEdge; reported where given.")
    ] = field(default_factory=dict)


class NodeTaint(Struct, rename="camel", frozen=True):
    """A taint of a node."""

    key: Annotated[str, Meta(description="The taint's key.")] = ""
    effect: Annotated[str, Meta(description="What the taint does to pods that do not tolerate it.")] = ""
    value: Annotated[str, Meta(description="The taint's value.")] = ""
    time_added: Annotated[str | None, Meta(description="Not used.")] = None


_Taints = Annotated[list[NodeTaint], Meta(description="Taints put on every member.")]


class SiteSetNode(Struct, rename="camel", frozen=True):
    """What members carry."""

    labels: Annotated[dict[str, _Value], Meta(description="Labels put on every member.")] = field(
        default_factory=dict
    )
    annotations: Annotated[dict[str, _Value], Meta(description="Annotations put on every member.")] = field(
        default_factory=dict
    )
    taints: _Taints = field(default_factory=list)


_Whole = Meta(
    description="Not used here; reported where given.",
    extra_json_schema={"x-kubernetes-preserve-unknown-fields": True},
)


class SiteNodeUnitSpec(Struct, rename="camel", frozen=True):
    """The nodes of a NodeUnit, and what they carry."""

    type: Annotated[str, Meta(description="edge, cloud, master or other; a note.")] = ""
    unschedulable: Annotated[
        bool, Meta(description="Not used, neither here nor by SuperEdge; reported where true.")
    ] = False
    nodes: Annotated[
        list[Annotated[str, Meta(description="A node's name.")]],
        Meta(description="Members by name.", max_length=MAX_MEMBERS),
    ] = field(default_factory=list)
    selector: Annotated[
        Selector | None, Meta(description="Members by the nodes' labels, besides those in nodes.")
    ] = None
    set_node: Annotated[SiteSetNode, Meta(description="Labels, annotations and taints that members carry.")] = field(
        default_factory=SiteSetNode
    )
    old_set_node: Annotated[SiteSetNode, Meta(description="setNode as v1alpha1 spells it.")] = field(
        name="setnode", default_factory=SiteSetNode
    )
    taints: _Taints = field(default_factory=list)
    autonomy_level: Annotated[
        str, Meta(description="L3; another level, with a control plane in the unit, is reported and not done.")
    ] = ""
    unit_credential_config_map_ref: Annotated[dict[str, Any], _Whole] = field(default_factory=dict)
    unit_cluster_info: Annotated[dict[str, Any], _Whole] = field(default_factory=dict)


_Node = Annotated[str, Meta(description="A node's name.")]
_CONDITIONS: Final = Meta(
    description="Ready, and Degraded: what is declared and cannot be done; each with a reason and a message.",
    extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
)


class SiteNodeUnitStatus(Struct, rename="camel", frozen=True):
    """The nodes of a NodeUnit, as SuperEdge reports them, and conditions."""

    observed_generation: ObservedGeneration = 0
    ready_rate: Annotated[str, Meta(description="Ready nodes of all nodes, as 1/2.")] = ""
    ready_nodes: Annotated[list[_Node], Meta(description=f"Nodes that are ready, at most {MAX_LISTED}.")] = field(
        default_factory=list
    )
    not_ready_nodes: Annotated[list[_Node], Meta(description=f"Nodes that are not, at most {MAX_LISTED}.")] = field(
        default_factory=list
    )
    conditions: Annotated[list[Condition], _CONDITIONS] = field(default_factory=list)


class SiteNodeUnit(Struct, rename="camel"):
    """NodeUnit is SuperEdge's: its nodes carry <name>=nodeunits.superedge.io and, per NodeGroup, <group>=<name>."""

    KIND: ClassVar[str] = "NodeUnit"
    GROUP: ClassVar[str] = SITE

    metadata: ObjectMeta
    spec: Annotated[SiteNodeUnitSpec, Meta(description="Its nodes, and what they carry; written by the user.")] = (
        field(default_factory=SiteNodeUnitSpec)
    )
    status: Annotated[SiteNodeUnitStatus, STATUS] = field(default_factory=SiteNodeUnitStatus)


class Workload(Struct, rename="camel", frozen=True):
    """A note of what runs in a NodeGroup."""

    name: Annotated[str, Meta(description="The name.")] = ""
    type: Annotated[str, Meta(description="The kind.")] = ""
    selector: Annotated[Selector | None, Meta(description="Not used.")] = None


_Unit = Annotated[str, Meta(description="A NodeUnit's name.")]
_LabelKey = Annotated[str, Meta(description="A node label key.")]


class SiteNodeGroupSpec(Struct, rename="camel", frozen=True):
    """The NodeUnits of a NodeGroup."""

    node_units: Annotated[list[_Unit], Meta(description="NodeUnits by name.")] = field(default_factory=list)
    old_node_units: Annotated[list[_Unit], Meta(description="nodeUnits as v1alpha1 spells it.")] = field(
        name="nodeunits", default_factory=list
    )
    selector: Annotated[
        Selector | None, Meta(description="NodeUnits by their labels, besides those in nodeUnits.")
    ] = None
    auto_find_node_keys: Annotated[
        list[_LabelKey],
        Meta(description="Node label keys: each combination of their values is a unit, named by the values."),
    ] = field(default_factory=list)
    old_auto_find_node_keys: Annotated[
        list[_LabelKey], Meta(description="autoFindNodeKeys as v1alpha1 spells it.")
    ] = field(name="autofindnodekeys", default_factory=list)
    workload: Annotated[list[Workload], Meta(description="Notes of what runs here, as in SuperEdge.")] = field(
        default_factory=list
    )


class SiteNodeGroupStatus(Struct, rename="camel", frozen=True):
    """The NodeUnits of a NodeGroup, as SuperEdge reports them, and conditions."""

    observed_generation: ObservedGeneration = 0
    unit_number: Annotated[int, Meta(description="How many NodeUnits there are.")] = 0
    node_units: Annotated[list[_Unit], Meta(description=f"The NodeUnits, at most {MAX_LISTED}.")] = field(
        default_factory=list
    )
    conditions: Annotated[list[Condition], _CONDITIONS] = field(default_factory=list)


class SiteNodeGroup(Struct, rename="camel"):
    """NodeGroup is SuperEdge's: its NodeUnits' nodes carry <name>=<NodeUnit>; its name is a gridUniqKey."""

    KIND: ClassVar[str] = "NodeGroup"
    GROUP: ClassVar[str] = SITE

    metadata: ObjectMeta
    spec: Annotated[SiteNodeGroupSpec, Meta(description="Which NodeUnits it has; written by the user.")] = field(
        default_factory=SiteNodeGroupSpec
    )
    status: Annotated[SiteNodeGroupStatus, STATUS] = field(default_factory=SiteNodeGroupStatus)
