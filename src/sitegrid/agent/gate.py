"""The one place that decides how a request is answered, from its method and path alone.

Everything that could show an EndpointSlice, Endpoints or a Service is recognised here and sent to the one handler
that filters it; all else is passed through. A path that is not written plainly (percent-encoding, empty or dot
segments) is read in every way that the API server might read it, and refused when any of them is guarded. The API
server itself takes slashes off both ends and nothing out of the middle (apiserver pkg/endpoints/request, splitPath):
an empty segment is a segment, and as a namespace it stands for all of them.

Invariant I1: there is no spelling of a path to endpoints that is passed through.
Held by ``tests/agent/test_gate.py``, which tries spellings, ``tests/agent/test_spellings.py``, which asks the API
server what they mean, and ``tests/agent/test_closure.py``.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from sitegrid.wire import percent
from sitegrid.wire.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES, Resource

# A `;` is legal in a path and nothing to Kubernetes, but others cut a segment there.
_PLAIN: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,=:@-]+)+/?|/")
_PARAMETERS: Final = re.compile(r";[^/]*")
_DECODINGS: Final = 3
_GUARDED: Final = {resource.plural: resource for resource in (SERVICES, ENDPOINTSLICES, ENDPOINTS)}


class Kind(Enum):
    """How a request is answered."""

    OWN = "own"
    """The agent's own pages under /sitegrid/."""
    VIEW = "view"
    """LIST or WATCH of EndpointSlices, Services or Endpoints, from a view."""
    OBJECT = "object"
    """GET of one EndpointSlice, Service or Endpoints: asked for upstream and looked at before it is shown."""
    SERVICE = "service"
    """A write of Services, or a connection to what is behind one: passed through, unless it is a grid's that is not
    shown here, or is answered with the route's `status` and `message`."""
    REFUSED = "refused"
    """Answered with `status` and `message`."""
    PASS = "pass"
    """Passed through as it is."""


class Route(NamedTuple):
    """A decision. `watch` is set for the deprecated /watch/ paths; a `name` is empty where all of them are meant."""

    kind: Kind
    resource: Resource | None = None
    namespace: str = ""
    name: str = ""
    watch: bool = False
    status: int = 0
    message: str = ""


_PASS: Final = Route(Kind.PASS)
_STATUS, _PROXY = ("status",), ("proxy",)
_NO_REPLACE: Final = (
    "the Service belongs to a ServiceGrid and the agent shows it as its site uses it: change the ServiceGrid, or "
    "PATCH the Service, or PUT it at the API server itself"
)
_NO_PROXY: Final = (
    "the Service belongs to a ServiceGrid and the API server would take any site's endpoint: connect to the Service, "
    "or ask the API server itself"
)
_NO_MASS_DELETION: Final = (
    "Services of ServiceGrids are among them: delete the others by their names, or ask the API server itself"
)


class _Target(NamedTuple):
    """What a plain path names: `plural` guarded, `rest` what follows the object's name."""

    group_version: str
    plural: str
    namespace: str
    name: str
    watch: bool
    rest: tuple[str, ...]


def decide(method: str, target: str) -> Route:
    """Return how a request with this method and target (path and query as sent) is answered."""
    if not target.startswith("/") or "#" in target:
        return _refuse(400, "the request target is not a path")
    path = target.partition("?")[0]
    if path.startswith("/sitegrid/"):
        return Route(Kind.OWN, name=path)
    if not _is_plain(path):
        named = {_guarded(reading) for reading in _readings(path)}
        if named == {None}:
            return _PASS
        found = named.pop()
        if named or found is None or found.rest != _PROXY:
            return _refuse(400, "the path is not written plainly")
    else:
        found = _guarded(path)
    return _PASS if found is None else _decide_guarded(method, found)


def _refuse(status: int, message: str) -> Route:
    return Route(Kind.REFUSED, status=status, message=message)


def _is_plain(path: str) -> bool:
    return _PLAIN.fullmatch(path) is not None and not {".", ".."} & set(path.split("/"))


def _readings(path: str) -> set[str]:
    """Return the paths that `path` might be taken for: decoded up to three times, each also cleaned in two ways."""
    readings = set()
    for _ in range(_DECODINGS):
        for text in (path, _PARAMETERS.sub("", path), path.partition("?")[0], path.partition("#")[0]):
            slashes = text.replace("\\", "/")
            segments: list[str] = []
            for segment in slashes.split("/"):
                if segment == ".." and segments:
                    segments.pop()
                elif segment not in ("", ".", ".."):
                    segments.append(segment)
            readings |= {text, slashes, "/".join(segments), "/".join(s for s in text.split("/") if s)}
        path = percent.unquote(path).decode("latin-1")
    return readings


def _guarded(path: str) -> _Target | None:
    """Return what guarded resource `path` names, None for all else."""
    segments = path.strip("/").split("/")
    if len(segments) >= 3 and segments[0] == "api":
        group_version, rest = segments[1], segments[2:]
        plurals = {"services", "endpoints"}
    elif len(segments) >= 4 and segments[:2] == ["apis", "discovery.k8s.io"]:
        group_version, rest = segments[2], segments[3:]
        plurals = {"endpointslices"}
    else:
        return None
    watch = rest[0] == "watch"
    if watch:
        rest = rest[1:]
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    if not rest or rest[0] not in plurals:
        return None
    name = rest[1] if len(rest) > 1 else ""
    below = tuple(rest[2:])
    if rest[0] == "services" and below[:1] == _PROXY:
        below = _PROXY  # what follows is for the pod
    return _Target(group_version, rest[0], namespace, name, watch, below)


def _decide_guarded(method: str, target: _Target) -> Route:
    if target.group_version != "v1":
        # discovery.k8s.io/v1beta1 ended with Kubernetes 1.25; a version that we do not know is not passed on.
        return _refuse(404, "the server could not find the requested resource")
    if target.plural == "services" and not target.watch and (route := _decide_service(method, target)) is not None:
        return route
    if target.rest:
        return _refuse(404, "the server could not find the requested resource")
    if method != "GET":
        return _refuse(405, f"the agent serves {target.plural} for reading only; write to the API server itself")
    resource = _GUARDED[target.plural]
    if target.name and not target.namespace:
        return _refuse(404, "the server could not find the requested resource")
    if target.name and not target.watch:
        return Route(Kind.OBJECT, resource, target.namespace, target.name)
    return Route(Kind.VIEW, resource, target.namespace, target.name, target.watch)


def _decide_service(method: str, target: _Target) -> Route | None:
    """Return what is special about Services, which can be written and connected to; None where nothing is."""
    route = Route(Kind.SERVICE, SERVICES, target.namespace, target.name)
    if target.rest == _PROXY:
        # [SCHEME:]NAME[:PORT] (apimachinery pkg/util/net/port_split.go)
        parts = target.name.split(":")
        return route._replace(name=parts[len(parts) == 3], status=405, message=_NO_PROXY)
    if target.rest not in ((), _STATUS):
        return None  # Kubernetes has no other subresource; what a later one shows is not known.
    if method == "DELETE" and not target.name:
        return route._replace(status=405, message=_NO_MASS_DELETION)
    if method == "PUT" and target.name:
        # Also with a status come labels (pkg/registry/core/service/strategy.go keeps the old spec only).
        return route._replace(status=405, message=_NO_REPLACE)
    if method in ("PATCH", "DELETE") and target.name:
        return route
    if method == "GET" and target.rest == _STATUS:
        return route._replace(kind=Kind.OBJECT)
    return None if method in ("GET", "HEAD") else _PASS
