"""The types as the controller decodes them."""

from __future__ import annotations

import gc
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from sitegrid.api.meta import ManagedMeta, ObjectMeta, parse_timestamp, timestamp
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.workloads import DeploymentGrid


def _decode(obj: dict[str, Any], kind: type[Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(obj), type=kind)


def test_removal_defaults_when_read() -> None:
    """A grid without `removal` waits ten minutes and then deletes."""
    grid = _decode({"metadata": {"name": "g"}, "spec": {"gridUniqKey": "zone", "template": {}}}, DeploymentGrid)
    assert (grid.spec.removal.grace_period_seconds, grid.spec.removal.policy) == (600, "Delete")


def test_service_name_default() -> None:
    """The Service is `<name>-svc` unless the user names it."""
    spec = {"gridUniqKey": "zone", "template": {}}
    grid = _decode({"metadata": {"name": "g"}, "spec": spec}, ServiceGrid)
    assert grid.wanted_service_name() == "g-svc"
    grid = _decode({"metadata": {"name": "g"}, "spec": {**spec, "serviceName": "other"}}, ServiceGrid)
    assert grid.wanted_service_name() == "other"


def test_unknown_fields_are_skipped() -> None:
    """A grid with fields of a later version can be read."""
    spec = {"gridUniqKey": "zone", "template": {"a": 1}, "rollout": {"later": True}}
    assert _decode({"metadata": {"name": "g", "x": 1}, "spec": spec}, DeploymentGrid).spec.template == {"a": 1}


def test_only_our_applied_fields_are_kept() -> None:
    """Of managedFields only the entry of our apply is kept, not our status' nor anybody else's."""
    entries = [
        {"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:a": {}}},
        {"manager": "sitegrid", "operation": "Update", "fieldsV1": {"f:b": {}}},
        {"manager": "sitegrid", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:c": {}}},
        {"manager": "sitegrid", "operation": "Apply", "fieldsV1": {"f:d": {}}},
    ]
    meta = _decode({"name": "child", "managedFields": entries}, ManagedMeta)
    assert meta.applied_fields() == b'{"f:d":{}}'
    assert bytes(meta.managed_fields[0].fields_v1) == b""


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01T00:00:00"])
def test_timestamp_that_says_no_moment(text: str) -> None:
    """What is no RFC 3339 time, or has no time zone, is none."""
    assert parse_timestamp(text) is None


def test_timestamp_round_trip() -> None:
    """Times are written as Kubernetes writes them, and read back."""
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert timestamp(moment) == "2026-01-02T03:04:05Z"
    assert parse_timestamp(timestamp(moment)) == moment


def test_decoded_metadata_costs_the_collector_nothing() -> None:
    """It is not tracked by the cyclic garbage collector, whose walks were the main cost of a large list."""
    found = msgspec.json.decode(b'{"name":"p","ownerReferences":[{"name":"a"}]}', type=ObjectMeta)
    assert not gc.is_tracked(found)
    assert not gc.is_tracked(found.owner_references[0])
