"""The kube package against a real etcd and kube-apiserver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError
from sitegrid.kube.reflector import Reflector
from sitegrid.kube.resources import CONFIGMAPS, Resource
from sitegrid.kube.store import Store

pytestmark = [pytest.mark.cluster]

Object = dict[str, Any]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


def configmap(namespace: str, name: str, **data: str) -> Object:
    """Return a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


async def test_an_object_can_be_created_read_changed_and_deleted(cluster: Client, namespace: str) -> None:
    """Every verb of the client is understood by the real API server."""
    await cluster.create(CONFIGMAPS, configmap(namespace, "one", a="1"), field_manager="test")
    await cluster.apply(CONFIGMAPS, configmap(namespace, "one", b="2"), field_manager="other")
    await cluster.patch(CONFIGMAPS, "one", {"data": {"c": "3"}}, namespace)
    found = await cluster.get(CONFIGMAPS, "one", namespace)
    assert found["data"] == {"a": "1", "b": "2", "c": "3"}

    await cluster.replace(CONFIGMAPS, {**found, "data": {"d": "4"}})
    with pytest.raises(ApiError) as stale:
        await cluster.replace(CONFIGMAPS, found)
    assert stale.value.conflict

    await cluster.delete(CONFIGMAPS, "one", namespace, uid=found["metadata"]["uid"])
    with pytest.raises(ApiError) as gone:
        await cluster.get(CONFIGMAPS, "one", namespace)
    assert gone.value.not_found


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_reflector_follows_the_server(
    cluster: Client, namespace: str, streaming: bool, eventually: Eventually
) -> None:
    """Objects from before, additions, changes and deletions all reach the store, with streaming lists and without."""
    await cluster.create(CONFIGMAPS, configmap(namespace, "before"))
    store: Store[Object] = Store()
    reflector = Reflector(cluster, CONFIGMAPS, store, namespace=namespace, streaming=streaming)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reflector.run())
        await reflector.synced.wait()
        assert store.keys() == [(namespace, "before")]

        await cluster.create(CONFIGMAPS, configmap(namespace, "live", v="1"))
        await eventually(lambda: store.get(namespace, "live"))
        await cluster.patch(CONFIGMAPS, "live", {"data": {"v": "2"}}, namespace)
        await eventually(lambda: (store.get(namespace, "live") or {})["data"] == {"v": "2"})
        await cluster.delete(CONFIGMAPS, "before", namespace)
        await eventually(lambda: store.get(namespace, "before") is None)
        assert reflector.lists == 1
        running.cancel()


async def test_a_missing_resource_type_is_reported(cluster: Client, eventually: Eventually) -> None:
    """Without its CRD a resource is `missing`, and the reflector goes on asking."""
    widgets = Resource("example.test", "v1", "widgets", "Widget", True)
    store: Store[Object] = Store()
    reflector = Reflector(cluster, widgets, store)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reflector.run())
        await eventually(lambda: reflector.missing)
        assert not reflector.synced.is_set()
        running.cancel()
