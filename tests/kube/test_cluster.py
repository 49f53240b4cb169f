"""The kube package against a real etcd and kube-apiserver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
import pytest

from sitegrid.api.meta import ObjectMeta
from sitegrid.kube.backoff import Backoff
from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError
from sitegrid.kube.events import EventRecorder
from sitegrid.kube.leader import LeaderElection
from sitegrid.kube.reflector import Reflector
from sitegrid.kube.resources import CONFIGMAPS, CRDS, EVENTS, LEASES, Resource
from sitegrid.kube.store import Store

pytestmark = [pytest.mark.cluster]

Object = dict[str, Any]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


class Plane(Protocol):
    """The control plane of conftest."""

    def start_apiserver(self) -> None:
        """Start it."""

    def wait_until_ready(self) -> None:
        """Return when it serves."""

    def stop_apiserver(self) -> None:
        """Kill it."""


class Found(msgspec.Struct):
    """Any object, metadata only."""

    metadata: ObjectMeta


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


def crd(plural: str, kind: str) -> Object:
    """Return a CRD of group example.test that takes anything."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.test"},
        "spec": {
            "group": "example.test",
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    }


async def test_a_missing_resource_type_is_waited_for(cluster: Client, namespace: str, eventually: Eventually) -> None:
    """Without its CRD a resource is `missing`; once the CRD is there, its objects come."""
    widgets = Resource("example.test", "v1", "widgets", "Widget", True)
    store: Store[Object] = Store()
    reflector = Reflector(cluster, widgets, store, backoff=Backoff(initial=0.05, cap=0.2))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reflector.run())
        await eventually(lambda: reflector.missing)
        assert not reflector.synced.is_set()

        await cluster.apply(CRDS, crd("widgets", "Widget"), field_manager="test")
        await reflector.synced.wait()
        assert not reflector.missing
        widget = {
            "apiVersion": "example.test/v1",
            "kind": "Widget",
            "metadata": {"name": "w", "namespace": namespace},
        }
        await cluster.apply(widgets, widget, field_manager="test")
        await eventually(lambda: store.get(namespace, "w"))
        running.cancel()


async def test_an_expired_version_is_listed_anew(
    control_plane: Plane, cluster: Client, namespace: str, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """A real 410 (history from before the API server's start): what was missed is told, deletes included."""
    await cluster.create(CONFIGMAPS, configmap(namespace, "before"))
    store: Store[Object] = Store()
    reflector = Reflector(cluster, CONFIGMAPS, store, namespace=namespace, backoff=Backoff(initial=0.05, cap=0.2))
    first = asyncio.create_task(reflector.run())
    await reflector.synced.wait()
    first.cancel()
    await asyncio.wait([first])
    changes: list[tuple[bool, bool]] = []
    store.add_handler(lambda old, new: changes.append((old is not None, new is not None)))
    changes.clear()

    await cluster.delete(CONFIGMAPS, "before", namespace)
    await cluster.create(CONFIGMAPS, configmap(namespace, "during"))
    control_plane.stop_apiserver()
    control_plane.start_apiserver()
    await asyncio.to_thread(control_plane.wait_until_ready)
    with caplog.at_level("INFO", "sitegrid.kube.reflector"):
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(reflector.run())
            await eventually(lambda: reflector.lists == 2)
            running.cancel()
    assert "410 Expired" in caplog.text
    assert changes == [(True, False), (False, True)]


async def test_a_large_collection_is_the_same_in_pages_and_streamed(cluster: Client, namespace: str) -> None:
    """Pages, one big list and a streaming list agree, for dicts and for typed objects."""
    names = [f"n{number:03}" for number in range(60)]
    padding = "x" * 20_000
    await asyncio.gather(*(cluster.create(CONFIGMAPS, configmap(namespace, name, p=padding)) for name in names))
    paged = await cluster.list(CONFIGMAPS, namespace, limit=7)
    whole = await cluster.list(CONFIGMAPS, namespace, limit=0)
    assert [item["metadata"]["name"] for item in paged.items] == names
    assert paged.items == whole.items
    assert paged.items[0]["kind"] == "ConfigMap"

    store: Store[Found] = Store()
    reflector = Reflector(cluster, CONFIGMAPS, store, namespace=namespace, object_type=Found)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reflector.run())
        await reflector.synced.wait()
        assert sorted(found.metadata.name for found in store.list()) == names
        running.cancel()


