"""The source of a grid's objects for what the node is now: another one when its labels change, without a gap.

A view has one for the slices of the node's units and one for the Services of its keys, and `Patches` has one more.
While the next source is being listed the former is read on; what of it is the node's no more its owner leaves out at
once. The next one is read as soon as it lacks nothing that was shown of the former: what it has from the disk, or
what the former told while it was listing, may be older. Held by ``tests/agent/test_view.py`` and the state machine of
``tests/agent/faults``.
"""

from __future__ import annotations

from collections.abc import Callable

from sitegrid.agent.source import Listener, Source, SourceKey


class Followed:
    """Gives `source`, None where there is nothing to be read; calls `switched` when that has become another one.

    The owner hears of both sources as their `listener`, and passes on what they tell.
    """

    def __init__(
        self,
        listener: Listener,
        acquire: Callable[[SourceKey], Source],
        release: Callable[[Source], None],
        switched: Callable[[], None],
    ) -> None:
        self.source: Source | None = None
        self.next: Source | None = None
        self.told_rv = 0
        """The newest resourceVersion of what was shown of `source` since the node changed."""
        self._listener = listener
        self._acquire = acquire
        self._release = release
        self._switched = switched

    def follow(self, wanted: SourceKey | None, *, shown: bool) -> None:
        """Read from the source of `wanted` from now on, or as soon as it may follow what was `shown`."""
        self.told_rv = 0
        self._drop(self.next)
        self.next = None
        if wanted is None:
            self._switch(None)
        elif self.source is None or self.source.key != wanted:
            self.next = self._acquire(wanted)
            self.next.listeners.append(self._listener)
            self.progress(shown=shown)

    def note(self, rv: int) -> None:
        """Remember that an object of this version is shown, or its end, while the next source is waited for."""
        if self.next is not None:
            self.told_rv = max(self.told_rv, rv)

    def progress(self, *, shown: bool) -> None:
        """Change over to the next source, once it lacks nothing; with nothing `shown`, once it is known."""
        source = self.next
        if source is None:
            return
        if (source.listed and source.rv >= self.told_rv) if shown else source.synced:
            self.next = None
            self._switch(source)

    def close(self) -> None:
        """Let both go."""
        self._drop(self.next)
        self._drop(self.source)

    def _switch(self, source: Source | None) -> None:
        old, self.source = self.source, source
        self._drop(old)
        self._switched()

    def _drop(self, source: Source | None) -> None:
        if source is not None:
            source.listeners.remove(self._listener)
            self._release(source)
