"""Puts a unit's values into the strings of a template: ``$(unit.name)``, ``$(unit.key)``, ``$(unit.values.NAME)``.

Called by `sitegrid.grid.overrides` for the template and for each patch, before they are merged. Kubernetes itself
expands ``$(VAR)`` in command, args and env; so only names that begin with ``unit.`` are ours and all else stays as it
is. The escape is Kubernetes' too: of dollars right before ``(unit.`` each pair stands for one, and an odd one more
begins a name. So ``$$(unit.name)`` is the text ``$(unit.name)``, and ``$$$(unit.name)`` a dollar and the unit's name.

Strings stay strings: ``replicas: "$(unit.values.n)"`` is no number, unless the caller asks for numbers. Map keys are
left alone. What is put in is not looked at again. Each string is read once, so time is linear. Inputs are never
changed, and what has no name in it is shared. Held by ``tests/grid/test_substitution.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from sitegrid.grid.fieldpath import MAX_DEPTH, FieldPath

T = TypeVar("T")

_MARK: Final = "$(unit."
_REFERENCE: Final = re.compile(r"(?<!\$)(\$+)\(unit\.([^)]*)(\)?)")
"""All dollars before ``(unit.``, the rest of the name, and its end; the look-behind keeps long runs linear."""
_ALONE: Final = re.compile(r"\$\(unit\.[^)]*\)")
_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_LONGEST_SHOWN: Final = 60


class SubstitutionError(ValueError):
    """A template asks for what its unit does not have; `path` says where, `name` for what."""

    def __init__(self, path: FieldPath, name: str, message: str) -> None:
        self.path = str(path)
        self.name = name
        self.message = message
        super().__init__(f"{self.path}: {message}" if self.path else message)


def unit_names(value: str, key: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return what a template can ask for, by its name: the unit's value of the unique key, the key, its `values`."""
    return {"unit.name": value, "unit.key": key, **{f"unit.values.{name}": text for name, text in values.items()}}


def substitute(template: T, names: Mapping[str, str], *, numbers: bool = False) -> T:
    """Return `template` (JSON values) with every ``$(NAME)`` of `names` replaced in its strings.

    With `numbers` a string that is one ``$(NAME)`` and nothing else becomes the number that its value is, if it is a
    whole one. Raises `SubstitutionError` for a name that begins with ``unit.`` and is not in `names`.
    """
    result: T = _walk(template, names, FieldPath(), numbers)
    return result


def _walk(value: Any, names: Mapping[str, str], path: FieldPath, numbers: bool) -> Any:
    if isinstance(value, str):
        # Nearly every string is done with here.
        if _MARK not in value:
            return value
        text = _expand(value, names, path)
        return int(text) if numbers and _WHOLE.fullmatch(text) and _ALONE.fullmatch(value) else text
    if not isinstance(value, dict | list):
        return value
    if path.depth > MAX_DEPTH:
        raise SubstitutionError(FieldPath(), "", f"the template is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        fields = {name: _walk(item, names, path.field(name), numbers) for name, item in value.items()}
        return value if all(fields[name] is item for name, item in value.items()) else fields
    items = [_walk(item, names, path.index(position), numbers) for position, item in enumerate(value)]
    return value if all(new is old for new, old in zip(items, value, strict=True)) else items


def _expand(text: str, names: Mapping[str, str], path: FieldPath) -> str:
    def replacement(match: re.Match[str]) -> str:
        dollars, rest, end = match.groups()
        literal = "$" * (len(dollars) // 2)
        if len(dollars) % 2 == 0:
            return f"{literal}(unit.{rest}{end}"
        name = f"unit.{rest}"
        if not end:
            raise SubstitutionError(
                path, name, f"'$({_shown(name)}' is not closed; write $$(unit. for the text '$(unit.'"
            )
        if name not in names:
            raise SubstitutionError(path, name, _unknown(name, names))
        return literal + names[name]

    return _REFERENCE.sub(replacement, text)


def _unknown(name: str, names: Mapping[str, str]) -> str:
    known = ", ".join(f"$({known})" for known in sorted(names)[:20])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (
        f"'$({_shown(name)})' is not known: this unit has {known}{more}. "
        f"Write $$({_shown(name)}) if the text itself is meant"
    )


def _shown(name: str) -> str:
    return name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
