"""Host names of endpoints: what Kubernetes would put into them if the selector were on the grid's Service itself.

Kubernetes gives an endpoint its pod's host name only where the pod's subdomain is the Service's name
(ShouldSetHostname in pkg/api/v1/endpoints), which the name of the Service with the selector never is. Pods of one
ReplicaSet of a Deployment have all the same host name and subdomain, since its name has the hash of their template;
so one of them answers for all. Held by ``tests/grid/test_hostnames.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from sitegrid.grid.observed import Endpoint, EndpointSlice, Pod

_GENERATED: Final = re.compile(r"(.+-)[bcdfghjklmnpqrstvwxz2456789]{5}")
"""Names of a ReplicaSet's pods (apiserver's SimpleNameGenerator, with apimachinery's rand.SafeEncodeString)."""


@dataclass(slots=True)
class Hostnames:
    """What is known of the pods behind one Service; an empty host name is one that the Service's name gives none."""

    pods: dict[str, str] = field(default_factory=dict)
    """By the pod's uid."""
    replica_sets: dict[str, str] = field(default_factory=dict)
    """By what the names of a ReplicaSet's pods begin with."""

    def note(self, pod: Pod, service: str) -> None:
        """Note the host name of a pod behind `service`."""
        hostname = pod.spec.hostname if pod.spec.subdomain == service else ""
        self.pods[pod.metadata.uid] = hostname
        owner = pod.metadata.controller()
        of_deployment = (
            owner is not None and owner.kind == "ReplicaSet" and "pod-template-hash" in pod.metadata.labels
        )
        if owner is not None and of_deployment and _stem(pod.metadata.name) == f"{owner.name}-":
            self.replica_sets[f"{owner.name}-"] = hostname

    def only(self, items: Iterable[EndpointSlice]) -> Hostnames:
        """Return what is known of the pods in `items`."""
        pods = pods_of(items)
        stems = {_stem(name) for name in pods.values()}
        return Hostnames(
            {uid: name for uid, name in self.pods.items() if uid in pods},
            {stem: name for stem, name in self.replica_sets.items() if stem in stems},
        )

    def unknown(self, items: Iterable[EndpointSlice], *, alike: bool = True) -> list[str]:
        """Return the names of pods in `items` of which nothing is known.

        With `alike` it is one of those whose names begin alike, since that may answer for the others.
        """
        missing: dict[str, str] = {}
        for uid, name in pods_of(items).items():
            stem = _stem(name)
            if uid not in self.pods and stem not in self.replica_sets:
                missing.setdefault((alike and stem) or name, name)
        return [*missing.values()]

    def named(self, items: Iterable[EndpointSlice]) -> list[EndpointSlice]:
        """Return slices whose endpoints have the host names that are known."""
        if not (any(self.pods.values()) or any(self.replica_sets.values())):
            return [*items]
        return [
            msgspec.structs.replace(item, endpoints=[self._named(endpoint) for endpoint in item.endpoints or ()])
            for item in items
        ]

    def _named(self, endpoint: Endpoint) -> Endpoint:
        pod = endpoint.target_ref
        if pod is None or endpoint.hostname:
            return endpoint
        hostname = self.pods.get(pod.uid) or self.replica_sets.get(_stem(pod.name))
        return msgspec.structs.replace(endpoint, hostname=hostname) if hostname else endpoint


def pods_of(items: Iterable[EndpointSlice]) -> dict[str, str]:
    """Return the pods in slices: names by uid."""
    return {
        endpoint.target_ref.uid: endpoint.target_ref.name
        for item in items
        for endpoint in item.endpoints or ()
        if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod" and endpoint.target_ref.uid
    }


def _stem(name: str) -> str:
    """Return what a generated name begins with, empty where it is none."""
    found = _GENERATED.fullmatch(name)
    return "" if found is None else found[1]
