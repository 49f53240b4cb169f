"""Makes the wanted Service of a ServiceGrid: the user's template, under one name for all units, closed.

Invariant I2: the service-proxy-name label makes a stock kube-proxy ignore the Service, so a node without an agent
reaches nothing. Held by ``tests/grid/test_service.py``.
"""

from __future__ import annotations

from typing import Any

from sitegrid.api.grids import VERSION
from sitegrid.api.meta import owner_reference
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.grid.superedge import copied_annotations, copied_labels
from sitegrid.wire.labels import GRID, GRID_UNIQ_KEY, SERVICE_PROXY_NAME, SITEGRID, label_value


def wanted_service(grid: ServiceGrid) -> dict[str, Any]:
    """Return the Service of `grid`; Kubernetes copies its labels onto its EndpointSlices, where we watch for them."""
    meta, annotations = grid.metadata, copied_annotations(grid)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": grid.wanted_service_name(),
            "namespace": meta.namespace,
            **({"annotations": annotations} if annotations else {}),
            "labels": {
                **copied_labels(grid),
                GRID: label_value(meta.name),
                GRID_UNIQ_KEY: label_value(grid.spec.grid_uniq_key),
                SERVICE_PROXY_NAME: SITEGRID,
            },
            "ownerReferences": [owner_reference(f"{grid.GROUP}/{VERSION}", ServiceGrid.KIND, meta.name, meta.uid)],
        },
        "spec": grid.spec.template,
    }
