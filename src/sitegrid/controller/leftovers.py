"""Deletes what Kubernetes has made for the selector that a grid's Service had, and deletes no more.

A Service loses its selector when it was made by an older controller, or when somebody had added one. Its Endpoints go
first: as long as they are there, the endpointslicemirroring controller makes slices of them, again and again. Whoever
is killed in between leaves the slices, by which this is called again. Endpoints without our labels are somebody's own
and stay. Called by `sitegrid.controller.slices`; held by ``tests/controller/passes/test_closing.py`` and, with
Kubernetes' controllers, ``tests/controller/test_closing.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from sitegrid.api.meta import ObjectMeta
from sitegrid.controller.cluster import Cluster
from sitegrid.controller.writer import Writer
from sitegrid.grid.observed import EndpointSlice, Service
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import ENDPOINTS, ENDPOINTSLICES
from sitegrid.wire.labels import GRID_UNIQ_KEY

log = logging.getLogger(__name__)


async def delete_leftovers(
    cluster: Cluster, writer: Writer, service: Service, items: Iterable[EndpointSlice]
) -> None:
    """Delete the Endpoints of `service`, and then `items`, its slices. Raises ApiError and Unreachable."""
    meta = service.metadata
    try:
        found = await writer.find(ENDPOINTS, meta.namespace, meta.name)
        if found is not None and GRID_UNIQ_KEY in (found["metadata"].get("labels") or {}):
            await writer.delete(ENDPOINTS, msgspec.convert(found["metadata"], ObjectMeta))
    except ApiError as error:
        if error.status != 403:
            raise
        # An older ClusterRole: slices would come again with each deletion, and a pass that fails would say less.
        log.warning(
            "Service %s/%s: the endpoints of its former selector stay, apply deploy/rbac/controller.yaml: %s",
            meta.namespace,
            meta.name,
            error,
        )
        return
    for item in items:
        await writer.delete(ENDPOINTSLICES, item.metadata)
        cluster.slices.deleted(item.metadata)
    log.info("Service %s/%s: deleted the endpoints of its former selector", meta.namespace, meta.name)
