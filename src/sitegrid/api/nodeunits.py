"""NodeUnit and NodeGroup, the cluster-scoped objects of units and unique keys (tkeedge.io/v1).

Most of them are made by the controller, for every key that a grid uses, and only report. A user may write one to
declare members, and to say things about a unit: labels and values for overrides, suspension. As for grids,
`sitegrid.api.schema` makes the CRDs from these types, and defaults are applied when an object is read.

Held by ``tests/api`` (types and schema) and ``tests/controller/test_nodeunits.py`` (what a real API server refuses).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, Struct, field

from sitegrid.api.grids import LABEL_KEY_PATTERN, MAX_LABEL_KEY
from sitegrid.api.meta import ObjectMeta
from sitegrid.api.status import Condition, ObservedGeneration
from sitegrid.wire.labels import GROUP, MAX_LABEL_VALUE

MAX_LISTED: Final = 100
"""How many nodes or units a status names; its counts count all."""
MAX_LISTED_GRIDS: Final = 50
MAX_MEMBERS: Final = 5000
MAX_SET: Final = 32
"""Most labels, annotations or taints that one NodeUnit sets."""
MAX_VALUES: Final = 64
MAX_AUTO_FIND_KEYS: Final = 5

LABEL_VALUE_PATTERN: Final = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
"""What Kubernetes takes as a label value; the empty one too (apimachinery's IsValidLabelValue)."""


def _rules(*rules: tuple[str, str]) -> dict[str, Any]:
    """Return CEL rules, each with its message, as a schema has them."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


_SET_LIST: Final = {"x-kubernetes-list-type": "set"}

_UniqueKey = Annotated[
    str,
    Meta(
        description="The node label key whose values are the units. Cannot be changed.",
        max_length=MAX_LABEL_KEY,
        extra_json_schema=_rules(
            (
                f"self.matches(r'{LABEL_KEY_PATTERN}') && self.indexOf('/') <= 253 "
                "&& size(self) - self.indexOf('/') <= 64",
                "gridUniqKey is not a legal node label key: use at most 63 letters, digits, '-', '_' and '.', "
                "beginning and ending with a letter or digit, after an optional lower-case DNS prefix and '/'",
            ),
            ("self == oldSelf", "gridUniqKey cannot be changed: make another object with the new key"),
        ),
    ),
]
_LabelKey = Annotated[str, Meta(description="A label key.", max_length=MAX_LABEL_KEY)]
_LabelValue = Annotated[str, Meta(description="A label value.", max_length=MAX_LABEL_VALUE)]


class LabelSelectorRequirement(Struct, rename="camel", frozen=True):
    """One requirement of a label selector."""

    key: Annotated[str, Meta(description="The label key that the requirement is about.", max_length=MAX_LABEL_KEY)]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"],
        Meta(description="How the label and the values are related."),
    ]
    values: Annotated[
        list[_LabelValue],
        Meta(description="The values, for In and NotIn.", max_length=256),
    ] = field(default_factory=list)


class LabelSelector(Struct, rename="camel", frozen=True):
    """A label selector as Kubernetes has it (metav1.LabelSelector); all requirements must be met."""

    match_labels: Annotated[
        dict[str, _LabelValue],
        Meta(description="Labels that must have exactly these values.", max_length=MAX_SET),
    ] = field(default_factory=dict)
    match_expressions: Annotated[
        list[LabelSelectorRequirement],
        Meta(description="Further requirements.", max_length=MAX_SET),
    ] = field(default_factory=list)


_NOT_EMPTY = (
    "(has(self.matchLabels) && size(self.matchLabels) > 0) || "
    "(has(self.matchExpressions) && size(self.matchExpressions) > 0)",
    "the selector is empty and would select everything: give it matchLabels or matchExpressions, or leave it out",
)


class Taint(Struct, rename="camel", frozen=True):
    """A taint of a node (core/v1 Taint); key and effect tell it from others."""

    key: Annotated[
        str,
        Meta(
            description="The taint's key.",
            max_length=MAX_LABEL_KEY,
            extra_json_schema=_rules(
                (
                    f"self.matches(r'{LABEL_KEY_PATTERN}')",
                    "the taint's key is not legal: it has the form of a label key",
                )
            ),
        ),
    ]
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"],
        Meta(description="What the taint does to pods that do not tolerate it."),
    ]
    value: Annotated[
        str,
        Meta(
            description="The taint's value.",
            max_length=MAX_LABEL_VALUE,
            extra_json_schema=_rules(
                (
                    f"self.matches(r'{LABEL_VALUE_PATTERN}')",
                    "the taint's value is not legal: it has the form of a label value",
                )
            ),
        ),
    ] = ""


class SetNode(Struct, rename="camel", frozen=True):
    """What members carry for as long as they are members."""

    labels: Annotated[
        dict[str, _LabelValue],
        Meta(
            description="Labels put on every member, and taken off when it leaves.",
            max_length=MAX_SET,
            extra_json_schema=_rules(
                (
                    f"self.all(key, key.matches(r'{LABEL_KEY_PATTERN}') && size(key) <= {MAX_LABEL_KEY} && "
                    f"self[key].matches(r'{LABEL_VALUE_PATTERN}'))",
                    "setNode.labels has a key or a value that no node can carry as a label",
                )
            ),
        ),
    ] = field(default_factory=dict)
    annotations: Annotated[
        dict[str, Annotated[str, Meta(description="An annotation's value.", max_length=4096)]],
        Meta(
            description="Annotations put on every member, and taken off when it leaves.",
            max_length=MAX_SET,
            extra_json_schema=_rules(
                (
                    f"self.all(key, key.matches(r'{LABEL_KEY_PATTERN}') && size(key) <= {MAX_LABEL_KEY})",
                    "setNode.annotations has a key that no node can carry as an annotation",
                )
            ),
        ),
    ] = field(default_factory=dict)
    taints: Annotated[
        list[Taint],
        Meta(
            description="Taints put on every member, and taken off when it leaves.",
            max_length=MAX_SET,
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key", "effect"]},
        ),
    ] = field(default_factory=list)


class MemberRemoval(Struct, rename="camel", frozen=True):
    """How slowly a node leaves."""

    grace_period_seconds: Annotated[
        int,
        Meta(
            description=(
                "How long a node that is no member any more keeps its labels, annotations and taints, in seconds; "
                "600 where not given. Another NodeUnit of the key that names the node gets it at once."
            ),
            ge=0,
            le=2**31 - 1,
        ),
    ] = 600


class NodeUnitSpec(Struct, rename="camel", frozen=True):
    """Which unit, which nodes, and what is said about it."""

    grid_uniq_key: _UniqueKey
    unit: Annotated[
        str,
        Meta(
            description="The unit: the value of gridUniqKey on its nodes; the object's name where not given.",
            min_length=1,
            max_length=MAX_LABEL_VALUE,
            extra_json_schema=_rules(
                (
                    f"self.matches(r'{LABEL_VALUE_PATTERN}')",
                    "unit is not a legal label value: use at most 63 letters, digits, '-', '_' and '.', beginning "
                    "and ending with a letter or digit",
                ),
                (
                    "self == oldSelf",
                    "unit cannot be changed, since its nodes would move at once: make another NodeUnit",
                ),
            ),
        ),
    ] = ""
    nodes: Annotated[
        list[Annotated[str, Meta(description="A node's name.", max_length=253)]],
        Meta(description="Members by name.", max_length=MAX_MEMBERS, extra_json_schema=_SET_LIST),
    ] = field(default_factory=list)
    selector: Annotated[
        LabelSelector | None,
        Meta(
            description="Members by the nodes' labels, besides those in nodes.",
            extra_json_schema=_rules(_NOT_EMPTY),
        ),
    ] = None
    set_node: Annotated[
        SetNode,
        Meta(description="Labels, annotations and taints that members carry, besides the unit's own label."),
    ] = field(default_factory=SetNode)
    values: Annotated[
        dict[str, Annotated[str, Meta(description="The value.", max_length=4096)]],
        Meta(description="Values of this unit, for templates and overrides of grids.", max_length=MAX_VALUES),
    ] = field(default_factory=dict)
    suspend: Annotated[
        bool,
        Meta(description="Change nothing in this unit, neither its workloads nor its nodes: maintenance."),
    ] = False
    removal: Annotated[MemberRemoval, Meta(description="How slowly a node leaves.")] = field(
        default_factory=MemberRemoval
    )


class NodeGroupSpec(Struct, rename="camel", frozen=True):
    """Which key, and which units it is to have."""

    grid_uniq_key: _UniqueKey
    selector: Annotated[
        LabelSelector | None,
        Meta(
            description=(
                "NodeUnits of other keys, by their labels, that are units of this key as well: their nodes get "
                "gridUniqKey = the NodeUnit's unit."
            ),
            extra_json_schema=_rules(_NOT_EMPTY),
        ),
    ] = None
    auto_find_node_keys: Annotated[
        list[_LabelKey],
        Meta(
            description=(
                "Node label keys: nodes that carry all of them get gridUniqKey = their values, joined by '-', so "
                "that each combination is a unit. Cannot be changed."
            ),
            min_length=1,
            max_length=MAX_AUTO_FIND_KEYS,
            extra_json_schema=_rules(
                (
                    "self == oldSelf",
                    "autoFindNodeKeys cannot be changed, since every unit would move at once: make another NodeGroup "
                    "with another gridUniqKey",
                )
            ),
        ),
    ] = field(default_factory=list)
    removal: Annotated[MemberRemoval, Meta(description="How slowly a node leaves.")] = field(
        default_factory=MemberRemoval
    )


_CONDITIONS = Meta(
    description="Ready, and Degraded: a mistake in what was declared; each with a reason and a message.",
    extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
)
_NODE_COUNT = Meta(description="How many nodes there are.", ge=0)
_READY_NODES = Meta(description="How many of the nodes are ready.", ge=0)
_GRIDS = Meta(
    description=f"The grids of the key, as <kind> <namespace>/<name>; at most {MAX_LISTED_GRIDS}.",
    max_length=MAX_LISTED_GRIDS,
)


class NodeUnitStatus(Struct, rename="camel", frozen=True):
    """What the controller last saw of a unit."""

    observed_generation: ObservedGeneration = 0
    unit: Annotated[str, Meta(description="The unit: the value of gridUniqKey on its nodes.")] = ""
    nodes: Annotated[
        list[Annotated[str, Meta(description="A node's name.")]],
        Meta(
            description=f"The nodes that carry the unit's label, at most {MAX_LISTED}; nodeCount counts all.",
            max_length=MAX_LISTED,
        ),
    ] = field(default_factory=list)
    node_count: Annotated[int, _NODE_COUNT] = 0
    ready_nodes: Annotated[int, _READY_NODES] = 0
    leaving_nodes: Annotated[
        int, Meta(description="How many of the nodes are no members any more and keep the label for a while.", ge=0)
    ] = 0
    grids: Annotated[list[Annotated[str, Meta(description="A grid.")]], _GRIDS] = field(default_factory=list)
    grid_count: Annotated[int, Meta(description="How many grids run here.", ge=0)] = 0
    conditions: Annotated[list[Condition], _CONDITIONS] = field(default_factory=list)


class NodeGroupStatus(Struct, rename="camel", frozen=True):
    """What the controller last saw of a unique key."""

    observed_generation: ObservedGeneration = 0
    units: Annotated[
        list[Annotated[str, Meta(description="A unit.")]],
        Meta(
            description=f"The values of the key on nodes, at most {MAX_LISTED}; unitCount counts all.",
            max_length=MAX_LISTED,
        ),
    ] = field(default_factory=list)
    unit_count: Annotated[int, Meta(description="How many units there are.", ge=0)] = 0
    node_count: Annotated[int, _NODE_COUNT] = 0
    ready_nodes: Annotated[int, _READY_NODES] = 0
    grids: Annotated[list[Annotated[str, Meta(description="A grid.")]], _GRIDS] = field(default_factory=list)
    grid_count: Annotated[int, Meta(description="How many grids use the key.", ge=0)] = 0
    conditions: Annotated[list[Condition], _CONDITIONS] = field(default_factory=list)


class NodeUnit(Struct, rename="camel"):
    """NodeUnit is all nodes with one value of a unique key; users may declare members and say things about it."""

    KIND: ClassVar[str] = "NodeUnit"
    GROUP: ClassVar[str] = GROUP

    metadata: ObjectMeta
    spec: Annotated[NodeUnitSpec, Meta(description="Which unit it is, its members, and what is said about it.")]
    status: Annotated[
        NodeUnitStatus, Meta(description="What the controller last saw; written by the controller.")
    ] = field(default_factory=NodeUnitStatus)

    @property
    def unit(self) -> str:
        """The value of the unique key on the unit's nodes."""
        return self.spec.unit or self.metadata.name


class NodeGroup(Struct, rename="camel"):
    """NodeGroup is all units of one unique key; users may have units found by node labels or other NodeUnits."""

    KIND: ClassVar[str] = "NodeGroup"
    GROUP: ClassVar[str] = GROUP

    metadata: ObjectMeta
    spec: Annotated[NodeGroupSpec, Meta(description="Which key it is, and how its units are found.")]
    status: Annotated[
        NodeGroupStatus, Meta(description="What the controller last saw; written by the controller.")
    ] = field(default_factory=NodeGroupStatus)


_CIRCULAR = "it would select by the very label that it sets: select by labels that nothing here sets"


def _reads(where: str, key: str) -> str:
    """Return a CEL expression: the selector at `where` has no requirement on the label `key` (an expression)."""
    return (
        f"(!has({where}.matchLabels) || !({key} in {where}.matchLabels)) && "
        f"(!has({where}.matchExpressions) || {where}.matchExpressions.all(item, item.key != {key}))"
    )


NODE_UNIT_RULES: Final = (
    {
        "rule": f"has(self.spec.unit) || size(self.metadata.name) <= {MAX_LABEL_VALUE}",
        "message": f"the name is too long for a label value of at most {MAX_LABEL_VALUE} characters: set spec.unit",
    },
    {
        "rule": f"!has(self.spec.selector) || ({_reads('self.spec.selector', 'self.spec.gridUniqKey')})",
        "message": f"spec.selector has a requirement on gridUniqKey; {_CIRCULAR}",
    },
    {
        "rule": (
            "!has(self.spec.selector) || !has(self.spec.setNode) || !has(self.spec.setNode.labels) || "
            f"self.spec.setNode.labels.all(key, {_reads('self.spec.selector', 'key')})"
        ),
        "message": f"spec.selector has a requirement on a label of setNode.labels; {_CIRCULAR}",
    },
    {
        "rule": (
            "!has(self.spec.setNode) || !has(self.spec.setNode.labels) || "
            "!(self.spec.gridUniqKey in self.spec.setNode.labels)"
        ),
        "message": "leave gridUniqKey out of setNode.labels: members get it with the unit as its value",
    },
    {
        "rule": "has(self.spec.unit) == has(oldSelf.spec.unit)",
        "message": "unit cannot be added or removed: make another NodeUnit",
    },
)
"""CEL rules of the whole NodeUnit."""

NODE_GROUP_RULES: Final = (
    {
        "rule": "!has(self.spec.autoFindNodeKeys) || !(self.spec.gridUniqKey in self.spec.autoFindNodeKeys)",
        "message": f"leave gridUniqKey out of autoFindNodeKeys; {_CIRCULAR}",
    },
)
"""CEL rules of the whole NodeGroup."""
