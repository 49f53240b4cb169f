"""Makes the CustomResourceDefinitions from the types, so that the two cannot differ.

`sitegrid crds` prints them; ``deploy/crds`` has them committed and ``tests/api/test_crds.py`` holds those fresh. A
structural schema (apiextensions/v1) allows no references, titles or free-standing enums, and this project wants no
defaults in it either (invariant I3), so msgspec's JSON schema is rewritten here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import yaml

from sitegrid.api.grids import VERSION
from sitegrid.api.nodeunits import NODE_GROUP_RULES, NODE_UNIT_RULES, NodeGroup, NodeUnit
from sitegrid.api.servicegrids import MAX_SERVICE_NAME, SERVICE_NAME_PATTERN, SERVICE_SUFFIX, ServiceGrid
from sitegrid.api.superedge import (
    OPTIONAL_API,
    SITE_VERSIONS,
    SiteNodeGroup,
    SiteNodeUnit,
    SuperEdgeDeploymentGrid,
    SuperEdgeServiceGrid,
    SuperEdgeStatefulSetGrid,
)
from sitegrid.api.workloads import DaemonSetGrid, DeploymentGrid, StatefulSetGrid
from sitegrid.wire.labels import GROUP


class Column(NamedTuple):
    """One column of `kubectl get`."""

    name: str
    type: str
    path: str
    description: str
    priority: int = 0
    """0 is always shown, 1 only by `-o wide`."""


class Definition(NamedTuple):
    """What a CRD says beyond its type's schema."""

    type: type
    plural: str
    short_name: str
    columns: tuple[Column, ...]
    rules: tuple[dict[str, str], ...] = ()
    namespaced: bool = True
    versions: tuple[str, ...] = (VERSION,)
    """The first is stored; all have the same schema."""

    @property
    def kind(self) -> str:
        """The kind."""
        kind: str = self.type.KIND  # type: ignore[attr-defined]
        return kind

    @property
    def group(self) -> str:
        """The API group."""
        group: str = self.type.GROUP  # type: ignore[attr-defined]
        return group

    @property
    def singular(self) -> str:
        """The name of one object for kubectl."""
        return self.kind.lower() if self.group == GROUP else f"superedge{self.kind.lower()}"

    @property
    def file_name(self) -> str:
        """Where the CRD is kept in ``deploy/crds`` or ``deploy/superedge``; their nodeunits differ by the group."""
        return f"{self.plural}.yaml"


_KEY = Column("Key", "string", ".spec.gridUniqKey", "The node label key that divides the cluster into units")
_UNITS = Column("Units", "integer", ".status.units", "Units of the key")
_AGE = Column("Age", "date", ".metadata.creationTimestamp", "Time since the grid was made")

_REASON = Column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is Ready or not", 1)

_NODES = Column("Nodes", "integer", ".status.nodeCount", "Nodes that carry the label")
_READY_NODES = Column("Ready", "integer", ".status.readyNodes", "Nodes that are ready")
_WORKLOAD_COLUMNS = (
    _KEY,
    Column("Units", "integer", ".status.units", "Units that the grid is for"),
    Column("Ready", "integer", ".status.readyUnits", "Units with all pods ready"),
    Column("Updated", "integer", ".status.updatedUnits", "Units that run nothing but the current template", 1),
    Column("Unavailable", "integer", ".status.unavailableUnits", "Units with no pod ready", 1),
    _REASON,
    _AGE,
)

_SERVICE_COLUMNS = (
    _KEY,
    Column("Service", "string", ".status.serviceName", "The Service of all units"),
    _UNITS,
    Column("Served", "integer", ".status.servedUnits", "Units with a ready endpoint of their own"),
    Column(
        "Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether all units see it as it is meant"
    ),
    Column("Fallback", "integer", ".status.fallbackUnits", "Units that use another unit's endpoints now", 1),
    Column("Sites", "string", ".status.sitesService", "The Service with the endpoints of all units", 1),
    _REASON,
    _AGE,
)
_SERVICE_RULES = (
    {
        "rule": (
            "has(self.spec.serviceName) || "
            f"(self.metadata.name.matches(r'{SERVICE_NAME_PATTERN}') && "
            f"size(self.metadata.name) <= {MAX_SERVICE_NAME - len(SERVICE_SUFFIX)})"
        ),
        "message": (
            f"the default Service name '<name>{SERVICE_SUFFIX}' is not a legal Service name (at most "
            f"{MAX_SERVICE_NAME} lower-case letters, digits and '-', beginning with a letter): "
            "set spec.serviceName"
        ),
    },
)

DEFINITIONS: tuple[Definition, ...] = (
    Definition(DeploymentGrid, "deploymentgrids", "dg", _WORKLOAD_COLUMNS),
    Definition(StatefulSetGrid, "statefulsetgrids", "ssg", _WORKLOAD_COLUMNS),
    Definition(
        DaemonSetGrid,
        "daemonsetgrids",
        "dsg",
        _WORKLOAD_COLUMNS,
        (
            {
                "rule": ("!has(self.spec.overrides) || self.spec.overrides.all(override, !has(override.replicas))"),
                "message": "a DaemonSet has no replicas: it runs one pod on each of the unit's nodes",
            },
        ),
    ),
    Definition(ServiceGrid, "servicegrids", "sg", _SERVICE_COLUMNS, _SERVICE_RULES),
    Definition(
        NodeUnit,
        "nodeunits",
        "nu",
        (
            _KEY,
            Column("Unit", "string", ".status.unit", "The value of the key on the unit's nodes"),
            _NODES,
            _READY_NODES,
            Column("Suspended", "boolean", ".spec.suspend", "Whether nothing is changed in the unit"),
            _REASON,
            _AGE,
        ),
        NODE_UNIT_RULES,
        namespaced=False,
    ),
    Definition(
        NodeGroup,
        "nodegroups",
        "ng",
        (
            _KEY,
            Column("Units", "integer", ".status.unitCount", "Units of the key"),
            _NODES,
            _READY_NODES,
            _REASON,
            _AGE,
        ),
        NODE_GROUP_RULES,
        namespaced=False,
    ),
)


