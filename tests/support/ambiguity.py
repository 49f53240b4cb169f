"""Tells whether a regular expression may be tried in more and more ways as the text that it is held against grows.

A backtracking matcher does that if two different paths through the expression read the same text from a loop back to
it (then there are exponentially many), or from one loop to another one while both of them read it as well (then there
are polynomially many): A. Weber, H. Seidl, On the degree of ambiguity of finite automata. The automaton is
Glushkov's, with as many edges between two positions as there are ways from one to the other.
"""

from __future__ import annotations

import ast
import inspect
import re
import re._constants as sre  # type: ignore[import-not-found]  # typeshed leaves it out; it is the parser of `re`
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

Use = tuple[str, str | bytes, bool]
"""A module, a pattern that it uses, and whether that may begin anywhere in the text."""
_ANCHORED = {"match", "fullmatch"}
_ALL = frozenset(range(0x400))
"""Characters that expressions can tell apart here."""


def uses_of_patterns(module: ModuleType) -> Iterator[Use]:
    """Yield the regular expressions that a module uses, and how."""
    names: dict[str, str | bytes] = {}
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "re"):
            continue
        pattern = eval(compile(ast.Expression(node.args[0]), "pattern", "eval"), vars(module))
        if node.func.attr == "compile":
            names |= {name: value.pattern for name, value in vars(module).items() if _is(value, pattern)}
        else:
            yield module.__name__, pattern, node.func.attr not in _ANCHORED
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            yield module.__name__, names[node.value.id], node.attr not in _ANCHORED


def _is(value: object, pattern: str | bytes) -> bool:
    return isinstance(value, re.Pattern) and value.pattern == pattern


class _Part(NamedTuple):
    """A part of an expression: where it begins and ends, once for every way to do so, and the ways to be empty."""

    first: list[int]
    last: list[int]
    empty: int


class _Automaton:
    """The positions of an expression: what each of them reads, and the edges between them."""

    def __init__(self, pattern: str | bytes) -> None:
        self.reads: list[frozenset[int]] = []
        self.edges: list[tuple[int, int]] = []
        self.whole = self._sequence(parser.parse(pattern))

    def _sequence(self, items: Any) -> _Part:
        whole = _Part([], [], empty=1)
        for item in items:
            whole = self._join(whole, self._part(*item))
        return whole

    def _join(self, left: _Part, right: _Part) -> _Part:
        self.edges += [(a, b) for a in left.last for b in right.first]
        first, last = left.first + right.first * left.empty, right.last + left.last * right.empty
        return _Part(first, last, left.empty * right.empty)

    def _part(self, code: Any, argument: Any) -> _Part:
        if code in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
            self.reads.append(_characters(code, argument))
            position = len(self.reads) - 1
            return _Part([position], [position], empty=0)
        if code is sre.SUBPATTERN:
            return self._sequence(argument[-1])
        if code is sre.BRANCH:
            parts = [self._sequence(branch) for branch in argument[1]]
            return _Part(
                [position for part in parts for position in part.first],
                [position for part in parts for position in part.last],
                sum(part.empty for part in parts),
            )
        if code in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            return self._repeat(*argument)
        if code is sre.AT or (code is sre.ASSERT_NOT and argument[1].getwidth()[1] < sre.MAXREPEAT):
            return _Part([], [], empty=1)  # which takes a bounded time
        raise AssertionError(f"the judge does not know {code}: write the expression more plainly")

    def _repeat(self, least: int, most: Any, items: Any) -> _Part:
        """Write a repetition out; what has an end is tried in a bounded number of ways, so twice stands for more."""
        endless = most is sre.MAXREPEAT
        whole = _Part([], [], empty=1)
        for _ in range(min(least, 2)):
            whole = self._join(whole, self._sequence(items))
        if endless:
            part = self._sequence(items)
            self.edges += [(a, b) for a in part.last for b in part.first]
            whole = self._join(whole, part._replace(empty=part.empty + 1))
        elif most > least:
            part = self._sequence(items)
            whole = self._join(whole, part._replace(empty=part.empty + 1))
        return whole


def _characters(code: Any, argument: Any) -> frozenset[int]:
    if code is sre.ANY:
        return _ALL - {ord("\n")}
    if code is sre.LITERAL:
        return frozenset({argument})
    if code is sre.NOT_LITERAL:
        return _ALL - {argument}
    if code is sre.RANGE:
        return frozenset(range(argument[0], argument[1] + 1))
    if code is sre.CATEGORY:
        matcher = re.compile(
            {sre.CATEGORY_WORD: r"\w", sre.CATEGORY_DIGIT: r"\d", sre.CATEGORY_SPACE: r"\s"}[argument]
        )
        return frozenset(code for code in _ALL if matcher.match(chr(code)))
    assert code is sre.IN
    negated = argument[0][0] is sre.NEGATE
    found: frozenset[int] = frozenset().union(*(_characters(*item) for item in argument[negated:]))
    return _ALL - found if negated else found


def is_ambiguous(pattern: str | bytes, *, searched: bool) -> bool:
    """Tell whether texts can be tried in more and more ways; `searched` if the match may begin anywhere."""
    automaton = _Automaton(pattern)
    letters = {frozenset(p for p, read in enumerate(automaton.reads) if c in read) for c in _ALL} - {frozenset()}
    after: dict[int, list[tuple[int, int]]] = {position: [] for position in range(len(automaton.reads))}
    for number, (a, b) in enumerate(automaton.edges):
        after[a].append((b, number))

    def steps(*positions: int) -> Iterator[tuple[tuple[int, int], ...]]:
        """Yield where runs at `positions` can go with the same letter, each with the edge that it takes."""
        for letter in letters:
            choices: list[tuple[tuple[int, int], ...]] = [()]
            for position in positions:
                choices = [(*c, step) for c in choices for step in after[position] if step[0] in letter]
            yield from choices

    def reaches(begin: tuple[int, ...], end: tuple[int, ...], apart: tuple[int, int] | None) -> bool:
        """Tell whether runs go from `begin` to `end`; those that are named must have taken different ways."""
        seen = {(begin, False)}
        waiting = [(begin, False)]
        while waiting:
            positions, parted = waiting.pop()
            for step in steps(*positions):
                differ = parted or (apart is not None and step[apart[0]] != step[apart[1]])
                state = (tuple(position for position, _ in step), differ)
                if state[0] == end and (differ or apart is None):
                    return True
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
        return False

    loops = [position for position in after if reaches((position,), (position,), None)]
    if searched and not set(loops) <= set(automaton.whole.last):
        return True  # Each beginning may read on to the end, and then fail.
    if any(reaches((position, position), (position, position), (0, 1)) for position in loops):
        return True
    return any(p != q and reaches((p, p, q), (p, q, q), None) for p in loops for q in loops)
