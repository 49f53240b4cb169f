"""The units of the agent's own node: what decides whose endpoints may be shown.

Only the node's metadata is watched. Until the first complete answer the units are unknown, and unknown is not empty:
then nothing is answered at all. A node that does not exist is in no unit.

Invariant I1: `units` (and `keys`) hold the ids of the node's current labels and nothing else. Held by
``tests/agent/test_node.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from sitegrid.agent.source import Refused, Source, SourceKey
from sitegrid.wire.codec import Item
from sitegrid.wire.labels import label_value, unit_id
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import NODES

_log = logging.getLogger(__name__)


def node_source_key(name: str) -> SourceKey:
    """Return what to ask for to follow node `name`."""
    return SourceKey(NODES, "", "", f"metadata.name={name}", PROTOBUF, metadata_only=True)


class NodeUnits:
    """Follows the node source; calls `changed` whenever `units` or `known` changed."""

    def __init__(self, name: str, source: Source, changed: Callable[[], None]) -> None:
        self.name = name
        self.known = False
        self.by_key: dict[str, str] = {}
        """The ids of `units` by their unique keys, as these stand in labels."""
        self.units: frozenset[str] = frozenset()
        self.keys: frozenset[str] = frozenset()
        """The unique keys of `units`."""
        self._exists: bool | None = None
        self._source = source
        self._changed = changed
        source.listeners.append(self)

    @property
    def refusal(self) -> Refused | None:
        """Why the API server tells nothing of the node, if it was asked and refused."""
        return self._source.refusal

    def source_changed(self, source: Source, key: str, deleted: Item | None) -> None:
        """The node changed or is gone."""
        self._update()

    def source_progressed(self, source: Source) -> None:
        """The node source may have synced."""
        self._update()

    def _tell_whether_it_exists(self, exists: bool) -> None:
        if exists is self._exists or (exists and self._exists is None):
            pass
        elif exists:
            _log.warning("node %s exists now", self.name)
        else:
            _log.warning(
                "there is no node %s: nothing of any grid is shown until there is; is --node-name right?", self.name
            )
        self._exists = exists

    def _update(self) -> None:
        if not self._source.synced:
            return
        node = self._source.objects.get(self.name)
        self._tell_whether_it_exists(node is not None)
        labels = self._source.key.codec.labels(node) if node is not None else {}
        # The empty value is no unit (a NodeUnit is all nodes with the same non-empty value).
        by_key = {label_value(key): unit_id(key, value) for key, value in labels.items() if value}
        if not self.known or by_key != self.by_key:
            self.known, self.by_key = True, by_key
            self.units, self.keys = frozenset(by_key.values()), frozenset(by_key)
            self._changed()
