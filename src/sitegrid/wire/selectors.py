"""Label and field selectors, parsed and matched as the API server does it.

The agent filters rewritten objects itself: the API server cannot, since it never saw the rewritten labels. Grammar
and meaning are those of apimachinery pkg/labels/selector.go and pkg/fields/selector.go, keywords as keys, empty
values and numeric comparison included. What the API server would refuse raises `SelectorError`, with its words.

Held by ``tests/wire/test_selectors.py`` and, word by word, ``tests/agent/test_conformance.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from sitegrid.wire.status import quoted

# Only these four separate tokens: other white space is part of one, and makes it illegal.
_TOKEN: Final = re.compile(r"==|!=|[=!<>(),]|[^ \t\r\n=!<>(),]+")
_NAME: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SYMBOLS: Final = frozenset({"==", "!=", "=", "!", "<", ">", "(", ")", ",", ""})
_INT64: Final = re.compile(r"[-+]?[0-9]{1,63}")
"""What may be one: no label's value is longer, and Python refuses to read very long numbers."""
_QUALIFIED: Final = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_SUBDOMAIN: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_VALUE: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation "
    "is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


class SelectorError(ValueError):
    """The text is not a selector that the API server accepts."""


class Requirement(NamedTuple):
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
                raise _unexpected(token, "!, identifier, or 'end of string'")
            try:
                found.append(self._requirement())
            except SelectorError as error:
                raise SelectorError(f"unable to parse requirement: {error}") from None
            separator = self._take()
            if separator not in ("", ","):
                raise _unexpected(separator, "',' or 'end of string'")
            if separator == "," and self._peek() in _SYMBOLS - {"!"}:
                raise _unexpected(self._peek(), "identifier after ','")
        return found

    def _requirement(self) -> Requirement:
        absent = self._peek() == "!"
        if absent:
            self._take()
        key = self._take()
        if key in _SYMBOLS:
            raise _unexpected(key, "identifier")
        _check_key(key)
        if absent:
            return Requirement(key, "!")
        if self._peek() in ("", ","):
            return Requirement(key, "exists")
        operator = self._take()
        if operator in ("in", "notin"):
            values = self._values()
        elif operator in ("=", "==", "!=", "<", ">"):
            values = frozenset({self._exact_value()})
        else:
            raise _unexpected(operator, "in, notin, =, ==, !=, gt, lt")
        _check_values(key, values, numeric=operator in ("<", ">"))
        return Requirement(key, {"=": "in", "==": "in", "!=": "notin"}.get(operator, operator), values)

    def _exact_value(self) -> str:
        if self._peek() in ("", ","):
            return ""
        value = self._take()
        if value in _SYMBOLS:
            raise _unexpected(value, "identifier")
        return value

    def _values(self) -> frozenset[str]:
        token = self._take()
        if token != "(":
            raise SelectorError(f"found '{token}' expected: '('")
        # `()` is the set of the empty value, as for the API server; so is what is missing beside a comma.
        values = set()
        value = ""
        begin = self._position
        while (token := self._take()) != ")":
            if token == ",":
                values.add(value)
                value = ""
            elif value:
                raise _unexpected(token, "',' or ')'")
            elif token in _SYMBOLS:
                first = self._position - 1 == begin
                raise _unexpected(token, "',', ')' or identifier" if first else "',', or identifier")
            else:
                value = token
        values.add(value)
        return frozenset(values)


def _unexpected(token: str, expected: str) -> SelectorError:
    return SelectorError(f"found '{token}', expected: {expected}")


def _invalid(path: str, value: str, problem: str) -> str:
    """Return a field error (apimachinery pkg/util/validation/field)."""
    return f"{path}: Invalid value: {quoted(value)}: {problem}"


def _check_key(key: str) -> None:
    """Raise what apimachinery pkg/util/validation IsQualifiedName has against `key`."""
    prefix, *rest = key.split("/")
    name = rest[0] if rest else prefix
    if len(rest) > 1:
        hint = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        raise SelectorError(_invalid("<nil>", key, f"a valid label key {_QUALIFIED} {hint}"))
    problems = []
    if rest and not prefix:
        problems.append("prefix part must be non-empty")
    elif rest:
        if len(prefix.encode()) > 253:
            problems.append("prefix part must be no more than 253 bytes")
        if not _PREFIX.fullmatch(prefix):
            problems.append(f"prefix part {_SUBDOMAIN}")
    if not name:
        problems.append("name part must be non-empty")
    elif len(name.encode()) > 63:
        problems.append("name part must be no more than 63 bytes")
    if not _NAME.fullmatch(name):
        problems.append(f"name part {_QUALIFIED}")
    if problems:
        raise SelectorError(_invalid("<nil>", key, "; ".join(problems)))


def _check_values(key: str, values: frozenset[str], *, numeric: bool) -> None:
    """Raise what the API server has against the values of a requirement, all of it."""
    errors = []
    if numeric:
        errors += [
            _invalid("values[0]", value, "for 'Gt', 'Lt' operators, the value must be an integer")
            for value in values
            if not _is_int64(value)
        ]
    for index, value in enumerate(sorted(values)):
        problems = ["must be no more than 63 bytes"] if len(value.encode()) > 63 else []
        if value and not _NAME.fullmatch(value):
            problems.append(_LABEL_VALUE)
        if problems:
            errors.append(_invalid(f"values[{index}][{key}]", value, "; ".join(problems)))
    if errors:
        raise SelectorError(errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]")


def _is_int64(value: str) -> bool:
    return _INT64.fullmatch(value) is not None and -(2**63) <= int(value) < 2**63


class FieldSelector:
    """A conjunction of `field=value`, `field==value` and `field!=value`. Raises `SelectorError`."""

    __slots__ = ("terms",)

    def __init__(self, text: str) -> None:
        # The API server sorts them first, and so finds fault with the least.
        self.terms = tuple(_field_term(term, text) for term in sorted(_split_terms(text)) if term)

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
                raise SelectorError(f"invalid field selector: invalid escape sequence: \\{character}")
        elif character in ",=":
            raise SelectorError(f"invalid field selector: unescaped character in value: {ord(character)}")
        out.append(character)
    return "".join(out)
