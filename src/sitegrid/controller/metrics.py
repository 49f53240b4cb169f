"""What the controller counts, under Prometheus' naming rules.

Every write, pass and queue is counted here, and nothing else knows of Prometheus. Held by
``tests/controller/passes/test_fallback.py`` and ``tests/controller/test_faults.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The controller's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.writes = Counter(
            "sitegrid_api_writes",
            "Writes to the API server, by resource, verb and result (ok, or the HTTP status).",
            ["resource", "verb", "result"],
            registry=self.registry,
        )
        self.passes = Counter(
            "sitegrid_reconcile",
            "Passes over a grid or a Service's slices, by kind and result (ok, error).",
            ["kind", "result"],
            registry=self.registry,
        )
        self.pass_seconds = Histogram(
            "sitegrid_reconcile_duration_seconds",
            "Duration of a pass, its writes included.",
            ["kind"],
            registry=self.registry,
        )
        self.leader = Gauge(
            "sitegrid_leader",
            "1 while this process leads, so that the sum over replicas is 1.",
            registry=self.registry,
        )
        self._fallback_units = Gauge(
            "sitegrid_fallback_units",
            "Units that use another unit's endpoints, as a ServiceGrid's fallback allows, over all ServiceGrids.",
            registry=self.registry,
        )
        self._queue_depth = Gauge(
            "sitegrid_queue_depth", "Keys that wait for a worker.", ["queue"], registry=self.registry
        )

    def watch_queue(self, name: str, depth: Callable[[], int]) -> None:
        """Report `depth()` as the depth of the queue `name` from now on."""
        self._queue_depth.labels(queue=name).set_function(depth)

    def watch_fallbacks(self, count: Callable[[], int]) -> None:
        """Report `count()` as the number of units in fallback from now on."""
        self._fallback_units.set_function(count)
