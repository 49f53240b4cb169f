"""The places that clients share: connections and requests, most of them kept back for authenticated clients.

A connection says who it is with its first request only, so a new one is let in wherever that is possible: one at rest
gives way, of clients that are not authenticated first, then one of theirs that is served. What they ask for at a time
is limited to a part of the places. Of authenticated clients who has most gives way, so none keeps the others out.

Called by `http.Connection` and the server. Invariant: what an authenticated client has open no other client ends, but
an authenticated one that has less. Held by ``tests/agent/test_places.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from sitegrid.agent.metrics import Metrics

MAX_CONNECTIONS: Final = 256
MAX_STRANGERS: Final = 128
"""Those among them whose last request, if there was one, had no accepted credential: TLS takes memory."""
NEWCOMERS: Final = 32
"""Connections that no request may occupy: who comes has to be let in to say who it is."""
MAX_UNAUTHENTICATED: Final = 32
"""Requests of clients that are not authenticated, watches among them, that are served at a time."""
MAX_UNAUTHENTICATED_PASSED: Final = 16
"""Those among them that are waiting for the API server: it serves the agent 64 on one connection."""


class Client(Protocol):
    """A connection; `identity` is of the credential of its last request, `place` what that has now."""

    identity: str
    place: str

    @property
    def resting(self) -> bool:
        """Tell whether no request is being served."""
        ...

    def abort(self) -> None:
        """Cut it off."""
        ...


SERVED: Final = "served"
PASSED: Final = "passed"


class Places:
    """All connections, the oldest first; `accepted` tells whether an identity is an authenticated client's."""

    def __init__(self, metrics: Metrics, accepted: Callable[[str], bool]) -> None:
        self.connections: dict[Client, None] = {}
        self._metrics = metrics
        self._accepted = accepted

    def enter(self, client: Client) -> bool:
        """Give a new connection a place, for which another one may have to go; False where there is none."""
        strangers = [other for other in self.connections if not self._accepted(other.identity)]
        if len(self.connections) >= MAX_CONNECTIONS or len(strangers) >= MAX_STRANGERS:
            self._metrics.add("turned_away_total")
            victim = self._last_wanted(strangers)
            if victim is None:
                return False
            self._evict(victim)
        self.connections[client] = None
        self._metrics.set("connections", len(self.connections))
        return True

    def leave(self, client: Client) -> None:
        """Hear that a connection is gone."""
        self.connections.pop(client, None)
        self._metrics.set("connections", len(self.connections))

    def _evict(self, client: Client) -> None:
        self.connections.pop(client, None)
        client.abort()

    def _last_wanted(self, strangers: list[Client]) -> Client | None:
        """Return the connection that can be missed most."""
        for candidates in (strangers, self.connections):
            resting = next((client for client in candidates if client.resting), None)
            if resting is not None:
                return resting
            if strangers:
                return strangers[0]
        return None

    def take(self, client: Client, place: str) -> bool:
        """Have the client's request served (`SERVED`) or passed (`PASSED`); False where it has to wait."""
        known = self._accepted(client.identity)
        taken = self._take_from_most(client) if known else self._is_left(place)
        if taken:
            client.place = place
        return taken

    def give_back(self, client: Client) -> None:
        """Hear that the client's request is answered."""
        client.place = ""

    def _is_left(self, place: str) -> bool:
        """Tell whether there is a place for one more client that is not authenticated."""
        if len(self.connections) <= MAX_UNAUTHENTICATED_PASSED:
            return True
        others = [client.place for client in self._occupying() if not self._accepted(client.identity)]
        return len(others) < MAX_UNAUTHENTICATED and (
            place != PASSED or others.count(PASSED) < MAX_UNAUTHENTICATED_PASSED
        )

    def _take_from_most(self, client: Client) -> bool:
        """Give an authenticated client a place, if need be one of who is not, or of who has most."""
        if len(self.connections) < MAX_CONNECTIONS - NEWCOMERS:
            return True
        occupying = list(self._occupying())
        if len(occupying) < MAX_CONNECTIONS - NEWCOMERS:
            return True
        victim = next((other for other in occupying if not self._accepted(other.identity)), None)
        if victim is None:
            greedy = greediest(client.identity, [other.identity for other in occupying])
            victim = next((other for other in occupying if other.identity == greedy), None)
        if victim is None:
            return False
        self._evict(victim)
        return True

    def _occupying(self) -> Iterable[Client]:
        return (client for client in self.connections if client.place)


def greediest(identity: str, owners: Iterable[str]) -> str | None:
    """Return the identity that most of some things are of, if it is one that has more of them than `identity`."""
    counts = Counter(owners)
    owner, most = max(counts.items(), key=lambda count: count[1], default=(identity, 0))
    return owner if most > counts[identity] else None
