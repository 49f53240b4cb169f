"""Drift, removal and rest on a real API server."""

from __future__ import annotations

import json
import time
from collections import Counter
from functools import reduce
from operator import getitem
from typing import Any

import pytest

from sitegrid.controller.statuses import MIN_INTERVAL

pytestmark = pytest.mark.cluster


def _child(world: Any, name: str = "grid-one") -> Any:
    return world.children()[name]


def _settled(world: Any, *values: str) -> None:
    for value in values:
        world.node(value, value)
    world.plane.apply(world.deployment_grid(), world.service_grid())
    world.wait_children(*(f"grid-{value}" for value in values))
    for kind in ("dg", "sg"):
        world.wait_status({"units": len(values)}, kind=kind)
    world.wait_condition("UnitsNotReady")
    world.wait_condition("ServiceApplied", kind="sg")
    world.wait_quiet()


def test_at_rest_nothing_is_written(world: Any) -> None:
    """Over all kinds of grids 36 heartbeats, and conditions that say nothing of readiness, write nothing (I7).

    Units and keys have their NodeUnits and NodeGroup, which are looked at too.
    """
    values = [f"u{number:02}" for number in range(12)]
    world.nodes(*values)
    extras = {"podDisruptionBudget": {"maxUnavailable": 1}}
    grids = [world.workload_grid(kind, **extras) for kind in ("DeploymentGrid", "StatefulSetGrid", "DaemonSetGrid")]
    for grid in grids[:2]:
        grid["spec"]["template"]["replicas"] = 0
    grids[0]["spec"]["autoscaling"] = {"maxReplicas": 3}
    world.plane.apply(*grids, world.service_grid())
    for kind in ("dg", "ssg", "dsg"):
        world.wait_condition("UnitsUpdated", type="Progressing", kind=kind)
    nodes = [f"{value}-{world.namespace}" for value in values]
    token = world.key.partition("-")[2]

    def writes() -> list[str]:
        refs = [(event["verb"], event["objectRef"]) for event in world.plane.audited()]
        return [f"{verb} {ref['resource']} {ref.get('name', '')}" for verb, ref in refs if token in json.dumps(ref)]

    def report(*conditions: dict[str, str]) -> None:
        patch = {"status": {"conditions": [*conditions]}}
        for node in nodes:
            path = f"/api/v1/nodes/{node}/status"
            world.plane.write("PATCH", path, patch, "application/strategic-merge-patch+json")

    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    report(ready)
    world.wait_quiet(5)
    before = writes()
    for beat in range(3):
        flap = {"type": "DiskPressure", "status": ("True", "False")[beat % 2], "reason": f"Beat{beat}"}
        theirs = {"type": "TheirOwn", "status": ("False", "True")[beat % 2]}
        report({**ready, "lastHeartbeatTime": f"2026-01-01T00:00:{beat:02}Z"}, flap, theirs)
    world.plane.kubectl("annotate", "node", *nodes, "theirs=1")
    world.wait_quiet(5)
    assert writes() == before


def test_each_child_was_written_once(world: Any) -> None:
    """One write per child and Service on the way to the wanted state; statuses are few."""
    begin = time.monotonic()
    _settled(world, "one", "two", "three")
    intervals = (time.monotonic() - begin) / MIN_INTERVAL
    writes = world.writes()
    assert sorted(write for write in writes if "/status" not in write) == [
        "patch deployments grid-one",
        "patch deployments grid-three",
        "patch deployments grid-two",
        "patch services grid-svc",
        "patch services grid-svc-sites",
    ]
    assert len([write for write in writes if "/status" in write]) <= min(8, 2 * (1 + intervals))


