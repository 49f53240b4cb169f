"""Host names of endpoints, read from pods: few reads, and none left out."""

from __future__ import annotations

import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.controller.podnames import MANY, PodNames
from sitegrid.controller.queues import ServiceKey
from sitegrid.grid.observed import Endpoint, EndpointSlice, ObjectReference
from tests.support.fakeapi import NAMESPACE, FakeApi, Manifest

SERVICE = ServiceKey(NAMESPACE, "web")
ENDINGS = "bcdfghjklmnpqrstvwxz"


def _pods(owner: str, count: int) -> list[Manifest]:
    """Return pods with names as Kubernetes generates them; of a Deployment they have one host name."""
    labels = {"app": "web", **({"pod-template-hash": "5d9c"} if owner == "ReplicaSet" else {})}
    found = []
    for number in range(count):
        name = f"web-bcd{ENDINGS[number // 20]}{ENDINGS[number % 20]}"
        meta: Manifest = {"name": name, "namespace": NAMESPACE, "uid": name, "labels": labels}
        meta["ownerReferences"] = [{"kind": owner, "name": "web", "controller": True}]
        hostname = "same" if owner == "ReplicaSet" else f"host-{number}"
        found.append({"metadata": meta, "spec": {"hostname": hostname, "subdomain": "web"}})
    return found


@pytest.mark.parametrize(
    ("owner", "count", "reads"),
    [("ReplicaSet", 20, 1), ("DaemonSet", 1, 1), ("DaemonSet", 20, 20), ("Job", MANY + 2, 2)],
)
async def test_every_pod_is_known_after_one_pass(owner: str, count: int, reads: int) -> None:
    """One of a Deployment's pods says what all are called; of others each does, and many are listed together."""
    api, pods = FakeApi(), _pods(owner, count)
    for pod in pods:
        api.put("pods", pod)
    endpoints = [
        Endpoint(addresses=[f"10.0.0.{number}"], target_ref=ObjectReference(kind="Pod", name=name, uid=name))
        for number, name in enumerate(pod["metadata"]["name"] for pod in pods)
    ]
    names, items = PodNames(api), [EndpointSlice(metadata=ObjectMeta(name="s"), endpoints=endpoints)]
    await names.learn(SERVICE, {"app": "web"}, items)
    (item,) = names.get(SERVICE).named(items)
    assert [endpoint.hostname for endpoint in item.endpoints or ()] == [pod["spec"]["hostname"] for pod in pods]
    assert len(api.lists) == reads
