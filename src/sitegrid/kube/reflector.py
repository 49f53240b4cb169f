"""Keeps a store equal to what the API server has of one resource type, for ever.

A controller starts one `Reflector.run()` per resource type and waits for `synced`. The story of a run: get everything
(a streaming list, KEP-3157, or a paginated LIST where the server refuses that), put it into the store in one step,
then watch from that resourceVersion. A watch that ends is resumed from the last version seen, bookmarks included; one
that has expired (410) makes us get everything anew while the store goes on serving what it had. Only cancellation
ends a run.

Invariant I6: no event is dropped silently. Whatever cannot be decoded or applied is logged, and everything is listed
again. A type that is not served (404: its CRD is missing) is a normal state, seen in `missing` and asked for again.
Held by ``tests/kube/test_reflector.py``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar, cast

from sitegrid.kube.backoff import Backoff
from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError, DecodeError, Unreachable
from sitegrid.kube.objects import identity
from sitegrid.kube.resources import Resource
from sitegrid.kube.store import Key, Store
from sitegrid.kube.watch import DELETED, WatchEvent

log = logging.getLogger(__name__)

T = TypeVar("T")

WATCH_SECONDS: Final = (300.0, 600.0)
"""Each watch asks the server to end it after a random time in this range, as client-go's reflector does: it spreads
the reconnects, and a connection that died without a word is replaced at the latest then."""
INITIAL_EVENTS_TIMEOUT: Final = 30.0
"""Seconds without any initial event after which a streaming list is given up for a LIST: a server or proxy that
ignores `sendInitialEvents` never ends them."""
SHORT_WATCH: Final = 1.0
"""Seconds; a watch that ends sooner is taken for a failure, or a server that ends each at once would spin us."""
_NO_STREAMING_LIST: Final = frozenset({400, 405, 406, 415, 422})
"""Answers to a streaming list after which this server is asked for LIST + WATCH only. 422 is the API server's with
the feature off; the others are proxies'."""
_KEEP_VERSION: Final = frozenset({401, 403, 429, 502, 503, 504})
"""Refusals that say nothing about the resourceVersion; after every other one everything is listed anew."""


