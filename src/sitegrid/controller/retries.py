"""Spaces out what failed, per unit and for ever (invariant I4: one unit's failure is its own).

A grid's pass asks here which of its actions may be tried now. A changed wanted object is tried at once, since the
user may just have repaired it. Held by ``tests/controller/test_retries.py``.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sitegrid.grid.problem import NAME_CONFLICT, Problem
from sitegrid.kube.errors import ApiError, Unreachable

log = logging.getLogger(__name__)

BASE_DELAY: Final = 0.5
MAX_DELAY: Final = 120.0
"""Seconds between two tries of what keeps failing: few enough for the API server, soon enough for who repaired it."""
MAX_LOOK_DELAY: Final = 10.0
"""The same for a name that is taken: nothing tells when it becomes free, and to look costs no write."""


@dataclass(slots=True)
class _Failure:
    digest: str
    attempts: int
    due: float
    problem: Problem | None


class Retries:
    """The failures of one grid, by unit."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._failures: dict[str, _Failure] = {}

    def allowed(self, unit: str, digest: str) -> bool:
        """Tell whether to try now to write what `digest` stands for."""
        failure = self._failures.get(unit)
        return failure is None or failure.digest != digest or failure.due <= self._clock()

    def failed(self, unit: str, digest: str, problem: Problem | None) -> None:
        """Note a failure; `problem` is what to tell the user, None where it is nothing of theirs."""
        known = self._failures.get(unit)
        attempts = known.attempts + 1 if known is not None and known.digest == digest else 1
        longest = MAX_LOOK_DELAY if problem is not None and problem.reason == NAME_CONFLICT else MAX_DELAY
        delay = min(longest, BASE_DELAY * 2.0 ** min(attempts - 1, 20)) * (0.75 + self._jitter() / 2)
        self._failures[unit] = _Failure(digest, attempts, self._clock() + delay, problem)

    def succeeded(self, unit: str) -> None:
        """Forget the failures of a unit."""
        self._failures.pop(unit, None)

    def keep_only(self, units: set[str]) -> None:
        """Forget all units but these: they need nothing any more."""
        for unit in self._failures.keys() - units:
            del self._failures[unit]

    def problems(self) -> dict[str, Problem]:
        """Return what to tell the user, by unit."""
        return {unit: failure.problem for unit, failure in self._failures.items() if failure.problem is not None}

    def next_due(self) -> float | None:
        """Return in how many seconds the next try is due, None where nothing failed."""
        if not self._failures:
            return None
        return max(0.0, min(failure.due for failure in self._failures.values()) - self._clock())


async def attempt(
    write: Awaitable[Problem | None],
    retries: Retries,
    *,
    key: str,
    digest: str,
    may_be_stale: bool,
    refused: Callable[[ApiError], Problem],
    what: str,
) -> Problem | None:
    """Await a write that may fail and note in `retries` how it came out; return what to tell the user, if anything.

    With `may_be_stale` a conflict says only that somebody was faster. `what` is what the log calls it.
    """
    try:
        problem = await write
    except ApiError as error:
        stale = error.conflict and may_be_stale
        problem = None if stale else refused(error)
        log.log(logging.DEBUG if stale else logging.WARNING, "%s: %s", what, error)
    except Unreachable as error:
        problem = None
        log.warning("%s: %s", what, error)
    else:
        if problem is None:
            retries.succeeded(key)
            return None
    retries.failed(key, digest, problem)
    return problem
