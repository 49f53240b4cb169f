"""Plain Services that reach a grid's pods."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.grid.observed import Service
from sitegrid.grid.sidedoors import side_doors


def _found(selector: Any, namespace: str = "default", **labels: str) -> list[str]:
    template = {"selector": {"app": "web", "tier": "front"}}
    grid = msgspec.convert(
        {"metadata": {"name": "web", "namespace": "default"}, "spec": {"gridUniqKey": "zone", "template": template}},
        ServiceGrid,
    )
    metadata = {"name": "plain", "namespace": namespace, "labels": labels}
    service = msgspec.json.decode(
        msgspec.json.encode({"metadata": metadata, "spec": {"selector": selector}}), type=Service
    )
    return side_doors(grid, [service])


@pytest.mark.parametrize(
    ("selector", "is_one"),
    [
        ({"app": "web", "tier": "front"}, True),
        ({"app": "web"}, True),
        ({"app": "web", "tier": "front", "track": "canary"}, True),
        ({"app": "web", "tier": "back"}, False),
        ({"app": "web", "track": "canary"}, False),
        ({"app": "other"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_selector_that_meets_the_grids_is_one(selector: Any, is_one: bool) -> None:
    """The same, one that says less, or one that says more; none selects nothing."""
    assert _found(selector) == (["plain"] if is_one else [])


def test_other_namespaces_and_grids_services_are_none() -> None:
    """A selector is of its namespace; a grid's Services are closed, or meant to show all units."""
    selector = {"app": "web", "tier": "front"}
    assert _found(selector, namespace="other") == []
    assert _found(selector, **{"tkeedge.io/grid-uniq-key": ""}) == []
