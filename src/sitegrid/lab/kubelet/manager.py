"""All pods of the node: keeps one worker per pod object that the API server (or, before it answers, the disk) names.

`__main__` runs it. Pods that still run are taken over from their records before the API server has answered, so a
kubelet that starts without a WAN goes on with what ran; what the API server then does not know is ended. A pod of
which nothing runs any more (the node was rebooted) is not started before the API server, or whoever answers for it,
has named it: as with the real kubelet, whose pods come from there alone. Its record then gives it its former address.
A pod made again under the same name waits until its namesake is gone from the node.

Invariant: one worker per name at a time, and no pod of the node without one.
Held by ``tests/lab/test_kubelet_manager.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from sitegrid.kube.objects import identity
from sitegrid.kube.reflector import Reflector
from sitegrid.kube.resources import PODS
from sitegrid.kube.store import Key, Store
from sitegrid.lab.kubelet import containers, network, record
from sitegrid.lab.kubelet.record import PodRecord
from sitegrid.lab.kubelet.worker import Host, PodWorker

_log = logging.getLogger(__name__)

FAULT_DELAY: Final = 1.0
"""Seconds before a pod whose worker had a fault gets another one."""


class PodManager:
    """Starts, informs and replaces the workers."""

    def __init__(
        self, host: Host, make_worker: Callable[[Host, dict[str, Any], PodRecord | None], PodWorker] = PodWorker
    ) -> None:
        self._host = host
        self._make_worker = make_worker
        self._workers: dict[Key, PodWorker] = {}
        self._ended: dict[Key, PodRecord] = {}
        """Pods on disk of which nothing runs, until the API server has said whether they are to."""
        self._store: Store[dict[str, Any]] = Store()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Manage the pods until cancelled; they go on running then."""
        self._take_over()
        self._store.add_handler(self._observe)
        reflector: Reflector[dict[str, Any]] = Reflector(
            self._host.client, PODS, self._store, field_selector=f"spec.nodeName={self._host.node_name}"
        )
        reflecting = asyncio.create_task(reflector.run())
        try:
            await reflector.synced.wait()
            self.end_unknown()
            await reflecting
        finally:
            for task in (reflecting, *self._tasks):
                task.cancel()
            await asyncio.gather(reflecting, *self._tasks, return_exceptions=True)

    def end_unknown(self) -> None:
        """Tell the workers of pods that the API server does not have (any more)."""
        for key, worker in self._workers.items():
            pod = self._store.get(*key)
            if pod is None or identity(pod).uid != worker.uid:
                worker.gone()
        for key in list(self._ended):
            self._resume(key, self._ended.pop(key), self._store.get(*key))

    def _take_over(self) -> None:
        for directory in sorted(self._host.pods_dir.iterdir()):
            found = record.load(directory) if directory.is_dir() else None
            if found is None:
                continue
            if found.address and found.address != self._host.node_ip:
                self._host.addresses.reserve(found.address)
            key = identity(found.pod).key
            if _runs(found):
                self._start(key, found.pod, found)
            else:
                self._ended[key] = found

    def _observe(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        key = identity(new or old).key
        worker = self._workers.get(key)
        if worker is None:
            if key in self._ended:
                self._resume(key, self._ended.pop(key), new)
            elif new is not None:
                self._start(key, new, None)
        elif new is None or identity(new).uid != worker.uid:
            worker.gone()  # when it has ended, `_run` starts what the store has under its name
        else:
            worker.update(new)

    def _start(self, key: Key, pod: dict[str, Any], found: PodRecord | None) -> None:
        worker = self._workers[key] = self._make_worker(self._host, pod, found)
        task = asyncio.create_task(self._run(key, worker), name=f"pod {key[0]}/{key[1]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _resume(self, key: Key, found: PodRecord, pod: dict[str, Any] | None) -> None:
        """Go on with what a record says: as `pod` wants it, or to the end where that is another's, or none."""
        self._start(key, found.pod, found)
        if pod is None or identity(pod).uid != found.uid:
            self._workers[key].gone()
        else:
            self._workers[key].update(pod)

    async def _run(self, key: Key, worker: PodWorker) -> None:
        try:
            await worker.run()
        except Exception:
            _log.exception("pod %s/%s: fault of the kubelet, trying again", *key)
            await asyncio.sleep(FAULT_DELAY)
        del self._workers[key]
        pod = self._store.get(*key)
        left = record.load(self._host.pods_dir / "_".join(key))
        if left is not None:  # only after a fault: what runs is still to be run, or ended
            self._resume(key, left, pod)
        elif pod is not None:
            self._start(key, pod, None)


def _runs(found: PodRecord) -> bool:
    """Tell whether anything of the pod is still there."""
    if found.pod["spec"].get("hostNetwork"):
        running = (c for c in found.containers.values() if c.start_ticks)
        return any(containers.start_ticks(c.pid) == c.start_ticks for c in running)
    return network.exists(found.uid)
