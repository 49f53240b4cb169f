"""Finds in events why pods of StatefulSets and DaemonSets are not made: a quota, an admission policy, a claim.

A Deployment says so in its conditions; these kinds only in events. Called by `sitegrid.controller.refusals`; held by
``tests/grid/test_refusals.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct, field

from sitegrid.api.meta import ObjectMeta, parse_timestamp
from sitegrid.grid.kinds import DEPLOYMENT, WorkloadKind
from sitegrid.grid.observed import ObjectReference
from sitegrid.grid.plan import Plan
from sitegrid.grid.problem import Problem

_REFUSED: Final = "FailedCreate"
_MADE: Final = "SuccessfulCreate"
"""Reasons of both controllers' events about pods (pkg/controller/statefulset, recordPodEvent; pkg/controller,
FailedCreatePodReason and SuccessfulCreatePodReason)."""
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


class EventSeries(Struct, rename="camel", gc=False, frozen=True):
    """An event that happened again."""

    last_observed_time: str | None = None


class ChildEvent(Struct, rename="camel", gc=False):
    """An event (events.k8s.io/v1) about a child."""

    metadata: ObjectMeta
    regarding: ObjectReference = field(default_factory=ObjectReference)
    reason: str = ""
    note: str = ""
    event_time: str | None = None
    series: EventSeries | None = None
    deprecated_last_timestamp: str | None = None
    """What the controllers' recorder, an older one, writes in the place of both."""

    @property
    def last(self) -> datetime:
        """When it happened last."""
        times = (self.series and self.series.last_observed_time, self.deprecated_last_timestamp, self.event_time)
        text = next((time for time in times if time), self.metadata.creation_timestamp)
        return parse_timestamp(text) or _LONG_AGO


def lacking(kind: WorkloadKind, plan: Plan) -> dict[str, str]:
    """Return the units whose child has fewer pods than it is to have and cannot tell why, with the child's uid."""
    if kind.child == DEPLOYMENT.child:
        return {}
    found = {}
    for value, child in plan.children.items():
        if child is not None:
            pods = kind.pods(child)
            if pods.total < pods.to_update:
                found[value] = child.metadata.uid
    return found


def refusals(events: Iterable[ChildEvent], children: Mapping[str, str]) -> dict[str, Problem]:
    """Return why the last pod of `children` (uids by unit) was not made, by unit, where it was not."""
    newest: dict[str, ChildEvent] = {}
    for event in events:
        if event.reason in (_REFUSED, _MADE):
            uid = event.regarding.uid
            if uid not in newest or _order(event) > _order(newest[uid]):
                newest[uid] = event
    return {
        unit: Problem(_REFUSED, newest[uid].note)
        for unit, uid in children.items()
        if uid in newest and newest[uid].reason == _REFUSED
    }


def _order(event: ChildEvent) -> tuple[datetime, bool]:
    """Of one second, which is all that these times tell, the refusal counts: pods are lacking."""
    return event.last, event.reason == _REFUSED
