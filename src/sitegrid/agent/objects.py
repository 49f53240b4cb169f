"""Answers a GET of one EndpointSlice, Service or Endpoints.

The object is asked for with the client's own credentials, read whole, and looked at before anything is answered: an
object that is no grid's is passed on byte for byte, a unit slice of the node and a grid's Service are shown
rewritten, a grid's Endpoints are made from its unit slices, whether or not there are any of that name, everything
else of a grid, or of its Service, does not exist. Errors of the API server are passed on. Without it, the answer is
what a LIST would show; what no list tells is 503, never 404.

Invariant I1. Held by ``tests/agent/test_closure.py``, ``tests/agent/test_offline.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sitegrid.agent.gate import Route
from sitegrid.agent.http import Connection
from sitegrid.agent.hub import Hub
from sitegrid.agent.passthrough import authorization
from sitegrid.agent.patches import patched_object
from sitegrid.agent.reply import HEAD_TIMEOUT, UpstreamError
from sitegrid.agent.request import Request
from sitegrid.agent.serve import UNREADY, Answer
from sitegrid.agent.upstream import Upstream
from sitegrid.agent.view import ViewKey
from sitegrid.wire import percent
from sitegrid.wire.codec import Codec, Item
from sitegrid.wire.labels import GRID_UNIQ_KEY, SERVICE_NAME
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES
from sitegrid.wire.rewrite import grid_service_labels, of_grid, unit_slice_labels
from sitegrid.wire.status import Status

_MAX_OBJECT: Final = 16 * 1024 * 1024
_TIMEOUT: Final = 60.0
_FORWARDED: Final = frozenset({b"authorization", b"user-agent"})


def not_found(route: Route) -> Status:
    """Return the API server's answer for an object that does not exist."""
    assert route.resource is not None
    group, plural = route.resource.group, route.resource.plural
    full = f"{plural}.{group}" if group else plural
    return Status(404, f'{full} "{route.name}" not found', name=route.name, group=group, kind=plural)


async def get_object(
    request: Request, connection: Connection, route: Route, upstream: Upstream, hub: Hub, codec: Codec
) -> None:
    """Answer the GET. Raises `Answer`, `UpstreamError`, and `CodecError` for an object that cannot be read."""
    # Only these headers go upstream: the answer has to come whole, uncompressed and in a representation we read.
    headers = [
        (n.decode("latin-1"), v.decode("latin-1"))
        for n, v in request.headers
        if n in _FORWARDED or n.startswith(b"impersonate-")
    ]
    headers.append(("Accept", codec.media_type))
    try:
        reply = await upstream.pass_on("GET", request.target, headers, b"", HEAD_TIMEOUT)
        hub.authentication.heard(authorization(headers), reply.status)
        try:
            body = await reply.read_all(_MAX_OBJECT, _TIMEOUT)
        finally:
            reply.close()
    except UpstreamError as error:
        body = await _remembered(request, connection, route, upstream, hub, codec, error)
        await connection.respond(200, [(b"content-type", codec.media_type.encode())], body)
        return
    status, content_type = reply.status, reply.header(b"content-type") or codec.media_type.encode()
    if status == 200:
        body = await _shown(body, connection, route, upstream, hub, codec)
    elif status == 404 and route.resource is ENDPOINTS and await _is_a_grids(route, {}, upstream):
        # A client that may not read them is told so before it is told that there are none.
        status, content_type = 200, codec.media_type.encode()
        body = await _endpoints(connection, route, upstream, hub, codec)
    await connection.respond(status, [(b"content-type", content_type)], body)


async def refuse_a_grids(route: Route, upstream: Upstream, hub: Hub) -> None:
    """Raise `Answer` where a Service is a grid's and may not be used so; `UpstreamError` where that is not known.

    Somebody wants to write it, or to be connected with what is behind it. What is not shown here does not exist; what
    the others may not be used for, the route says: a client that replaces one writes back what it saw, without the
    label that keeps all other kube-proxies away, and the API server connects to any site.
    """
    for item in await _grids_services(upstream, route.namespace, route.name):
        if route.name:
            if not hub.node.known:
                raise Answer(Status(503, UNREADY, retry_after=1))
            if grid_service_labels(PROTOBUF.labels(item), hub.node.keys) is None:
                raise Answer(not_found(route))
        if route.status:
            raise Answer(Status(route.status, route.message))


