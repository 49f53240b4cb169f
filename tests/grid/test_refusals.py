"""Which children lack pods and cannot tell why, and what their events say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sitegrid.grid.kinds import DAEMON_SET, DEPLOYMENT, STATEFUL_SET, WorkloadKind
from sitegrid.grid.observed import Workload
from sitegrid.grid.plan import Plan
from sitegrid.grid.problem import Problem
from sitegrid.grid.refusals import ChildEvent, lacking, refusals


def _event(reason: str, second: int, uid: str = "uid-a", field: str = "deprecatedLastTimestamp") -> ChildEvent:
    at = f"2026-01-01T00:00:{second:02}Z"
    when: dict[str, Any] = {"series": {"lastObservedTime": at}} if field == "series" else {field: at}
    if field == "creationTimestamp":
        when = {"metadata": {field: at}}
    event = {"metadata": {}, "regarding": {"uid": uid}, "reason": reason, "note": f"{reason} {second}", **when}
    return msgspec.convert(event, ChildEvent)


@pytest.mark.parametrize("field", ["deprecatedLastTimestamp", "series", "eventTime", "creationTimestamp"])
def test_newest_event_counts(field: str) -> None:
    """A refusal after which a pod was made is none any more; the times are wherever the recorder put them."""
    refused, made = _event("FailedCreate", 1), _event("SuccessfulCreate", 2, field=field)
    again = _event("FailedCreate", 3, field=field)
    children = {"a": "uid-a"}
    assert refusals([refused, made], children) == {}
    assert refusals([again, made, refused], children) == {"a": Problem("FailedCreate", "FailedCreate 3")}


def test_of_one_second_the_refusal_counts() -> None:
    """One pod was made and the next one refused."""
    events = [_event("FailedCreate", 1), _event("SuccessfulCreate", 1)]
    for order in (events, events[::-1]):
        assert refusals(order, {"a": "uid-a"}).keys() == {"a"}


def test_other_children_and_other_events_say_nothing() -> None:
    """A namesake of former times is another uid; what is not about making pods is no refusal."""
    events = [_event("FailedCreate", 1, "uid-former"), _event("FailedUpdate", 2), _event("SuccessfulDelete", 3)]
    assert refusals(events, {"a": "uid-a"}) == {}


@pytest.mark.parametrize(
    ("kind", "status", "lacks"),
    [
        (STATEFUL_SET, {"replicas": 1}, True),
        (STATEFUL_SET, {"replicas": 2}, False),
        (DAEMON_SET, {"desiredNumberScheduled": 2, "currentNumberScheduled": 1}, True),
        (DAEMON_SET, {"desiredNumberScheduled": 2, "currentNumberScheduled": 2}, False),
        (DEPLOYMENT, {"replicas": 1}, False),
    ],
)
def test_who_lacks_pods(kind: WorkloadKind, status: dict[str, Any], lacks: bool) -> None:
    """Who has all pods, ready or not, or tells by itself, is not asked about."""
    observed = {"metadata": {"uid": "uid-a"}, "spec": {"replicas": 2}, "status": status}
    child = msgspec.json.decode(msgspec.json.encode(observed), type=Workload)
    assert lacking(kind, Plan(children={"a": child, "b": None})) == ({"a": "uid-a"} if lacks else {})
