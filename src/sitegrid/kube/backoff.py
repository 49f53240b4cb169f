"""How long to wait after the n-th failure in a row.

Used by the reflector between attempts. Delays double up to a cap and are jittered, so that the clients of an API
server that comes back do not arrive together; a quiet time begins anew, and a server that fails right after each
success is still approached ever more slowly. Held by ``tests/kube/test_backoff.py``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Counts failures and gives delays in seconds."""

    initial: float = 0.5
    cap: float = 10.0
    reset_after: float = 60.0
    """Seconds without failure after which the next one counts as the first."""
    jitter: Callable[[], float] = random.random
    """Gives 0 to 1; a delay is between half and all of the doubled time."""
    _failures: int = field(default=0, init=False)
    _last: float = field(default=float("-inf"), init=False)

    def next(self, now: float) -> float:
        """Count a failure at the time `now` (seconds, monotonic) and return how long to wait."""
        if now - self._last > self.reset_after:
            self._failures = 0
        # The exponent is bounded: 2.0**1024 overflows.
        delay = min(self.cap, self.initial * 2.0 ** min(self._failures, 60))
        self._failures += 1
        delay *= 0.5 + self.jitter() / 2
        self._last = now + delay
        return delay
