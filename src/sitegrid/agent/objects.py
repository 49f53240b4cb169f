"""Answers a GET of one EndpointSlice, Service or Endpoints.

The object is asked for with the client's own credentials, read whole, and looked at before anything is answered: an
object that is no grid's is passed on byte for byte, a unit slice of the node and a grid's Service are shown
rewritten, everything else of a grid does not exist. Errors of the API server are passed on.

Invariant I1. Held by ``tests/agent/test_closure.py``.
"""

from __future__ import annotations

from typing import Final

from sitegrid.agent.gate import Route
from sitegrid.agent.http import Connection, Request
from sitegrid.agent.node import NodeUnits
from sitegrid.agent.passthrough import open_as_client
from sitegrid.agent.patches import Patches, patched_object
from sitegrid.agent.serve import UNREADY, Answer
from sitegrid.agent.upstream import Upstream
from sitegrid.wire.codec import Codec, Item
from sitegrid.wire.labels import GRID_UNIQ_KEY
from sitegrid.wire.resources import ENDPOINTSLICES, SERVICES, Resource
from sitegrid.wire.rewrite import grid_service_labels, of_grid, unit_slice_labels
from sitegrid.wire.status import Status

_MAX_OBJECT: Final = 16 * 1024 * 1024
_TIMEOUT: Final = 60.0
_FORWARDED: Final = frozenset({b"authorization", b"user-agent"})


def not_found(route: Route) -> Status:
    """Return the API server's answer for an object that does not exist."""
    if route.resource is None:
        group, plural = "", "endpoints"
    else:
        group, plural = route.resource.group, route.resource.plural
    full = f"{plural}.{group}" if group else plural
    return Status(404, f'{full} "{route.name}" not found', name=route.name, group=group, kind=plural)


async def get_object(
    request: Request,
    connection: Connection,
    route: Route,
    upstream: Upstream,
    node: NodeUnits,
    patches: Patches,
    codec: Codec,
) -> None:
    """Answer the GET. Raises `Answer`, `UpstreamError`, and `CodecError` for an object that cannot be read."""
    # Only these headers go upstream: the answer has to come whole, uncompressed and in a representation we read.
    headers = [
        (n.decode("latin-1"), v.decode("latin-1"))
        for n, v in request.headers
        if n in _FORWARDED or n.startswith(b"impersonate-")
    ]
    headers.append(("Accept", codec.media_type))
    exchange = await open_as_client(request, upstream, request.target, headers)
    try:
        await exchange.head()
        body = await exchange.read_all(_MAX_OBJECT, _TIMEOUT)
    finally:
        exchange.close()
    if exchange.status == 200:
        body = _shown(body, route, node, patches, codec)
    content_type = exchange.header(b"content-type") or codec.media_type.encode()
    await connection.respond(exchange.status, [(b"content-type", content_type)], body)


def _shown(body: bytes, route: Route, node: NodeUnits, patches: Patches, codec: Codec) -> bytes:
    item = codec.item(body)
    labels = codec.labels(item)
    if not of_grid(labels):
        return body
    if not node.known:
        raise Answer(Status(503, UNREADY, retry_after=1))
    seen = _grid_labels(route.resource, labels, node)
    if seen is None or route.resource is None:
        raise Answer(not_found(route))
    if route.resource is SERVICES:
        patches.need()
        item = patched_object(patches, codec, item, labels[GRID_UNIQ_KEY])
    shown: Item = codec.with_labels(item, seen)
    return codec.render_object(route.resource, shown)


def _grid_labels(resource: Resource | None, labels: dict[str, str], node: NodeUnits) -> dict[str, str] | None:
    if resource is SERVICES:
        return grid_service_labels(labels, node.keys)
    if resource is ENDPOINTSLICES:
        return unit_slice_labels(labels, node.units)
    return None
