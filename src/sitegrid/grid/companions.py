"""Makes what a unit's child has beside it: a PodDisruptionBudget and a HorizontalPodAutoscaler, if the grid asks.

They are controlled by the child, so that they go with it, and select exactly what the child selects. Their names say
the child's kind, since children of two kinds may share one. Drift is seen and repaired like the child's. Held by
``tests/grid/test_companions.py``.
"""

from __future__ import annotations

from typing import Any

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.workloads import ReplicatedGridSpec, WorkloadGrid
from sitegrid.grid.kinds import HORIZONTAL_POD_AUTOSCALER, POD_DISRUPTION_BUDGET, ObjectKind


def wanted_companions(
    grid: WorkloadGrid, child: dict[str, Any], present: ObjectMeta
) -> dict[ObjectKind, dict[str, Any]]:
    """Return what `grid` wants beside the wanted `child`, which exists as `present`, by kind."""
    wanted: dict[ObjectKind, dict[str, Any]] = {}
    name = f"{present.name}-{child['kind'].lower()}"
    budget = grid.spec.pod_disruption_budget
    if budget is not None:
        spec = {**budget, "selector": child["spec"].get("selector")}
        wanted[POD_DISRUPTION_BUDGET] = _manifest(POD_DISRUPTION_BUDGET, name, child, present, spec)
    autoscaling = grid.spec.autoscaling if isinstance(grid.spec, ReplicatedGridSpec) else None
    if autoscaling is not None:
        target = {"apiVersion": child["apiVersion"], "kind": child["kind"], "name": present.name}
        spec = {**autoscaling, "scaleTargetRef": target}
        wanted[HORIZONTAL_POD_AUTOSCALER] = _manifest(HORIZONTAL_POD_AUTOSCALER, name, child, present, spec)
    return wanted


def _manifest(
    kind: ObjectKind, name: str, child: dict[str, Any], present: ObjectMeta, spec: dict[str, Any]
) -> dict[str, Any]:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": present.namespace,
            "labels": child["metadata"]["labels"],
            # No blockOwnerDeletion: it would take the right to write the child's finalizers, for nothing.
            "ownerReferences": [
                {
                    "apiVersion": child["apiVersion"],
                    "kind": child["kind"],
                    "name": present.name,
                    "uid": present.uid,
                    "controller": True,
                }
            ],
        },
        "spec": spec,
    }