EDITS = {
    "replicas": ({"spec": {"replicas": 5}}, "spec.replicas"),
    "node-selector": (
        {"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}},
        "spec.template.spec.nodeSelector",
    ),
    "strategy": ({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}, "spec.strategy"),
    "unit-label": ({"metadata": {"labels": {"tkeedge.io/unit": "other"}}}, "metadata.labels"),
    "grid-label-removed": ({"metadata": {"labels": {"tkeedge.io/grid": None}}}, "metadata.labels"),
    "hash-removed": ({"metadata": {"annotations": {"tkeedge.io/applied-hash": None}}}, "spec.replicas"),
}
"""By unit: a merge patch of its child, and what of it must be as before."""


def test_hand_edits_are_repaired(world: Any, wait_for: Any) -> None:
    """What somebody changes of ours comes back with one write of each child, and then there is rest."""
    _settled(world, *EDITS)

    def values() -> dict[str, Any]:
        children = world.children()
        return {unit: reduce(getitem, path.split("."), children[f"grid-{unit}"]) for unit, (_, path) in EDITS.items()}

    def written() -> Counter[str]:
        return Counter(write for write in world.writes()[count:] if "/status" not in write)

    before, count = values(), len(world.writes())
    for unit, (patch, _) in EDITS.items():
        edit = ("patch", "deployment", f"grid-{unit}", "--type=merge", "-p", json.dumps(patch))
        world.plane.kubectl(*edit, "-n", world.namespace)
    repairs = {f"patch deployments grid-{unit}": 1 for unit in EDITS}
    wait_for(lambda: written().keys() == repairs.keys(), "a write of each child", dump=world.dump)
    wait_for(lambda: values() == before, "the former state", dump=world.dump)
    world.wait_quiet()
    assert written() == repairs


def test_image_of_a_container_is_repaired(world: Any, wait_for: Any) -> None:
    """`kubectl set image` on a child does not last; the grid's template is where that is said."""
    _settled(world, "one")
    world.plane.kubectl("set", "image", "deployment/grid-one", "web=web:evil", "-n", world.namespace)
    wait_for(
        lambda: _child(world)["spec"]["template"]["spec"]["containers"][0]["image"] == "web:1",
        "the former image",
        dump=world.dump,
    )


def test_fields_of_others_are_left_alone(world: Any) -> None:
    """An annotation, and replicas that the template leaves out (an autoscaler's), are not ours to repair."""
    world.node("one", "one")
    manifest = world.deployment_grid()
    del manifest["spec"]["template"]["replicas"]
    world.plane.apply(manifest)
    world.wait_children("grid-one")
    world.wait_quiet()
    before = world.writes()
    world.plane.kubectl("scale", "deployment", "grid-one", "--replicas=3", "-n", world.namespace)
    world.plane.kubectl("annotate", "deployment", "grid-one", "theirs=1", "-n", world.namespace)
    world.wait_quiet()
    assert _child(world)["spec"]["replicas"] == 3
    assert [write for write in world.writes()[len(before) :] if "/status" not in write] == []


def test_field_removed_from_the_template_goes(world: Any, wait_for: Any) -> None:
    """What is no longer in the template is no longer in the child."""
    manifest = world.deployment_grid()
    manifest["spec"]["template"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
    world.node("one", "one")
    world.plane.apply(manifest)
    world.wait_children("grid-one")
    del manifest["spec"]["template"]["template"]["spec"]["containers"][0]["env"]
    world.plane.apply(manifest)
    wait_for(
        lambda: "env" not in _child(world)["spec"]["template"]["spec"]["containers"][0], "env to go", dump=world.dump
    )


def test_deleted_child_is_made_again(world: Any, wait_for: Any) -> None:
    """A Deployment or Service that somebody deletes comes back."""
    _settled(world, "one")
    former = _child(world)["metadata"]["uid"]
    world.plane.kubectl("delete", "deployment/grid-one", "service/grid-svc", "-n", world.namespace)
    wait_for(lambda: "grid-one" in world.children(), "the Deployment", dump=world.dump)
    assert _child(world)["metadata"]["uid"] != former
    wait_for(lambda: world.plane.get("services", "grid-svc", world.namespace), "the Service", dump=world.dump)


def test_edited_service_is_repaired(world: Any, wait_for: Any) -> None:
    """Without its proxy-name label a Service would be open to every stock kube-proxy: it comes back (I2)."""
    _settled(world, "one")
    label = "service.kubernetes.io/service-proxy-name"
    world.plane.kubectl("label", "service", "grid-svc", f"{label}-", "-n", world.namespace)
    wait_for(
        lambda: label in world.plane.get("services", "grid-svc", world.namespace)["metadata"]["labels"],
        "the label",
        dump=world.dump,
    )


def test_renamed_service_replaces_the_former(world: Any, wait_for: Any) -> None:
    """Another serviceName makes that Service and deletes the former one."""
    _settled(world, "one")
    world.plane.apply(world.service_grid(serviceName="renamed"))
    wait_for(lambda: world.plane.get("services", "grid-svc", world.namespace) is None, "the former to go")
    wait_for(lambda: world.plane.get("services", "renamed", world.namespace), "the new one")


def test_gone_unit_keeps_its_child_for_the_grace_period(world: Any, wait_for: Any) -> None:
    """The child is marked, not deleted; a unit that comes back takes the mark off."""
    _settled(world, "one", "two")
    # One per child: another one would have restarted the pods.
    wait_for(lambda: len(world.plane.objects("replicasets", world.namespace)) == 2, "the ReplicaSets")
    uid = _child(world)["metadata"]["uid"]
    mark = "tkeedge.io/unit-gone-since"
    node = f"one-{world.namespace}"
    world.plane.kubectl("label", "node", node, f"{world.key}-")
    wait_for(lambda: mark in _child(world)["metadata"]["annotations"], "the mark", dump=world.dump)
    assert "annotations" not in _child(world)["spec"]["template"]["metadata"]
    world.wait_status({"units": 1})
    world.wait_quiet()
    world.plane.kubectl("label", "node", node, f"{world.key}=one")
    wait_for(lambda: mark not in _child(world)["metadata"]["annotations"], "the mark to go", dump=world.dump)
    world.wait_quiet()
    assert _child(world)["metadata"]["uid"] == uid
    assert len(world.plane.objects("replicasets", world.namespace)) == 2


def test_child_goes_after_the_grace_period(world: Any) -> None:
    """A deleted node's unit loses its child when the time is over."""
    world.node("one", "one")
    node = world.node("two", "two")
    world.plane.apply(world.deployment_grid(removal={"gracePeriodSeconds": 1}))
    world.wait_children("grid-one", "grid-two")
    world.plane.kubectl("delete", "node", node)
    world.wait_children("grid-one")


def test_retained_child_stays(world: Any, wait_for: Any) -> None:
    """With policy Retain a child is marked and never deleted."""
    node = world.node("one", "one")
    world.plane.apply(world.deployment_grid(removal={"gracePeriodSeconds": 0, "policy": "Retain"}))
    world.wait_children("grid-one")
    world.plane.kubectl("delete", "node", node)
    wait_for(lambda: "tkeedge.io/unit-gone-since" in _child(world)["metadata"]["annotations"], "the mark")
    world.wait_quiet()
    world.wait_children("grid-one")


def test_node_in_several_units(world: Any) -> None:
    """A node counts for every key that it carries, each with grids of its own."""
    other = f"test-{world.key}"
    world.node("a", "one", **{other: "a1"})
    world.plane.apply(world.deployment_grid(), world.deployment_grid("second", gridUniqKey=other))
    world.wait_children("grid-one", "second-a1")


def test_columns_of_kubectl_get(world: Any) -> None:
    """What `kubectl get dg` and `kubectl get sg` show."""
    _settled(world, "one", "two")
    lines = world.plane.kubectl("get", "dg", "-n", world.namespace).stdout.splitlines()
    assert lines[0].split() == ["NAME", "KEY", "UNITS", "READY", "AGE"]
    assert lines[1].split()[:4] == ["grid", world.key, "2", "0"]
    lines = world.plane.kubectl("get", "sg", "-n", world.namespace).stdout.splitlines()
    assert lines[0].split() == ["NAME", "KEY", "SERVICE", "UNITS", "SERVED", "READY", "AGE"]
    assert lines[1].split()[:6] == ["grid", world.key, "grid-svc", "2", "0", "True"]


def test_ready_units_are_counted(world: Any) -> None:
    """A unit is ready when its Deployment's pods are."""
    node = world.node("one", "one")
    world.plane.apply(world.deployment_grid())
    world.wait_children("grid-one")
    world.make_pods_ready(node)
    assert world.wait_condition("UnitsReady")["status"] == "True"
    world.wait_status({"units": 1, "updatedUnits": 1, "readyUnits": 1, "observedGeneration": 1})


def test_events_tell_what_was_done(world: Any, wait_for: Any) -> None:
    """`kubectl describe dg` says which children were made, and which failed."""
    _settled(world, "one")
    bad = world.deployment_grid("bad")
    bad["spec"]["template"]["replicas"] = -1
    world.plane.apply(bad)

    def reasons() -> set[tuple[str, str, str]]:
        events = world.plane.objects("events", world.namespace)
        return {(event["regarding"]["kind"], event["regarding"]["name"], event["reason"]) for event in events}

    wanted = {
        ("DeploymentGrid", "grid", "SuccessfulCreate"),
        ("ServiceGrid", "grid", "SuccessfulCreate"),
        ("DeploymentGrid", "bad", "FailedCreate"),
    }
    wait_for(lambda: reasons() >= wanted, f"{wanted}", dump=lambda: str(reasons()))
