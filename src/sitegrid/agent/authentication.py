"""Whose credential the API server has accepted: what has to be shared is kept back for those clients.

Each process of the node reaches the agent's listeners. kube-proxy, CoreDNS and the kubelet show bearer tokens, and
the API server's answers to what they ask with them tell whether it knows them: those to what is passed through, and
those to sources of their own. Where there has been none, and it matters, the agent asks. A token that is not accepted
is 401 for each question (apiserver pkg/authentication/request/bearertoken), so what succeeds had one that is.

Tokens are known by a keyed hash only, which is on the disk too: without a WAN, who was accepted last is who counts.
Called by the hub, by the server, and by all who ask the API server for a client. Held by
``tests/agent/test_authentication.py``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Final

from sitegrid.agent.reply import UpstreamError
from sitegrid.agent.upstream import Upstream

MAX_ACCEPTED: Final = 256
"""Credentials that are remembered: tokens of ServiceAccounts are replaced hourly, and the last ones count."""
CONFIRM: Final = 600.0
"""Seconds after which it is looked at anew whether a credential is still accepted."""
LOOK_AFTER: Final = 5.0
"""Seconds in which a new client's other requests may tell, so that the agent need not ask."""
FORGIVE: Final = 30.0
"""Seconds for which a credential that was not accepted is not asked about again."""
_ASKED_AT_ONCE: Final = 16
_LOOKED_AFTER: Final = 64
_TIMEOUT: Final = 10.0
_LARGEST: Final = 64 * 1024

_BEARER: Final = re.compile(r"bearer [\x21-\x7e]+", re.ASCII | re.IGNORECASE)
"""What is a token for certain. Whatever the API server might take for none it answers as it does anybody."""
_QUESTION: Final = "/version"
"""What every authenticated client may ask (ClusterRole system:public-info-viewer)."""


class Authentication:
    """The accepted credentials, by what `identify` makes of an Authorization header.

    `listeners` are called with an identity that was not known before; `changed` when others are to be remembered.
    """

    def __init__(
        self,
        upstream: Upstream,
        identify: Callable[[str], str],
        remembered: Iterable[str] = (),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.listeners: list[Callable[[str], None]] = []
        self._upstream = upstream
        self._identify = identify
        self._changed = changed
        self._accepted = dict.fromkeys(remembered, -CONFIRM)
        """When each was last accepted, in the loop's time; the last one comes last."""
        self._refused: dict[str, float] = {}
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._looks: dict[str, asyncio.TimerHandle] = {}

    def identity(self, authorization: str) -> str:
        """Return the name of the client with this Authorization header; empty where it holds no bearer token."""
        return self._identify(authorization) if _BEARER.fullmatch(authorization) else ""

    def accepted(self, identity: str) -> bool:
        """Tell whether the API server has accepted the credential of `identity`, as far as is known."""
        return identity in self._accepted

    def remembered(self) -> tuple[str, ...]:
        """Return all identities that were accepted, the last one last."""
        return tuple(self._accepted)

    def heard(self, authorization: str, status: int) -> None:
        """Hear the status with which the API server answered a request that went there under this very header."""
        identity = self.identity(authorization)
        if not identity:
            return
        if status == 101 or 200 <= status < 300:
            self._accept(identity)
        elif status == 401:
            self._refuse(identity)

    def _accept(self, identity: str) -> None:
        known = self._accepted.pop(identity, None) is not None
        self._accepted[identity] = asyncio.get_running_loop().time()
        self._refused.pop(identity, None)
        if known:
            return
        while len(self._accepted) > MAX_ACCEPTED:
            del self._accepted[next(iter(self._accepted))]
        self._changed()
        for listener in self.listeners:
            listener(identity)

    def _refuse(self, identity: str) -> None:
        self._refused.pop(identity, None)
        self._refused[identity] = asyncio.get_running_loop().time()
        while len(self._refused) > MAX_ACCEPTED:
            del self._refused[next(iter(self._refused))]
        if self._accepted.pop(identity, None) is not None:
            self._changed()

    def _was_refused(self, identity: str) -> bool:
        return self._refused.get(identity, -FORGIVE) + FORGIVE > asyncio.get_running_loop().time()

    async def ask(self, authorization: str) -> bool:
        """Tell whether the API server accepts this credential, which it is asked where that is not known."""
        identity = self.identity(authorization)
        if not identity or identity in self._accepted or self._was_refused(identity):
            return identity in self._accepted
        if identity not in self._asked and len(self._asked) >= _ASKED_AT_ONCE:
            return False
        await asyncio.shield(self._question(identity, authorization))
        return identity in self._accepted

    def _question(self, identity: str, authorization: str) -> asyncio.Task[None]:
        """Return the question about `identity` that all share who want to know."""
        if identity not in self._asked:
            name = "source authentication"
            task = asyncio.get_running_loop().create_task(self._put(authorization), name=name)
            self._asked[identity] = task
            task.add_done_callback(lambda _: self._asked.pop(identity))
        return self._asked[identity]

    async def _put(self, authorization: str) -> None:
        try:
            headers = [("Authorization", authorization), ("User-Agent", "sitegrid-agent")]
            reply = await self._upstream.pass_on("GET", _QUESTION, headers, b"", _TIMEOUT)
            try:
                await reply.read_all(_LARGEST, _TIMEOUT)
            finally:
                reply.close()
        except UpstreamError:
            return  # It is not known then, and may be asked again.
        self.heard(authorization, reply.status)

    def look(self, authorization: str) -> None:
        """Find out soon whether the credential is (still) accepted, unless other requests tell until then."""
        identity = self.identity(authorization)
        now = asyncio.get_running_loop().time()
        if (
            not identity
            or identity in self._looks
            or len(self._looks) >= _LOOKED_AFTER
            or self._was_refused(identity)
        ):
            return
        if self._accepted.get(identity, -CONFIRM) + CONFIRM > now:
            return

        def find_out() -> None:
            del self._looks[identity]
            if (
                self._accepted.get(identity, -CONFIRM) < now
                and not self._was_refused(identity)
                and len(self._asked) < _ASKED_AT_ONCE
            ):
                self._question(identity, authorization)

        self._looks[identity] = asyncio.get_running_loop().call_later(LOOK_AFTER, find_out)

    def close(self) -> None:
        """End all questions."""
        for look in self._looks.values():
            look.cancel()
        self._looks.clear()
        for task in self._asked.values():
            task.cancel()
