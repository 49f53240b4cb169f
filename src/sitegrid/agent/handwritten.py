"""Slices that Kubernetes' own controller has not written: are they for a grid's Service?

Whoever writes a slice by hand, or Endpoints that Kubernetes mirrors into one, need not give it our labels; then only
the name of its Service tells that it is a grid's, and so of no unit. A node knows the grids' Services of its own keys
anyway. Those of all keys are asked for once there is such a slice, which most clusters have none of, and are kept on
the disk as all sources are. Until they are known the slice is not shown (I1). Used by views of slices. Held by
``tests/agent/test_closure.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sitegrid.agent.source import Source, SourceKey
from sitegrid.wire.codec import Item
from sitegrid.wire.labels import ENDPOINTSLICE_CONTROLLER, GRID_UNIQ_KEY, MANAGED_BY, SERVICE_NAME
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import SERVICES

GRIDS_SERVICES: Final = SourceKey(SERVICES, "", GRID_UNIQ_KEY, "", PROTOBUF)
"""The Services of all grids."""
_API_SERVER: Final = "default/kubernetes"
"""The Service whose slice the API server writes itself: it is there before any grid, and needed above all."""


class Handwritten:
    """Judges slices by their Services; `changed` hears of the Services whose slices are to be judged anew."""

    def __init__(
        self,
        acquire: Callable[[SourceKey], Source],
        release: Callable[[Source], None],
        changed: Callable[[set[str]], None],
    ) -> None:
        self._acquire = acquire
        self._release = release
        self._changed = changed
        self._services: Source | None = None
        self._known = False
        self._asked: set[str] = set()

    def may_be_a_grids(self, service: str, labels: Mapping[str, str]) -> bool:
        """Tell whether a slice with `labels` is for a grid's Service, of the key `service`, or nobody knows yet."""
        if labels.get(MANAGED_BY) == ENDPOINTSLICE_CONTROLLER or SERVICE_NAME not in labels or service == _API_SERVER:
            return False
        self._asked.add(service)
        if self._services is None:
            self._services = self._acquire(GRIDS_SERVICES)
            self._services.listeners.append(self)
            self._known = self._services.synced
        return not self._known or service in self._services.objects

    @property
    def awaited(self) -> bool:
        """Tell whether grids' Services are asked for, and may come soon."""
        return self._services is not None and self._services.awaited

    def source_changed(self, source: Source, key: str, deleted: Item | None) -> None:
        """A grid's Service changed, came or went."""
        if self._known and key in self._asked:
            self._changed({key})

    def source_progressed(self, source: Source) -> None:
        """The grids' Services are known, or will not be known soon."""
        if not self._known:
            self._known = source.synced
            self._changed(set(self._asked))

    def close(self) -> None:
        """Let the source go."""
        if self._services is not None:
            self._services.listeners.remove(self)
            self._release(self._services)
