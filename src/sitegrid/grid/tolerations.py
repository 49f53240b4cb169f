"""Keeps Kubernetes from evicting a site's pods because the site cannot be seen.

Kubernetes' taint manager deletes the pods of a node that is unreachable or not ready for 300 s: its admission plugin
DefaultTolerationSeconds writes that toleration into every pod. In a site whose WAN is cut the pods run on; they would
be deleted by the cloud, and killed by their kubelets as soon as the WAN is back (invariant I8: no pod churn). So the
children of workload grids tolerate both taints for ever, as DaemonSets' pods do, and `sitegrid.grid.eviction` decides
in Kubernetes' place. Where the user's own template says something about a taint, that counts (I3). Constant for all
units and times (I4). Held by ``tests/grid/test_tolerations.py``.
"""

from __future__ import annotations

from typing import Any, Final

NOT_READY: Final = "node.kubernetes.io/not-ready"
"""NoExecute taint of a node whose Ready is False (core/v1, TaintNodeNotReady)."""
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
"""NoExecute taint of a node whose Ready is Unknown (core/v1, TaintNodeUnreachable)."""


def tolerates(pod_spec: dict[str, Any], taint: str) -> bool:
    """Tell whether a user's pod spec has a toleration of its own for the NoExecute taint `taint`.

    The rule is DefaultTolerationSeconds' own: the key or none, the effect or none.
    """
    tolerations = pod_spec.get("tolerations")
    return isinstance(tolerations, list) and any(
        isinstance(item, dict)
        and item.get("key", "") in (taint, "", None)
        and item.get("effect", "") in ("NoExecute", "", None)
        for item in tolerations
    )


def users_own(pod_spec: dict[str, Any]) -> frozenset[str]:
    """Return the taints of both that a user's pod spec says something about, so that Kubernetes evicts and not we."""
    return frozenset(taint for taint in (NOT_READY, UNREACHABLE) if tolerates(pod_spec, taint))


def staying(pod_spec: dict[str, Any]) -> dict[str, Any]:
    """Return `pod_spec` with tolerations, without an end, for the taints that the user says nothing about."""
    present = pod_spec.get("tolerations")
    if present is not None and not isinstance(present, list):
        return pod_spec  # the API server says better what is wrong with it
    users = users_own(pod_spec)
    added = [
        {"key": taint, "operator": "Exists", "effect": "NoExecute"}
        for taint in (NOT_READY, UNREACHABLE)
        if taint not in users
    ]
    return {**pod_spec, "tolerations": [*(present or ()), *added]} if added else pod_spec
