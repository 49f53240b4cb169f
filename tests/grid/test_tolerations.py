"""Pods of grids are not evicted because their site cannot be seen, unless the user says otherwise."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sitegrid.grid.tolerations import NOT_READY, UNREACHABLE, staying, tolerates

FOR_EVER = [
    {"key": NOT_READY, "operator": "Exists", "effect": "NoExecute"},
    {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute"},
]


@pytest.mark.parametrize("spec", [{}, {"tolerations": None}, {"tolerations": []}])
def test_pods_stay_for_ever(spec: dict[str, Any]) -> None:
    """Without a word from the user, both taints are tolerated without an end."""
    assert staying(spec)["tolerations"] == FOR_EVER


def test_other_tolerations_are_kept() -> None:
    """What the user tolerates besides stays, in its order; so does what is about another effect of our taints."""
    users = [{"key": "gpu", "operator": "Exists"}, {"key": UNREACHABLE, "operator": "Exists", "effect": "NoSchedule"}]
    assert staying({"tolerations": users})["tolerations"] == users + FOR_EVER


@pytest.mark.parametrize("effect", [{}, {"effect": ""}, {"effect": "NoExecute"}])
def test_users_own_toleration_counts(effect: dict[str, str]) -> None:
    """A user who wants Kubernetes' eviction after some time has it, for that taint alone."""
    own = {"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": 30, **effect}
    assert staying({"tolerations": [own]})["tolerations"] == [own, FOR_EVER[0]]


@pytest.mark.parametrize("own", [{"operator": "Exists"}, {"key": "", "operator": "Exists", "effect": "NoExecute"}])
def test_toleration_of_everything_leaves_nothing_to_add(own: dict[str, str]) -> None:
    """A toleration without a key is for every taint (core/v1, Toleration.key)."""
    spec = {"tolerations": [own]}
    assert staying(spec) == spec
    assert tolerates(spec, NOT_READY)
    assert tolerates(spec, UNREACHABLE)


@pytest.mark.parametrize("odd", ["text", {"key": "x"}, 3])
def test_odd_tolerations_are_the_api_servers_to_refuse(odd: object) -> None:
    """What is no list is passed on, so that the user reads the API server's own message."""
    assert staying({"tolerations": odd}) == {"tolerations": odd}


def test_users_spec_is_not_changed() -> None:
    """The user's object stays as it is (I3)."""
    spec = {"tolerations": [{"key": "gpu"}, "odd"]}
    before = copy.deepcopy(spec)
    staying(spec)
    assert spec == before
