"""A cluster in which nothing happens is written to by nobody of sitegrid (I7): ``make bench-idle``, shorter."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.idle import MANIFEST, READY, measure, writes
from sitegrid.lab.clients import wait_until
from sitegrid.lab.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def test_heartbeats_over_all_kinds_of_objects_cause_no_write(lab: Lab) -> None:
    """By the API server's audit log, in fifteen seconds with heartbeats of every node; the log itself works."""
    lab.kubectl("apply", "-f", str(MANIFEST))
    try:
        lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", *READY)
        assert wait_until(lambda: writes(lab)[0]["patch deployments"] > 0)
        found, beats = asyncio.run(measure(lab, 15))
        leases = found.pop("lease", 0)
        print(f"{beats} heartbeats: {found.total()} writes, {leases} renewals of the leader's Lease")
        assert beats >= 12
        assert found == {}
    finally:
        lab.kubectl("delete", "--wait=false", "-f", str(MANIFEST))
