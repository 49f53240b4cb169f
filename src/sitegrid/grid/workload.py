"""Makes the wanted child of a workload grid for one unit: the user's template, pinned to the unit and kept there.

Invariants: the user's objects are never changed (I3): everything on the way to an addition is copied, the rest
shared; and nothing that varies goes into the pod template (I4), or pods would restart. What Kubernetes refuses (no
selector, labels that do not match) is passed on as it is, so that the user reads the API server's own message. Held
by ``tests/grid/test_workload.py``.
"""

from __future__ import annotations

from typing import Any

from sitegrid.api.grids import API_VERSION, DeploymentGrid
from sitegrid.api.meta import owner_reference
from sitegrid.grid.kinds import WorkloadKind
from sitegrid.grid.names import child_name
from sitegrid.grid.problem import NODE_SELECTOR_CONFLICT, Problem
from sitegrid.grid.tolerations import staying
from sitegrid.wire.labels import GRID, GRID_UNIQ_KEY, UNIT, label_value, unit_id


def wanted_child(kind: WorkloadKind, grid: DeploymentGrid, value: str) -> dict[str, Any] | Problem:
    """Return the child of `grid` for the unit `value`, or the problem that there can be none."""
    key = grid.spec.grid_uniq_key
    problem = _node_selector_problem(grid.spec.template, key, value)
    if problem is not None:
        return problem
    meta = grid.metadata
    unit = unit_id(key, value)
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": child_name(meta.name, value, max_length=kind.max_name),
            "namespace": meta.namespace,
            "labels": {GRID: label_value(meta.name), UNIT: unit, GRID_UNIQ_KEY: label_value(key)},
            "ownerReferences": [owner_reference(API_VERSION, kind.grid_kind, meta.name, meta.uid)],
        },
        "spec": _pinned(grid.spec.template, unit, key, value),
    }


def _node_selector_problem(template: dict[str, Any], key: str, value: str) -> Problem | None:
    chosen = _mapping(_mapping(_mapping(template.get("template")).get("spec")).get("nodeSelector")).get(key)
    if chosen is None or chosen == value:
        return None
    return Problem(
        NODE_SELECTOR_CONFLICT,
        f"the template's nodeSelector wants {key}={chosen}, but the unit's nodes have {key}={value}: remove {key} "
        "from spec.template.template.spec.nodeSelector, the grid sets it for each unit",
    )


def _pinned(spec: dict[str, Any], unit: str, key: str, value: str) -> dict[str, Any]:
    """Return `spec` with the unit in the selector and the pod labels, and with the unit's node selector."""
    spec = dict(spec)
    selector = spec.get("selector")
    # A selector is not invented: an empty one would select every pod, and Kubernetes says so better than we can.
    if isinstance(selector, dict) and (selector.get("matchLabels") or selector.get("matchExpressions")):
        spec["selector"] = {**selector, "matchLabels": {**_mapping(selector.get("matchLabels")), UNIT: unit}}
    pod = spec.get("template")
    if isinstance(pod, dict):
        metadata = _mapping(pod.get("metadata"))
        pod_spec = _mapping(pod.get("spec"))
        spec["template"] = {
            **pod,
            "metadata": {**metadata, "labels": {**_mapping(metadata.get("labels")), UNIT: unit}},
            "spec": staying({**pod_spec, "nodeSelector": {**_mapping(pod_spec.get("nodeSelector")), key: value}}),
        }
    return spec


def _mapping(value: object) -> dict[str, Any]:
    """Return `value` where it is a mapping, else an empty one: absent and null mean the same in a manifest."""
    return value if isinstance(value, dict) else {}
