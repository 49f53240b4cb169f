from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any, Protocol, cast

import pytest

from sitegrid.kube.client import Client
from sitegrid.kube.clock import Clock
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.kube.leader import LeaderElection
from sitegrid.kube.resources import Resource

Object = dict[str, Any]


class Advancing(Clock, Protocol):
    """The fake clock of conftest."""

    async def advance(self, seconds: float) -> None:
        """Move the time."""


class FakeLeases:
    """One Lease with optimistic locking; each candidate's link to it can be cut or made to hang."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.writes = 0

    def put(self, lease: Object) -> Object:
        """Store the next version."""
        self.writes += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.writes)
        return copy.deepcopy(self.lease)

    @property
    def holder(self) -> str:
        """Who holds it, "" for nobody."""
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


class Link:
    """Stands in for a Client of one candidate."""

    def __init__(self, leases: FakeLeases) -> None:
        self._leases = leases
        self.down = False
        self.hangs = False
        self.before_write: Callable[[], None] = lambda: None

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Read the Lease."""
        await self._pass()
        if self._leases.lease is None:
            raise ApiError(404, "NotFound")
        return copy.deepcopy(self._leases.lease)

    async def create(self, resource: Resource, obj: Object) -> Object:
        """Create the Lease."""
        await self._pass()
        self.before_write()
        if self._leases.lease is not None:
            raise ApiError(409, "AlreadyExists")
        return self._leases.put(obj)

    async def replace(self, resource: Resource, obj: Object) -> Object:
        """Replace the Lease, if it is still the one that was read."""
        await self._pass()
        self.before_write()
        current = self._leases.lease
        if current is None or current["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict")
        return self._leases.put(obj)

    async def _pass(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.down:
            raise Unreachable("link down")


class Candidate:
    """A candidate, its link, and its work."""

    def __init__(self, leases: FakeLeases, identity: str, clock: Clock) -> None:
        self.link = Link(leases)
        self.election = LeaderElection(
            cast(Client, self.link), namespace="ns", name="lease", identity=identity, clock=clock
        )
        self._working = False
        self.starts = 0
        self.end = asyncio.Event()
        self.task = asyncio.create_task(self.election.run(self.lead))

    async def lead(self) -> None:
        """The leader's work: runs until told to end."""
        self._working = True
        self.starts += 1
        try:
            await self.end.wait()
        finally:
            self._working = False

    def works(self) -> bool:
        """Tell whether the work runs."""
        return self._working

    async def stop(self) -> None:
        """Cancel and wait."""
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_the_first_candidate_leads_and_renews(clock: Advancing) -> None:
    """It makes the Lease, works, and keeps the Lease for as long as it renews."""
    leases = FakeLeases()
    one, two = Candidate(leases, "one", clock), Candidate(leases, "two", clock)
    await clock.advance(120)
    assert (one.works(), two.works()) == (True, False)
    assert (one.election.is_leader, two.election.is_leader) == (True, False)
    assert two.election.leader == "one"
    assert one.starts == 1
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseDurationSeconds"] == 15
    await one.stop()
    await two.stop()


async def test_a_leader_that_stops_is_followed_at_once(clock: Advancing) -> None:
    """The Lease is released on stop, after the work has ended, so nobody waits for it to expire."""
    leases = FakeLeases()
    one, two = Candidate(leases, "one", clock), Candidate(leases, "two", clock)
    await clock.advance(5)
    one.link.before_write = lambda: None if not one.works() else pytest.fail("released before the work had ended")
    await one.stop()
    assert not one.works()
    assert leases.holder == ""
    await clock.advance(3)
    assert two.works()
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 1
    await two.stop()


async def test_a_dead_leader_is_followed_when_its_lease_expires(clock: Advancing) -> None:
    """Not before lease_duration after its last renewal was seen."""
    leases = FakeLeases()
    one, two = Candidate(leases, "one", clock), Candidate(leases, "two", clock)
    await clock.advance(5)
    one.link.hangs = True
    await clock.advance(12)
    assert not two.works()
    await clock.advance(8)
    assert two.works()
    await one.stop()
    await two.stop()


@pytest.mark.parametrize("how", ["down", "hangs"])
async def test_a_leader_that_cannot_renew_stops_before_another_begins(clock: Advancing, how: str) -> None:
    """Refused or hanging, at no moment do two work."""
    leases = FakeLeases()
    one, two = Candidate(leases, "one", clock), Candidate(leases, "two", clock)
    await clock.advance(5)
    setattr(one.link, how, True)
    seen = set()
    for _ in range(300):
        await clock.advance(0.1)
        seen.add((one.works(), two.works()))
    assert seen == {(True, False), (False, False), (False, True)}
    await one.stop()
    await two.stop()


async def test_a_short_outage_ends_nothing(clock: Advancing) -> None:
    """A leader that can renew again within renew_deadline goes on without a break."""
    leases = FakeLeases()
    one = Candidate(leases, "one", clock)
    await clock.advance(5)
    one.link.down = True
    await clock.advance(6.5)
    one.link.down = False
    await clock.advance(60)
    assert one.works()
    assert one.starts == 1
    await one.stop()


async def test_an_outage_is_told_once(clock: Advancing, caplog: pytest.LogCaptureFixture) -> None:
    """Not at every attempt; the next outage is told again."""
    one = Candidate(FakeLeases(), "one", clock)
    await clock.advance(5)
    for _ in range(2):
        one.link.down = True
        await clock.advance(6.5)
        one.link.down = False
        await clock.advance(5)
    await one.stop()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["lease: link down"] * 2


async def test_a_leader_that_lost_the_lease_tries_again(clock: Advancing) -> None:
    """After a long outage the work begins anew, when the Lease is free."""
    leases = FakeLeases()
    one = Candidate(leases, "one", clock)
    await clock.advance(5)
    one.link.down = True
    await clock.advance(30)
    assert not one.works()
    one.link.down = False
    await clock.advance(30)
    assert one.works()
    assert one.starts == 2
    await one.stop()


async def test_a_lease_taken_away_ends_the_work_at_once(clock: Advancing) -> None:
    """Somebody who writes another holder, or none, into the Lease is obeyed at the next renewal."""
    leases = FakeLeases()
    one = Candidate(leases, "one", clock)
    await clock.advance(5)
    assert leases.lease is not None
    leases.lease["spec"]["holderIdentity"] = "other"
    leases.put(leases.lease)
    await clock.advance(2.1)
    assert not one.works()
    assert leases.holder == "other"
    await one.stop()
    assert leases.holder == "other", "what is another's is not released"


async def test_a_lease_that_was_emptied_is_lost(clock: Advancing) -> None:
    """Others may have led since; the work is ended before it can begin anew."""
    leases = FakeLeases()
    one = Candidate(leases, "one", clock)
    await clock.advance(5)
    assert leases.lease is not None
    leases.lease["spec"]["holderIdentity"] = ""
    leases.put(leases.lease)
    await clock.advance(5)
    assert one.works()
    assert one.starts == 2
    await one.stop()


async def test_remote_clocks_do_not_matter(clock: Advancing) -> None:
    """A Lease whose timestamps are from the past is still waited for, from when it was first seen."""
    leases = FakeLeases()
    leases.put(
        {
            "metadata": {"name": "lease", "namespace": "ns"},
            "spec": {
                "holderIdentity": "other",
                "leaseDurationSeconds": 15,
                "renewTime": "1999-01-01T00:00:00.000000Z",
            },
        }
    )
    one = Candidate(leases, "one", clock)
    await clock.advance(14)
    assert not one.works()
    await clock.advance(4)
    assert one.works()
    await one.stop()


async def test_of_two_that_write_at_once_one_wins(clock: Advancing) -> None:
    """The loser of the race for a new Lease gets a conflict and waits."""
    leases = FakeLeases()
    one = Candidate(leases, "one", clock)
    two = Candidate(leases, "two", clock)
    seen = set()
    for _ in range(50):
        await clock.advance(0.1)
        seen.add((one.works(), two.works()))
    assert (True, True) not in seen
    assert one.works() != two.works()
    await one.stop()
    await two.stop()


async def test_a_race_for_an_expired_lease_has_one_winner(clock: Advancing) -> None:
    """A write between our read and our write makes ours fail."""
    leases = FakeLeases()
    dead = {"holderIdentity": "dead", "leaseDurationSeconds": 1}
    leases.put({"metadata": {"name": "lease", "namespace": "ns"}, "spec": dead})
    one = Candidate(leases, "one", clock)

    def rival() -> None:
        assert leases.lease is not None
        leases.lease["spec"] = {"holderIdentity": "rival", "leaseDurationSeconds": 1000}
        leases.put(leases.lease)
        one.link.before_write = lambda: None

    one.link.before_write = rival
    await clock.advance(60)
    assert not one.works()
    assert leases.holder == "rival"
    await one.stop()


async def test_a_leader_started_again_continues_its_own_lease(clock: Advancing) -> None:
    """The same identity needs not wait for itself."""
    leases = FakeLeases()
    spec = {"holderIdentity": "one", "leaseDurationSeconds": 15, "leaseTransitions": 3}
    leases.put({"metadata": {"name": "lease", "namespace": "ns"}, "spec": spec})
    one = Candidate(leases, "one", clock)
    await clock.advance(0.1)
    assert one.works()
    await one.stop()


async def test_work_that_ends_ends_the_run(clock: Advancing) -> None:
    """`run` returns when `lead` does, and the Lease is free."""
    leases = FakeLeases()
    one = Candidate(leases, "one", clock)
    await clock.advance(1)
    one.end.set()
    await one.task
    assert leases.holder == ""


async def test_work_that_fails_fails_the_run(clock: Advancing) -> None:
    """Its exception reaches the caller, and the Lease is free."""
    leases = FakeLeases()
    election = LeaderElection(cast(Client, Link(leases)), namespace="ns", name="lease", identity="one", clock=clock)

    async def fail() -> None:
        raise RuntimeError("work failed")

    with pytest.raises(RuntimeError, match="work failed"):
        await election.run(fail)
    assert leases.holder == ""


@pytest.mark.parametrize(("duration", "deadline", "retry"), [(10, 10, 2), (15, 10, 9), (15, 10, 0)])
def test_unsafe_times_are_refused(duration: float, deadline: float, retry: float) -> None:
    """Times with which two could lead at once, or none could renew in time."""
    with pytest.raises(ValueError, match="does not hold"):
        LeaderElection(
            cast(Client, None),
            namespace="ns",
            name="lease",
            identity="one",
            lease_duration=duration,
            renew_deadline=deadline,
            retry_period=retry,
        )
