"""Writes one pod's status to the API server whenever it differs from what the API server has.

The worker owns one, calls `mark` after every change and hands over every newer version of the pod object. It never
gives up: a status that could not be written (WAN cut, API server restarted) is written when that works again.

Invariant I7: nothing is written while nothing changes, even where the API server stores a status otherwise than it
was sent. Held by ``tests/lab/test_kubelet_reporter.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from sitegrid.kube.backoff import Backoff
from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.kube.objects import identity, is_older
from sitegrid.kube.resources import PODS
from sitegrid.lab.kubelet.status import differs

_log = logging.getLogger(__name__)

RETRY_CAP = 5.0
"""Longest seconds between tries: after a WAN loss a site should be seen correctly soon."""


class StatusReporter:
    """Keeps the status of one pod in the API server equal to what `wanted` returns for the pod."""

    def __init__(
        self, client: Client, pod: dict[str, Any], wanted: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        self.pod = pod
        """The newest version of the pod that is known, our own writes included."""
        self._client = client
        self._wanted = wanted
        self._dirty = asyncio.Event()
        self._backoff = Backoff(cap=RETRY_CAP)
        self._settled: tuple[dict[str, Any], str] | None = None

    def observe(self, pod: dict[str, Any]) -> bool:
        """Take a version of the pod from the watch; False where a newer one is known."""
        if is_older(identity(pod).resource_version, identity(self.pod).resource_version):
            return False
        self.pod = pod
        self.mark()
        return True

    def mark(self) -> None:
        """Say that something may have changed."""
        self._dirty.set()

    async def run(self) -> None:
        """Write what differs, until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not await self.write():
                await asyncio.sleep(self._backoff.next(asyncio.get_running_loop().time()))
                self.mark()

    async def write(self) -> bool:
        """Write the status if it differs; False where that has to be tried again."""
        status = self._wanted(self.pod)
        version = identity(self.pod).resource_version
        if not differs(status, self.pod.get("status", {})) or self._settled == (status, version):
            return True
        who = identity(self.pod)
        # The uid makes it a precondition: a namesake made meanwhile is a conflict.
        patch = {"metadata": {"uid": who.uid}, "status": status}
        try:
            written = await self._client.patch(PODS, who.name, patch, who.namespace, subresource="status")
        except Unreachable as error:
            _log.debug("status of %s/%s: %s", who.namespace, who.name, error)
            return False
        except ApiError as error:
            if error.not_found or error.conflict or error.invalid:
                _log.info("status of %s/%s: %s", who.namespace, who.name, error)
                return True
            _log.warning("status of %s/%s: %s", who.namespace, who.name, error)
            return False
        self._settled = (status, identity(written).resource_version)
        if not is_older(identity(written).resource_version, identity(self.pod).resource_version):
            self.pod = written
        return True
