"""A source: one list-and-watch at the API server, kept in memory and shared by every view that needs it.

The story of a source: it starts with a streaming list (a LIST where the server has none), goes on watching from where
that ended, and reconnects for ever with growing, jittered pauses. What it once knew it keeps: a lost connection
deletes nothing. After lost history (410), silence or an undecodable event it lists anew and tells its listeners
only the differences. Listeners are called synchronously and in order; they must not block.

What may be many objects is kept packed. Its whole state is `objects` and `rv`, so that it can be kept on a disk:
`keep` is called when that has changed, and a source can begin with what was `stored`. That is shown as soon as it is
clear that it is the best there is: when the API server has taken up the watch where it ended and said what was
missed, or cannot be reached.

A source with an `identity` asks with a client's credential instead of the agent's, for that client only. When the API
server refuses that credential, what it once gave for it is shown no more.

A resourceVersion is a number, and API servers whose data were set back count it up again: it may come to stand for
another history. That takes another process, and each connection tells whether it is one. Then the watch begins one
event earlier, with the last one that is known: the API server has to tell that very event, or its history is another
one and everything is listed anew.

Invariant: between `synced` and the end of the process `objects` is a state that the API server once had, changed only
by events and differences in order. Held by ``tests/agent/test_source.py``, ``tests/agent/test_offline.py``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from sitegrid.agent.metrics import Metrics
from sitegrid.agent.reply import Reply, Silent, UpstreamError
from sitegrid.agent.upstream import Upstream
from sitegrid.wire import percent
from sitegrid.wire.codec import Change, Codec, CodecError, Item
from sitegrid.wire.frames import FrameError
from sitegrid.wire.packed import Packer
from sitegrid.wire.resources import Resource

_log = logging.getLogger(__name__)

MAX_SMALL: Final = 128 * 1024
"""Bytes of objects, as they are kept, of a list that is nobody's: those of some hundred Services."""
MAX_LIST: Final = 256 * 1024 * 1024
"""Largest page of a list in bytes; a page has at most 500 objects of 1.5 MiB."""
_PAGE: Final = 500
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0
_WATCH_SECONDS: Final = (300, 600)
"""How long one watch may last; each asks for a random time between, so that a site's watches do not end together."""
_BOOKMARKED_SECONDS: Final = 600.0
"""A newer resourceVersion alone is kept this often: it need only be young enough to be resumed from."""
_LOST_HISTORY: Final = (410, 504)
"""Expired, or a resourceVersion that is not there yet (after the API server's data were set back): list anew."""
_SETTLE: Final = 0.25
"""Seconds after the head of a watch for what it resumes with to arrive: lost history, or the events that were missed.
The API server sends them at once and does not say where they end."""
TAKEN_OVER: Final = 5.0
"""Seconds in which the clients of the agent before this one come back, and go on from what it has shown them."""
_PROOF: Final = 30.0
"""Seconds for another API server to tell the last known event, which it has if it has the same history."""
SILENCE: Final = 150.0
"""Seconds without a byte after which a watch is given up: bookmarks come about once a minute."""
_LIST_SILENCE: Final = 60.0


class SourceKey(NamedTuple):
    """What a source asks for; equal keys share one source."""

    resource: Resource
    namespace: str
    labels: str
    fields: str
    codec: Codec
    metadata_only: bool = False
    identity: str = ""
    """Whose credential it asks with (see `Disk.identity`), empty for the agent's own."""
    last_counts: bool = False
    """Whether of several states of an object that arrive together only the last one is told."""


class _Event(NamedTuple):
    """What an event was about, and its resourceVersion."""

    key: str
    rv: int


class Stored(NamedTuple):
    """The state of a source as it was kept on the disk."""

    objects: dict[str, Item]
    rv: int
    packer: Packer | None = None
    """What its objects were packed with."""


class Listener(Protocol):
    """Who is told of a source's changes."""

    def source_changed(self, source: Source, key: str, deleted: Item | None) -> None:
        """Object `key` changed; `deleted` is its last state when it is gone."""

    def source_progressed(self, source: Source) -> None:
        """`synced`, `rv` or `refusal` changed."""


