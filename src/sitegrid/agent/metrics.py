"""Counters of one agent, in Prometheus' text format.

A few integers do not justify a client library of 8 MB. Everything that is refused, cut off or not understood is
counted here (I6: nothing is dropped silently). Shown under ``/sitegrid/metrics``. Held by
``tests/agent/test_server.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_LABELS: Final = {
    "upstream_failures_total": "reason",
    "requests_total": "route",
    "refused_total": "code",
    "snapshot_failures_total": "reason",
}
"""What the label of each series is called, where a name has several."""
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

_HELP: Final = {
    "upstream_bytes_total": "Bytes read from the API server for the agent's own watches and lists.",
    "upstream_events_total": "Watch events read from the API server.",
    "upstream_failures_total": "Watches and lists that ended in an error, by reason.",
    "relists_total": "Full lists after the first one of each source.",
    "undecodable_total": "Objects or events from the API server that could not be understood and were not shown.",
    "requests_total": "Requests of clients, by what was done with them: view, object, own, pass, service or refused.",
    "without_credentials_total": "Requests passed through without credentials (client-go sends none to http://).",
    "refused_total": "Requests refused because the answer could not be given exactly, by status code.",
    "slow_clients_total": "Watches and lists cut off because the client did not keep up.",
    "refused_clients_total": "Requests answered 429: the places for clients without an accepted token are taken.",
    "turned_away_total": "Connections that were closed, one at rest if there was one, because there were too many.",
    "events_sent_total": "Watch events sent to clients.",
    "connections": "Open client connections.",
    "sources": "Upstream watches.",
    "views": "Views of clients.",
    "watchers": "Open watches of clients.",
    "units": "Units that this node belongs to.",
    "wan_down": "1 while the API server cannot be reached.",
    "snapshot_failures_total": "Snapshots that could not be written or used, by reason.",
    "snapshots_unwritten": "Snapshots that the disk does not have as they are; above 0 for long, the disk fails.",
    "snapshot_bytes": "Bytes of all snapshots on the disk.",
    "snapshot_timestamp_seconds": "When a snapshot was last written, in Unix time; 0 without one.",
}


class Metrics:
    """Named numbers; `label` tells series of one name apart."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], float] = {}
        self._followed: dict[str, Callable[[], float]] = {}

    def add(self, name: str, amount: float = 1, label: str = "") -> None:
        """Add `amount` to a series."""
        self._values[name, label] = self._values.get((name, label), 0) + amount

    def set(self, name: str, value: float) -> None:
        """Set a series to `value`."""
        self._values[name, ""] = value

    def follow(self, name: str, value: Callable[[], float]) -> None:
        """Have a series show what `value` returns at the moment."""
        self._followed[name] = value

    def get(self, name: str, label: str = "") -> float:
        """Return the value of a series, 0 if there is none."""
        return self._values.get((name, label), 0)

    def render(self) -> bytes:
        """Return all series as text."""
        lines = []
        for name, value in self._followed.items():
            self.set(name, value())
        for name, text in _HELP.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP sitegrid_agent_{name} {text}", f"# TYPE sitegrid_agent_{name} {kind}"]
            if name in _LABELS:
                # A series begins with its first event, as Prometheus' own libraries have it.
                series = sorted((label, amount) for (known, label), amount in self._values.items() if known == name)
                lines += [
                    f'sitegrid_agent_{name}{{{_LABELS[name]}="{label}"}} {value:.15g}' for label, value in series
                ]
            else:
                lines.append(f"sitegrid_agent_{name} {self.get(name):.15g}")
        return "\n".join(lines).encode() + b"\n"
