"""Which of Kubernetes' slices a grid's Service has its endpoints from, and which are left over.

They are those of the Service beside it, which has the selector (`sitegrid.grid.service`). A Service that an older
controller made still has its own selector, and slices; it loses both only when the other's have all of the same
endpoints, and until then both count. What Kubernetes has made for the former selector it never deletes. Invariant: no
site loses an endpoint by any of this (I8), whichever write comes last. Held by ``tests/grid/test_sources.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sitegrid.grid.groups import sorted_ports
from sitegrid.grid.observed import EndpointPort, EndpointSlice, Service
from sitegrid.grid.service import is_closed
from sitegrid.wire.labels import (
    ALIASES,
    ENDPOINTSLICE_CONTROLLER,
    GRID_UNIQ_KEY,
    MANAGED_BY,
    SERVICE_NAME,
    SERVICE_PATCH,
    SITES_OF,
)

MIRRORING_CONTROLLER: Final = "endpointslicemirroring-controller.k8s.io"
"""Value of the managed-by label on the slices that Kubernetes copies from the Endpoints of a Service without a
selector."""

_Identity = tuple[str, tuple[EndpointPort, ...], tuple[str, ...], bool]


def is_source(item: EndpointSlice) -> bool:
    """Tell whether a slice is one that Kubernetes makes by itself."""
    labels = item.metadata.labels
    return SERVICE_NAME in labels and labels.get(MANAGED_BY) in (ENDPOINTSLICE_CONTROLLER, MIRRORING_CONTROLLER)


def source_service(item: EndpointSlice) -> str:
    """Return the name of the grid's Service whose endpoints a slice of Kubernetes' has."""
    labels = item.metadata.labels
    return labels.get(SITES_OF) or labels[SERVICE_NAME]


def of_service(service: Service | None, items: Iterable[EndpointSlice]) -> list[EndpointSlice]:
    """Return the slices of a Service; a namesake that was just deleted may have left its own behind."""
    if service is None:
        return []
    uid = service.metadata.uid
    return [item for item in items if any(owner.uid == uid for owner in item.metadata.owner_references)]


def sources_of(service: Service, sites: Service | None, items: Iterable[EndpointSlice]) -> list[EndpointSlice]:
    """Return those of Kubernetes' slices `items` that the endpoints of `service` are taken from.

    `sites` is the Service with the selector. A selector that somebody adds to a closed Service counts for nothing.
    """
    items = [*items]
    found = of_service(sites, items)
    return found if is_closed(service) else [*of_service(service, items), *found]


def covers(service: Service, sites: Service | None, items: Iterable[EndpointSlice]) -> bool:
    """Tell whether the slices of `sites` have every endpoint that those of `service` itself have.

    Kubernetes makes at least one slice for a Service with a selector, without endpoints where there are none.
    """
    items = [*items]
    found = of_service(sites, items)
    return bool(found) and _identities(of_service(service, items)) <= _identities(found)


def leftovers(service: Service, items: Iterable[EndpointSlice]) -> list[EndpointSlice]:
    """Return those of Kubernetes' slices `items` that were made for a selector that `service` had.

    They have the labels that it had, as those that are mirrored from its Endpoints of that time; others are of
    somebody's own Endpoints.
    """
    if service.spec.selector:
        return []
    name = service.metadata.name
    return [item for item in items if (x := item.metadata.labels).get(SERVICE_NAME) == name and GRID_UNIQ_KEY in x]


def as_sources(unit_slices: Iterable[EndpointSlice]) -> list[EndpointSlice]:
    """Return the unit slices with endpoints, to be taken for Kubernetes' while that has made none (again)."""
    return [item for item in unit_slices if not {ALIASES, SERVICE_PATCH} & item.metadata.labels.keys()]


def _identities(items: Iterable[EndpointSlice]) -> set[_Identity]:
    return {
        (item.address_type, sorted_ports(item), tuple(endpoint.addresses), endpoint.ready)
        for item in items
        for endpoint in item.endpoints or ()
    }