class Refused(Exception):
    """The API server answered with an error status."""

    def __init__(self, status: int, body: bytes, media_type: str) -> None:
        super().__init__(f"the API server refuses the agent's request ({status}): {_message(body)}")
        self.status = status
        self.body = body
        self.media_type = media_type


def _message(body: bytes) -> str:
    """Return in one line what a Status says, or the beginning of what is none."""
    try:
        text = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace")
    return " ".join(text[:300].split())


class TooLarge(Refused):
    """The selection has more objects than the agent keeps for clients that it does not know."""

    def __init__(self) -> None:
        super().__init__(429, b"too many objects for a client that is not authenticated", "text/plain")


class _Expired(Exception):
    """The history that the watch should resume from is gone."""


class _OtherHistory(Exception):
    """The API server does not know the last event that it, or another one, has told."""


def _ended(task: asyncio.Task[None], broken: Callable[[BaseException], None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        broken(error)


def _keep_nothing(source: Source) -> None:
    """Keep no state: there is no disk."""


def _wanted(source: Source) -> bool:
    """Say that it is."""
    return True


def _hear_nothing(authorization: str, status: int) -> None:
    """Hear no status."""


class Source:
    """Keeps `objects` (key → item) like the API server's; `refusal` is its last refusal while not synced.

    `authorization` is the client's Authorization header where the key has an identity. `keep` is called when there is
    something new to be kept, or (not `synced`) when nothing may be kept any more. What was `stored` is the place to
    `resume` from, or only what there is to show if the API server cannot be reached. It is shown at once where it was
    `shown` until a moment ago, by the agent before this one. `heard` is called with the status of each answer to a
    client's credential. `wanted` tells whether anybody wants it whom the API server knows: others may not have it
    list much, or fill the log.
    """

    def __init__(
        self,
        key: SourceKey,
        upstream: Upstream,
        metrics: Metrics,
        *,
        authorization: str = "",
        stored: Stored | None = None,
        resume: bool = True,
        shown: bool = False,
        keep: Callable[[Source], None] = _keep_nothing,
        heard: Callable[[str, int], None] = _hear_nothing,
        wanted: Callable[[Source], bool] = _wanted,
    ) -> None:
        self.key = key
        self.objects: dict[str, Item] = stored.objects if stored is not None else {}
        self.rv = stored.rv if stored is not None else 0
        self.synced = False
        self.listed = False
        """The API server has given the whole state to this process; what was stored may be older than that."""
        self.refusal: Refused | None = None
        self.listeners: list[Listener] = []
        self._packer = (stored.packer if stored is not None else None) or Packer()
        self._upstream = upstream
        self._metrics = metrics
        self._authorization = authorization
        self._keep = keep
        self._heard = heard
        self._wanted = wanted
        self._read = 0
        """Bytes of the objects of the list that is being read."""
        self._kept_at = 0.0
        self._hidden = stored is not None
        self._shown = shown
        self.taken_over: dict[str, Item] | None = None
        """What the agent before this one has shown last, for as long as its clients may come back."""
        self._missed = False
        self._current = stored is not None and resume
        self._server: object = None
        """What stands for the API server's process that has told, or has proven to know, what is known here."""
        self._asked: object = None
        self._last = _newest(self.objects)
        self._proof: _Event | None = None
        self._proving = asyncio.timeout(None)
        self._streaming_lists = True
        self._incoming: dict[str, Item] | None = None
        self._untold: dict[str, None] = {}
        self._pause = _FIRST_PAUSE
        self._task: asyncio.Task[None] | None = None

    @property
    def awaited(self) -> bool:
        """Tell whether the first state may come soon."""
        return not self.synced and self.refusal is None and not self._upstream.wan.down

    def start(self, broken: Callable[[BaseException], None] | None = None) -> None:
        """Begin to list and watch in a task of the running loop; `broken` hears of a fault that ends it."""
        if self._upstream.wan.down:
            self._reveal()
        elif self._shown:
            self.taken_over = dict(self.objects)
            asyncio.get_running_loop().call_soon(self._reveal)  # its listeners come after this
            asyncio.get_running_loop().call_later(TAKEN_OVER, self._forget_taken_over)
        self._kept_at = asyncio.get_running_loop().time()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"source {self.key.resource.plural}")
        if broken is not None:
            self._task.add_done_callback(lambda task: _ended(task, broken))

    def _forget_taken_over(self) -> None:
        self.taken_over = None

    def stop(self) -> None:
        """End the task; `objects` stays as it is."""
        if self._task is not None:
            self._task.cancel()

    def wan_lost(self) -> None:
        """Hear that the API server cannot be reached: what was stored is the best there is."""
        if not self._reveal() and not self.synced:
            self._progress()  # Who waits for the first state need not wait any longer.

    def _reveal(self) -> bool:
        """Show what was stored, if that has not been decided yet; tell whether it is shown now for the first time."""
        if not self._hidden:
            return False
        self._hidden = False
        self.synced = True
        if self._missed:
            self._changed()
        self._progress()
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self._once()
            except _Expired:
                self._fail("expired")
                self._lost_history()
            except _OtherHistory:
                self._fail("other history")
                self._current = False
                _log.warning("%s: the API server's data were set back; listing anew", self.key.resource.plural)
            except Refused as refusal:
                self._refused(refusal)
            except (CodecError, FrameError) as error:
                # Nothing of it is shown; what is known stays until a full list can be understood.
                self._metrics.add("undecodable_total")
                self._fail("undecodable")
                self._current = False
                _log.error("%s: %s; listing anew", self.key.resource.plural, error)
            except Silent as error:
                # Not even bookmarks: so it is with a watch from a version that restored data have not reached.
                self._fail("silent")
                self._current = False
                _log.debug("%s: %s; listing anew", self.key.resource.plural, error)
                self.wan_lost()
            except (UpstreamError, OSError, ssl.SSLError, zlib.error) as error:
                self._fail("unreachable")
                _log.debug("%s: %s; trying again", self.key.resource.plural, error)
                self.wan_lost()
            await self._upstream.wan.pause(random.uniform(self._pause / 2, self._pause))
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _lost_history(self) -> None:
        """List anew; what was stored is first resumed from where it ended, if only its last event is too old."""
        if self._proof is not None and self._server is None:
            self._server = self._asked
        else:
            self._current = False

    def _fail(self, reason: str) -> None:
        self._metrics.add("upstream_failures_total", label=reason)

    def _refused(self, refusal: Refused) -> None:
        self._fail(f"refused {refusal.status}")
        if refusal.status in _LOST_HISTORY:
            self._lost_history()
        # Each try is refused in the same words until somebody mends the account.
        told = self.refusal is not None and str(self.refusal) == str(refusal)
        _log.log(
            logging.DEBUG if told or not self._wanted(self) else logging.WARNING,
            "%s: %s",
            self.key.resource.plural,
            refusal,
        )
        self.refusal = refusal
        if self.key.identity and refusal.status in (401, 403):
            self.synced = self._hidden = self._current = False
            self._keep(self)
        elif refusal.status >= 500:
            self._reveal()
        self._progress()

    def _progress(self) -> None:
        for listener in tuple(self.listeners):
            listener.source_progressed(self)

    async def _once(self) -> None:
        """Bring the state up to date and watch until the connection ends."""
        self._asked = await self._upstream.server(as_agent=not self.key.identity)
        self._proof = None
        if self._shown or self._asked is None:
            self._server = self._asked
        elif self._current and self._server is not self._asked:
            self._proof, self._current = self._last, self._last is not None
        self._shown = False
        if not self._current and self._streaming_lists:
            try:
                await self._watch(initial=True)
                return
            except Refused as refusal:
                # 401, 403 and 429 say nothing about streaming lists; the others are how servers without them answer.
                if refusal.status not in (400, 404, 406, 422):
                    raise
                self._streaming_lists = False
            except UpstreamError:
                # Servers before 1.27 ignore the question and never say where the initial events end.
                self._streaming_lists = self._current
                raise
        if not self._current:
            await self._list()
        await self._watch(initial=False)

    def _selection(self) -> dict[str, str]:
        selection = {"labelSelector": self.key.labels, "fieldSelector": self.key.fields}
        return {name: value for name, value in selection.items() if value}

    async def _open(self, parameters: dict[str, str], accept: str) -> Reply:
        target = f"{self.key.resource.path(self.key.namespace)}?{percent.query({**self._selection(), **parameters})}"
        headers = [("Accept", accept), ("Accept-Encoding", "gzip"), ("User-Agent", "sitegrid-agent")]
        if self._authorization:
            headers.append(("Authorization", self._authorization))
        exchange = await self._upstream.ask(target, headers, as_agent=not self.key.identity)
        try:
            await exchange.head()
            if self._authorization:
                self._heard(self._authorization, exchange.status)
            if exchange.status != 200:
                body = await exchange.read_all(1024 * 1024, _LIST_SILENCE)
                raise Refused(exchange.status, body, exchange.header(b"content-type").decode("latin-1"))
            sent = exchange.header(b"content-type").split(b";")[0].strip().decode("latin-1")
            if sent != self.key.codec.media_type:
                raise CodecError(f"the API server sent {sent!r} instead of {self.key.codec.media_type!r}")
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _accept(self, media_type: str, suffix: str = "") -> str:
        if not self.key.metadata_only:
            return media_type
        return f"{media_type};as=PartialObjectMetadata{suffix};g=meta.k8s.io;v=v1"

    async def _list(self) -> None:
        """Read all pages, then apply the difference."""
        found: dict[str, Item] = {}
        self._read = 0
        parameters = {"limit": str(_PAGE)}
        accept = self._accept(self.key.codec.media_type, suffix="List")
        while True:
            exchange = await self._open(parameters, accept)
            try:
                body = await exchange.read_all(MAX_LIST, _LIST_SILENCE)
            finally:
                exchange.close()
            self._metrics.add("upstream_bytes_total", len(body))
            page = self.key.codec.item_list(_unzip(exchange, body))
            found.update((item.key, self._rested(item)) for item in page.items)
            if not page.continue_token:
                break
            parameters["continue"] = page.continue_token
        self._replace(found, page.rv)

    async def _watch(self, *, initial: bool) -> None:
        """Follow one watch to its end, with the initial events first when `initial`."""
        seconds = random.randint(*_WATCH_SECONDS)
        parameters = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if initial:
            parameters |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        else:
            parameters["resourceVersion"] = str(self.rv if self._proof is None else self._proof.rv - 1)
        exchange = await self._open(parameters, self._accept(self.key.codec.stream_media_type))
        if await self._upstream.server(as_agent=not self.key.identity) is not self._asked:
            exchange.close()
            raise UpstreamError("the connection was lost")
        self.refusal = None
        settled = asyncio.get_running_loop().call_later(_SETTLE, self._reveal)
        frames = self.key.codec.frames()
        self._incoming = {} if initial else None
        self._read = 0
        try:
            async with asyncio.timeout(_PROOF if self._proof is not None else None) as self._proving:
                async for chunk in exchange.body(SILENCE):
                    self._metrics.add("upstream_bytes_total", len(chunk))
                    arrived = frames.feed(chunk)
                    self._metrics.add("upstream_events_total", len(arrived))
                    if self.key.last_counts and self._incoming is None and self._proof is None:
                        arrived = _last_states(arrived, self.key.codec)
                    try:
                        for frame in arrived:
                            self._apply(self.key.codec.change(frame))
                    finally:
                        self._tell_late()
            frames.close()
            if self._incoming is not None:
                raise UpstreamError("the streaming list ended early")
        except TimeoutError as error:
            if not self._proving.expired():
                raise
            raise _OtherHistory from error
        finally:
            settled.cancel()
            self._incoming = None
            exchange.close()

    def _apply(self, change: Change) -> None:
        if change.type == "ERROR":
            if change.code in _LOST_HISTORY:
                raise _Expired
            raise UpstreamError(f"watch error {change.code}: {change.message}")
        if self._incoming is not None:
            self._apply_initial(change, self._incoming)
            return
        if self._proof is not None:
            self._prove(change, self._proof)
            return
        self._pause = _FIRST_PAUSE
        self.rv = max(self.rv, change.rv)
        item = change.item
        if item is None:
            self._progress()
            if asyncio.get_running_loop().time() > self._kept_at + _BOOKMARKED_SECONDS:
                self._changed()
            return
        self._last = _Event(item.key, change.rv)
        if change.type == "DELETED":
            self._untold.pop(item.key, None)
            self._tell_late()
            if self.objects.pop(item.key, None) is not None:
                self._tell(item.key, item)
        else:
            self.objects[item.key] = item
            if self.key.last_counts:
                self._untold[item.key] = None
                return
            self._tell(item.key, None)
            item.pack(self._packer)
        self._changed()

    def _prove(self, change: Change, last: _Event) -> None:
        """See whether the API server has told the `last` event that is known, as it was. Raises `_OtherHistory`."""
        item, known = change.item, self.objects.get(last.key)
        if item is None or (item.key, change.rv) != last:
            raise _OtherHistory
        if known is not None if change.type == "DELETED" else known is None or known.raw != item.raw:
            raise _OtherHistory
        self._proof, self._server = None, self._asked
        self._proving.reschedule(None)

    def _rested(self, item: Item) -> Item:
        """Return an item of a complete list as it is kept: packed, and not a second time where it is there already.

        Where it `last_counts` there are few objects, which change much, and are read much more often than kept.
        """
        if self.key.last_counts:
            return item
        known = self.objects.get(item.key)
        if known is not None and known.rv == item.rv and known.raw == item.raw:
            return known
        item.pack(self._packer)
        self._read += item.size
        if self._read > MAX_SMALL and not self._wanted(self):
            raise TooLarge
        return item

    def _apply_initial(self, change: Change, incoming: dict[str, Item]) -> None:
        """Collect the events of a streaming list until the bookmark that ends it."""
        if change.item is not None:
            if change.type == "DELETED":
                incoming.pop(change.item.key, None)
            else:
                incoming[change.item.key] = self._rested(change.item)
        elif change.initial_events_end:
            self._incoming = None
            self._replace(incoming, change.rv)

    def _replace(self, found: dict[str, Item], rv: int) -> None:
        """Take over a complete list and tell what differs."""
        known, self.objects = self.objects, found
        first = not self.synced
        self.synced = self.listed = self._current = True
        self._server, self._last = self._asked, _newest(found)
        self._hidden = False
        self.refusal = None
        # A complete list is never older than what was known, unless the API server's data were set back.
        self.rv = rv
        self._pause = _FIRST_PAUSE
        if not first:
            self._metrics.add("relists_total")
        for key, item in known.items():
            if key not in found:
                self._tell(key, item)
        for key, item in found.items():
            # Where the API server's data were set back, a version may have come to stand for something else.
            before = known.get(key)
            if before is None or (before is not item and (before.rv != item.rv or before.raw != item.raw)):
                self._tell(key, None)
        self._progress()
        self._changed()

    def _changed(self) -> None:
        self._missed = self._hidden
        if self._hidden:
            return  # What cannot be shown yet is kept when it is: to keep it now would be to forget what was stored.
        self._kept_at = asyncio.get_running_loop().time()
        self._keep(self)

    def _tell(self, key: str, deleted: Item | None) -> None:
        for listener in tuple(self.listeners):
            listener.source_changed(self, key, deleted)

    def _tell_late(self) -> None:
        """Tell of the objects that what arrived has changed."""
        untold, self._untold = self._untold, {}
        for key in untold:
            self._tell(key, None)
        if untold:
            self._changed()


def _newest(objects: dict[str, Item]) -> _Event | None:
    """Return the last event of which something is left."""
    newest = max(objects.values(), key=lambda item: item.rv, default=None)
    return _Event(newest.key, newest.rv) if newest is not None else None


def _last_states(frames: list[bytes], codec: Codec) -> list[bytes]:
    """Return the events without those of an object that is written again before anything is deleted."""
    later: set[bytes] = set()
    kept = []
    for frame in reversed(frames):
        name = codec.peek_name(frame)
        if name is None:
            later.clear()
        elif name in later:
            continue
        else:
            later.add(name)
        kept.append(frame)
    kept.reverse()
    return kept


def _unzip(exchange: Reply, body: bytes) -> bytes:
    if exchange.header(b"content-encoding").lower() != b"gzip":
        return body
    inflater = zlib.decompressobj(wbits=31)
    data = inflater.decompress(body, MAX_LIST)
    if inflater.unconsumed_tail or not inflater.eof:
        raise CodecError("compressed list is truncated or too large")
    return data
