"""Answers LIST and WATCH from a view, as the API server would.

A LIST is the view's items under the view's resourceVersion, paged on request. A WATCH is a place in the view's log
that moves as fast as the client reads: initial events if it asks for them, then the log, then whatever is added, with
a bookmark now and then. A client that lags so far that its place is gone is cut off and counted (I6).

Called by the server; speaks to clients through `Connection`. Held by ``tests/agent/test_serve.py`` and, against the
real API server, ``tests/agent/test_conformance.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
from typing import Final, NamedTuple

from sitegrid.agent.eventlog import PLACES
from sitegrid.agent.http import Connection
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.options import EXACT, ListOptions
from sitegrid.agent.request import STALL_TIMEOUT, Disconnected
from sitegrid.agent.view import View
from sitegrid.wire.codec import Item
from sitegrid.wire.status import Status

UNREADY: Final = "the agent has not yet heard from the API server"
FRESH_TIMEOUT: Final = 3.0
"""Seconds to wait for a resourceVersion that is not there yet (apiserver pkg/storage/cacher blockTimeout)."""
BOOKMARK_SECONDS: Final = (45.0, 75.0)
_WATCH_SECONDS: Final = (1800, 3600)
"""How long a watch without timeoutSeconds lasts (the API server's --min-request-timeout, up to twice that)."""
_SHORT: Final = 2
"""A watch of so many seconds ends without a bookmark (apiserver pkg/storage/cacher bookmarks 2 s before the end)."""
_BATCH: Final = 64 * 1024

_TOKEN: Final = re.compile(r"[-\w]{22}|eyJ[-\w]+", re.ASCII)
"""A continue token: one of an agent, or the beginning of an API server's, base64 of a JSON object."""
_EXPIRED_CONTINUE: Final = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
    "without the continue parameter."
)


class Answer(Exception):
    """The request is answered with `status` instead of objects."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def too_large(wanted: int, current: int) -> Answer:
    """Return the API server's answer to a resourceVersion that it has not reached."""
    return Answer(
        Status(
            504,
            f"Timeout: Too large resource version: {wanted}, current: {current}",
            retry_after=1,
            causes=(("ResourceVersionTooLarge", "Too large resource version", ""),),
        )
    )


async def _wait_fresh(view: View, rv: int) -> None:
    """Wait for the view to reach `rv`. Raises `Answer` when it does not in time."""
    if rv >= PLACES:
        if view.log.position(rv) is None:
            # An agent before this one told it, and may have known more.
            raise Answer(Status(410, f"The resourceVersion for the provided list is too old: {rv}"))
        return
    try:
        async with asyncio.timeout(FRESH_TIMEOUT):
            while view.rv < rv:
                await view.changed()
    except TimeoutError:
        raise too_large(rv, view.rv) from None


class _Page(NamedTuple):
    """A list, or a part of it; `token` leads to the next part, in which `remaining` items are."""

    items: list[Item]
    rv: int
    token: str = ""
    remaining: int = 0


async def send_list(
    view: View, options: ListOptions, connection: Connection, metrics: Metrics, *, authenticated: bool
) -> None:
    """Answer a LIST. Raises `Answer` before the response has begun, `Disconnected` afterwards.

    Items are copied as the client reads. One that reads so slowly that it would be sent what is over is cut off.
    """
    page = await _find_page(view, options, authenticated=authenticated)
    codec = view.key.codec
    length, pieces = codec.render_list(view.key.resource, page.items, page.rv, page.token, page.remaining)
    headers = [(b"content-type", codec.media_type.encode())]
    end = view.log.end
    await connection.start(200, headers, length=length)
    batch: list[bytes] = []
    size = 0
    for piece in pieces:
        if size >= _BATCH:
            if end != view.log.end and not all(view.still_shown(item) for item in page.items):
                metrics.add("slow_clients_total")
                connection.abort()
                raise Disconnected("the list is over")
            end = view.log.end
            await connection.send(b"".join(batch), STALL_TIMEOUT)
            batch, size = [], 0
        batch.append(piece)
        size += len(piece)
    await connection.send(b"".join(batch), STALL_TIMEOUT)
    await connection.finish()


async def _find_page(view: View, options: ListOptions, *, authenticated: bool) -> _Page:
    if options.continue_token:
        return _next_page(view, options, authenticated=authenticated)
    wanted = options.resource_version
    if wanted:
        await _wait_fresh(view, wanted)
        if options.resource_version_match == EXACT and wanted not in (view.rv, view.expose_rv()):
            raise Answer(Status(410, f"The resourceVersion for the provided list is too old: {wanted}"))
    rv = view.expose_rv()
    items = view.sorted_items()
    # The API server answers resourceVersion=0 from its cache, which knows no limit.
    if options.limit > 0 and wanted != 0 and len(items) > options.limit:
        return _page(view, rv, items, options, authenticated=authenticated)
    return _Page(items, rv)


def _page(view: View, rv: int, items: list[Item], options: ListOptions, *, authenticated: bool) -> _Page:
    page, rest = items[: options.limit], items[options.limit :]
    token = ""
    if rest:
        token = secrets.token_urlsafe(16)
        view.keep_snapshot(token, rv, rest, authenticated=authenticated)
    # With selectors the API server does not say how many remain: it has not looked.
    remaining = 0 if view.key.labels or view.key.fields else len(rest)
    return _Page(page, rv, token, remaining)


