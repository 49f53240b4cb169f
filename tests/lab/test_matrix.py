"""The matrix counts what was answered where, and calls foreign answers misplaced."""

from __future__ import annotations

from typing import Any

import pytest

from sitegrid.lab.matrix import NO_SITE, Matrix

SITES = {"n1": "a", "n2": "b"}


def summary(errors: int = 0, **counts: int) -> dict[str, Any]:
    """Return a traffic summary with `counts` answers by node name."""
    answers = {f"pod-{node}": {"node": node, "count": count} for node, count in counts.items()}
    return {
        "requests": sum(counts.values()) + errors,
        "answers": answers,
        "errors": {"timeout": errors} if errors else {},
    }


@pytest.fixture
def matrix() -> Matrix:
    """Return an empty matrix over two sites of one node each."""
    return Matrix(SITES)


def test_answers_of_the_own_site_are_in_place(matrix: Matrix) -> None:
    """A site that answers its own requests has nothing misplaced or lost."""
    matrix.add("n1", summary(n1=100))
    assert (matrix.requests, matrix.misplaced, matrix.lost) == (100, 0, 0)


def test_an_answer_of_another_site_is_misplaced(matrix: Matrix) -> None:
    """One foreign answer among many is counted."""
    matrix.add("n1", summary(n1=99, n2=1))
    assert matrix.misplaced == 1


def test_any_answer_to_a_node_in_no_site_is_misplaced(matrix: Matrix) -> None:
    """A node in no unit may reach no grid Service."""
    matrix.add("n3", summary(n1=2))
    assert matrix.misplaced == 2


def test_an_answer_from_a_node_in_no_site_is_misplaced_even_for_its_like(matrix: Matrix) -> None:
    """Nodes without the key are not a site together."""
    matrix.add("n3", summary(n4=2))
    assert matrix.misplaced == 2


def test_unanswered_requests_are_lost(matrix: Matrix) -> None:
    """Errors count as lost, whatever their reason."""
    matrix.add("n2", summary(errors=3, n2=7))
    assert (matrix.requests, matrix.misplaced, matrix.lost) == (10, 0, 3)


def test_the_table_shows_every_site_and_the_lost(matrix: Matrix) -> None:
    """Rows ask, columns answer."""
    matrix.add("n1", summary(n1=5))
    matrix.add("n2", summary(errors=1, n1=2, n2=4))
    matrix.add("n3", summary(errors=6))
    lines = [line.split() for line in matrix.render().splitlines()[:4]]
    assert lines == [
        ["FROM", "\\", "ANSWERED", "BY", "a", "b", "LOST"],
        [*NO_SITE.split(), "0", "0", "6"],
        ["a", "5", "0", "0"],
        ["b", "2", "4", "1"],
    ]


def test_each_reason_to_lose_requests_is_said(matrix: Matrix) -> None:
    """Under the table stands why, by asking site and counted over all clients."""
    for count in (1, 2):
        matrix.add("n1", {"requests": 3, "answers": {}, "errors": {"connect: connection refused": count}})
    matrix.add("n2", {"requests": 1, "answers": {}, "errors": {"dns: Name or service not known": 1}})
    assert matrix.render().splitlines()[-2:] == [
        "lost from a: 3 × connect: connection refused",
        "lost from b: 1 × dns: Name or service not known",
    ]