async def _grids_services(upstream: Upstream, namespace: str, name: str) -> list[Item]:
    """Return the metadata of the grid's Service `name`; with an empty one of any there is. Raises `UpstreamError`."""
    named = {"fieldSelector": f"metadata.name={name}"} if name else {}
    query = percent.query({"labelSelector": GRID_UNIQ_KEY, **named, "limit": "1"})
    accept = f"{PROTOBUF.media_type};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    exchange = await upstream.open("GET", f"{SERVICES.path(namespace)}?{query}", [("Accept", accept)], as_agent=True)
    try:
        await exchange.head()
        body = await exchange.read_all(_MAX_OBJECT, _TIMEOUT)
    finally:
        exchange.close()
    if exchange.status != 200:
        raise UpstreamError(f"whether the Service is a grid's is not known: HTTP {exchange.status}")
    return PROTOBUF.item_list(body).items


async def _remembered(
    request: Request,
    connection: Connection,
    route: Route,
    upstream: Upstream,
    hub: Hub,
    codec: Codec,
    error: UpstreamError,
) -> bytes:
    """Return what lists tell of the object. Raises `error` where they tell nothing: it may exist by now.

    Whether somebody else than the client may see it, only the API server can say.
    """
    assert route.resource is not None
    if request.impersonates:
        raise error
    identity = hub.identify(request.header(b"authorization")) if route.resource is ENDPOINTS else ""
    item = hub.known_object(identity, route.resource, route.namespace, route.name, codec)
    if item is None and route.resource is ENDPOINTS:
        item = await _made(connection, route, upstream, hub, codec)
    if item is None:
        raise error
    return codec.render_object(route.resource, item)


async def _made(connection: Connection, route: Route, upstream: Upstream, hub: Hub, codec: Codec) -> Item | None:
    """Return the Endpoints that are made for a grid's Service; None where none are. Raises `Answer`."""
    if not hub.node.known:
        raise Answer(Status(503, UNREADY, retry_after=1))
    with hub.view(ViewKey(ENDPOINTS, "", "", "", codec), connection) as view:
        if not await view.wait_ready(lambda: upstream.wan.down):
            raise Answer(Status(503, UNREADY, retry_after=1))
        return view.items.get(f"{route.namespace}/{route.name}")


async def _endpoints(connection: Connection, route: Route, upstream: Upstream, hub: Hub, codec: Codec) -> bytes:
    """Return the Endpoints of a grid's Service. Raises `Answer`."""
    made = await _made(connection, route, upstream, hub, codec)
    if made is None:
        raise Answer(not_found(route))
    return codec.render_object(ENDPOINTS, made)


async def _is_a_grids(route: Route, labels: Mapping[str, str], upstream: Upstream) -> bool:
    """Tell whether a slice or Endpoints without our labels are for a grid's Service. Raises `UpstreamError`."""
    service = labels.get(SERVICE_NAME, "") if route.resource is ENDPOINTSLICES else route.name
    if route.resource is SERVICES or not service:
        return False
    return bool(await _grids_services(upstream, route.namespace, service))


async def _shown(
    body: bytes, connection: Connection, route: Route, upstream: Upstream, hub: Hub, codec: Codec
) -> bytes:
    assert route.resource is not None
    item = codec.item(body)
    labels = codec.labels(item)
    if not of_grid(labels):
        if not await _is_a_grids(route, labels, upstream):
            return body
        if route.resource is not ENDPOINTS:
            raise Answer(not_found(route))
    if route.resource is ENDPOINTS:
        return await _endpoints(connection, route, upstream, hub, codec)
    if not hub.node.known:
        raise Answer(Status(503, UNREADY, retry_after=1))
    if route.resource is ENDPOINTSLICES:
        seen = unit_slice_labels(labels, hub.node.units)
    else:
        seen = grid_service_labels(labels, hub.node.keys)
    if seen is None:
        raise Answer(not_found(route))
    if route.resource is SERVICES:
        hub.patches.need()
        item = patched_object(hub.patches, codec, item, labels[GRID_UNIQ_KEY])
    return codec.render_object(route.resource, codec.with_labels(item, seen))
