"""Children that SuperEdge's controller made, taken over as they are, so that no pod restarts.

`sitegrid migrate` notes on such a child what its pod template was made from (`ADOPTED`). For as long as the grid's
template is that, the child is wanted with SuperEdge's shape: the template and the unit's node selector, and nothing
of ours. A selector cannot be changed, so the unit's label never comes; what else our pods carry (tolerations) comes
with the next change of the template, which restarts the pods anyway. Traffic is closed by the pods' nodes, not by
labels. Called by `sitegrid.grid.workload`; held by ``tests/grid/test_adoption.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sitegrid.wire.labels import GROUP

ADOPTED: Final = f"{GROUP}/adopted"
"""Annotation of a child, or of a ServiceGrid's Service, that SuperEdge's controller made: `template_mark` when it was
taken over."""
SERVICE_MARK: Final = "service"
"""The value for a Service."""


def template_mark(spec: Mapping[str, Any]) -> str:
    """Return what tells the pod template of `spec`, a child's spec before it is pinned to its unit, from others."""
    data = msgspec.json.encode(spec.get("template"), order="deterministic")
    return hashlib.sha256(data).hexdigest()[:32]
