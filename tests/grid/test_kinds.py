"""The table of kinds: what pods each kind of child has."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sitegrid.api.schema import DEFINITIONS
from sitegrid.grid.kinds import DAEMON_SET, DEPLOYMENT, STATEFUL_SET, WORKLOAD_KINDS, WorkloadKind
from sitegrid.grid.observed import Workload
from sitegrid.grid.unitstates import is_ready, is_updated


def _child(spec: dict[str, Any], status: dict[str, Any]) -> Workload:
    return msgspec.convert({"metadata": {}, "spec": spec, "status": status}, Workload)


@pytest.mark.parametrize(
    ("kind", "spec", "status", "updated", "ready"),
    [
        (DEPLOYMENT, {"replicas": 2}, {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}, True, True),
        (DEPLOYMENT, {"replicas": 2}, {"replicas": 3, "updatedReplicas": 2, "readyReplicas": 2}, False, True),
        (DEPLOYMENT, {"replicas": 0}, {}, True, True),
        (STATEFUL_SET, {"replicas": 3}, {"replicas": 3, "updatedReplicas": 3, "readyReplicas": 2}, True, False),
        (STATEFUL_SET, {"replicas": 3}, {"replicas": 3, "updatedReplicas": 1, "readyReplicas": 3}, False, True),
        (
            STATEFUL_SET,
            {"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
            {"replicas": 3, "updatedReplicas": 1, "readyReplicas": 3},
            True,
            True,
        ),
        (STATEFUL_SET, {"replicas": 1, "updateStrategy": {"type": "OnDelete"}}, {"replicas": 1}, False, False),
        (
            DAEMON_SET,
            {},
            {
                "desiredNumberScheduled": 2,
                "currentNumberScheduled": 2,
                "updatedNumberScheduled": 2,
                "numberReady": 2,
            },
            True,
            True,
        ),
        (
            DAEMON_SET,
            {},
            {"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 1, "numberReady": 1},
            False,
            False,
        ),
    ],
)
def test_pods_of_a_child(
    kind: WorkloadKind, spec: dict[str, Any], status: dict[str, Any], updated: bool, ready: bool
) -> None:
    """When a child of each kind runs the current template, and when it is ready."""
    pods = kind.pods(_child(spec, status))
    assert (is_updated(pods), is_ready(pods)) == (updated, ready)


def test_every_kind_has_its_definition() -> None:
    """A row without a CRD could not be watched; the plural is the same in both."""
    plurals = {definition.kind: definition.plural for definition in DEFINITIONS}
    assert {kind.grid_kind: kind.grid_plural for kind in WORKLOAD_KINDS.values()}.items() <= plurals.items()
