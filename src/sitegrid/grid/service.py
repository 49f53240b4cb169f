"""Makes the wanted Services of a ServiceGrid: the one that users name, and the one that its endpoints come from.

Invariant I2: whoever is not behind an agent sees the first without endpoints. It has no selector, so Kubernetes makes
none for it; the service-proxy-name label, which makes a stock kube-proxy ignore it, is a second lock. The selector is
on a headless Service beside it, ``<service>-sites``. Kubernetes' endpointslice controller does its work there, and
the slices that it makes are regrouped into unit slices (`sitegrid.grid.slices`). Held by
``tests/grid/test_service.py``.
"""

from __future__ import annotations

from typing import Any, Final

from sitegrid.api.grids import VERSION
from sitegrid.api.meta import owner_reference
from sitegrid.api.servicegrids import MAX_SERVICE_NAME, ServiceGrid
from sitegrid.grid.observed import Service
from sitegrid.grid.superedge import copied_annotations, copied_labels
from sitegrid.wire.labels import (
    GRID,
    GRID_UNIQ_KEY,
    SERVICE_PROXY_NAME,
    SITEGRID,
    SITES,
    SITES_OF,
    hashed_name,
    label_value,
)

SITES_SUFFIX: Final = "-sites"
_NO_ENDPOINTS: Final = "ExternalName"
"""The type of Service that Kubernetes makes no endpoints for, whatever its selector."""


def has_endpoints(grid: ServiceGrid) -> bool:
    """Tell whether Kubernetes finds endpoints for the template: by its selector, and not for an external name."""
    template = grid.spec.template
    return bool(template.get("selector")) and template.get("type") != _NO_ENDPOINTS


def sites_names(service: str) -> tuple[str, ...]:
    """Return the names for the Service beside `service`: the first that nobody else has is its name."""
    plain = service + SITES_SUFFIX
    hashed = hashed_name(service, service, max_length=MAX_SERVICE_NAME - len(SITES_SUFFIX)) + SITES_SUFFIX
    return (plain, hashed) if len(plain) <= MAX_SERVICE_NAME else (hashed,)


def is_closed(service: Service) -> bool:
    """Tell whether a grid's Service was made, or has become, one without a selector.

    One that an older controller made has its selector until the other Service has all of its endpoints.
    """
    return SITES in service.metadata.labels or not service.spec.selector


def is_sites_of(service: Service, grid: ServiceGrid) -> bool:
    """Tell whether a Service that `grid` controls is the one with the endpoints of the grid's Service."""
    name = grid.wanted_service_name()
    return service.metadata.labels.get(SITES_OF) == name != service.metadata.name


def was_sites(service: Service) -> bool:
    """Tell whether a Service was made as the one beside another, whatever its name is for now."""
    labels = service.metadata.labels
    return labels.get(SITES_OF, service.metadata.name) != service.metadata.name and labels.get(GRID_UNIQ_KEY) == ""


def wanted_service(grid: ServiceGrid, sites: str = "") -> dict[str, Any]:
    """Return the Service of `grid`. The Service `sites` has its endpoints; without, it is as the template says."""
    labels = {
        **copied_labels(grid),
        GRID: label_value(grid.metadata.name),
        GRID_UNIQ_KEY: label_value(grid.spec.grid_uniq_key),
        SERVICE_PROXY_NAME: SITEGRID,
    }
    spec = grid.spec.template
    if sites:
        labels[SITES] = sites
        spec = {name: value for name, value in spec.items() if name != "selector"}
        unsaid = not spec.get("ipFamilyPolicy") and len(spec.get("ipFamilies") or ()) < 2
        if spec.get("clusterIP") == "None" and unsaid:
            # Without a selector Kubernetes would take both families (initIPFamilyFields in
            # pkg/registry/core/service/storage/alloc.go).
            spec["ipFamilyPolicy"] = "SingleStack"
    return _service(grid, grid.wanted_service_name(), labels, spec, copied_annotations(grid))


def wanted_sites_service(grid: ServiceGrid, name: str, service: Service) -> dict[str, Any]:
    """Return the headless Service `name`, for which Kubernetes makes the endpoints of `service`, the grid's.

    The families are those that `service` was given, which may follow from its address; a headless one has none, and
    without a selector Kubernetes gives it others than with one.
    """
    template = grid.spec.template
    families = template
    if not service.headless:
        families = {"ipFamilies": service.spec.ip_families, "ipFamilyPolicy": service.spec.ip_family_policy}
    spec = {
        "clusterIP": "None",
        "selector": template.get("selector"),
        "ports": _without_node_ports(template.get("ports")),
        "publishNotReadyAddresses": template.get("publishNotReadyAddresses"),
        "trafficDistribution": template.get("trafficDistribution"),
        "ipFamilies": families.get("ipFamilies"),
        "ipFamilyPolicy": families.get("ipFamilyPolicy"),
    }
    labels = {
        **copied_labels(grid),
        GRID: label_value(grid.metadata.name),
        GRID_UNIQ_KEY: "",
        SITES_OF: grid.wanted_service_name(),
        SERVICE_PROXY_NAME: SITEGRID,
    }
    # No annotations: a name that they ask for (external-dns), or an address, is the other Service's.
    return _service(grid, name, labels, {field: value for field, value in spec.items() if value}, {})


def _service(
    grid: ServiceGrid, name: str, labels: dict[str, str], spec: dict[str, Any], annotations: dict[str, str]
) -> dict[str, Any]:
    meta = grid.metadata
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": meta.namespace,
            **({"annotations": annotations} if annotations else {}),
            "labels": labels,
            "ownerReferences": [owner_reference(f"{grid.GROUP}/{VERSION}", ServiceGrid.KIND, meta.name, meta.uid)],
        },
        "spec": spec,
    }


def _without_node_ports(ports: Any) -> Any:
    """Return the ports as a headless Service may have them; what is no list is for the API server to refuse."""
    if not isinstance(ports, list):
        return ports
    return [
        {field: value for field, value in port.items() if field != "nodePort"} if isinstance(port, dict) else port
        for port in ports
    ]
