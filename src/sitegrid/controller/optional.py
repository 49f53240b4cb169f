"""Kinds that need not be there: watched for as long as a CustomResourceDefinition of ours serves them.

One watch of the CRDs that carry our label tells which there are; where there are none it is idle, and nothing else is
asked for. A CRD that comes has its kind observed from then on; when it goes, or loses the label (`sitegrid migrate
--back` takes it off), the store is emptied, so that nothing is worked on any more: what was made stays, since only a
grid's own deletion deletes its children. Held by ``tests/controller/superedge`` and
``tests/controller/test_optional.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final, NamedTuple

from msgspec import Struct, field

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.superedge import OPTIONAL_API
from sitegrid.kube.client import Client
from sitegrid.kube.reflector import Reflector
from sitegrid.kube.resources import CRDS, Resource
from sitegrid.kube.store import Store

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds to wait for the CRDs, which come at once where they may be read at all."""


class _Condition(Struct, rename="camel", gc=False):
    type: str
    status: str


class _Status(Struct, rename="camel", gc=False):
    conditions: list[_Condition] | None = None


class Definition(Struct, rename="camel", gc=False):
    """A CustomResourceDefinition: whether it is served."""

    metadata: ObjectMeta
    status: _Status = field(default_factory=_Status)

    @property
    def established(self) -> bool:
        """Whether the API server serves it."""
        return any(item.type == "Established" and item.status == "True" for item in self.status.conditions or ())


class _Kind(NamedTuple):
    resource: Resource
    store: Store[Any]
    object_type: type[Any]


class Optional:
    """The optional kinds, and their reflectors while they are served."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._definitions: Store[Definition] = Store()
        self._running: dict[str, tuple[Reflector[Any], asyncio.Task[None]]] = {}
        self._reflector: Reflector[Definition] | None = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()

    def add(self, resource: Resource, store: Store[Any], object_type: type[Any]) -> None:
        """Observe `resource` in `store` while its CRD is there."""
        self._kinds[f"{resource.plural}.{resource.group}"] = _Kind(resource, store, object_type)

    def reflect(self, client: Client) -> Reflector[Definition]:
        """Return the reflector of the CRDs; the caller runs it, and `run`."""
        self._definitions.add_handler(lambda old, new: self._changed.set())
        self._reflector = Reflector(
            client, CRDS, self._definitions, object_type=Definition, label_selector=OPTIONAL_API
        )
        return self._reflector

    def served(self, resource: Resource) -> bool:
        """Tell whether the objects of `resource` are observed, all of them."""
        running = self._running.get(f"{resource.plural}.{resource.group}")
        return running is not None and running[0].synced.is_set()

    async def run(self, client: Client) -> None:
        """Start and stop reflectors as CRDs come and go, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                served = {item.metadata.name for item in self._definitions.list() if item.established}
                for name, kind in self._kinds.items():
                    if name in served and name not in self._running:
                        reflector = Reflector(client, kind.resource, kind.store, object_type=kind.object_type)
                        self._running[name] = (reflector, tasks.create_task(reflector.run()))
                    elif name not in served and name in self._running:
                        await self._stop(name)
                self._settled.set()
                await self._changed.wait()

    async def wait_synced(self) -> None:
        """Return when every kind that is served has been observed completely.

        An older ClusterRole does not allow to look for CRDs: our own kinds do not wait for that.
        """
        if self._reflector is not None:
            try:
                await asyncio.wait_for(self._reflector.synced.wait(), PATIENCE)
            except TimeoutError:
                log.warning("SuperEdge's kinds are not looked for: apply deploy/rbac/controller.yaml")
        if self._definitions.list():
            self._settled.clear()
            self._changed.set()
            await self._settled.wait()
        for reflector, _ in self._running.values():
            await reflector.synced.wait()

    async def _stop(self, name: str) -> None:
        _, task = self._running.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self._kinds[name].store.replace([])
