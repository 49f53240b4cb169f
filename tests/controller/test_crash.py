"""The controller killed after each single write, on a real API server, and started again: grids, units, nodes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.mortal import lives_until_rest

pytestmark = pytest.mark.cluster


async def test_killed_after_each_single_write(world: Any, wait_for: Any, alone: None) -> None:
    """Each life ends with its first write; together they reach the wanted state, and then nothing is written."""
    one, two = world.node("a", "NodeUnit1"), world.node("b", "two")
    await asyncio.to_thread(world.plane.apply, world.deployment_grid(), world.service_grid())
    world.pod("p1", one, "10.244.1.1")
    world.pod("p2", two, "10.244.2.1")
    selector = "endpointslice.kubernetes.io/managed-by=sitegrid,tkeedge.io/unit"

    def complete() -> bool:
        conditions = (world.condition(), world.condition(kind="sg"))
        slices = world.plane.objects("endpointslices", world.namespace, selector)
        return len(world.children()) == 2 and all(conditions) and len(slices) == 2

    lives = await lives_until_rest(world, wait_for, complete)
    # Two children, a Service, two slices, and a status of each grid at the least.
    assert lives >= 7


async def test_units_and_nodes_killed_after_each_single_write(world: Any, wait_for: Any, alone: None) -> None:
    """Members join and leave, are labelled, annotated and tainted, and units come and go, by one write a life."""
    plane, namespace = world.plane, world.namespace
    one, two, found = world.node("a"), world.node("b"), world.node("c", region=namespace)
    sites, name = f"sites-{namespace}", f"hz-{namespace}"

    def declare(node: str, tier: str) -> None:
        spec = {
            "gridUniqKey": world.key,
            "unit": "hz",
            "nodes": [node],
            "setNode": {
                "labels": {f"{namespace}/tier": tier},
                "annotations": {f"{namespace}/note": tier},
                "taints": [{"key": f"{namespace}/edge", "effect": "NoSchedule"}],
            },
            "removal": {"gracePeriodSeconds": 0},
        }
        meta = {"name": name}
        plane.apply({"apiVersion": "tkeedge.io/v1", "kind": "NodeUnit", "metadata": meta, "spec": spec})

    def node(full: str) -> tuple[dict[str, str], dict[str, str], set[str]]:
        found = plane.get("node", full)
        taints = {taint["key"] for taint in found["spec"].get("taints", ())}
        return found["metadata"].get("labels", {}), found["metadata"].get("annotations", {}), taints

    def is_member(full: str, tier: str) -> bool:
        labels, annotations, taints = node(full)
        return (labels.get(world.key), labels.get(f"{namespace}/tier"), annotations.get(f"{namespace}/note")) == (
            "hz",
            tier,
            tier,
        ) and f"{namespace}/edge" in taints

    def is_none(full: str) -> bool:
        labels, annotations, taints = node(full)
        ours = [key for key in annotations if "tkeedge.io" in key]
        return not ({world.key, f"{namespace}/tier"} & labels.keys() or ours or f"{namespace}/edge" in taints)

    def status(kind: str, full: str) -> dict[str, Any]:
        return (plane.get(kind, full) or {}).get("status", {})  # type: ignore[no-any-return]

    group = {
        "apiVersion": "tkeedge.io/v1",
        "kind": "NodeGroup",
        "metadata": {"name": sites},
        "spec": {"gridUniqKey": sites, "autoFindNodeKeys": ["region"]},
    }
    try:
        await asyncio.to_thread(plane.apply, group, world.deployment_grid())
        await asyncio.to_thread(declare, one, "gold")

        def joined() -> bool:
            return (
                is_member(one, "gold")
                and is_none(two)
                and node(found)[0].get(sites) == namespace
                and status("nodeunit", name).get("nodes") == [one]
                and status("nodegroup", sites).get("nodeCount") == 1
                and world.condition().get("reason") == "UnitsNotReady"
            )

        # The member's labels and its taints, the other's label, a child, two made objects, and five statuses.
        assert await lives_until_rest(world, wait_for, joined) >= 10
        await asyncio.to_thread(declare, two, "silver")
        await asyncio.to_thread(plane.kubectl, "label", "node", found, "region-")
        remove = {"spec": {"removal": {"gracePeriodSeconds": 0}}}
        await asyncio.to_thread(plane.kubectl, "patch", "nodegroup", sites, "--type=merge", "-p", json.dumps(remove))

        def moved() -> bool:
            return (
                is_member(two, "silver")
                and is_none(one)
                and sites not in node(found)[0]
                and status("nodeunit", name).get("nodes") == [two]
                and status("nodegroup", sites).get("nodeCount") == 0
            )

        assert await lives_until_rest(world, wait_for, moved) >= 6
    finally:
        for kind, full in (("nodeunit", name), ("nodegroup", sites)):
            await asyncio.to_thread(plane.kubectl, "delete", kind, full, "--ignore-not-found")
