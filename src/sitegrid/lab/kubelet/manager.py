"""All pods of the node: keeps one worker per pod object that the API server (or, before it answers, the disk) names.

`__main__` runs it. Pods are taken over from their records before the API server has answered, so a kubelet that
starts without a WAN goes on with what ran; what the API server then does not know is ended. A pod made again under
the same name waits until its namesake is gone from the node.

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
from sitegrid.lab.kubelet import record
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

    def _take_over(self) -> None:
        for directory in sorted(self._host.pods_dir.iterdir()):
            found = record.load(directory) if directory.is_dir() else None
            if found is None:
                continue
            if found.address and found.address != self._host.node_ip:
                self._host.addresses.reserve(found.address)
            self._start(identity(found.pod).key, found.pod, found)

    def _observe(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        key = identity(new or old).key
        worker = self._workers.get(key)
        if worker is None:
            if new is not None:
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
            self._start(key, left.pod, left)
            if pod is None or identity(pod).uid != left.uid:
                self._workers[key].gone()
            else:
                self._workers[key].update(pod)
        elif pod is not None:
            self._start(key, pod, None)
