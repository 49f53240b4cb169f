"""The kinds of workload grid, one row each: a further kind is a row here, a type in `sitegrid.api` and a reflector.

Read by planning (names, children, status) and by the controller (what to watch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class WorkloadKind:
    """What differs between the kinds."""

    grid_kind: str
    """The kind of the grid."""
    api_version: str
    """The API group and version of the child."""
    kind: str
    """The kind of the child."""
    max_name: int
    """Longest name of a child, in characters."""


DEPLOYMENT: Final = WorkloadKind(
    grid_kind="DeploymentGrid",
    api_version="apps/v1",
    kind="Deployment",
    # Its ReplicaSets are named <name>-<hash of at most 10 characters>, in at most 253.
    max_name=242,
)

WORKLOAD_KINDS: Final = {kind.grid_kind: kind for kind in (DEPLOYMENT,)}