class Reflector(Generic[T]):
    """Fills `store` with the objects of `resource` that the selectors match, decoded as `object_type`."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        store: Store[T],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        object_type: type[T] = cast(Any, dict),  # noqa: B008 - the contract's default, typed by the store
        backoff: Backoff | None = None,
        streaming: bool = True,
        initial_events_timeout: float = INITIAL_EVENTS_TIMEOUT,
    ) -> None:
        self._client = client
        self.resource = resource
        self.store = store
        self._namespace = namespace
        self._selectors = {
            name: value
            for name, value in (("labelSelector", label_selector), ("fieldSelector", field_selector))
            if value
        }
        self._object_type = object_type
        self._backoff = backoff or Backoff()
        self._streaming = streaming
        self._initial_events_timeout = initial_events_timeout
        self._path = resource.path(namespace)
        self._resource_version = ""
        self._told = ""
        """The last failure, empty once something was received again."""
        self.synced = asyncio.Event()
        """Set once the store was complete for the first time; not cleared by relists, which the store outlives."""
        self.missing = False
        """True while the server answers that it has no such resource type (CRD not installed)."""
        self.lists = 0
        """How often everything was got; for metrics and tests."""

    async def run(self) -> None:
        """Reflect until cancelled."""
        while True:
            delay = await self._attempt()
            if delay:
                await asyncio.sleep(delay)

    async def _attempt(self) -> float:
        """List or watch once, and return how many seconds to wait before the next time."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            if not self._resource_version:
                if await self._list_all():
                    return 0.0
            else:
                await self._stream({"resourceVersion": self._resource_version}, initial=False)
            if loop.time() - started >= SHORT_WATCH:
                return 0.0
            log.debug("%s: the server ended the watch at once", self._path)
        except ApiError as error:
            self._refused(error)
        except Unreachable as error:
            self._tell(logging.WARNING, str(error))
        except DecodeError as error:
            log.error("%s: %s; listing again", self._path, error)
            self._resource_version = ""
        except Exception:
            log.exception("%s: unexpected failure; listing again", self._path)
            self._resource_version = ""
        return self._backoff.next(loop.time())

    async def _list_all(self) -> bool:
        """Replace the store's content; True if that was a LIST, which a watch has to follow.

        A streaming list goes on as the watch in the same response; then this returns when that ends.
        """
        if self._streaming:
            try:
                if await self._stream(
                    {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}, initial=True
                ):
                    return False
                log.warning("%s: a streaming list did not complete; trying LIST", self._path)
            except ApiError as error:
                if error.status not in _NO_STREAMING_LIST:
                    raise
                log.info("%s: no streaming lists here (%s); using LIST", self._path, error)
                self._streaming = False
        found = await self._client.list_as(
            self._object_type,
            self.resource,
            self._namespace,
            label_selector=self._selectors.get("labelSelector", ""),
            field_selector=self._selectors.get("fieldSelector", ""),
        )
        self._complete(found.items, found.resource_version)
        return True

    async def _stream(self, params: dict[str, str], *, initial: bool) -> bool:
        """Follow one watch response to its end; False if it ended before its initial events did."""
        loop = asyncio.get_running_loop()
        query = {**self._selectors, **params, "allowWatchBookmarks": "true"}
        collected: dict[Key, T] | None = {} if initial else None
        try:
            async with (
                asyncio.timeout(self._initial_events_timeout if initial else None) as limit,
                aclosing(
                    self._client.watch_batches(
                        self._object_type, self._path, query, timeout=random.uniform(*WATCH_SECONDS)
                    )
                ) as batches,
            ):
                async for batch in batches:
                    self._told = ""
                    for event in batch:
                        if collected is None:
                            self._apply(event)
                        elif event.initial_events_end:
                            self._complete(collected.values(), event.resource_version)
                            collected = None
                            limit.reschedule(None)
                        else:
                            _collect(collected, event)
                    if collected is not None:
                        limit.reschedule(loop.time() + self._initial_events_timeout)
        except TimeoutError:
            if not limit.expired():
                raise
        return collected is None

    def _complete(self, objects: Iterable[T], resource_version: str) -> None:
        if not resource_version:
            raise DecodeError("the server named no resourceVersion for the list")
        self.store.replace(objects)
        self._resource_version = resource_version
        self.lists += 1
        self._told = ""
        self._set_missing(False)
        self.synced.set()

    def _apply(self, event: WatchEvent[T]) -> None:
        if event.object is not None:
            if event.type == DELETED:
                self.store.delete(event.object)
            else:
                self.store.set(event.object)
        self._resource_version = event.resource_version

    def _refused(self, error: ApiError) -> None:
        if error.not_found:
            self._set_missing(True)
            self._resource_version = ""
            return
        if error.status not in _KEEP_VERSION or _version_unknown(error):
            self._resource_version = ""
        self._tell(logging.INFO if error.gone else logging.WARNING, f"{self._path}: {error}")

    def _tell(self, level: int, text: str) -> None:
        """Log a failure; what repeats until something was received again is not news."""
        log.log(logging.DEBUG if text == self._told else level, "%s", text)
        self._told = text

    def _set_missing(self, missing: bool) -> None:
        if missing != self.missing:
            log.warning("%s: %s", self._path, "not served here; waiting for it" if missing else "served now")
        self.missing = missing


def _collect(collected: dict[Key, T], event: WatchEvent[T]) -> None:
    """Note an event that came before the end of the initial ones; changes can be among them, not only ADDED."""
    if event.object is None:
        return
    key = identity(event.object).key
    if event.type == DELETED:
        collected.pop(key, None)
    else:
        collected[key] = event.object


def _version_unknown(error: ApiError) -> bool:
    """Tell whether the server has not come as far as our resourceVersion: it was restored from a backup.

    The 504 then has the cause `ResourceVersionTooLarge` (apiserver's storage/errors.go).
    """
    causes = (error.body.get("details") or {}).get("causes") or ()
    return any(cause.get("reason") == "ResourceVersionTooLarge" for cause in causes)
