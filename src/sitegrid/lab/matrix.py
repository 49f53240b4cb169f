"""The proof of closure: who asked, who answered, by site.

Built by the demo and the end-to-end tests from the summaries that `sitegrid.lab.traffic` prints. A request counts as
*misplaced* when a pod outside the asker's own site answered it, and as *lost* when nobody did. Sites are looked up by
node name in what the API server says, never in what an answer claims. Why requests were lost stands under the table.
Held by ``tests/lab/test_matrix.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

NO_SITE: Final = "(no site)"
"""The row or column of nodes that carry no value of the unique key."""


@dataclass(slots=True)
class Matrix:
    """Requests by asking site and answering site; `sites` maps each node's name to its value of the unique key."""

    sites: Mapping[str, str]
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    losses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Unanswered requests by asking site and by reason."""

    def add(self, node: str, summary: Mapping[str, Any]) -> None:
        """Count one traffic summary of a client on `node`."""
        asker = self._site(node)
        for answer in summary["answers"].values():
            self.answers[asker, self._site(answer["node"])] += answer["count"]
        for reason, count in summary["errors"].items():
            self.losses[asker, reason] += count

    @property
    def requests(self) -> int:
        """All requests, answered or not."""
        return self.answers.total() + self.lost

    @property
    def misplaced(self) -> int:
        """Requests that were answered outside the asker's own site; a node in no site has none that it may reach."""
        return sum(n for (asker, answerer), n in self.answers.items() if asker != answerer or asker == NO_SITE)

    @property
    def lost(self) -> int:
        """Requests that nobody answered."""
        return self.losses.total()

    def render(self) -> str:
        """Return the matrix as a text table: a row per asking site, a column per answering site, and the lost.

        A line for each reason to lose requests follows.
        """
        askers = sorted({asker for asker, _ in [*self.answers, *self.losses]})
        answerers = sorted({answerer for _, answerer in self.answers} | {a for a in askers if a != NO_SITE})
        rows = [["FROM \\ ANSWERED BY", *answerers, "LOST"]]
        for asker in askers:
            counts = [str(self.answers[asker, answerer]) for answerer in answerers]
            rows.append([asker, *counts, str(sum(n for (site, _), n in self.losses.items() if site == asker))])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        reasons = [f"lost from {asker}: {n} × {reason}" for (asker, reason), n in sorted(self.losses.items())]
        return "\n".join([*(_aligned(row, widths) for row in rows), *reasons])

    def _site(self, node: str) -> str:
        return self.sites.get(node) or NO_SITE


def _aligned(row: list[str], widths: list[int]) -> str:
    first, *counts = zip(row, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in counts)])
