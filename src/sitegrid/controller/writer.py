"""All writes to the API server: server-side apply (one field manager), patches and deletes with preconditions.

Workloads, services and slices decide, this carries out; it bounds how much is under way at once and counts
everything. Invariant I3: an object that exists is only ever forced where the caller gives the uid of the object it
controls, and the API server refuses (409) where another one has taken its place. Held by
``tests/controller/passes`` and the conflict tests on a real API server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, Protocol, TypeVar

from sitegrid.api.meta import FIELD_MANAGER, ObjectMeta
from sitegrid.controller.metrics import Metrics
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.kube.resources import Resource

RELEASED_MANAGER: Final = f"{FIELD_MANAGER}-released"
"""The field manager of what is ours no more, and is to stay as it is until somebody else takes it."""

Manifest = dict[str, Any]
T = TypeVar("T")

PARALLEL_WRITES: Final = 24
"""Writes of children at once; below the client's limit, so that slices always find a free connection."""


class Api(Protocol):
    """The part of `sitegrid.kube.client.Client` that is used for writing."""

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest:
        """Return one object."""

    async def create(self, resource: Resource, obj: Manifest, *, field_manager: str | None = None) -> Manifest:
        """Create an object that must not exist yet."""

    async def apply(
        self,
        resource: Resource,
        obj: Manifest,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Manifest:
        """Server-side apply."""

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Manifest,
        namespace: str | None = None,
        *,
        dry_run: bool = False,
    ) -> Manifest:
        """Merge patch."""

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation_policy: str | None = None,
    ) -> None:
        """Delete one object."""


class Writer:
    """Writes through `api`, at most `parallel` at once."""

    def __init__(self, api: Api, metrics: Metrics, *, parallel: int = PARALLEL_WRITES) -> None:
        self._api = api
        self._metrics = metrics
        self._free = asyncio.Semaphore(parallel)

    async def find(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """Return the object as the API server has it now, or None."""
        async with self._free:
            try:
                return await self._api.get(resource, name, namespace)
            except ApiError as error:
                if error.not_found:
                    return None
                raise

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Apply an object that does not exist yet; nobody else's field is taken over if it does after all."""
        return await self._counted(
            resource, "create", self._api.apply(resource, manifest, field_manager=FIELD_MANAGER, force=False)
        )

    async def update(self, resource: Resource, manifest: Manifest, uid: str) -> Manifest:
        """Apply an object that we control, only if it still has `uid`; our fields are taken back from others."""
        metadata = {**manifest["metadata"], "uid": uid}
        return await self._counted(
            resource,
            "update",
            self._api.apply(resource, {**manifest, "metadata": metadata}, field_manager=FIELD_MANAGER, force=True),
        )

    async def make(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Create an object that nobody else may have made meanwhile, since we would be writing into theirs."""
        return await self._counted(
            resource, "create", self._api.create(resource, manifest, field_manager=FIELD_MANAGER)
        )

    async def apply_as(
        self, resource: Resource, metadata: ObjectMeta, fields: Manifest, field_manager: str
    ) -> Manifest:
        """Apply `fields` of metadata to somebody else's object as `field_manager`, whose other fields go.

        What others have set otherwise is refused (409).
        """
        manifest = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {**fields, "name": metadata.name, "uid": metadata.uid},
        }
        return await self._counted(
            resource, "apply", self._api.apply(resource, manifest, field_manager=field_manager, force=False)
        )

    async def merge(self, resource: Resource, metadata: ObjectMeta, patch: Manifest) -> Manifest:
        """Merge `patch` into an object, only if it is as it was observed."""
        observed = {"uid": metadata.uid, "resourceVersion": metadata.resource_version}
        patch = {**patch, "metadata": {**patch.get("metadata", {}), **observed}}
        return await self._counted(
            resource, "patch", self._api.patch(resource, metadata.name, patch, metadata.namespace or None)
        )

    async def dry_run(self, resource: Resource, metadata: ObjectMeta, patch: Manifest) -> None:
        """Have the API server check what `patch` would make of an object, if it still has its uid; nothing is stored.

        Counted by a verb of its own, for it is no write.
        """
        patch = {**patch, "metadata": {**patch.get("metadata", {}), "uid": metadata.uid}}
        await self._counted(
            resource,
            "dry-run",
            self._api.patch(resource, metadata.name, patch, metadata.namespace or None, dry_run=True),
        )

    async def release_replicas(self, resource: Resource, manifest: Manifest, uid: str, replicas: int) -> None:
        """Own the present number of replicas under another name, so that giving them up does not reset them to 1.

        As Kubernetes' documentation of server-side apply says for handing a field over to an autoscaler.
        """
        metadata = {name: manifest["metadata"][name] for name in ("name", "namespace")}
        held = {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": {**metadata, "uid": uid},
            "spec": {"replicas": replicas},
        }
        await self._counted(
            resource, "release", self._api.apply(resource, held, field_manager=RELEASED_MANAGER, force=True)
        )

    async def delete_templates(self, resource: Resource, metadata: ObjectMeta, names: Iterable[str]) -> Manifest:
        """Delete entries of a grid's templatePool, only if the grid is as it was observed."""
        return await self.merge(resource, metadata, {"spec": {"templatePool": dict.fromkeys(names)}})

    async def status(self, resource: Resource, metadata: ObjectMeta, status: Manifest) -> Manifest:
        """Apply the status of a grid, only if it still is that grid."""
        manifest = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
            "status": status,
        }
        return await self._counted(
            resource,
            "status",
            self._api.apply(resource, manifest, field_manager=FIELD_MANAGER, force=True, subresource="status"),
        )

    async def annotate(self, resource: Resource, metadata: ObjectMeta, name: str, value: str | None) -> Manifest:
        """Set one annotation of an object (None: take it off), only if the object is as it was observed.

        A merge patch, since an apply would give up every field that it does not name.
        """
        patch = {
            "metadata": {
                "uid": metadata.uid,
                "resourceVersion": metadata.resource_version,
                "annotations": {name: value},
            }
        }
        return await self._counted(
            resource, "annotate", self._api.patch(resource, metadata.name, patch, metadata.namespace)
        )

    async def delete(self, resource: Resource, metadata: ObjectMeta) -> None:
        """Delete an object, only if it is as it was observed; that it is gone already is a success."""
        try:
            await self._counted(
                resource,
                "delete",
                self._api.delete(
                    resource,
                    metadata.name,
                    metadata.namespace,
                    uid=metadata.uid,
                    resource_version=metadata.resource_version,
                    propagation_policy="Background",
                ),
            )
        except ApiError as error:
            if not error.not_found:
                raise

    async def _counted(self, resource: Resource, verb: str, write: Coroutine[Any, Any, T]) -> T:
        result = "cancelled"
        try:
            async with self._free:
                answer = await write
            result = "ok"
        except ApiError as error:
            result = str(error.status)
            raise
        except Unreachable:
            result = "unreachable"
            raise
        finally:
            write.close()  # it was not begun where this was cancelled before its turn
            self._metrics.writes.labels(resource=resource.plural, verb=verb, result=result).inc()
        return answer
