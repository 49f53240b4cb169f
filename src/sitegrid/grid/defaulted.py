"""Names in a child's spec what Kubernetes fills in beside what the user says, where it must go when that changes.

Defaults are in nobody's managedFields, so server-side apply never takes them away. Mostly that is no harm; but the
``rollingUpdate`` that every Deployment gets is refused beside a later ``type: Recreate``, an ``emptyDir`` beside the
volume's later source, and ``serviceAccount`` brings a ``serviceAccountName`` back that was taken out. What we name is
ours, and goes with the write that no longer names it. All of it is what Kubernetes itself makes of the spec
(SetDefaults_Deployment and others of pkg/apis/apps/v1, SetDefaults_Volume and Convert_core_PodSpec_To_v1_PodSpec of
pkg/apis/core/v1), so that naming it changes nothing and restarts no pod. What is no map or list is left for the API
server to refuse. Called by `sitegrid.grid.workload`; held by ``tests/grid/test_defaulted.py`` and
``tests/controller/test_changes.py``.
"""

from __future__ import annotations

from typing import Any

from sitegrid.grid.patchfields import DEPLOYMENT_SPEC


def with_strategy(spec: dict[str, Any], spec_type: str) -> dict[str, Any]:
    """Return a workload's `spec` of the type `spec_type` with the type and ``rollingUpdate`` that Kubernetes adds.

    The type too: somebody's other one would be refused beside what we name, and so it is seen and repaired.
    """
    field = "strategy" if spec_type == DEPLOYMENT_SPEC else "updateStrategy"
    strategy = spec.get(field) or {}
    if not isinstance(strategy, dict) or strategy.get("type") not in (None, "RollingUpdate"):
        return spec
    rolling = {"type": "RollingUpdate", "rollingUpdate": strategy.get("rollingUpdate") or {}}
    return {**spec, field: {**strategy, **rolling}}


def with_pod_defaults(pod_spec: dict[str, Any]) -> dict[str, Any]:
    """Return `pod_spec` with the volumes' sources and the service account's other name as Kubernetes adds them."""
    added: dict[str, Any] = {}
    volumes = pod_spec.get("volumes")
    if isinstance(volumes, list):
        added["volumes"] = [
            {**item, "emptyDir": {}} if isinstance(item, dict) and item.keys() == {"name"} else item
            for item in volumes
        ]
    if pod_spec.get("serviceAccountName") and "serviceAccount" not in pod_spec:
        added["serviceAccount"] = pod_spec["serviceAccountName"]
    return {**pod_spec, **added}
