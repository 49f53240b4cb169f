"""Asks why pods are lacking where a child cannot tell: one LIST of events per grid, and ever more rarely.

Called by a grid's pass. Nothing is asked while every child has its pods, nor for the first moment, in which they are
being made; then at doubled intervals, so that a site without room costs a LIST every five minutes. Events are read
only, and that they cannot be read stops nothing. Held by ``tests/controller/passes/test_refusals.py`` and, on a real
API server, ``tests/controller/test_refusals.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sitegrid.controller.evictions import Lists
from sitegrid.grid.problem import Problem
from sitegrid.grid.refusals import ChildEvent, refusals
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.kube.resources import EVENTS

log = logging.getLogger(__name__)

FIRST_DELAY: Final = 2.0
"""Seconds that pods are given to be made before anybody asks for them."""
MAX_DELAY: Final = 300.0
"""Seconds between two LISTs for the same children."""


@dataclass(slots=True)
class _Question:
    """What is lacking in one grid."""

    children: Mapping[str, str]
    due: float
    delay: float = FIRST_DELAY
    answers: dict[str, Problem] = field(default_factory=dict)


class Refusals:
    """The refusals of the children of one `kind`, by grid."""

    def __init__(self, api: Lists, kind: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._kind = kind
        self._clock = clock
        self._questions: dict[str, _Question] = {}

    async def of(
        self, grid_uid: str, namespace: str, children: Mapping[str, str]
    ) -> tuple[dict[str, Problem], float | None]:
        """Return why pods of `children` (uids by unit) are lacking, and in how many seconds to come again."""
        if not children:
            self.forget(grid_uid)
            return {}, None
        now = self._clock()
        question = self._questions.get(grid_uid)
        if question is None or children.items() - question.children.items():
            answers = question.answers if question is not None else {}
            question = self._questions[grid_uid] = _Question(children, now + FIRST_DELAY, answers=answers)
        if question.due <= now:
            await self._ask(question, namespace)
            question.delay = min(MAX_DELAY, question.delay * 2)
            question.due = now + question.delay
        answers = {unit: problem for unit, problem in question.answers.items() if unit in children}
        return answers, question.due - now

    def forget(self, grid_uid: str) -> None:
        """Forget a grid that is gone, or lacks nothing any more."""
        self._questions.pop(grid_uid, None)

    async def _ask(self, question: _Question, namespace: str) -> None:
        try:
            found = await self._api.list_as(
                ChildEvent, EVENTS, namespace, field_selector=f"regarding.kind={self._kind}"
            )
        except (ApiError, Unreachable) as error:
            log.info("events of %s: %s", namespace, error)
            return
        question.answers = refusals(found.items, question.children)
