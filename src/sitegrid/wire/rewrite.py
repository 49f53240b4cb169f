"""What a client may see of an object, judged by its labels: the heart of closure.

Three kinds of objects meet here: unit slices and grid Services, which are shown rewritten, and objects that are not a
grid's, which are shown as they are. Everything else is not shown. Called by the agent's views and single GETs.

Invariant I1: a slice that belongs to a grid is shown only as a unit slice of one of the node's own units, and a
grid's Service only where the node is in a unit.
Held by ``tests/wire/test_rewrite.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from sitegrid.wire.labels import (
    ALIASES,
    GRID_UNIQ_KEY,
    HEADLESS,
    HEADLESS_SERVICE,
    MANAGED_BY,
    SERVICE_NAME,
    SERVICE_PATCH,
    SERVICE_PROXY_NAME,
    SITEGRID,
    SITES_OF,
    UNIT,
    UNIT_SERVICE_NAME,
)

_ADDED_BY_SITEGRID = frozenset(
    {UNIT, UNIT_SERVICE_NAME, GRID_UNIQ_KEY, SERVICE_PROXY_NAME, HEADLESS_SERVICE, HEADLESS, ALIASES}
)


def of_grid(labels: Mapping[str, str]) -> bool:
    """Tell whether a Service, EndpointSlice or Endpoints belongs to a grid, so that it is not shown as it is.

    The labels of a grid's workloads do not make it a grid's: `kubectl expose` copies them to a Service, and
    Kubernetes to its slices and Endpoints.
    """
    return GRID_UNIQ_KEY in labels or UNIT_SERVICE_NAME in labels or labels.get(MANAGED_BY) == SITEGRID


def unit_slice_labels(labels: Mapping[str, str], units: Set[str]) -> dict[str, str] | None:
    """Return the labels under which a client sees an EndpointSlice of a grid; None if it may not see it.

    `units` are the ids of the node's own units. The slice gets `SERVICE_NAME` back, and all that the controller added
    is taken off; the headless label stays where the Service is headless by itself.
    """
    service = labels.get(UNIT_SERVICE_NAME)
    if not service or GRID_UNIQ_KEY not in labels or SERVICE_PATCH in labels:
        return None
    if labels.get(MANAGED_BY) != SITEGRID or labels.get(UNIT) not in units:
        return None
    seen = {key: value for key, value in labels.items() if key not in _ADDED_BY_SITEGRID}
    seen[SERVICE_NAME] = service
    if HEADLESS_SERVICE in labels:
        seen[HEADLESS] = labels.get(HEADLESS, "")
    return seen


def grid_service_labels(labels: Mapping[str, str], keys: Set[str]) -> dict[str, str] | None:
    """Return the labels under which a client sees a grid's Service; None if it is not a grid's, or not for this node.

    `keys` are the unique keys (made safe) by which the node is in a unit: elsewhere the Service does not exist. The
    one with the endpoints of all units is nobody's. Only
    our own proxy name is taken off: a user's other one means that somebody else serves the Service.
    """
    if labels.get(GRID_UNIQ_KEY) not in keys or SITES_OF in labels:
        return None
    seen = dict(labels)
    if seen.get(SERVICE_PROXY_NAME) == SITEGRID:
        del seen[SERVICE_PROXY_NAME]
    return seen
