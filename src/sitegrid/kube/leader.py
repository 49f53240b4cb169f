"""Leader election: of several replicas one leads, by a Lease that it keeps renewing.

`sitegrid controller` runs its whole work as `lead`. The algorithm and its guarantees are client-go's
(tools/leaderelection). Invariants: a replica leads only while its last successful renewal is younger than
`renew_deadline`, which is less than `lease_duration`, the time that others wait before they take over; that wait is
measured by when *this* process saw the Lease change, never by the timestamps in it, so clocks need not agree (only
their speed); every write carries the resourceVersion that was read, so two cannot both win.
Held by ``tests/kube/test_leader.py``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from sitegrid.kube.client import Client
from sitegrid.kube.clock import Clock, LoopClock, sleep
from sitegrid.kube.errors import ApiError, DecodeError, Unreachable
from sitegrid.kube.resources import LEASES

log = logging.getLogger(__name__)

Object = dict[str, Any]

JITTER = 1.2
"""A candidate waits up to this many retry periods, so that candidates spread (client-go's JitterFactor)."""
RELEASE_TIMEOUT = 5.0
"""Seconds for giving the Lease back; a candidate would only have to wait a little longer."""


class LeaderElection:
    """One candidate for the Lease `namespace`/`name`; `identity` must be unique among the candidates."""

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry_period: float = 2.0,
        clock: Clock | None = None,
    ) -> None:
        if not lease_duration > renew_deadline > JITTER * retry_period > 0:
            raise ValueError("lease_duration > renew_deadline > 1.2 * retry_period > 0 does not hold")
        if not identity:
            raise ValueError("identity is empty")
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._lease_duration = lease_duration
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        self._clock = clock or LoopClock()
        self._lease: Object | None = None
        self._told = ""
        """The last failure, empty since an attempt went well."""
        self._observed = 0.0
        """When this process saw the Lease in its present state for the first time."""
        self._renewed = 0.0
        """When the last attempt that succeeded was begun."""
        self.is_leader = False
        self.leader = ""
        """Identity of the holder as last seen, "" if unknown."""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, run `lead` while it is held, and wait again when it was lost.

        Returns when `lead` returns and raises what it raises; both, and cancellation, release the Lease after `lead`
        has ended. When the Lease is lost, `lead` is cancelled and has ``lease_duration - renew_deadline`` to end.
        """
        while True:
            await self._acquire()
            if await self._lead_until_lost(lead):
                return

    async def _acquire(self) -> None:
        log.info("%s: waiting for the lease %s/%s", self._identity, self._namespace, self._name)
        while not await self._try_to_hold():
            await sleep(self._clock, self._retry_period * random.uniform(1.0, JITTER))

    async def _lead_until_lost(self, lead: Callable[[], Awaitable[None]]) -> bool:
        """Run `lead` and renew; True when `lead` returned, False when the Lease was lost and `lead` has ended."""
        log.info("%s: leading", self._identity)
        self.is_leader = True
        leading = asyncio.ensure_future(lead())
        renewing = asyncio.create_task(self._renew_until_lost())
        lost = False
        try:
            await asyncio.wait([leading, renewing], return_when=asyncio.FIRST_COMPLETED)
            lost = not leading.done()
            if lost:
                log.error("%s: the lease is lost (holder: %r); stopping", self._identity, self.leader)
            else:
                leading.result()
        finally:
            await _end(leading)
            self.is_leader = False
            await _end(renewing)
            if not lost:
                await self._release()
        return not lost

    async def _renew_until_lost(self) -> None:
        """Keep renewing; return when no renewal succeeded for `renew_deadline`, or the Lease is another's."""
        while True:
            # The deadline is a task of its own, because an attempt may hang for longer than there is left.
            left = self._renewed + self._renew_deadline - self._clock.time()
            deadline = asyncio.create_task(sleep(self._clock, left))
            renewal = asyncio.create_task(self._renew())
            try:
                await asyncio.wait([renewal, deadline], return_when=asyncio.FIRST_COMPLETED)
                if not renewal.done() or not renewal.result():
                    return
            finally:
                await _end(renewal)
                await _end(deadline)

    async def _renew(self) -> bool:
        """Return True after the next successful renewal, False if the Lease is another's."""
        while True:
            await sleep(self._clock, self._retry_period)
            if await self._try_to_hold():
                return True
            if self.leader != self._identity:
                return False

    async def _try_to_hold(self) -> bool:
        """Acquire or renew the Lease if it is free, expired or ours; False for any reason why not."""
        # The time before the attempt: others count from when the server took it, which is not earlier.
        started = self._clock.time()
        try:
            held = await self._attempt()
        except ApiError as error:
            if not (error.conflict or error.already_exists):
                self._tell(str(error))
            return False
        except (Unreachable, DecodeError) as error:
            self._tell(str(error))
            return False
        self._told = ""
        if held:
            self._renewed = started
        return held

    def _tell(self, failure: str) -> None:
        """Log a failure; what repeats until an attempt went well is not news."""
        log.log(logging.DEBUG if failure == self._told else logging.WARNING, "lease: %s", failure)
        self._told = failure

    async def _attempt(self) -> bool:
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
        except ApiError as error:
            if not error.not_found:
                raise
            self._observe(await self._client.create(LEASES, self._wanted({}, took_over=True)))
            return True
        self._observe(lease)
        ours = self.leader == self._identity
        if not ours and (self.is_leader or (self.leader and not self._expired(lease))):
            return False
        self._observe(await self._client.replace(LEASES, self._wanted(lease, took_over=not ours)))
        return True

    def _observe(self, lease: Object) -> None:
        if self._lease is None or _version(self._lease) != _version(lease):
            self._observed = self._clock.time()
        self._lease = lease
        leader = (lease.get("spec") or {}).get("holderIdentity") or ""
        if leader != self.leader:
            log.info("%s: the leader is %r", self._identity, leader)
        self.leader = leader

    def _expired(self, lease: Object) -> bool:
        """Tell whether the holder has not renewed for as long as it promised to."""
        duration = (lease.get("spec") or {}).get("leaseDurationSeconds") or self._lease_duration
        return self._clock.time() >= self._observed + float(duration)

    def _wanted(self, lease: Object, *, took_over: bool) -> Object:
        """Return `lease` as held by us from now on."""
        now = datetime.now(UTC).strftime(_MICRO_TIME)
        spec: Object = dict(lease.get("spec") or {})
        if took_over:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (1 if lease else 0)
        spec["holderIdentity"] = self._identity
        spec["leaseDurationSeconds"] = math.ceil(self._lease_duration)
        spec["renewTime"] = now
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": lease.get("metadata") or {"name": self._name, "namespace": self._namespace},
            "spec": spec,
        }

    async def _release(self) -> None:
        """Let the others have it at once. Best effort: failing that, they wait for `lease_duration`."""
        if self._lease is None or self.leader != self._identity:
            return
        released = self._wanted(self._lease, took_over=False)
        released["spec"].update(holderIdentity="", leaseDurationSeconds=1)
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                self._observe(await self._client.replace(LEASES, released))
        except (ApiError, Unreachable, DecodeError, TimeoutError) as error:
            log.warning("lease: not released: %s", error)


_MICRO_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
"""`metav1.MicroTime`."""


def _version(lease: Object) -> object:
    return lease["metadata"].get("resourceVersion")


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel `task` and wait for its end; what it raises meanwhile is logged."""
    if task.done():
        return
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        log.error("failed while being stopped", exc_info=error)
