"""Which reads are kept for the time without a WAN: those of configured clients, of configured resources.

A client is known by the name that begins its User-Agent, which is no secret and need not be one: whatever it says, it
gets only what the API server gives for its own credential. What is guarded (Services, EndpointSlices) is kept for
every client anyway and not named here. The server asks for each request that the gate lets pass. Held by
``tests/agent/test_reads.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from sitegrid.agent.request import Request
from sitegrid.wire.resources import (
    CONFIGMAPS,
    CSIDRIVERS,
    NAMESPACES,
    NODES,
    PODS,
    RUNTIMECLASSES,
    SECRETS,
    SERVICECIDRS,
    Resource,
)

DEFAULT: Final = "kube-proxy,coredns"

_PRESETS: Final[dict[str, tuple[Resource, ...]]] = {
    # kube-proxy's informers besides Services and EndpointSlices (cmd/kube-proxy/app/server.go).
    "kube-proxy": (NODES, SERVICECIDRS),
    # CoreDNS's kubernetes plugin (plugin/kubernetes/controller.go); Pods with `pods verified` only.
    "coredns": (NAMESPACES, PODS),
    # The kubelet's informers and its watches of what its pods mount (pkg/kubelet).
    "kubelet": (PODS, NODES, CONFIGMAPS, RUNTIMECLASSES, CSIDRIVERS),
}
_RESOURCES: Final = {
    resource.plural: resource
    for resource in (NODES, SERVICECIDRS, NAMESPACES, PODS, CONFIGMAPS, SECRETS, RUNTIMECLASSES, CSIDRIVERS)
}
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]*")


class ReadsError(ValueError):
    """The configuration names something that is not known; the message says what."""


class Read(NamedTuple):
    """A LIST or WATCH of `resource`, or a GET where there is a `name`."""

    resource: Resource
    namespace: str
    name: str


class Reads:
    """The configured clients and their resources."""

    def __init__(self, kept: Iterable[tuple[str, Resource]]) -> None:
        self._kept = frozenset((client, resource.path()) for client, resource in kept)
        self._resources = {resource.path(): resource for resource in _RESOURCES.values()}

    def find(self, request: Request) -> Read | None:
        """Return what `request` reads, if that is to be kept; None for everything else, however it is written."""
        if request.method != "GET" or request.upgrade or request.chunked:
            return None
        if request.header(b"content-length") not in ("", "0") or not request.header(b"authorization"):
            return None
        if request.impersonates:
            return None
        read = self._parse(request.target.partition("?")[0])
        client = request.header(b"user-agent").partition("/")[0].lower()
        return read if read is not None and (client, read.resource.path()) in self._kept else None

    def _parse(self, path: str) -> Read | None:
        empty, *segments = path.split("/")
        if empty or not segments or not all(_SEGMENT.fullmatch(segment) for segment in segments):
            return None
        root = 2 if segments[0] == "api" else 3
        group_version, rest = segments[:root], segments[root:]
        namespace = ""
        if len(rest) >= 3 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        if not 1 <= len(rest) <= 2:
            return None
        resource = self._resources.get("/" + "/".join([*group_version, rest[0]]))
        name = rest[1] if len(rest) == 2 else ""
        if resource is None or (namespace and not resource.namespaced):
            return None
        if name and resource.namespaced and not namespace:
            return None
        return Read(resource, namespace, name)


def parse_reads(text: str, *, secrets: bool = False) -> Reads:
    """Return what `text` configures: presets and ``CLIENT:RESOURCE+RESOURCE``, separated by commas.

    Secrets are kept for the kubelet with `secrets`, and for no one else. Raises `ReadsError`.
    """
    kept: set[tuple[str, Resource]] = set()
    for entry in filter(None, (part.strip() for part in text.split(","))):
        client, colon, names = entry.partition(":")
        if colon:
            kept |= {(client.lower(), _resource(entry, name)) for name in names.split("+")}
        elif client in _PRESETS:
            kept |= {(client, resource) for resource in _PRESETS[client]}
        else:
            raise ReadsError(f"{entry!r}: the presets are {', '.join(_PRESETS)}; others are CLIENT:RESOURCE+RESOURCE")
    if secrets:
        kept.add(("kubelet", SECRETS))
    return Reads(kept)


def _resource(entry: str, name: str) -> Resource:
    resource = _RESOURCES.get(name)
    if resource is None or resource is SECRETS:
        known = ", ".join(sorted(_RESOURCES.keys() - {SECRETS.plural}))
        raise ReadsError(f"{entry!r}: {name!r} is none of {known}")
    return resource
