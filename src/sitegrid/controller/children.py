"""Makes one child, if its name is free: the rule that nothing is ever adopted (invariant I3), for all kinds of child.

Called by workloads and services for a child that is not in the store. The API server is asked first, because the
store holds only objects with our labels: the name may be somebody else's, or the child ours with its labels removed.
Held by ``tests/controller/passes`` and the conflict tests on a real API server.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.superedge import GRID_SELECTOR
from sitegrid.controller.writer import Writer
from sitegrid.grid.adoption import ADOPTED
from sitegrid.grid.problem import Problem, name_conflict, not_migrated
from sitegrid.kube.resources import Resource


async def make_child(
    writer: Writer, resource: Resource, manifest: dict[str, Any], owner_uid: str
) -> dict[str, Any] | Problem:
    """Apply `manifest` and return the answer, or the problem that something else has the name already.

    What `owner_uid` controls is ours, but for what SuperEdge made for it and `sitegrid migrate` has not taken over.
    Raises ApiError and Unreachable.
    """
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    found = await writer.find(resource, namespace, name)
    if found is None:
        return await writer.create(resource, manifest)
    labels = found["metadata"].get("labels") or {}
    owner = next((owner for owner in found["metadata"].get("ownerReferences") or () if owner.get("controller")), None)
    ours = owner is not None and owner["uid"] == owner_uid
    if ours and ADOPTED in (found["metadata"].get("annotations") or {}):
        # Its labels were taken off; its shape is not the manifest's, so that is for the pass that sees it again.
        metadata = msgspec.convert(found["metadata"], ObjectMeta)
        return await writer.merge(resource, metadata, {"metadata": {"labels": manifest["metadata"]["labels"]}})
    if GRID_SELECTOR in labels and (ours or owner is None):
        return not_migrated(resource.kind, namespace, name)
    if ours:
        return await writer.update(resource, manifest, found["metadata"]["uid"])
    whose = f"{owner['kind']} {owner['name']}" if owner is not None else ""
    return name_conflict(resource.kind, namespace, name, whose)