async def test_a_restarted_api_server_is_followed(
    control_plane: Plane, cluster: Client, namespace: str, eventually: Eventually
) -> None:
    """Killed and started again, it is watched again without a relist being told as changes, and nothing is missed."""
    store: Store[Object] = Store()
    await cluster.create(CONFIGMAPS, configmap(namespace, "before"))
    reflector = Reflector(cluster, CONFIGMAPS, store, namespace=namespace, backoff=Backoff(initial=0.05, cap=0.5))
    changes: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reflector.run())
        await reflector.synced.wait()
        store.add_handler(lambda old, new: changes.append(((new or old) or {})["metadata"]["name"]))
        changes.clear()
        control_plane.stop_apiserver()
        control_plane.start_apiserver()
        await asyncio.to_thread(control_plane.wait_until_ready)
        await cluster.create(CONFIGMAPS, configmap(namespace, "after"))
        await eventually(lambda: store.get(namespace, "after"))
        running.cancel()
    assert changes == ["after"]


async def test_the_lease_passes_from_one_to_the_other(cluster: Client, namespace: str) -> None:
    """The API server accepts every write of an election: create, renew, release, take over."""
    leads: list[str] = []

    async def candidate(identity: str, started: asyncio.Event) -> None:
        async def lead() -> None:
            leads.append(identity)
            started.set()
            await asyncio.Event().wait()

        await LeaderElection(
            cluster,
            namespace=namespace,
            name="lease",
            identity=identity,
            lease_duration=30,
            renew_deadline=20,
            retry_period=0.1,
        ).run(lead)

    one_leads, two_leads = asyncio.Event(), asyncio.Event()
    one = asyncio.create_task(candidate("one", one_leads))
    await one_leads.wait()
    two = asyncio.create_task(candidate("two", two_leads))
    renewals: set[str] = set()
    while len(renewals) < 3:
        renewals.add((await cluster.get(LEASES, "lease", namespace))["spec"]["renewTime"])
        await asyncio.sleep(0.01)
    assert leads == ["one"]
    one.cancel()
    await two_leads.wait()
    spec = (await cluster.get(LEASES, "lease", namespace))["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("two", 1)
    two.cancel()
    await asyncio.wait([one, two])
    assert (await cluster.get(LEASES, "lease", namespace))["spec"]["holderIdentity"] == ""


async def test_the_api_accepts_our_events(cluster: Client, namespace: str) -> None:
    """An event and its repetition arrive as one Event with a series."""
    regarding = await cluster.create(CONFIGMAPS, configmap(namespace, "c" * 253))
    recorder = EventRecorder(cluster, component="sitegrid.test/test", instance="one")
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(recorder.run())
        for _ in range(2):
            recorder.event(regarding, type="Warning", reason="Tested", action="Test", note="é" * 1024)
        found: list[Object] = []
        while not (found and found[0].get("series")):
            found = (await cluster.list(EVENTS, namespace)).items
            await asyncio.sleep(0.01)
        running.cancel()
    assert recorder.dropped == 0
    assert len(found) == 1
    assert found[0]["series"]["count"] == 2
    assert found[0]["regarding"]["uid"] == regarding["metadata"]["uid"]


async def test_refusals_are_told_apart(cluster: Client, namespace: str) -> None:
    """The real API server's answers have the properties that callers ask for."""
    await cluster.apply(CONFIGMAPS, configmap(namespace, "mine", a="1"), field_manager="one")
    with pytest.raises(ApiError) as exists:
        await cluster.create(CONFIGMAPS, configmap(namespace, "mine"))
    assert exists.value.already_exists
    with pytest.raises(ApiError) as conflict:
        await cluster.apply(CONFIGMAPS, configmap(namespace, "mine", a="2"), field_manager="two")
    assert conflict.value.conflict
    with pytest.raises(ApiError) as invalid:
        await cluster.create(CONFIGMAPS, configmap(namespace, "Not_A_Name"))
    assert invalid.value.invalid
    with pytest.raises(ApiError) as precondition:
        await cluster.delete(CONFIGMAPS, "mine", namespace, uid="another")
    assert precondition.value.conflict
    dry = await cluster.apply(
        CONFIGMAPS, configmap(namespace, "mine", a="3"), field_manager="two", force=True, dry_run=True
    )
    assert dry["data"] == {"a": "3"}
    assert (await cluster.get(CONFIGMAPS, "mine", namespace))["data"] == {"a": "1"}
