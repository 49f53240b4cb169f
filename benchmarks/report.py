"""The table that every benchmark prints, its JSON form, and the verdict that becomes the exit code.

A `Figure` is one row: what the reference costs, what sitegrid costs, and what is wanted of the two. Invariant: a
wanted figure that is missed is shown as MISSED and makes the exit code 1, whatever the output format. Held by
``tests/benchmarks/test_report.py``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a figure should be: `text` for people, `holds` (reference, sitegrid) for the verdict."""

    text: str
    holds: Callable[[float, float], bool]


def fewer(times: float) -> Wanted:
    """Want sitegrid to cost at most the reference divided by `times`."""
    return Wanted(f">= {times:g}x", lambda reference, ours: ours * times <= reference)


def smaller() -> Wanted:
    """Want sitegrid to cost less than the reference."""
    return Wanted("smaller", lambda reference, ours: ours < reference)


def at_most(limit: float, text: str) -> Wanted:
    """Want sitegrid to cost at most `limit`, which `text` spells."""
    return Wanted(text, lambda reference, ours: ours <= limit)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `unit` is ``B`` (bytes) or ``s`` (seconds); a side that does not apply is None."""

    name: str
    unit: str
    reference: float | None
    sitegrid: float | None
    wanted: Wanted | None = None

    @property
    def ratio(self) -> float | None:
        """How many times less sitegrid costs; infinite where it costs nothing, None where a side is missing."""
        if self.reference is None or self.sitegrid is None:
            return None
        return self.reference / self.sitegrid if self.sitegrid else float("inf")

    @property
    def verdict(self) -> str:
        """``ok``, ``MISSED``, or empty where nothing is wanted."""
        if self.wanted is None or self.sitegrid is None:
            return ""
        return "ok" if self.wanted.holds(self.reference or 0.0, self.sitegrid) else "MISSED"


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of one benchmark. Not `judged`: the wanted figures hold for another size, so none can be missed."""

    title: str
    reference: str
    figures: Sequence[Figure]
    notes: Sequence[str] = ()
    judged: bool = True
    context: dict[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        """Names of the rows that are not as wanted."""
        return [figure.name for figure in self.figures if self.judged and figure.verdict == "MISSED"]

    def to_text(self) -> str:
        """Return the table."""
        rows = [("figure", self.reference, "sitegrid", "ratio", "wanted", "")]
        rows += [self._row(figure) for figure in self.figures]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [self.title, ""]
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:5], widths[1:5], strict=True)]
            lines.append("  ".join([*cells, row[5]]).rstrip())
        lines.insert(3, "  ".join("-" * width for width in widths[:5]))
        notes = list(self.notes)
        if not self.judged:
            notes.append("The wanted figures hold for the full size; at this size they are not judged.")
        return "\n".join([*lines, *([""] if notes else []), *notes])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON values: bytes and seconds as numbers, an infinite ratio as null."""
        return {
            "title": self.title,
            "reference": self.reference,
            "judged": self.judged,
            "context": self.context,
            "figures": [
                {
                    "name": figure.name,
                    "unit": figure.unit,
                    "reference": figure.reference,
                    "sitegrid": figure.sitegrid,
                    "ratio": figure.ratio if figure.ratio != float("inf") else None,
                    "wanted": figure.wanted.text if figure.wanted else None,
                    "verdict": figure.verdict if self.judged else "",
                }
                for figure in self.figures
            ],
            "notes": list(self.notes),
            "missed": self.missed,
        }

    def _row(self, figure: Figure) -> tuple[str, str, str, str, str, str]:
        return (
            figure.name,
            spell(figure.reference, figure.unit),
            spell(figure.sitegrid, figure.unit),
            spell_ratio(figure.ratio),
            figure.wanted.text if figure.wanted else "",
            figure.verdict if self.judged else "",
        )


_SCALES: Final = {
    "B": ((1e6, "MB"), (1e3, "KB"), (1.0, "B")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
}


def spell(value: float | None, unit: str) -> str:
    """Return `value` with three digits and a readable unit; ``-`` for None."""
    if value is None:
        return "-"
    if not value:
        return "0"
    scales = _SCALES[unit]
    factor, name = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
    digits = value / factor
    return f"{digits:.3g} {name}" if abs(digits) < 100 else f"{digits:.0f} {name}"


def spell_ratio(ratio: float | None) -> str:
    """Return a ratio as ``12x``; ``-`` for None."""
    if ratio is None:
        return "-"
    if ratio == float("inf"):
        return "inf"
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``-o``, which every benchmark has."""
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: %(default)s")


def publish(reports: Sequence[Report], output: str) -> int:
    """Print `reports` and return the exit code: 1 where a wanted figure is missed."""
    if output == "json":
        documents = [report.to_dict() for report in reports]
        print(json.dumps(documents[0] if len(documents) == 1 else documents, indent=1))
    else:
        print("\n\n".join(report.to_text() for report in reports))
    return 1 if any(report.missed for report in reports) else 0
