"""The life of one pod on the node, from binding to the removal of its object.

`manager` runs one worker per pod, tells it of new versions of the object (`update`) and of its removal (`gone`), and
reads nothing back. Steps: address, network, sandbox files, containers; then, when the pod is deleted or done: not
ready at once, SIGTERM, at most the grace period, SIGKILL, network gone, last status, object deleted (grace 0, with
its uid as precondition).

Cancelling a worker is the kubelet's end, not the pod's: everything goes on running, and the next kubelet makes a
worker from the record. Invariants: I8 (no restart, no new address through a kubelet's restart or a lost API server);
an address is free for the next pod only after its network is gone. Held by ``tests/lab/test_kubelet_worker.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sitegrid.kube.backoff import Backoff
from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.kube.objects import identity
from sitegrid.kube.resources import PODS
from sitegrid.lab.kubelet import network, sandbox, status
from sitegrid.lab.kubelet.addresses import AddressPool, NoAddressLeft
from sitegrid.lab.kubelet.containers import responder_argv
from sitegrid.lab.kubelet.network import NetworkError
from sitegrid.lab.kubelet.record import ContainerRecord, PodRecord
from sitegrid.lab.kubelet.reporter import RETRY_CAP, StatusReporter
from sitegrid.lab.kubelet.runner import ContainerRunner, utc_now
from sitegrid.lab.kubelet.sandbox import DnsSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Host:
    """What all workers of one kubelet share."""

    node_name: str
    node_ip: str
    dns: DnsSettings
    pods_dir: Path
    labels_file: Path
    """JSON object with the node's labels of now, read by the responders."""
    addresses: AddressPool
    client: Client

    def directory(self, pod: dict[str, Any]) -> Path:
        """Return the pod's directory."""
        return self.pods_dir / sandbox.directory_name(pod["metadata"]["namespace"], pod["metadata"]["name"])


