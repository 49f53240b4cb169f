"""The table and the exit code of a benchmark: a missed figure can neither be overlooked nor pass."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.report import Figure, Report, at_most, fewer, publish, smaller, spell

_OK = Figure("fine", "B", 1000.0, 10.0, fewer(100))
_MISSED = Figure("not fine", "s", 1.0, 0.5, fewer(3))
_REPORT = Report("title", "reference", [_OK, _MISSED, Figure("for orientation", "s", None, 2.0)])


def test_a_missed_figure_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The verdict is in the table and in the exit code."""
    assert publish([_REPORT], "table") == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if "MISSED" in line]
    assert [row.split("  ")[0] for row in rows] == ["not fine"]


def test_all_figures_as_wanted_are_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures without a wanted value are neither met nor missed."""
    assert publish([replace(_REPORT, figures=[_OK, _REPORT.figures[2]])], "table") == 0
    assert "MISSED" not in capsys.readouterr().out


def test_another_size_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    """A quick run misses nothing, and says that it was not judged."""
    assert publish([replace(_REPORT, judged=False)], "table") == 0
    out = capsys.readouterr().out
    assert "MISSED" not in out
    assert "not judged" in out


def test_json_says_what_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Machines read the same verdicts, and get the exit code as well."""
    assert publish([_REPORT], "json") == 1
    document = json.loads(capsys.readouterr().out)
    assert [figure["verdict"] for figure in document["figures"]] == ["ok", "MISSED", ""]
    assert document["missed"] == ["not fine"]
    assert document["figures"][0]["ratio"] == 100


def test_nothing_is_an_infinite_ratio() -> None:
    """A cost of zero fulfils any ratio, and JSON, which has no infinity, says null."""
    figure = Figure("free", "B", 5.0, 0.0, fewer(1000))
    assert figure.verdict == "ok"
    assert Report("t", "r", [figure]).to_dict()["figures"][0]["ratio"] is None


def test_limits_hold_without_a_reference() -> None:
    """A limit of the product's own needs nothing to compare with."""
    assert Figure("memory", "B", None, 30.0, at_most(30, "30")).verdict == "ok"
    assert Figure("memory", "B", None, 31.0, at_most(30, "30")).verdict == "MISSED"
    assert Figure("memory", "B", 30.0, 30.0, smaller()).verdict == "MISSED"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (5_070_000, "B", "5.07 MB"),
        (805, "B", "805 B"),
        (0.0000451, "s", "45.1 us"),
        (0.25, "s", "250 ms"),
        (0, "s", "0"),
        (None, "B", "-"),
    ],
)
def test_values_are_spelled_for_people(value: float | None, unit: str, text: str) -> None:
    """Three digits and the unit that fits."""
    assert spell(value, unit) == text
