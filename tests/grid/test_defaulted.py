"""What Kubernetes adds to a spec is named where it must be able to go again, and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sitegrid.grid.defaulted import with_pod_defaults, with_strategy
from sitegrid.grid.patchfields import DAEMON_SET_SPEC, DEPLOYMENT_SPEC, STATEFUL_SET_SPEC


@pytest.mark.parametrize("given", [{}, {"strategy": None}, {"strategy": {}}, {"strategy": {"rollingUpdate": None}}])
def test_deployment_without_a_strategy(given: dict[str, Any]) -> None:
    """Kubernetes rolls; what it rolls by is then ours to take away."""
    rolling = {"type": "RollingUpdate", "rollingUpdate": {}}
    assert with_strategy(given, DEPLOYMENT_SPEC)["strategy"] == rolling


@pytest.mark.parametrize("spec_type", [STATEFUL_SET_SPEC, DAEMON_SET_SPEC])
def test_other_kinds_have_another_name_for_it(spec_type: str) -> None:
    """StatefulSets and DaemonSets have an updateStrategy."""
    spec = {"updateStrategy": {"type": "RollingUpdate"}}
    wanted = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {}}}
    assert with_strategy(spec, spec_type) == wanted


@pytest.mark.parametrize(
    "strategy",
    [
        {"type": "Recreate"},
        {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        {"type": "Whatever"},
        "text",
        [1],
    ],
)
def test_what_the_user_says_stays(strategy: Any) -> None:
    """Another type has no such field, and what is odd is the API server's to refuse."""
    assert with_strategy({"strategy": strategy}, DEPLOYMENT_SPEC) == {"strategy": strategy}


def test_volume_without_a_source() -> None:
    """It is an emptyDir; what has a source, or is no volume at all, stays."""
    volumes = [{"name": "a"}, {"name": "b", "configMap": {"name": "c"}}, "odd", {}]
    given = {"volumes": volumes}
    before = copy.deepcopy(given)
    assert with_pod_defaults(given)["volumes"] == [{"name": "a", "emptyDir": {}}, *volumes[1:]]
    assert given == before


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"serviceAccountName": "x"}, {"serviceAccountName": "x", "serviceAccount": "x"}),
        ({"serviceAccountName": "x", "serviceAccount": "y"}, {"serviceAccountName": "x", "serviceAccount": "y"}),
        ({"serviceAccountName": ""}, {"serviceAccountName": ""}),
        ({}, {}),
    ],
)
def test_service_account_has_two_names(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Kubernetes keeps the old name beside the new one."""
    assert with_pod_defaults(given) == wanted