class PodWorker:
    """Runs one pod; `record` is that of a pod to take over."""

    def __init__(self, host: Host, pod: dict[str, Any], record: PodRecord | None = None) -> None:
        self.uid = identity(pod).uid
        self._host = host
        self._directory = host.directory(pod)
        self._taken_over = record is not None
        address = host.node_ip if pod["spec"].get("hostNetwork") else ""
        self._record = record or PodRecord(pod=pod, address=address, started_at=utc_now())
        self._reporter = StatusReporter(host.client, pod, self._status)
        self._runners: list[ContainerRunner] = []
        self._gone = asyncio.Event()
        self._wake = asyncio.Event()

    def update(self, pod: dict[str, Any]) -> None:
        """Take a new version of the pod object."""
        if self._reporter.observe(pod):
            self._record.pod = pod
            if self._directory.exists():
                self._save()
            self._wake.set()

    def gone(self) -> None:
        """Hear that the object is no more: nothing is reported from now on, and the pod ends if it still runs."""
        self._gone.set()
        self._wake.set()

    async def run(self) -> None:
        """Run the pod to the end of its object."""
        reporting = asyncio.create_task(self._reporter.run())
        try:
            if self._taken_over:
                self._make_runners()
            if not self._ending() and await self._set_up():
                self._make_runners()
                await self._run_containers()
            await self._tear_down()
            reporting.cancel()
            await self._finish_object()
        finally:
            reporting.cancel()
            for runner in self._runners:
                if runner.process is not None:
                    runner.process.forget()

    def _ending(self) -> bool:
        pod = self._reporter.pod
        done = pod.get("status", {}).get("phase") in status.TERMINAL_PHASES  # also by others, as when evicted
        return self._gone.is_set() or "deletionTimestamp" in pod["metadata"] or done

    def _status(self, pod: dict[str, Any]) -> dict[str, Any]:
        if self._gone.is_set() or not self._record.containers:
            return {}  # nobody to tell, or (not set up yet, done before this kubelet started) nothing to say
        return status.pod_status(pod, self._record, host_ip=self._host.node_ip, now=utc_now())

    def _changed(self) -> None:
        self._save()
        self._reporter.mark()

    def _save(self) -> None:
        self._record.save(self._directory)

    async def _set_up(self) -> bool:
        """Give the pod address, network and files, trying for ever; False if it ends meanwhile."""
        backoff = Backoff(cap=RETRY_CAP)
        while True:
            try:
                await self._make_sandbox()
            except (NoAddressLeft, NetworkError, OSError) as error:
                who = identity(self._reporter.pod)
                _log.warning("sandbox of %s/%s: %s", who.namespace, who.name, error or type(error).__name__)
            else:
                return True
            if await self._wait_ending(backoff.next(asyncio.get_running_loop().time())):
                return False

    async def _make_sandbox(self) -> None:
        host, record, pod = self._host, self._record, self._reporter.pod
        if not record.address:
            record.address = host.addresses.allocate()
        own_network = not pod["spec"].get("hostNetwork")
        netns = network.netns_path(self.uid) if own_network else network.NETNS_DIR / host.node_name
        sandbox.write(self._directory, pod, netns=netns, address=record.address, dns=host.dns, node=host.node_name)
        record.sandbox_ready &= not own_network or network.exists(self.uid)
        self._save()
        if own_network and not record.sandbox_ready:
            for runner in self._runners:  # taken over, but their network is lost
                if runner.process is not None:
                    runner.process.signal(signal.SIGKILL)
            await asyncio.to_thread(network.create, self.uid, record.address, host.node_ip)
        record.sandbox_ready = True
        self._changed()

    async def _run_containers(self) -> None:
        """Run all containers until the pod ends, or all have ended for good."""
        pod = self._reporter.pod
        own = {container["name"] for container in pod["spec"]["containers"]}
        tasks = [asyncio.create_task(runner.run()) for runner in self._runners]
        ending = asyncio.create_task(self._wait_ending(None))
        try:
            waiting = {
                task for task, runner in zip(tasks, self._runners, strict=True) if runner.container["name"] in own
            }
            while waiting and not ending.done():
                done, _ = await asyncio.wait([*waiting, ending], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a fault of ours: ends this worker, and the manager makes another
                waiting -= done
        finally:
            for task in (*tasks, ending):
                task.cancel()
            await asyncio.gather(*tasks, ending, return_exceptions=True)

    def _make_runners(self) -> None:
        if not self._runners:
            self._runners = [self._runner(container) for container in status.running_containers(self._reporter.pod)]
            for runner in self._runners:
                runner.take_over()

    def _runner(self, container: dict[str, Any]) -> ContainerRunner:
        pod, host = self._reporter.pod, self._host
        netns = None if pod["spec"].get("hostNetwork") else network.netns_path(self.uid)
        config = {
            "namespace": pod["metadata"]["namespace"],
            "pod": pod["metadata"]["name"],
            "node": host.node_name,
            "image": container.get("image", ""),
            "labelsFile": str(host.labels_file),
            "ports": [[p["containerPort"], p.get("protocol", "TCP")] for p in container.get("ports") or []],
        }
        return ContainerRunner(
            container,
            self._record.containers.setdefault(container["name"], ContainerRecord()),
            argv=responder_argv(json.dumps(config), netns),
            address=self._record.address,
            restart_policy=pod["spec"].get("restartPolicy", "Always"),
            grace=self._grace(),
            directory=self._directory,
            changed=self._changed,
        )

    def _grace(self) -> float:
        pod = self._reporter.pod
        default = pod["spec"].get("terminationGracePeriodSeconds", 30)
        return float(pod["metadata"].get("deletionGracePeriodSeconds", default))

    async def _tear_down(self) -> None:
        """End the containers, then take network, address and files away."""
        self._reporter.mark()  # not ready from now on
        grace = self._grace()
        await asyncio.gather(*(self._stop(runner, grace) for runner in self._runners))
        if not self._reporter.pod["spec"].get("hostNetwork"):
            if network.exists(self.uid) or network.netns_path(self.uid).exists():
                await asyncio.to_thread(network.remove, self.uid)
            if self._record.address:
                self._host.addresses.release(self._record.address)
        self._record.sandbox_ready = False
        if self._directory.exists():
            shutil.rmtree(self._directory)

    async def _stop(self, runner: ContainerRunner, grace: float) -> None:
        """Stop one container; of its preStop hook only ``sleep`` (KEP-3960) is done, within the grace period."""
        hook = (runner.container.get("lifecycle") or {}).get("preStop") or {}
        pause = min(grace, (hook.get("sleep") or {}).get("seconds", 0))
        if runner.process is not None and pause:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await runner.process.exited.wait()
        await runner.stop(grace - pause)

    async def _finish_object(self) -> None:
        """Write the last status, and delete the object when it is marked for deletion."""
        await self._until_done(self._reporter.write)
        while not self._gone.is_set():
            if "deletionTimestamp" in self._reporter.pod["metadata"]:
                await self._until_done(self._delete)
                await self._gone.wait()  # finalizers of others may keep it
                return
            await self._wake.wait()
            self._wake.clear()

    async def _delete(self) -> bool:
        who = identity(self._reporter.pod)
        try:
            await self._host.client.delete(PODS, who.name, who.namespace, uid=who.uid, grace_period_seconds=0)
        except ApiError as error:
            return error.not_found or error.conflict
        except Unreachable:
            return False
        return True

    async def _until_done(self, action: Callable[[], Awaitable[bool]]) -> None:
        backoff = Backoff(cap=RETRY_CAP)
        while not self._gone.is_set() and not await action():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.next(asyncio.get_running_loop().time())):
                    await self._gone.wait()

    async def _wait_ending(self, seconds: float | None) -> bool:
        """Wait until the pod ends, at most `seconds`; tell whether it does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._ending():
                    await self._wake.wait()
                    self._wake.clear()
        return self._ending()
