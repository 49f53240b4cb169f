"""Which pods are read for their host names: as few as can be, and none at rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.controller.podnames import MANY, PodNames
from sitegrid.controller.queues import ServiceKey
from sitegrid.grid.observed import Endpoint, EndpointSlice, ObjectReference
from sitegrid.kube.errors import ApiError
from tests.support.fakeapi import NAMESPACE, FakeApi

KEY = ServiceKey(NAMESPACE, "web")
SELECTOR = {"app": "web", "tier": "front"}
REPLICA_SET = ("ReplicaSet", "web-7d4b9")


def _slice(*names: str) -> EndpointSlice:
    """Return a slice with the endpoints of pods, whose uids follow from their names."""
    refs = [ObjectReference(kind="Pod", namespace=NAMESPACE, name=name, uid=f"uid-{name}") for name in names]
    endpoints = [Endpoint(addresses=[f"10.0.0.{number}"], target_ref=ref) for number, ref in enumerate(refs)]
    return EndpointSlice(metadata=ObjectMeta(name="web-sites-x"), address_type="IPv4", endpoints=endpoints)


def _pods(api: FakeApi, names: Iterable[str], owner: tuple[str, str] | None = None, **spec: str) -> None:
    for name in names:
        labels = {**SELECTOR, "pod-template-hash": "7d4b9"}
        owners = [{"kind": owner[0], "name": owner[1], "uid": "o", "controller": True}] if owner else []
        metadata = {"name": name, "uid": f"uid-{name}", "labels": labels, "ownerReferences": owners}
        api.put("pods", {"metadata": metadata, "spec": spec})


def _named(names: PodNames, item: EndpointSlice) -> list[str | None]:
    (shown,) = names.get(KEY).named([item])
    return [endpoint.hostname for endpoint in shown.endpoints or ()]


def _generated(stem: str, count: int) -> list[str]:
    letters = "bcdfghjklm"
    return [f"{stem}-bbb{letters[number // 10]}{letters[number % 10]}" for number in range(count)]


@pytest.fixture
def api() -> FakeApi:
    """An API server."""
    return FakeApi()


async def test_one_pod_of_a_replica_set_answers_for_all(api: FakeApi) -> None:
    """However many it has, and also for those that come later; at rest nothing is read."""
    pods = _generated("web-7d4b9", 20)
    _pods(api, pods, REPLICA_SET, hostname="front", subdomain="web")
    names = PodNames(api)
    await names.learn(KEY, SELECTOR, [_slice(*pods[:19])])
    assert api.lists == [f"pods {pods[0]}"]
    await names.learn(KEY, SELECTOR, [_slice(*pods)])
    assert len(api.lists) == 1
    assert _named(names, _slice(*pods)) == ["front"] * 20


@pytest.mark.parametrize("owner", [("DaemonSet", "web"), ("ReplicaSet", "other"), None])
async def test_pods_with_like_names_are_read_each(api: FakeApi, owner: tuple[str, str] | None) -> None:
    """A DaemonSet's name says nothing of its pods' revision: all are known after one pass, each read once."""
    pods = _generated("web", 5)
    for number, name in enumerate(pods):
        _pods(api, [name], owner, hostname=f"h{number}", subdomain="web")
    names = PodNames(api)
    await names.learn(KEY, SELECTOR, [_slice(*pods)])
    assert sorted(api.lists) == [f"pods {name}" for name in pods]
    assert _named(names, _slice(*pods)) == [f"h{number}" for number in range(5)]
    await names.learn(KEY, SELECTOR, [_slice(*pods)])
    assert len(api.lists) == 5


async def test_a_pod_that_is_gone_answers_for_nobody(api: FakeApi) -> None:
    """The others of its ReplicaSet are asked then, in the same pass."""
    pods = _generated("web-7d4b9", 3)
    _pods(api, pods[1:], REPLICA_SET, hostname="front", subdomain="web")
    names = PodNames(api)
    await names.learn(KEY, SELECTOR, [_slice(*pods)])
    assert _named(names, _slice(*pods)) == ["front"] * 3


async def test_many_pods_are_listed(api: FakeApi) -> None:
    """By all of the selector's labels: one request, whatever their number."""
    pods = [f"web-{number}" for number in range(MANY + 1)]
    _pods(api, pods, ("StatefulSet", "web"), hostname="h", subdomain="web")
    names = PodNames(api)
    await names.learn(KEY, SELECTOR, [_slice(*pods)])
    assert api.lists == ["pods app=web,tier=front"]
    assert _named(names, _slice(*pods)) == ["h"] * len(pods)


async def test_what_is_gone_is_forgotten(api: FakeApi) -> None:
    """A pod with its endpoint, and all with the Service: memory does not grow, and what comes again is read again."""
    _pods(api, ["web-0", "web-1"], ("StatefulSet", "web"), hostname="h", subdomain="web")
    names = PodNames(api)
    await names.learn(KEY, SELECTOR, [_slice("web-0", "web-1")])
    await names.learn(KEY, SELECTOR, [_slice("web-1")])
    assert names.get(KEY).pods == {"uid-web-1": "h"}
    names.forget(KEY)
    assert names.get(KEY).pods == {}
    await names.learn(KEY, SELECTOR, [_slice("web-1")])
    assert api.lists.count("pods web-1") == 2


async def test_a_read_that_fails_is_made_again(api: FakeApi) -> None:
    """It fails the pass; what other reads told is known, and the next pass asks for the rest."""
    _pods(api, ["web-0"], ("StatefulSet", "web"), hostname="h", subdomain="web")
    names = PodNames(api)
    api.refuse = lambda verb, name: ApiError(500, "InternalError", "etcd") if verb == "list" else None
    with pytest.raises(ApiError):
        await names.learn(KEY, SELECTOR, [_slice("web-0")])
    api.refuse = lambda verb, name: None
    await names.learn(KEY, SELECTOR, [_slice("web-0")])
    assert _named(names, _slice("web-0")) == ["h"]


async def test_a_pass_whose_read_fails_is_tried_again(scene: Any, new_controller: Any, endpoints: Any) -> None:
    """And writes no slice without the host name meanwhile."""
    scene.node("a", "one")
    scene.grids()
    controller = new_controller(scene)
    controller.sync()
    await controller.one_pass()
    endpoints(scene.api)
    item = scene.api.of("endpointslices")["web-svc-sites-abcde"]
    ref = {"kind": "Pod", "namespace": NAMESPACE, "name": "web-0", "uid": "uid-web-0"}
    scene.api.put("endpointslices", {**item, "endpoints": [{**item["endpoints"][0], "targetRef": ref}]})
    _pods(scene.api, ["web-0"], ("StatefulSet", "web"), hostname="web-0", subdomain="web-svc")
    scene.api.refuse = lambda verb, name: ApiError(500, "InternalError", "etcd") if verb == "list" else None
    controller.sync()
    with pytest.raises(ApiError):
        await controller.slices.reconcile(ServiceKey(NAMESPACE, "web-svc"))
    scene.api.refuse = lambda verb, name: None
    await controller.slices.reconcile(ServiceKey(NAMESPACE, "web-svc"))
    (found,) = (item for name, item in scene.api.of("endpointslices").items() if name.startswith("web-svc-one"))
    assert [endpoint.get("hostname") for endpoint in found["endpoints"]] == ["web-0"]
