"""Makes the wanted child of a workload grid for one unit: its template and overrides, pinned to the unit, kept there.

Invariants: the user's objects are never changed (I3): everything on the way to an addition is copied, the rest
shared; and nothing that varies goes into the pod template (I4), or pods would restart. What Kubernetes refuses (no
selector, labels that do not match) is passed on as it is, so that the user reads the API server's own message. Held
by ``tests/grid/test_workload.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sitegrid.api.meta import owner_reference
from sitegrid.api.workloads import ReplicatedGridSpec, WorkloadGrid
from sitegrid.grid.adoption import template_mark
from sitegrid.grid.defaulted import with_pod_defaults, with_strategy
from sitegrid.grid.kinds import WorkloadKind
from sitegrid.grid.names import child_name
from sitegrid.grid.overrides import Override, OverrideError, Unit, effective_spec
from sitegrid.grid.problem import NODE_SELECTOR_CONFLICT, OVERRIDE_INVALID, TEMPLATE_INVALID, Problem
from sitegrid.grid.provenance import Origin
from sitegrid.grid.substitution import SubstitutionError
from sitegrid.grid.superedge import copied_labels
from sitegrid.grid.templates import Template, template_of
from sitegrid.grid.tolerations import staying
from sitegrid.wire.labels import GRID, UNIT, label_value, unit_id


@dataclass(frozen=True, slots=True)
class WantedChild:
    """A child as it should be, and how it came about."""

    manifest: dict[str, Any]
    template: Template
    effective: Mapping[str, Any]
    """The spec before it was pinned to the unit."""
    origins: Mapping[str, Origin]
    """Which override set a field, by its path in the child's spec."""


def wanted_child(
    kind: WorkloadKind, grid: WorkloadGrid, unit: Unit, overrides: Sequence[Override] = (), adopted: str = ""
) -> WantedChild | Problem:
    """Return the child of `grid` for `unit`, or the problem that there can be none.

    `adopted` is the mark of a child that was taken over (see `adoption`), empty for all others.
    """
    template = template_of(grid.spec, unit.value)
    if isinstance(template, Problem):
        return template
    try:
        spec, origins = effective_spec(template.spec, overrides, unit, kind.spec_type)
    except OverrideError as error:
        return Problem(OVERRIDE_INVALID, str(error))
    except SubstitutionError as error:
        return Problem(TEMPLATE_INVALID, f"{template.path}: {error}")
    problem = _node_selector_problem(spec, template, unit)
    if problem is not None:
        return problem
    return WantedChild(_manifest(kind, grid, unit, spec, adopted), template, spec, origins)


def name_of_child(kind: WorkloadKind, grid: WorkloadGrid, value: str) -> str:
    """Return the name of the child of `grid` for the unit `value`."""
    return child_name(grid.metadata.name, value, max_length=kind.max_name, dots=kind.dotted_names)


def child_labels(grid: WorkloadGrid, value: str) -> dict[str, str]:
    """Return the labels of all that `grid` makes for the unit `value`.

    The key's is not among them: `kubectl expose` copies them to a new Service, and that label would close it.
    """
    return {GRID: label_value(grid.metadata.name), UNIT: unit_id(grid.spec.grid_uniq_key, value)}


def _manifest(
    kind: WorkloadKind, grid: WorkloadGrid, unit: Unit, spec: dict[str, Any], adopted: str
) -> dict[str, Any]:
    meta = grid.metadata
    as_made = bool(adopted) and adopted == template_mark(spec)
    # A StatefulSet's or Deployment's replicas are the autoscaler's; but 0 means that nothing is to run here.
    if isinstance(grid.spec, ReplicatedGridSpec) and grid.spec.autoscaling is not None and spec.get("replicas") != 0:
        spec = {name: value for name, value in spec.items() if name != "replicas"}
    return {
        "apiVersion": kind.child.api_version,
        "kind": kind.child.kind,
        "metadata": {
            "name": name_of_child(kind, grid, unit.value),
            "namespace": meta.namespace,
            "labels": {**copied_labels(grid), **child_labels(grid, unit.value)},
            "ownerReferences": [owner_reference(kind.api_version, kind.grid_kind, meta.name, meta.uid)],
        },
        "spec": _pinned(with_strategy(spec, kind.spec_type), unit, labelled=not adopted, stays=not as_made),
    }


def _node_selector_problem(spec: dict[str, Any], template: Template, unit: Unit) -> Problem | None:
    key = unit.key
    chosen = _mapping(_mapping(_mapping(spec.get("template")).get("spec")).get("nodeSelector")).get(key)
    if chosen is None or chosen == unit.value:
        return None
    return Problem(
        NODE_SELECTOR_CONFLICT,
        f"the template's nodeSelector wants {key}={chosen}, but the unit's nodes have {key}={unit.value}: remove "
        f"{key} from {template.path}.template.spec.nodeSelector, the grid sets it for each unit",
    )


def _pinned(spec: dict[str, Any], unit: Unit, *, labelled: bool, stays: bool) -> dict[str, Any]:
    """Return `spec` with the unit's node selector; `labelled`, with the unit in the selector and the pod labels.

    If it `stays`, its pods tolerate unreachable nodes without a limit.
    """
    spec = dict(spec)
    label = {UNIT: unit_id(unit.key, unit.value)} if labelled else {}
    selector = spec.get("selector")
    # A selector is not invented: an empty one would select every pod, and Kubernetes says so better than we can.
    if label and isinstance(selector, dict) and (selector.get("matchLabels") or selector.get("matchExpressions")):
        spec["selector"] = {**selector, "matchLabels": {**_mapping(selector.get("matchLabels")), **label}}
    pod = spec.get("template")
    if isinstance(pod, dict):
        metadata = _mapping(pod.get("metadata"))
        pod_spec = _mapping(pod.get("spec"))
        pod_spec = {**pod_spec, "nodeSelector": {**_mapping(pod_spec.get("nodeSelector")), unit.key: unit.value}}
        spec["template"] = {
            **pod,
            "metadata": {**metadata, "labels": {**_mapping(metadata.get("labels")), **label}},
            "spec": with_pod_defaults(staying(pod_spec) if stays else pod_spec),
        }
    return spec


def _mapping(value: object) -> dict[str, Any]:
    """Return `value` where it is a mapping, else an empty one: absent and null mean the same in a manifest."""
    return value if isinstance(value, dict) else {}
