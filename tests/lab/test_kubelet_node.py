"""The Node object: labels, status, when it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError
from sitegrid.lab.kubelet import node
from sitegrid.lab.kubelet.node import NodeAgent

T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("zone", True),
        ("example.com/zone", True),
        ("notkubernetes.io/zone", True),
        ("topology.kubernetes.io/zone", True),
        ("sub.node.kubernetes.io/x", True),
        ("node-role.kubernetes.io/edge", False),
        ("kubernetes.io/role", False),
        ("node-restriction.kubernetes.io/x", False),
    ],
)
def test_labels_that_a_kubelet_may_set(key: str, allowed: bool) -> None:
    """NodeRestriction refuses labels of Kubernetes' own domains but for a few."""
    assert node.may_set(key) is allowed


def test_transition_times_stay() -> None:
    """A heartbeat renews its own time only."""
    before = node.node_status("x", "1.2.3.4", {}, T0)
    after = node.node_status("x", "1.2.3.4", before, T1)
    assert {c["lastTransitionTime"] for c in after["conditions"]} == {T0}
    assert {c["lastHeartbeatTime"] for c in after["conditions"]} == {T1}


def test_foreign_conditions_stay() -> None:
    """Conditions of others are kept."""
    foreign = {"type": "NetworkUnavailable", "status": "False"}
    assert foreign in node.node_status("x", "1.2.3.4", {"conditions": [foreign]}, T0)["conditions"]


class FakeClient:
    """Answers with one Node and records what is written."""

    def __init__(self, existing: dict[str, Any] | None = None) -> None:
        self.existing = existing
        self.created: list[dict[str, Any]] = []
        self.patches: list[dict[str, Any]] = []

    async def create(self, _resource: object, obj: dict[str, Any]) -> dict[str, Any]:
        """Create, or refuse because it exists."""
        if self.existing is not None:
            raise ApiError(409, "AlreadyExists")
        self.created.append(obj)
        return obj

    async def get(self, *_: object) -> dict[str, Any]:
        """Return the Node that exists."""
        assert self.existing is not None
        return self.existing

    async def patch(self, _resource: object, _name: str, patch: dict[str, Any], **_: object) -> dict[str, Any]:
        """Record a patch."""
        self.patches.append(patch)
        return patch


def agent(client: FakeClient, directory: Path, **labels: str) -> NodeAgent:
    """Return the agent of node ``x``."""
    return NodeAgent(
        cast(Client, client),
        name="x",
        labels=labels,
        node_ip="1.2.3.4",
        pod_cidr="10.244.1.0/24",
        labels_file=directory / "labels",
    )


def existing(**labels: str) -> dict[str, Any]:
    """Return a Node as an earlier kubelet left it."""
    status = node.node_status("x", "1.2.3.4", {}, T0)
    spec = {"podCIDR": "10.244.1.0/24"}
    return {"metadata": {"name": "x", "labels": {**node.own_labels("x"), **labels}}, "spec": spec, "status": status}


async def test_new_node_has_the_given_labels(tmp_path: Path) -> None:
    """A Node is created with its labels, except those that would make the API server refuse it."""
    client = FakeClient()
    await agent(client, tmp_path, zone="a", **{"node-role.kubernetes.io/edge": ""})._register()
    labels = client.created[0]["metadata"]["labels"]
    assert labels == {"zone": "a", **node.own_labels("x")}


async def test_existing_node_keeps_its_labels(tmp_path: Path) -> None:
    """A Node that exists gets its status and no label of the command line."""
    client = FakeClient(existing(zone="users"))
    await agent(client, tmp_path, zone="a")._register()
    assert [[*patch] for patch in client.patches] == [["status"]]


async def test_existing_bare_node_gets_what_a_kubelet_sets(tmp_path: Path) -> None:
    """A Node made by hand gets the kubelet's own labels and its pod CIDR."""
    client = FakeClient({"metadata": {"name": "x"}, "spec": {}})
    await agent(client, tmp_path, zone="a")._register()
    assert client.patches[0]["metadata"]["labels"] == node.own_labels("x")
    assert client.patches[0]["spec"]["podCIDR"] == "10.244.1.0/24"


@pytest.mark.parametrize(
    ("kind", "value", "wrong"),
    [("Ready", "Unknown", True), ("Ready", "True", False), ("NetworkUnavailable", "False", False)],
)
def test_when_status_is_wrong(tmp_path: Path, kind: str, value: str, wrong: bool) -> None:
    """What a node controller writes about a lost node is wrong; others' conditions and heartbeats are not."""
    present = existing()
    rest = [c for c in present["status"]["conditions"] if c["type"] != kind]
    ours = [c for c in present["status"]["conditions"] if c["type"] == kind] or [{"type": kind}]
    present["status"]["conditions"] = [*rest, {**ours[0], "status": value, "lastHeartbeatTime": T1}]
    if not wrong and kind == "Ready":
        present["status"]["conditions"][-1]["reason"] = "KubeletReady"
    found = agent(FakeClient(), tmp_path)
    found._store.set(present)
    assert found._is_wrong() is wrong


async def test_labels_file_follows_the_node(tmp_path: Path) -> None:
    """The responders' file has the Node's labels of now."""
    found = agent(FakeClient(), tmp_path)
    found._observe(None, existing(zone="b"))
    assert json.loads((tmp_path / "labels").read_text()) == {"zone": "b", **node.own_labels("x")}


async def test_api_server_that_does_not_know_declared_features(tmp_path: Path) -> None:
    """An older one drops the field: the status is not written again and again for it."""
    present = existing()
    del present["status"]["declaredFeatures"]
    found = agent(FakeClient(), tmp_path)
    found._store.set(present)
    assert not found._is_wrong()
