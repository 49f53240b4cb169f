"""Pods that a quota refuses, on a real API server: every kind of grid says so, with the unit and the cause."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.cluster


def _no_pods(world: Any, wait_for: Any) -> None:
    """Allow no pods, by a quota of which the quota controller has taken stock, and which the API server minds."""
    hard = {"pods": "0"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota", "namespace": world.namespace}}
    world.plane.apply({**quota, "spec": {"hard": hard}})
    patch = json.dumps({"status": {"hard": hard, "used": {"pods": "0"}}})
    arguments = ("-n", world.namespace, "--subresource=status", "--type=merge", "-p", patch)
    world.plane.kubectl("patch", "resourcequota", "quota", *arguments)
    probe = ("run", "probe", "--image=web:1", "--dry-run=server", "-n", world.namespace)
    wait_for(lambda: "exceeded quota" in world.plane.kubectl(*probe, check=False).stderr, "the quota to be minded")


KINDS = {"DeploymentGrid": "dg", "StatefulSetGrid": "ssg", "DaemonSetGrid": "dsg"}


@pytest.mark.parametrize(("kind", "short"), KINDS.items())
def test_refused_pods_are_told(world: Any, wait_for: Any, kind: str, short: str) -> None:
    """The condition names the unit and has the API server's words; with room again all is well."""
    node = world.node("a", "one", status={"conditions": [{"type": "Ready", "status": "True"}]})
    # No node lifecycle controller takes the taint off that every new node has, and DaemonSets mind it.
    world.plane.kubectl("patch", "node", node, "--type=merge", "-p", json.dumps({"spec": {"taints": None}}))
    _no_pods(world, wait_for)
    world.plane.apply(world.workload_grid(kind))
    message = world.wait_condition("FailedCreate", type="Degraded", kind=short)["message"]
    assert message.startswith("unit one: ")
    assert "exceeded quota" in message
    world.plane.kubectl("delete", "resourcequota", "quota", "-n", world.namespace)
    world.make_pods_ready(node)
    world.wait_condition("AsExpected", type="Degraded", kind=short)
