"""A site that is given up and comes back, on a real API server with Kubernetes' own endpointslice controller."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def _heard(ready: str, since: datetime | None = None) -> dict[str, Any]:
    """Return a Node's status; `since` now where not given."""
    at = (since or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    other = "Unknown" if ready == "Unknown" else "False"
    return {
        "conditions": [
            {"type": "Ready", "status": ready, "lastHeartbeatTime": at, "lastTransitionTime": at},
            {"type": "DiskPressure", "status": other, "lastHeartbeatTime": at, "lastTransitionTime": at},
        ]
    }


def _unit_slice(world: Any, unit: str) -> tuple[str, set[str]]:
    """Return the resourceVersion of a unit's slice and its ready addresses."""
    selector = f"endpointslice.kubernetes.io/managed-by=sitegrid,tkeedge.io/unit={world.key}.{unit}"
    for item in world.plane.objects("endpointslices", world.namespace, selector):
        ready = {e["addresses"][0] for e in item["endpoints"] if e["conditions"]["ready"]}
        return item["metadata"]["resourceVersion"], ready
    return "", set()


def _until_lost(world: Any, wait_for: Any, unit: str) -> None:
    """Wait until the controller has seen that no node of the unit is heard of, as Kubernetes tells first.

    It may otherwise hear of the pods first, since each kind has a watch of its own.
    """

    def lost() -> bool:
        status = (world.plane.get("nodeunit", f"{world.key}-{unit}") or {}).get("status", {})
        return bool(status.get("readyNodes") == 0)

    wait_for(lost, "the controller to see the nodes", dump=world.dump)


def test_site_that_is_given_up_keeps_its_slice(world: Any, wait_for: Any) -> None:
    """The slice is not written when the site goes, not by a controller that starts then, and not when it returns.

    The pod of another unit tells each time that the controller has seen what came before.
    """
    a1 = world.node("a1", "a", status=_heard("True", LONG_AGO))
    a2 = world.node("a2", "a", status=_heard("True", LONG_AGO))
    b = world.node("b", "b", status=_heard("True", LONG_AGO))
    world.plane.apply(world.service_grid())
    for name, node, address in (("p1", a1, "10.244.1.1"), ("p2", a2, "10.244.1.2"), ("p3", b, "10.244.2.1")):
        world.pod(name, node, address)

    def seen(ready: bool) -> None:
        world.report_pods(str(ready), "p3")
        wait_for(lambda: bool(_unit_slice(world, "b")[1]) is ready, f"unit b to be ready: {ready}", dump=world.dump)

    wait_for(lambda: _unit_slice(world, "a")[1] == {"10.244.1.1", "10.244.1.2"}, "the site's slice", dump=world.dump)
    seen(True)
    before = _unit_slice(world, "a")
    for node in (a1, a2):
        world.report_node(node, _heard("Unknown"))
    _until_lost(world, wait_for, "a")
    world.report_pods("False", "p1", "p2")
    seen(False)
    assert _unit_slice(world, "a") == before
    assert world.running.controller.stop() == 0
    world.running.controller.start()
    seen(True)
    assert _unit_slice(world, "a") == before
    world.report_node(a1, _heard("True"))
    seen(False)
    world.report_node(a2, _heard("True"))
    seen(True)
    world.report_pods("True", "p1", "p2")
    seen(False)
    assert _unit_slice(world, "a") == before


def test_pod_that_was_deleted_meanwhile_goes_when_its_node_is_back(world: Any, wait_for: Any) -> None:
    """A pod that the cloud forgot while the site was away is in the slice until its own kubelet hears of it."""
    a1 = world.node("a1", "a", status=_heard("True", LONG_AGO))
    a2 = world.node("a2", "a", status=_heard("True", LONG_AGO))
    world.plane.apply(world.service_grid())
    world.pod("p1", a1, "10.244.1.1")
    world.pod("p2", a2, "10.244.1.2")
    both = {"10.244.1.1", "10.244.1.2"}
    wait_for(lambda: _unit_slice(world, "a")[1] == both, "the site's slice", dump=world.dump)
    for node in (a1, a2):
        world.report_node(node, _heard("Unknown"))
    _until_lost(world, wait_for, "a")
    world.plane.kubectl("delete", "pod", "p1", "-n", world.namespace, "--force", "--grace-period=0")
    world.report_node(a2, _heard("True"))
    world.wait_quiet()
    assert _unit_slice(world, "a")[1] == both
    world.report_node(a1, _heard("True"))
    wait_for(lambda: _unit_slice(world, "a")[1] == {"10.244.1.2"}, "the pod to go", dump=world.dump)


def test_not_ready_node_is_no_lost_wan(world: Any, wait_for: Any) -> None:
    """Where a kubelet itself says that its node is not ready, Kubernetes' reading of its pods counts."""
    node = world.node("a", "a", status=_heard("True", LONG_AGO))
    world.plane.apply(world.service_grid())
    world.pod("p1", node, "10.244.1.1")
    wait_for(lambda: _unit_slice(world, "a")[1], "the unit's slice", dump=world.dump)
    status = _heard("False")
    status["conditions"][1]["lastTransitionTime"] = LONG_AGO.strftime("%Y-%m-%dT%H:%M:%SZ")
    world.report_node(node, status)
    world.report_pods("False", "p1")
    wait_for(lambda: not _unit_slice(world, "a")[1], "the endpoint to be not ready", dump=world.dump)


def test_heartbeats_cause_no_write(world: Any) -> None:
    """A node's status is written again and again, and nothing comes of it (I7)."""
    node = world.node("a", "a", status=_heard("True", LONG_AGO))
    world.plane.apply(world.deployment_grid(), world.service_grid())
    world.wait_condition("ServiceApplied", kind="sg")
    world.wait_quiet()
    before = world.writes()
    for second in range(5):
        status = _heard("True", LONG_AGO)
        for condition in status["conditions"]:
            condition["lastHeartbeatTime"] = (LONG_AGO + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")
        world.report_node(node, status)
    world.wait_quiet()
    assert world.writes() == before


@pytest.mark.parametrize("kind", ["DeploymentGrid", "StatefulSetGrid"])
def test_pods_of_a_lost_node_are_replaced(world: Any, wait_for: Any, kind: str) -> None:
    """A node that is away for Kubernetes' patience, alone, loses the grid's pods; the account's rights suffice."""
    lost = world.node("a1", "a", status=_heard("Unknown", LONG_AGO))
    world.plane.apply(world.workload_grid(kind))
    world.make_pods_ready(lost)
    (pod,) = world.plane.objects("pods", world.namespace)
    world.pod("bystander", lost, "10.244.1.9")
    world.node("a2", "a", status=_heard("True", LONG_AGO))
    tolerations = pod["spec"]["tolerations"]
    assert {item["key"] for item in tolerations} == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert all("tolerationSeconds" not in item for item in tolerations)

    def ends(name: str) -> bool:
        found = world.plane.get("pods", name, world.namespace)
        return found is None or "deletionTimestamp" in found["metadata"]

    wait_for(lambda: ends(pod["metadata"]["name"]), "the pod to be deleted", dump=world.dump)
    assert not ends("bystander")
    wait_for(
        lambda: any(
            event["reason"] == "UnitNodeLost" and event["regarding"]["kind"] == kind
            for event in world.plane.objects("events", world.namespace)
        ),
        "the event",
        dump=world.dump,
    )
