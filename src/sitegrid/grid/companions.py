"""Makes what a unit's child has beside it: a PodDisruptionBudget and a HorizontalPodAutoscaler, if the grid asks.

They are controlled by the child, so that they go with it, and select exactly what the child selects. Their names say
the child's kind, since children of two kinds may share one. Drift is seen and repaired like the child's. Values of
the unit can be used as in templates; nearly all fields of these specs are numbers, so a string that is nothing but
one value becomes a number where it is one: ``maxReplicas: $(unit.values.max)``. Held by
``tests/grid/test_companions.py``.
"""

from __future__ import annotations

from typing import Any

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.workloads import ReplicatedGridSpec, WorkloadGrid
from sitegrid.grid.adoption import ADOPTED
from sitegrid.grid.kinds import HORIZONTAL_POD_AUTOSCALER, POD_DISRUPTION_BUDGET, ObjectKind
from sitegrid.grid.overrides import Unit
from sitegrid.grid.problem import SHARED_SELECTOR, TEMPLATE_INVALID, Problem
from sitegrid.grid.substitution import SubstitutionError, substitute, unit_names

_SHARED = (
    "the unit's child was taken over from SuperEdge, and its selector, which cannot be changed, is that of all "
    "units' pods: delete the child when its pods may restart, so that it is made anew"
)


def wanted_companions(
    grid: WorkloadGrid, unit: Unit, child: dict[str, Any], present: ObjectMeta
) -> dict[ObjectKind, dict[str, Any] | Problem]:
    """Return by kind what `grid` wants beside the wanted `child` of `unit`, which exists as `present`.

    A `Problem` tells that there can be none.
    """
    target = {"apiVersion": child["apiVersion"], "kind": child["kind"], "name": present.name}
    asked = [
        (
            POD_DISRUPTION_BUDGET,
            "podDisruptionBudget",
            grid.spec.pod_disruption_budget,
            {"selector": child["spec"].get("selector")},
        ),
        (
            HORIZONTAL_POD_AUTOSCALER,
            "autoscaling",
            grid.spec.autoscaling if isinstance(grid.spec, ReplicatedGridSpec) else None,
            {"scaleTargetRef": target},
        ),
    ]
    names = unit_names(unit.value, unit.key, unit.values)
    wanted: dict[ObjectKind, dict[str, Any] | Problem] = {}
    for kind, field, template, ours in asked:
        if template is None:
            continue
        if ADOPTED in present.annotations:
            wanted[kind] = Problem(SHARED_SELECTOR, f"spec.{field}: {_SHARED}")
            continue
        try:
            spec = {**substitute(template, names, numbers=True), **ours}
        except SubstitutionError as error:
            wanted[kind] = Problem(TEMPLATE_INVALID, f"spec.{field}: {error}")
        else:
            wanted[kind] = _manifest(kind, f"{present.name}-{child['kind'].lower()}", child, present, spec)
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
