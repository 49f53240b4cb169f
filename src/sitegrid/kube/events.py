"""Events: what happened to an object, for people who run `kubectl describe`.

The controller calls `EventRecorder.event` and runs `EventRecorder.run` beside its work. Events are best effort, as
all of Kubernetes' are: recording one never blocks and never fails; when the API server does not keep up or refuses
them they are dropped, counted in `dropped`, and logged. The same event again within a short time makes no new object:
it becomes a series whose count is written now and then (KEP-383). Invariant: what is kept here is bounded, and
without new events nothing is written. Held by ``tests/kube/test_events.py``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sitegrid.kube.client import Client
from sitegrid.kube.clock import Clock, LoopClock
from sitegrid.kube.errors import ApiError, DecodeError, Unreachable
from sitegrid.kube.resources import EVENTS

log = logging.getLogger(__name__)

Object = dict[str, Any]

MAX_SERIES: Final = 1000
"""Different events remembered at once: the one that was quiet longest makes room, but none that is to be written."""
SERIES_QUIET: Final = 360.0
"""Seconds without repetition after which the same event is a new one (client-go's finishTime)."""
SERIES_WRITE: Final = 60.0
"""Seconds between two writes of one series's count."""
RETRY: Final = 5.0
"""Seconds until an event is written again for which the API server could not be reached."""
_MAX_NOTE: Final = 1024
_MAX_WORD: Final = 128
_MAX_NAME: Final = 253
"""Limits of events.k8s.io/v1, in characters (bytes for the note): longer ones would be refused."""
_MICRO_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


class _What(NamedTuple):
    """Two events that agree in all of this are the same one, repeated."""

    uid: str
    kind: str
    namespace: str
    name: str
    type: str
    reason: str
    action: str
    note: str


@dataclass(slots=True)
class _Series:
    regarding: Object
    event_name: str
    first_observed: str
    last_observed: str
    last: float
    """Clock time of the last repetition."""
    count: int = 1
    written_count: int = 0
    """How much of `count` is in the API server, or was refused."""
    queued: bool = False
    """To be written, or just being written: there is exactly one entry in the queue, timer or call for it."""
    exists: bool = False


class EventRecorder:
    """Records events of one `component` (`reportingController`) and `instance` (`reportingInstance`)."""

    def __init__(
        self,
        client: Client,
        *,
        component: str,
        instance: str,
        max_series: int = MAX_SERIES,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._component = component
        self._instance = instance[:_MAX_WORD]
        self._max_series = max_series
        self._clock = clock or LoopClock()
        self._series: OrderedDict[_What, _Series] = OrderedDict()
        self._due: asyncio.Queue[_What] = asyncio.Queue()
        self.dropped = 0
        """How many events were not written: there was no room for them, or they were refused."""
        self._dropped_logged = 0

    def event(self, regarding: Object, *, type: str, reason: str, action: str, note: str) -> None:
        """Record that `action` was done to the object `regarding`, for `reason`, and came out as `note` says.

        `type` is ``Normal`` or ``Warning``; `reason` and `action` are CamelCase words; a note is cut at 1 KiB.
        """
        reference = _reference(regarding)
        what = _What(
            reference.get("uid", ""),
            reference["kind"],
            reference.get("namespace", ""),
            reference["name"],
            type,
            reason[:_MAX_WORD],
            action[:_MAX_WORD],
            _cut(note),
        )
        now = self._clock.time()
        observed = datetime.now(UTC).strftime(_MICRO_TIME)
        series = self._series.get(what)
        if series is not None and (series.queued or now - series.last <= SERIES_QUIET):
            series.count += 1
            series.last = now
            series.last_observed = observed
            self._series.move_to_end(what)
        elif series is not None or self._make_room():
            suffix = f".{secrets.token_hex(8)}"
            event_name = what.name[: _MAX_NAME - len(suffix)].rstrip("-.") + suffix
            series = self._series[what] = _Series(reference, event_name, observed, observed, now)
            self._series.move_to_end(what)
        else:
            self.dropped += 1
            return
        if not series.queued:
            self._queue(what, series)

    async def run(self) -> None:
        """Write what is recorded, until cancelled."""
        while True:
            what = await self._due.get()
            series = self._series[what]
            count = series.count
            try:
                await self._write(what, series, count)
            except Unreachable as error:
                log.debug("event %s of %s/%s: %s", what.reason, what.namespace, what.name, error)
                self._later(what, RETRY)
                continue
            except (ApiError, DecodeError) as error:
                log.debug("event %s of %s/%s: %s", what.reason, what.namespace, what.name, error)
                self.dropped += count - series.written_count
            except asyncio.CancelledError:
                self._due.put_nowait(what)  # for the next `run`
                raise
            series.written_count = count
            series.queued = False
            if series.count > count:
                self._queue(what, series)
            if self.dropped > self._dropped_logged:
                log.warning("%d events were dropped", self.dropped - self._dropped_logged)
                self._dropped_logged = self.dropped

    def _queue(self, what: _What, series: _Series) -> None:
        series.queued = True
        # The first, and the second that makes it a series, are written at once; then the count now and then.
        if series.written_count < 2:
            self._due.put_nowait(what)
        else:
            self._later(what, SERIES_WRITE)

    def _later(self, what: _What, seconds: float) -> None:
        self._clock.call_later(seconds, lambda: self._due.put_nowait(what))

    def _make_room(self) -> bool:
        if len(self._series) < self._max_series:
            return True
        quiet = next((what for what, series in self._series.items() if not series.queued), None)
        if quiet is None:
            return False
        del self._series[quiet]
        return True

    async def _write(self, what: _What, series: _Series, count: int) -> None:
        if not series.exists:
            try:
                await self._client.create(EVENTS, self._new(what, series))
            except ApiError as error:
                if not error.already_exists:  # an earlier attempt, cut off before its answer came
                    raise
            series.exists = True
        if count > 1:
            patch = {"series": {"count": count, "lastObservedTime": series.last_observed}}
            try:
                await self._client.patch(EVENTS, series.event_name, patch, _namespace(what))
            except ApiError as error:
                # Events expire (after an hour, by default); the next repetition makes this one again.
                series.exists = not error.not_found
                raise

    def _new(self, what: _What, series: _Series) -> Object:
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": series.event_name, "namespace": _namespace(what)},
            "eventTime": series.first_observed,
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "regarding": series.regarding,
            "type": what.type,
            "reason": what.reason,
            "action": what.action,
            "note": what.note,
        }


def _reference(obj: Object) -> Object:
    """Return the `v1.ObjectReference` of `obj`, which may itself be one."""
    metadata = obj.get("metadata") or obj
    fields = {
        "apiVersion": obj.get("apiVersion"),
        "kind": obj.get("kind"),
        "namespace": metadata.get("namespace"),
        "name": metadata["name"],
        "uid": metadata.get("uid"),
        "resourceVersion": metadata.get("resourceVersion"),
    }
    return {"kind": "", **{name: value for name, value in fields.items() if value}}


def _namespace(what: _What) -> str:
    """Return the Event's namespace; events of cluster-scoped objects live in `default` (events.k8s.io validation)."""
    return what.namespace or "default"


def _cut(note: str) -> str:
    data = note.encode()
    return note if len(data) <= _MAX_NOTE else data[: _MAX_NOTE - 3].decode(errors="ignore") + "…"
