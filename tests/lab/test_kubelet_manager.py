"""Which pods get a worker, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from sitegrid.kube.client import Client
from sitegrid.kube.store import Store
from sitegrid.lab.kubelet import manager as manager_module
from sitegrid.lab.kubelet import network
from sitegrid.lab.kubelet.addresses import AddressPool
from sitegrid.lab.kubelet.manager import PodManager
from sitegrid.lab.kubelet.record import PodRecord
from sitegrid.lab.kubelet.sandbox import DnsSettings
from sitegrid.lab.kubelet.worker import Host, PodWorker


def pod(name: str, uid: str, version: str = "1") -> dict[str, Any]:
    """Return a pod object."""
    return {"metadata": {"namespace": "n", "name": name, "uid": uid, "resourceVersion": version}, "spec": {}}


class FakeWorker:
    """Notes what it is told and ends when the test says so."""

    def __init__(self, _host: Host, of: dict[str, Any], record: PodRecord | None) -> None:
        self.uid = of["metadata"]["uid"]
        self.record = record
        self.calls: list[str] = []
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def update(self, of: dict[str, Any]) -> None:
        """Note a new version."""
        self.calls.append(f"update {of['metadata']['resourceVersion']}")

    def gone(self) -> None:
        """Note the end."""
        self.calls.append("gone")

    async def run(self) -> None:
        """Wait until the test ends it, with or without fault."""
        await self.end


class Bench:
    """A manager with fake workers and a store that the test fills."""

    def __init__(self, directory: Path) -> None:
        self.workers: list[FakeWorker] = []
        self.made = asyncio.Event()
        self.host = Host(
            node_name="x",
            node_ip="172.30.0.1",
            dns=DnsSettings("169.254.20.10", "cluster.local"),
            pods_dir=directory,
            labels_file=directory / "labels",
            addresses=AddressPool("10.244.1.0/24"),
            client=cast(Client, None),
        )
        self.manager = PodManager(self.host, self._make)

    @property
    def store(self) -> Store[dict[str, Any]]:
        """The manager's store."""
        return self.manager._store

    def start(self) -> None:
        """Do what `PodManager.run` does before the API server answers."""
        self.manager._take_over()
        self.store.add_handler(self.manager._observe)

    def _make(self, host: Host, of: dict[str, Any], record: PodRecord | None) -> PodWorker:
        worker = FakeWorker(host, of, record)
        self.workers.append(worker)
        self.made.set()
        return cast(PodWorker, worker)

    async def until_made(self) -> FakeWorker:
        """Wait for the next worker."""
        self.made.clear()
        await self.made.wait()
        return self.workers[-1]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Return a bench whose workers are all ended afterwards."""
    found = Bench(tmp_path)
    yield found
    for task in found.manager._tasks:
        task.cancel()
    await asyncio.gather(*found.manager._tasks, return_exceptions=True)


def save(directory: Path, of: dict[str, Any], address: str) -> None:
    """Write the record that an earlier kubelet left."""
    place = directory / f"n_{of['metadata']['name']}"
    place.mkdir()
    PodRecord(pod=of, address=address, started_at="t").save(place)


async def test_worker_per_pod(bench: Bench) -> None:
    """A pod in the watch gets a worker, which is told of changes and of the end."""
    bench.start()
    bench.store.set(pod("p", "u"))
    bench.store.set(pod("p", "u", "2"))
    bench.store.delete(pod("p", "u", "3"))
    assert [worker.calls for worker in bench.workers] == [["update 2", "gone"]]


async def test_namesake_waits_for_the_end(bench: Bench) -> None:
    """A pod made again under its name gets its worker when the former one has ended."""
    bench.start()
    bench.store.set(pod("p", "u1"))
    bench.store.set(pod("p", "u2", "2"))
    assert [worker.uid for worker in bench.workers] == ["u1"]
    assert bench.workers[0].calls[0] == "gone"
    bench.workers[0].end.set_result(None)
    assert (await bench.until_made()).uid == "u2"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the uids of pods whose network is there: those that survived."""
    found: set[str] = set()
    monkeypatch.setattr(network, "exists", lambda uid: uid in found)
    return found


async def test_what_runs_is_taken_over_before_the_api_server_answers(bench: Bench, runs: set[str]) -> None:
    """Pods on disk that still run are gone on with at once, and their addresses are in use."""
    runs.add("u")
    save(bench.host.pods_dir, pod("p", "u"), "10.244.1.2")
    bench.start()
    assert bench.workers[0].record is not None
    assert bench.host.addresses.allocate() != "10.244.1.2"


async def test_after_a_reboot_pods_wait_for_the_api_server(bench: Bench, runs: set[str]) -> None:
    """A pod on disk of which nothing runs starts when it is named, from its record; its address is kept for it."""
    save(bench.host.pods_dir, pod("p", "u"), "10.244.1.2")
    bench.start()
    assert bench.workers == []
    assert bench.host.addresses.allocate() != "10.244.1.2"
    bench.store.set(pod("p", "u", "2"))
    assert [(worker.uid, worker.record is not None, worker.calls) for worker in bench.workers] == [
        ("u", True, ["update 2"])
    ]


async def test_after_a_reboot_pods_that_are_not_named_are_cleared_away(bench: Bench, runs: set[str]) -> None:
    """A pod on disk of which nothing runs and that was deleted, or made again, meanwhile is ended."""
    for name in ("deleted", "again"):
        save(bench.host.pods_dir, pod(name, name), "")
    bench.start()
    bench.store.replace([pod("again", "another")])
    bench.manager.end_unknown()
    assert {worker.uid: set(worker.calls) for worker in bench.workers} == {"deleted": {"gone"}, "again": {"gone"}}


async def test_what_the_api_server_does_not_know_is_ended(bench: Bench, runs: set[str]) -> None:
    """Of the pods on disk, those deleted meanwhile (or made again) are ended, the others are left alone."""
    runs |= {"deleted", "kept", "again"}
    for name in ("deleted", "kept", "again"):
        save(bench.host.pods_dir, pod(name, name), "")
    bench.start()
    bench.store.replace([pod("kept", "kept"), pod("again", "another")])
    bench.manager.end_unknown()
    ended = {worker.uid for worker in bench.workers if "gone" in worker.calls}
    assert ended == {"deleted", "again"}


async def test_worker_with_a_fault_is_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault in one worker is logged, and the pod gets another one."""
    monkeypatch.setattr(manager_module, "FAULT_DELAY", 0)
    bench.start()
    bench.store.set(pod("p", "u"))
    bench.workers[0].end.set_exception(RuntimeError("fault"))
    assert (await bench.until_made()).uid == "u"
    assert "fault of the kubelet" in caplog.text
