"""The client of the API server: its verbs, dicts in and out, the server's refusals as `ApiError`.

Controller, lab and CLI make one `Client` per process (the agent has its own, smaller one). Invariants: every request
ends (time limits; `sitegrid.kube.transport` notices dead connections); only what the server itself asked to be
repeated (429 or 503 with Retry-After) is repeated here, all else is the caller's decision. Watches are not counted
against the connection limit, or a few of them would starve plain requests. Held by ``tests/kube/test_client.py``.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar, cast

import aiohttp
import msgspec

from sitegrid import __version__
from sitegrid.kube.config import Config
from sitegrid.kube.errors import ApiError, DecodeError
from sitegrid.kube.resources import Resource
from sitegrid.kube.transport import Transport, unreachable
from sitegrid.kube.watch import WatchDecoder, WatchEvent

log = logging.getLogger(__name__)

T = TypeVar("T")
Object = dict[str, Any]

MAX_RETRIES: Final = 5
"""How often one request is repeated because the server said Retry-After."""
MAX_RETRY_AFTER: Final = 30.0
"""Seconds; a server that asks for more gets its answer handed to the caller instead."""
REQUEST_TIMEOUT: Final = 60.0
"""Seconds for a whole plain request; the API server's own limit (--request-timeout)."""
CONNECT_TIMEOUT: Final = 10.0
WATCH_GRACE: Final = 30.0
"""Seconds that a watch may be silent beyond its own timeoutSeconds before it is given up for dead."""


@dataclass(frozen=True, slots=True)
class ObjectList(Generic[T]):
    """A whole collection, all pages, and the version to start a watch from."""

    items: builtins.list[T]
    resource_version: str


