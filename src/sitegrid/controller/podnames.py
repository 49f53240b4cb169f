"""Reads the host names of the pods behind grids' Services, once for each pod or ReplicaSet, and only while needed.

Pods are not watched: a cluster has very many, and their status changes all the time, while host name and subdomain
never do. So a pass over a Service's slices asks for pods that it has not met yet, by name, or, where they are many
(a controller begins to lead), for all that the Service selects. Held by ``tests/controller/passes/test_podnames.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from sitegrid.controller.evictions import Lists
from sitegrid.controller.queues import ServiceKey
from sitegrid.grid.hostnames import Hostnames
from sitegrid.grid.observed import EndpointSlice, Pod
from sitegrid.kube.resources import PODS

MANY: Final = 64
"""So many pods are listed together: a list costs the API server about as much as that many single ones."""


class PodNames:
    """What is known of the pods behind each grid's Service."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists
        self._known: dict[ServiceKey, Hostnames] = {}

    def get(self, key: ServiceKey) -> Hostnames:
        """Return what is known of the pods behind a Service."""
        return self._known.get(key) or Hostnames()

    def forget(self, key: ServiceKey) -> None:
        """Forget a Service that is gone, or no grid's."""
        self._known.pop(key, None)

    async def learn(self, key: ServiceKey, selector: Mapping[str, str], items: Iterable[EndpointSlice]) -> None:
        """Come to know the pods in `items`, slices of the Service that selects by `selector`.

        A pod that is gone stays unknown; so does its endpoint soon. Raises ApiError and Unreachable.
        """
        items = [*items]
        known = self._known[key] = self.get(key).only(items)
        # After one pod of those with like names was read, the others are known too, or each is read for itself: the
        # one was gone, or they are a DaemonSet's, which have host names by their revision.
        for alike in (True, False):
            names = known.unknown(items, alike=alike)
            for pod in await self._read(key.namespace, names, selector) if names else ():
                known.note(pod, key.name)

    async def _read(self, namespace: str, names: list[str], selector: Mapping[str, str]) -> list[Pod]:
        if len(names) > MANY:
            labels = ",".join(f"{name}={value}" for name, value in selector.items())
            return (await self._lists.list_as(Pod, PODS, namespace, label_selector=labels)).items
        reads = (self._lists.list_as(Pod, PODS, namespace, field_selector=f"metadata.name={name}") for name in names)
        return [pod for found in await asyncio.gather(*reads) for pod in found.items]
