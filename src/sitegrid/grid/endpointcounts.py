"""Counts the endpoints of each unit of a Service, for the ServiceGrid's status.

Held by ``tests/grid/test_slices.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sitegrid.grid.groups import Endpoints, Group


class EndpointCount(NamedTuple):
    """Endpoints of one unit; one of two address families, or with several sets of ports, is one."""

    ready: int
    total: int


def count_endpoints(groups: Mapping[Group, Endpoints]) -> dict[str, EndpointCount]:
    """Return the counts by unit."""
    found: dict[str, dict[object, bool]] = {}
    for group, endpoints in groups.items():
        unit = found.setdefault(group.unit, {})
        for addresses, endpoint in endpoints.items():
            pod = endpoint.target_ref
            identity = pod.uid if pod is not None and pod.uid else addresses
            unit[identity] = unit.get(identity, False) or endpoint.ready
    return {value: EndpointCount(sum(ready.values()), len(ready)) for value, ready in sorted(found.items())}