# kubectl takes an ambiguous name for the kind whose group comes first by name, which ours does not; so no short name
# and no singular of theirs is one of ours (``deploymentgrid.superedge.io`` is found by its kind).
SUPEREDGE_DEFINITIONS: tuple[Definition, ...] = (
    Definition(SuperEdgeDeploymentGrid, "deploymentgrids", "sedg", _WORKLOAD_COLUMNS),
    Definition(SuperEdgeStatefulSetGrid, "statefulsetgrids", "sessg", _WORKLOAD_COLUMNS),
    Definition(SuperEdgeServiceGrid, "servicegrids", "sesg", _SERVICE_COLUMNS, _SERVICE_RULES),
    Definition(
        SiteNodeUnit,
        "nodeunits",
        "senu",
        (
            Column("Type", "string", ".spec.type", "edge, cloud, master or other"),
            Column("Ready", "string", ".status.readyRate", "Ready nodes of all nodes"),
            _REASON,
            _AGE,
        ),
        namespaced=False,
        versions=SITE_VERSIONS,
    ),
    Definition(
        SiteNodeGroup,
        "nodegroups",
        "seng",
        (Column("Units", "integer", ".status.unitNumber", "How many NodeUnits it has"), _REASON, _AGE),
        namespaced=False,
        versions=SITE_VERSIONS,
    ),
)
"""SuperEdge's kinds, which are optional."""


def custom_resource_definition(definition: Definition) -> dict[str, Any]:
    """Return the CustomResourceDefinition of one type, as apiextensions.k8s.io/v1 wants it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{definition.plural}.{definition.group}",
            **({} if definition.group == GROUP else {"labels": {OPTIONAL_API: "superedge"}}),
        },
        "spec": {
            "group": definition.group,
            # SuperEdge's own CRDs, which these replace, may still say otherwise.
            **({} if definition.group == GROUP else {"preserveUnknownFields": False}),
            "scope": "Namespaced" if definition.namespaced else "Cluster",
            "names": {
                "kind": definition.kind,
                "listKind": f"{definition.kind}List",
                "plural": definition.plural,
                "singular": definition.singular,
                "shortNames": [definition.short_name],
                "categories": ["grids"],
            },
            "versions": [_version(definition, name) for name in definition.versions],
        },
    }


def _version(definition: Definition, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "served": True,
        "storage": name == definition.versions[0],
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {
                "name": column.name,
                "type": column.type,
                "jsonPath": column.path,
                "description": column.description,
                **({"priority": column.priority} if column.priority else {}),
            }
            for column in definition.columns
        ],
        "schema": {"openAPIV3Schema": structural_schema(definition)},
    }


def structural_schema(definition: Definition) -> dict[str, Any]:
    """Return the structural schema of one type, self-contained and without defaults."""
    _, components = msgspec.json.schema_components([definition.type], ref_template="{name}")
    schema = _structural(components[definition.type.__name__], components)
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": "The API group and version of this object."},
        "kind": {"type": "string", "description": "The kind of this object."},
        # Kubernetes validates metadata itself and wants nothing but its type here.
        "metadata": {"type": "object"},
        **{name: value for name, value in schema["properties"].items() if name != "metadata"},
    }
    schema["required"] = [name for name in schema.get("required", ()) if name != "metadata"]
    if definition.rules:
        schema["x-kubernetes-validations"] = list(definition.rules)
    return schema


def _structural(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with references resolved, and without what a structural schema may not or shall not have."""
    if "anyOf" in schema:
        # An optional field: that it may be absent is said by `required` alone.
        (chosen,) = (option for option in schema["anyOf"] if option != {"type": "null"})
        schema = {**chosen, **{key: value for key, value in schema.items() if key != "anyOf"}}
    if "$ref" in schema:
        # A field's own description wins over that of the type it refers to; rules of both hold.
        target = components[schema["$ref"]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    result = {key: value for key, value in schema.items() if key not in ("title", "default")}
    if not result.get("required", True):
        del result["required"]
    if "enum" in result:
        result.setdefault("type", "string")
    if result.get("type") == "integer":
        result.setdefault("format", "int64")
    if "properties" in result:
        result["properties"] = {name: _structural(value, components) for name, value in result["properties"].items()}
    for name in ("items", "additionalProperties"):
        if name in result:
            result[name] = _structural(result[name], components)
    return result


def to_yaml(definition: Definition) -> str:
    """Return the CRD as the text of its file in ``deploy/crds`` or ``deploy/superedge``."""
    head = "# Made by `sitegrid crds --write` from src/sitegrid/api; edit the types, not this file.\n"
    body: str = yaml.safe_dump(custom_resource_definition(definition), sort_keys=False, width=118)
    return head + body


def crd_files() -> dict[str, str]:
    """Return the files of ``deploy/crds`` by name: our own kinds."""
    return {definition.file_name: to_yaml(definition) for definition in DEFINITIONS}


def superedge_files() -> dict[str, str]:
    """Return the files of ``deploy/superedge`` by name: SuperEdge's kinds."""
    return {definition.file_name: to_yaml(definition) for definition in SUPEREDGE_DEFINITIONS}