class _ListMeta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Client:
    """Talks to one API server; use it as ``async with Client(config) as client``."""

    def __init__(
        self,
        config: Config,
        *,
        connection_limit: int = 32,
        timeout: float = REQUEST_TIMEOUT,
        user_agent: str = f"sitegrid/{__version__}",
    ) -> None:
        """Make a client; `connection_limit` bounds plain requests at once, `timeout` is seconds for each of them."""
        self.config = config
        self._limit = asyncio.Semaphore(connection_limit)
        self._timeout = timeout
        self._transport = Transport(config, user_agent)

    async def __aenter__(self) -> Client:
        await self._transport.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.close()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Return one object."""
        return await self.request("GET", resource.path(namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> ObjectList[Object]:
        """Return all objects, `limit` per request; `apiVersion` and `kind` are filled in as in single objects."""
        found = await self.list_as(
            Object,
            resource,
            namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            limit=limit,
        )
        for item in found.items:
            # Items of a typed list come without them (apimachinery's TypeMeta is set on the list only).
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return found

    async def list_as(
        self,
        object_type: type[T],
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> ObjectList[T]:
        """Return all objects decoded as `object_type`. A continue token that expires (410) makes it one big request.

        Raises DecodeError where an object is not of that type.
        """
        selectors = _params(labelSelector=label_selector, fieldSelector=field_selector)
        path = resource.path(namespace)
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_page_type(object_type))
        items: builtins.list[T] = []
        token = ""
        while True:
            params = {**selectors, **_params(limit=str(limit) if limit else "", **{"continue": token})}
            try:
                page = _decode(decoder, await self._send("GET", path, params=params), path)
            except ApiError as error:
                if not (error.gone and token):
                    raise
                # API concepts, "Retrieving large results sets in chunks": without limit there is nothing to expire.
                items, token, limit = [], "", 0
                continue
            items.extend(page.items or ())
            token = page.metadata.continue_
            if not token:
                return ObjectList(items, page.metadata.resource_version)

    async def create(self, resource: Resource, obj: Object, *, field_manager: str | None = None) -> Object:
        """Create `obj` (a POST: with `generateName` the server chooses the name)."""
        path = resource.path(obj["metadata"].get("namespace"))
        return await self.request("POST", path, params=_params(fieldManager=field_manager), body=obj)

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply `obj` (with apiVersion, kind, name); `force` takes fields over from other managers."""
        metadata = obj["metadata"]
        return await self.request(
            "PATCH",
            resource.path(metadata.get("namespace"), metadata["name"], subresource),
            params=_params(
                fieldManager=field_manager, force="true" if force else "", dryRun="All" if dry_run else ""
            ),
            body=obj,
            # JSON is YAML; the API server takes it under this name since 1.16.
            headers={"Content-Type": "application/apply-patch+yaml"},
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Object,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Apply a JSON merge patch (RFC 7386); as a `dry_run` it is only checked, and nothing is stored."""
        return await self.request(
            "PATCH",
            resource.path(namespace, name, subresource),
            params=_params(dryRun="All" if dry_run else ""),
            body=patch,
            headers={"Content-Type": "application/merge-patch+json"},
        )

    async def replace(self, resource: Resource, obj: Object, *, subresource: str | None = None) -> Object:
        """Replace the whole object; its resourceVersion, if set, must still be the current one (else a conflict)."""
        metadata = obj["metadata"]
        return await self.request(
            "PUT", resource.path(metadata.get("namespace"), metadata["name"], subresource), body=obj
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation_policy: str | None = None,
        grace_period_seconds: int | None = None,
    ) -> None:
        """Delete one object, only if it is still the `uid` and `resource_version` given (else a conflict)."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if preconditions := _params(uid=uid, resourceVersion=resource_version):
            options["preconditions"] = preconditions
        if propagation_policy is not None:
            options["propagationPolicy"] = propagation_policy
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        await self.request("DELETE", resource.path(namespace, name), body=options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Object:
        """Send one request and return the decoded JSON answer ({} where the body is empty).

        Raises ApiError, Unreachable, or DecodeError where a success is not a JSON object.
        """
        data = await self._send(method, path, params=params, body=body, headers=headers)
        return _decode(_OBJECT, data, path) if data else {}

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        timeout: float = 300,
    ) -> AsyncGenerator[WatchEvent[Object], None]:
        """Yield events, bookmarks among them, until the server ends the watch after `timeout` seconds.

        Raises ApiError also for an ERROR event. Wrap it in `contextlib.aclosing` where you leave the loop early.
        """
        params = _params(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            resourceVersion=resource_version,
            allowWatchBookmarks="true",
        )
        path = resource.path(namespace)
        async with aclosing(self.watch_batches(Object, path, params, timeout=timeout)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def watch_batches(
        self, object_type: type[T], path: str, params: Mapping[str, str], *, timeout: float
    ) -> AsyncGenerator[builtins.list[WatchEvent[T]], None]:
        """Yield the events as they arrive, all that one read completed together; for consumers in a hurry.

        `params` are the query without `watch` and `timeoutSeconds`. Ends and raises as `watch` does, and with
        DecodeError at an object that is not of `object_type`.
        """
        decoder = WatchDecoder(object_type)
        query = {**params, "watch": "true", "timeoutSeconds": str(max(1, round(timeout)))}
        limits = aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=timeout + WATCH_GRACE)
        with unreachable(path):
            async with self._transport.request(
                "GET", path, params=query, timeout=limits, headers={"Accept-Encoding": "identity"}
            ) as response:
                if response.status != HTTPStatus.OK:
                    raise await _error(response)
                async for chunk in response.content.iter_any():
                    if batch := decoder.feed(chunk):
                        yield batch
                    if decoder.error is not None:
                        raise decoder.error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        all_headers = {"Content-Type": "application/json"} if data is not None else {}
        all_headers.update(headers or {})
        limits = aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_TIMEOUT)
        for attempt in range(MAX_RETRIES + 1):
            async with self._limit:
                with unreachable(path):
                    async with self._transport.request(
                        method, path, params=params, data=data, headers=all_headers, timeout=limits
                    ) as response:
                        if response.status < HTTPStatus.MULTIPLE_CHOICES:
                            return await response.read()
                        error = await _error(response)
            wait = _seconds_to_wait(error)
            if wait is None or attempt == MAX_RETRIES:
                raise error
            log.debug("%s %s: %s; again in %g s", method, path, error, wait)
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")


_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


def _params(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _page_type(object_type: type[T]) -> Any:
    """Return the Struct of one page of a list; `items` may be null when nothing matches."""
    items = cast(Any, builtins.list[object_type] | None)  # type: ignore[valid-type]
    return msgspec.defstruct("Page", [("metadata", _ListMeta), ("items", items, None)], gc=False)


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes, path: str) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error


async def _error(response: aiohttp.ClientResponse) -> ApiError:
    return ApiError.from_answer(response.status, await response.read(), response.headers.get("Retry-After"))


def _seconds_to_wait(error: ApiError) -> float | None:
    """Return how long to wait before the same request again, None if it must not be repeated."""
    if error.status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return None
    wait = error.retry_after
    return wait if wait is not None and wait <= MAX_RETRY_AFTER else None