def _next_page(view: View, options: ListOptions, *, authenticated: bool) -> _Page:
    if options.resource_version:
        raise Answer(Status(400, "specifying resource version is not allowed when using continue"))
    if not _TOKEN.fullmatch(options.continue_token):
        raise Answer(Status(400, "invalid continue token: continue key is not valid"))
    snapshot = view.take_snapshot(options.continue_token)
    if snapshot is None:
        raise Answer(Status(410, _EXPIRED_CONTINUE))
    rv, items = snapshot
    if not all(view.still_shown(item) for item in items):
        # A slice of the list is no longer to be seen as it was, so that list cannot be continued exactly.
        raise Answer(Status(410, _EXPIRED_CONTINUE))
    if options.limit <= 0:
        return _Page(items, rv)
    return _page(view, rv, items, options, authenticated=authenticated)


class Watch:
    """One client's watch of one view."""

    def __init__(self, view: View, options: ListOptions, connection: Connection, metrics: Metrics) -> None:
        self._view = view
        self._options = options
        self._connection = connection
        self._metrics = metrics
        self._live = False
        self._limit: asyncio.Timeout | None = None
        self.position = 0

    def fell_behind(self) -> None:
        """Cut the client off: it has to list anew (I6)."""
        self._metrics.add("slow_clients_total")
        self._connection.abort()

    def end(self) -> None:
        """End the watch as if its time were over."""
        if self._limit is not None:
            with contextlib.suppress(RuntimeError):  # it is
                self._limit.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Serve the watch to its end."""
        options, view = self._options, self._view
        seconds = options.timeout if options.timeout > 0 else random.randint(*_WATCH_SECONDS)
        media_type = view.key.codec.stream_media_type.encode()
        headers = [(b"cache-control", b"no-cache, private"), (b"content-type", media_type)]
        await self._connection.start(200, headers)
        if options.initial_events and options.resource_version:
            try:
                await _wait_fresh(view, options.resource_version)
            except Answer as refusal:
                await self._end_with(refusal.status)
                return
        try:
            async with asyncio.timeout(seconds) as self._limit:
                await self._stream()
        except TimeoutError:
            if self._live and options.bookmarks and seconds > _SHORT:
                # As the API server's cacher does: the client goes on from here, wherever its last event was.
                await self._catch_up()
                await self._bookmark()
            await self._connection.finish()
        finally:
            view.log.readers.discard(self)

    async def _stream(self) -> None:
        if not await self._begin():
            return
        self._live = True
        loop = asyncio.get_running_loop()
        bookmark_at = loop.time() + random.uniform(*BOOKMARK_SECONDS)
        while True:
            await self._catch_up()
            if self._options.bookmarks and loop.time() >= bookmark_at:
                bookmark_at = loop.time() + random.uniform(*BOOKMARK_SECONDS)
                await self._bookmark()
                continue
            try:
                async with asyncio.timeout_at(bookmark_at if self._options.bookmarks else None):
                    await self._view.changed()
            except TimeoutError:
                if loop.time() < bookmark_at:
                    raise  # That was the whole watch's limit.

    async def _begin(self) -> bool:
        """Send what comes before live events; False when the history asked for is gone."""
        options, view = self._options, self._view
        rv = options.resource_version
        if options.initial_events:
            await self._initial()
            if options.bookmarks:
                await self._bookmark(initial_events_end=True)
            return True
        if options.initial_events is False and not rv:
            self._read_from(view.log.end)
            return True
        assert rv is not None
        position = view.log.position(rv)
        if position is None:
            await self._end_with(Status(410, f"too old resource version: {rv} ({view.rv})"))
            return False
        self._read_from(position)
        return True

    async def _end_with(self, status: Status) -> None:
        self._metrics.add("refused_total", label=str(status.code))
        await self._connection.send(self._view.key.codec.render_error(status))
        await self._connection.finish()

    def _read_from(self, position: int) -> None:
        self.position = position
        self._view.log.readers.add(self)

    async def _initial(self) -> None:
        """Send every item as ADDED, as it is at the moment it is sent."""
        view = self._view
        self._read_from(view.log.end)
        batch: list[bytes] = []
        size = 0
        for item in view.sorted_items():
            if not view.still_shown(item):
                continue  # The log says what became of it.
            batch.append(view.key.codec.render_event(view.key.resource, "ADDED", item))
            size += len(batch[-1])
            if size >= _BATCH:
                await self._send(batch)
                batch, size = [], 0
        await self._send(batch)
        await self._catch_up()

    async def _catch_up(self) -> None:
        while self.position < self._view.log.end:
            events = self._view.log.read(self.position)
            self.position = self._view.log.end
            await self._send(events)

    async def _send(self, events: list[bytes]) -> None:
        if events:
            self._metrics.add("events_sent_total", len(events))
            await self._connection.send(b"".join(events))

    async def _bookmark(self, *, initial_events_end: bool = False) -> None:
        """Send a bookmark; the client must have been sent everything up to now."""
        view = self._view
        rv = view.expose_rv()
        data = view.key.codec.render_bookmark(view.key.resource, rv, initial_events_end=initial_events_end)
        await self._connection.send(data)
