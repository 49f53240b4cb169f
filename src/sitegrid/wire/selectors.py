"""Label and field selectors, parsed and matched as the API server does it.

The agent filters rewritten objects itself: the API server cannot, since it never saw the rewritten labels. Grammar
and meaning are those of apimachinery pkg/labels/selector.go and pkg/fields/selector.go, keywords as keys, empty
values and numeric comparison included. What the API server would refuse raises `SelectorError`.

Held by ``tests/wire/test_selectors.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(r"==|!=|[=!<>(),]|[^\s=!<>(),]+")
_SPACE: Final = " \t\r\n"
_NAME: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SYMBOLS: Final = frozenset({"==", "!=", "=", "!", "<", ">", "(", ")", ",", ""})
_INT64: Final = re.compile(r"[-+]?[0-9]+")


class SelectorError(ValueError):
    """The text is not a selector that the API server accepts."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: `operator` is one of in, notin, exists, !, < and >."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether `labels` meet the requirement; a missing key meets `notin` and `!`."""
        value = labels.get(self.key)
        if self.operator == "in":
            return value is not None and value in self.values
        if self.operator == "notin":
            return value is None or value not in self.values
        if self.operator == "exists":
            return value is not None
        if self.operator == "!":
            return value is None
        (bound,) = self.values
        if value is None or not _is_int64(value):
            return False
        return int(value) > int(bound) if self.operator == ">" else int(value) < int(bound)


class LabelSelector:
    """A conjunction of requirements; the empty one matches everything. Raises `SelectorError`."""

    __slots__ = ("requirements",)

    def __init__(self, text: str) -> None:
        self.requirements = tuple(_Parser(text).requirements())

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether `labels` meet every requirement."""
        return all(requirement.matches(labels) for requirement in self.requirements)


class _Parser:
    """Walks the tokens; the empty token is the end."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        if "".join(self._tokens) != "".join(text.translate(dict.fromkeys(map(ord, _SPACE)))):
            # Only blanks, tabs and newlines separate tokens; \s of the pattern knows more of them.
            raise SelectorError(f"unable to parse requirement: illegal white space in {text!r}")
        self._position = 0

    def _peek(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._position += 1
        return token

    def requirements(self) -> list[Requirement]:
        found: list[Requirement] = []
        while token := self._peek():
            if token in _SYMBOLS and token != "!":
                raise SelectorError(
                    f"unable to parse requirement: found '{token}', expected: !, identifier, or 'end of string'"
                )
            found.append(self._requirement())
            separator = self._take()
            if separator not in ("", ","):
                raise SelectorError(
                    f"unable to parse requirement: found '{separator}', expected: ',' or 'end of string'"
                )
            if separator == "," and self._peek() in _SYMBOLS - {"!"}:
                raise SelectorError(
                    f"unable to parse requirement: found '{self._peek()}', expected: identifier after ','"
                )
        return found

    def _requirement(self) -> Requirement:
        absent = self._peek() == "!"
        if absent:
            self._take()
        key = self._take()
        if key in _SYMBOLS:
            raise SelectorError(f"unable to parse requirement: found '{key}', expected: identifier")
        _check_key(key)
        if absent:
            return Requirement(key, "!")
        if self._peek() in ("", ","):
            return Requirement(key, "exists")
        operator = self._take()
        if operator in ("in", "notin"):
            return Requirement(key, operator, self._values())
        if operator in ("=", "==", "!="):
            value = self._exact_value()
            _check_value(value)
            return Requirement(key, "notin" if operator == "!=" else "in", frozenset({value}))
        if operator in ("<", ">"):
            value = self._exact_value()
            if not _is_int64(value):
                raise SelectorError(f"unable to parse requirement: {value!r} is not an integer")
            return Requirement(key, operator, frozenset({value}))
        raise SelectorError(
            f"unable to parse requirement: found '{operator}', expected: in, notin, =, ==, !=, gt, lt"
        )

    def _exact_value(self) -> str:
        if self._peek() in ("", ","):
            return ""
        value = self._take()
        if value in _SYMBOLS:
            raise SelectorError(f"unable to parse requirement: found '{value}', expected: identifier")
        return value

    def _values(self) -> frozenset[str]:
        if self._take() != "(":
            raise SelectorError("unable to parse requirement: expected: '('")
        # `()` is the set of the empty value, as for the API server.
        values = set()
        value = ""
        while (token := self._take()) != ")":
            if token == ",":
                values.add(value)
                value = ""
            elif token in _SYMBOLS or value:
                raise SelectorError(f"unable to parse requirement: found '{token}', expected: ',', or identifier")
            else:
                value = token
        values.add(value)
        for value in values:
            _check_value(value)
        return frozenset(values)


def _check_key(key: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if (
        len(name) > 63
        or not _NAME.fullmatch(name)
        or (slash and (len(prefix) > 253 or not _PREFIX.fullmatch(prefix)))
    ):
        raise SelectorError(f"unable to parse requirement: {key!r} is not a label key")


def _check_value(value: str) -> None:
    if value and (len(value) > 63 or not _NAME.fullmatch(value)):
        raise SelectorError(f"unable to parse requirement: {value!r} is not a label value")


def _is_int64(value: str) -> bool:
    return _INT64.fullmatch(value) is not None and -(2**63) <= int(value) < 2**63


class FieldSelector:
    """A conjunction of `field=value`, `field==value` and `field!=value`. Raises `SelectorError`."""

    __slots__ = ("terms",)

    def __init__(self, text: str) -> None:
        self.terms = tuple(_field_term(term, text) for term in _split_terms(text) if term)

    @property
    def field_labels(self) -> frozenset[str]:
        """Return the fields that are asked for."""
        return frozenset(field for field, _, _ in self.terms)

    def matches(self, values: Mapping[str, str]) -> bool:
        """Tell whether `values` (field to value; a missing field is empty) meet every term."""
        return all((values.get(field, "") == value) is equal for field, equal, value in self.terms)


def _split_terms(text: str) -> list[str]:
    """Return `text` cut at the commas that no backslash protects."""
    terms = []
    start = position = 0
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == ",":
            terms.append(text[start:position])
            start = position + 1
        position += 1
    terms.append(text[start:])
    return terms


def _field_term(term: str, whole: str) -> tuple[str, bool, str]:
    match = re.search(r"!=|==|=", term)
    if match is None:
        raise SelectorError(f"invalid selector: '{whole}'; can't understand '{term}'")
    return term[: match.start()], match.group() != "!=", _unescape(term[match.end() :])


def _unescape(value: str) -> str:
    out = []
    characters = iter(value)
    for character in characters:
        if character == "\\":
            character = next(characters, "")
            if character not in ("\\", ",", "="):
                raise SelectorError(f"invalid field selector: invalid escape sequence in {value!r}")
        elif character in ",=":
            raise SelectorError(f"invalid field selector: unescaped character in {value!r}")
        out.append(character)
    return "".join(out)
