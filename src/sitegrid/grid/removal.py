"""What becomes of a child whose unit has no nodes any more: slowly and deliberately (invariant I5).

The moment is kept on the child itself, as an annotation of the object (never of its pod template: no pod restarts),
so that a restart of the controller does not begin the grace period anew. A unit that comes back takes the annotation
off. Held by ``tests/grid/test_removal.py``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final, NamedTuple

from sitegrid.api.meta import parse_timestamp
from sitegrid.api.workloads import Removal
from sitegrid.wire.labels import GROUP

UNIT_GONE_SINCE: Final = f"{GROUP}/unit-gone-since"
"""Annotation of a child: since when its unit has no nodes (RFC 3339)."""


class Step(Enum):
    """What to do with the child now."""

    MARK = auto()
    """Note the moment on the child."""
    WAIT = auto()
    """Nothing, until `Decision.seconds` have passed."""
    DELETE = auto()
    """Delete it."""
    KEEP = auto()
    """Nothing: it is retained."""


class Decision(NamedTuple):
    """The step, and for `Step.WAIT` how long to wait, in seconds."""

    step: Step
    seconds: float = 0.0


def decide(removal: Removal, gone_since: str | None, now: datetime) -> Decision:
    """Return what to do at `now` with a child that carries the annotation `gone_since`, if any.

    A moment that cannot be read, or that is in the future, is replaced: the grace period begins again.
    """
    since = parse_timestamp(gone_since) if gone_since else None
    if since is None or since > now + timedelta(seconds=1):
        return Decision(Step.MARK)
    if removal.policy == "Retain":
        return Decision(Step.KEEP)
    left = (since + timedelta(seconds=removal.grace_period_seconds) - now).total_seconds()
    return Decision(Step.WAIT, left) if left > 0 else Decision(Step.DELETE)
