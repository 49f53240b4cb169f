"""One pod's life with a fake API server and without networks; `test_kubelet_cluster.py` has it with both."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from sitegrid.kube.backoff import Backoff
from sitegrid.kube.client import Client
from sitegrid.kube.errors import Unreachable
from sitegrid.lab.kubelet import containers, network, record
from sitegrid.lab.kubelet import worker as worker_module
from sitegrid.lab.kubelet.addresses import AddressPool
from sitegrid.lab.kubelet.sandbox import DnsSettings
from sitegrid.lab.kubelet.worker import Host, PodWorker


class FakeApi:
    """Holds one pod; tells the worker of its own writes as the watch would."""

    def __init__(self, **spec: Any) -> None:
        metadata = {"namespace": "n", "name": "p", "uid": "u", "resourceVersion": "1"}
        self.pod: dict[str, Any] = {
            "metadata": metadata,
            "spec": {"containers": [{"name": "c"}], **spec},
            "status": {},
        }
        self.worker: PodWorker | None = None
        self.unreachable = False
        self.refused = 0
        self.deletes: list[dict[str, Any]] = []
        self.ready: list[str] = []
        self._changed = asyncio.Event()

    def _store(self, **changes: Any) -> dict[str, Any]:
        version = str(int(self.pod["metadata"]["resourceVersion"]) + 1)
        self.pod = {**self.pod, **changes}
        self.pod["metadata"] = {**self.pod["metadata"], "resourceVersion": version}
        self._changed.set()
        return self.pod

    def mark_deleted(self, **metadata: Any) -> None:
        """Do what a DELETE with a grace period does."""
        self._store(metadata={**self.pod["metadata"], "deletionTimestamp": "t", **metadata})
        if self.worker is not None:
            self.worker.update(self.pod)

    def _reach(self) -> None:
        if self.unreachable:
            self.refused += 1
            self._changed.set()
            raise Unreachable("cut")

    async def patch(self, _resource: object, _name: str, patch: dict[str, Any], *_: Any, **__: Any) -> Any:
        """Take a status."""
        self._reach()
        conditions = {c["type"]: c["status"] for c in patch["status"]["conditions"]}
        self.ready.append(conditions["Ready"])
        return self._store(status={**self.pod["status"], **patch["status"]})

    async def delete(self, _resource: object, _name: str, _namespace: str, **options: Any) -> None:
        """Delete for good."""
        self._reach()
        self.deletes.append(options)
        assert self.worker is not None
        self.worker.gone()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a write, or an attempt at one, makes `condition` true."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()


class Bench:
    """Runs workers of one host."""

    def __init__(self, directory: Path, addresses: AddressPool) -> None:
        self.directory = directory
        self.addresses = addresses
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, api: FakeApi) -> asyncio.Task[None]:
        """Start a worker of the API's pod, with the record on disk if there is one."""
        host = Host(
            node_name="x",
            node_ip="127.0.0.1",
            dns=DnsSettings("169.254.20.10", "cluster.local"),
            pods_dir=self.directory,
            labels_file=self.directory / "labels",
            addresses=self.addresses,
            client=cast(Client, api),
        )
        api.worker = PodWorker(host, api.pod, record.load(host.directory(api.pod)))
        task = asyncio.create_task(api.worker.run())
        self.tasks.append(task)
        return task

    async def stop(self) -> None:
        """End the workers as the kubelet's end does."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Return a bench; containers that are left at the end are killed."""
    found = Bench(tmp_path, AddressPool("10.244.1.0/30"))
    yield found
    await found.stop()
    for directory in tmp_path.iterdir():
        left = record.load(directory) if directory.is_dir() else None
        for container in left.containers.values() if left else ():
            process = containers.take_over(container.pid, container.start_ticks)
            if process is not None:
                await process.stop(0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace networks by a list of what would have been done; containers start in the caller's namespace."""
    done: list[str] = []
    monkeypatch.setattr(network, "exists", lambda uid: "create" in done[-1:])
    monkeypatch.setattr(network, "create", lambda *_: done.append("create"))
    monkeypatch.setattr(network, "remove", lambda _: done.append("remove"))
    monkeypatch.setattr(worker_module, "responder_argv", lambda config, _: containers.responder_argv(config, None))
    return done


def is_ready(api: FakeApi) -> bool:
    """Tell whether the last status that was written is Ready."""
    return api.ready[-1:] == ["True"]


async def test_life_of_a_pod(bench: Bench, no_network: list[str]) -> None:
    """It gets ready; deleted it is not ready at once, ends, and is removed by uid with its directory."""
    api = FakeApi()
    task = bench.start(api)
    await api.until(lambda: is_ready(api))
    assert api.pod["status"]["podIP"] == "10.244.1.2"
    api.mark_deleted(deletionGracePeriodSeconds=30)
    await task
    assert api.ready[-1] == "False"
    assert api.pod["status"]["phase"] == "Succeeded"
    assert api.deletes == [{"uid": "u", "grace_period_seconds": 0}]
    assert no_network == ["create", "remove"]
    assert [*bench.directory.iterdir()] == []


async def test_restarted_kubelet_writes_nothing(bench: Bench, no_network: list[str]) -> None:
    """The next worker takes everything over: no new network, no new process, no status write (I7, I8)."""
    api = FakeApi()
    bench.start(api)
    await api.until(lambda: is_ready(api))
    await bench.stop()
    before, version = api.pod["status"], api.pod["metadata"]["resourceVersion"]
    bench.start(api)
    second = FakeApi()  # a pod that starts after the takeover: when it is ready, the first would have been written
    second.pod["metadata"]["name"] = "q"
    second.pod["spec"]["hostNetwork"] = True
    bench.start(second)
    await second.until(lambda: is_ready(second))
    assert (api.pod["status"], api.pod["metadata"]["resourceVersion"]) == (before, version)
    assert no_network == ["create"]


async def test_pod_deleted_before_it_ran_is_not_set_up(bench: Bench, no_network: list[str]) -> None:
    """A pod that is first seen with a deletion timestamp is only removed."""
    api = FakeApi()
    api.mark_deleted()
    await bench.start(api)
    assert (no_network, len(api.deletes), api.ready) == ([], 1, [])


async def test_finished_pod_is_left_as_it_is(bench: Bench, no_network: list[str]) -> None:
    """A pod with a terminal phase gets no process after a kubelet's restart, and its status is not touched."""
    api = FakeApi()
    api.pod["status"] = {"phase": "Succeeded"}
    task = bench.start(api)
    api.mark_deleted()
    await task
    assert (no_network, api.ready) == ([], [])


async def test_pod_gone_from_the_api_ends_without_a_word(bench: Bench, no_network: list[str]) -> None:
    """A pod that was removed by force is torn down; nothing is written any more."""
    api = FakeApi()
    task = bench.start(api)
    await api.until(lambda: is_ready(api))
    writes = len(api.ready)
    assert api.worker is not None
    api.worker.gone()
    await task
    assert (len(api.ready), api.deletes, no_network) == (writes, [], ["create", "remove"])


async def test_unreachable_api_server(bench: Bench, no_network: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Status and deletion are tried until they are taken."""
    monkeypatch.setattr(Backoff, "next", lambda *_: 0.0)
    api = FakeApi()
    api.unreachable = True
    task = bench.start(api)
    await api.until(lambda: api.refused > 3)
    api.unreachable = False
    await api.until(lambda: is_ready(api))
    api.unreachable = True
    api.mark_deleted()
    refused = api.refused
    await api.until(lambda: api.refused > refused + 3 and no_network[-1] == "remove")
    api.unreachable = False
    await task
    assert len(api.deletes) == 1


async def test_pod_waits_for_a_free_address(
    bench: Bench, no_network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no address left a pod waits, and runs when one is freed."""
    only = bench.addresses.allocate()
    asked = asyncio.Event()

    def no_delay(_backoff: Backoff, _now: float) -> float:
        asked.set()
        return 0.0

    monkeypatch.setattr(Backoff, "next", no_delay)
    api = FakeApi()
    bench.start(api)
    await asked.wait()
    assert no_network == []
    bench.addresses.release(only)
    await api.until(lambda: is_ready(api))
    assert api.pod["status"]["podIP"] == only


async def test_address_is_free_after_the_end(bench: Bench, no_network: list[str]) -> None:
    """A pod that is gone gives its address back."""
    api = FakeApi()
    task = bench.start(api)
    await api.until(lambda: is_ready(api))
    api.mark_deleted()
    await task
    assert bench.addresses.allocate() == "10.244.1.2"


async def test_sidecar_ends_with_the_others(bench: Bench, no_network: list[str]) -> None:
    """When the own containers have ended for good, sidecars are ended and the pod has its terminal phase."""
    sidecar = {"name": "s", "restartPolicy": "Always"}
    api = FakeApi(initContainers=[sidecar], restartPolicy="Never")
    bench.start(api)
    await api.until(lambda: is_ready(api))
    status = api.pod["status"]["containerStatuses"][0]
    pid, ticks = status["containerID"].removeprefix("responder://").split("-")
    process = containers.take_over(int(pid), int(ticks))
    assert process is not None
    process.signal(signal.SIGTERM)
    process.forget()
    await api.until(lambda: api.pod["status"]["phase"] == "Succeeded")
    assert "terminated" in api.pod["status"]["initContainerStatuses"][0]["state"]
