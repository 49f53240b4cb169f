"""Strategic merge patch, as the API server applies it, for the specs of workloads and Services.

Called by `sitegrid.grid.overrides` for each override of a unit. The rules are those of apimachinery
pkg/util/strategicpatch: maps are merged, null deletes, lists with a merge key are merged item by item, other lists
are replaced; directives are ``$patch`` (delete, replace), ``$retainKeys``, ``$setElementOrder/<list>`` and
``$deleteFromPrimitiveList/<list>``. New items come before those that only the template has, as in Kubernetes.

Where Kubernetes would drop a user's words without a sound, or leave a directive in the object, this is stricter or
kinder:

- a map or list where the other, or a string or number, belongs is refused; so are directives that are not known, or
  that stand in a list without merge key, and items without their merge key;
- ``$patch: merge`` is accepted and means what happens anyway; kubectl refuses it;
- ``$patch: replace`` on a map that the template lacks keeps the patch's content; kubectl drops it;
- ``$patch: replace`` in an item with further fields is refused; kubectl drops the fields;
- nulls and directives inside new items are carried out; kubectl leaves them there;
- fields that `sitegrid.grid.patchfields` does not know are merged by their shape; kubectl refuses them.

Invariants: inputs are never changed; the result shares what is the same with the original, so that comparing the two
is cheap. Held by ``tests/grid/test_strategicmerge.py``, which asks the real kubectl.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sitegrid.grid.fieldpath import MAX_DEPTH, FieldPath
from sitegrid.grid.patchfields import Field, field_of

_PATCH: Final = "$patch"
_RETAIN_KEYS: Final = "$retainKeys"
_SET_ORDER: Final = "$setElementOrder/"
_DELETE_PRIMITIVES: Final = "$deleteFromPrimitiveList/"

_DELETE: Final = "delete"
_REPLACE: Final = "replace"
_MERGE: Final = "merge"

_ATOMIC: Final = Field(is_list=True)
_FREE_MAP: Final = Field()


class PatchError(ValueError):
    """The patch cannot be applied; `path` says where, as users read it."""

    def __init__(self, path: FieldPath, message: str) -> None:
        self.path = str(path)
        self.message = message
        super().__init__(f"{self.path}: {message}" if self.path else message)


def strategic_merge(original: Mapping[str, Any], patch: Mapping[str, Any], type_name: str) -> dict[str, Any]:
    """Return `original`, a spec of the type `type_name` (see `patchfields`), with `patch` applied.

    Raises `PatchError`.
    """
    root = FieldPath()
    if not isinstance(patch, Mapping):
        raise PatchError(root, f"the patch is {_describe(patch)}, but it must be a map")
    return _merge_map(original, patch, type_name, root)


def _merge_map(
    original: Mapping[str, Any], patch: Mapping[str, Any], type_name: str, path: FieldPath
) -> dict[str, Any]:
    _check_depth(path)
    directive = _directive(patch, path)
    if directive == _DELETE:
        return {}
    result = {} if directive == _REPLACE else dict(original)
    _check_keys(patch, path)
    _retain_keys(result, patch, path)
    for name, value in patch.items():
        if not name.startswith("$"):
            _merge_field(result, name, value, patch.get(_SET_ORDER + name), type_name, path)
    for name, value in patch.items():
        if name.startswith(_SET_ORDER):
            _order_only(result, patch, name.removeprefix(_SET_ORDER), value, type_name, path)
        elif name.startswith(_DELETE_PRIMITIVES):
            _delete_primitives(result, name.removeprefix(_DELETE_PRIMITIVES), value, path)
    return result


def _directive(patch: Mapping[str, Any], path: FieldPath) -> str:
    """Return the value of ``$patch``; `merge` where there is none."""
    directive = patch.get(_PATCH, _MERGE)
    if directive not in (_DELETE, _REPLACE, _MERGE):
        raise PatchError(path.field(_PATCH), f"{directive!r} is not known; use delete, replace or merge")
    return str(directive)


def _check_keys(patch: Mapping[str, Any], path: FieldPath) -> None:
    for name in patch:
        if not isinstance(name, str):
            raise PatchError(path, f"the key {name!r} is not a string")
        if not name.startswith("$") or name in (_PATCH, _RETAIN_KEYS):
            continue
        prefix, slash, field = name.partition("/")
        if not (slash and field and prefix + slash in (_SET_ORDER, _DELETE_PRIMITIVES)):
            raise PatchError(
                path,
                f"the directive {name!r} is not known; there are $patch, $retainKeys, $setElementOrder/<list> and "
                "$deleteFromPrimitiveList/<list>",
            )


def _retain_keys(result: dict[str, Any], patch: Mapping[str, Any], path: FieldPath) -> None:
    """Take out of `result` what ``$retainKeys`` does not name."""
    if _RETAIN_KEYS not in patch:
        return
    keys = patch[_RETAIN_KEYS]
    path = path.field(_RETAIN_KEYS)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PatchError(path, f"{_describe(keys)} is not a list of field names")
    kept = frozenset(keys)
    for name, value in patch.items():
        if value is not None and not name.startswith("$") and name not in kept:
            raise PatchError(path, f"the patch sets {name!r}, which the list of retained keys lacks")
    for name in [name for name in result if name not in kept]:
        del result[name]


def _merge_field(
    result: dict[str, Any], name: str, value: object, order: object, type_name: str, path: FieldPath
) -> None:
    """Merge the field `name` into `result`, which is ours to change; its values are not."""
    current = result.get(name)
    path = path.field(name)
    if value is None:
        result.pop(name, None)
        return
    field = _field(field_of(type_name, name), current, value, path)
    if isinstance(value, Mapping):
        if current is None and _directive(value, path) == _DELETE:
            result.pop(name, None)
            return
        result[name] = _merge_map(current or {}, value, field.type, path)
    elif isinstance(value, list):
        result[name] = _merge_list(current or [], value, field, order, path)
    else:
        result[name] = value


def _field(known: Field | None, current: object, value: object, path: FieldPath) -> Field:
    """Return what is known of the field; raises `PatchError` where the patch or the template has another shape.

    Maps, lists and all else never stand for each other in Kubernetes; numbers and strings do ("25%", "1Gi").
    """
    if known is not None:
        wanted: type = list if known.is_list else dict
    else:
        wanted = _shape(value if current is None else current)
        known = _ATOMIC if wanted is list else _FREE_MAP
    if _shape(value) is not wanted:
        raise PatchError(path, f"the patch has {_describe(value)} where {_SHAPES[wanted]} belongs")
    if current is not None and _shape(current) is not wanted:
        raise PatchError(path, f"the template has {_describe(current)} where {_SHAPES[wanted]} belongs")
    return known


def _merge_list(current: list[Any], patch: list[Any], field: Field, order: object, path: FieldPath) -> list[Any]:
    if not field.merged:
        replaced = [_plain(item, path.index(i)) for i, item in enumerate(patch)]
        return replaced if order is None else _ordered(replaced, [], [], _order_keys(order, "", path), "", path)
    key = field.merge_key
    if key:
        base, changes, replace = _split_directives(current, patch, key, path)
        merged = _merge_items([] if replace else base, changes, field, path)
    else:
        base, changes = current, patch
        identities = {_identity(item, "", path): item for item in (*current, *patch)}
        merged = list(identities.values())
    patched = [_identity(item, key, path) for item in changes]
    if order is not None:
        # With $setElementOrder, Kubernetes takes the new items for the original's as far as others were deleted.
        original = merged[: len(current)] if key else current
        return _ordered(merged, original, patched, _order_keys(order, key, path), key, path)
    return _ordered(merged, base, patched, patched, key, path)


def _split_directives(
    current: list[Any], patch: list[Any], key: str, path: FieldPath
) -> tuple[list[Any], list[Any], bool]:
    """Return the original's items that are not deleted, the patch's ordinary ones, and whether they replace all."""
    ordinary: list[Any] = []
    deleted: set[object] = set()
    replace = False
    for position, item in enumerate(patch):
        directive = _directive(item, path.index(position)) if isinstance(item, Mapping) else _MERGE
        if directive == _REPLACE:
            if len(item) > 1:
                raise PatchError(
                    path.index(position),
                    "'$patch: replace' replaces the whole list and stands alone in its item; the other fields of "
                    "this item would be lost",
                )
            replace = True
        elif directive == _DELETE:
            deleted.add(_identity(item, key, path.index(position)))
        else:
            _identity(item, key, path.index(position))
            ordinary.append(item)
    if deleted:
        current = [item for item in current if _identity(item, key, path) not in deleted]
    return current, ordinary, replace


def _merge_items(current: list[Any], patch: list[Any], field: Field, path: FieldPath) -> list[Any]:
    """Return the items of `current`, merged with those of `patch` with the same merge key, then the new ones."""
    merged = list(current)
    positions: dict[object, int] = {}
    for position, item in enumerate(current):
        # The first of equal ones is merged, as Kubernetes does: port 53 of TCP and of UDP share their merge key.
        positions.setdefault(_identity(item, field.merge_key, path), position)
    for item in patch:
        identity = _identity(item, field.merge_key, path)
        item_path = path.item(item[field.merge_key])
        if identity in positions:
            position = positions[identity]
            merged[position] = _merge_map(merged[position], item, field.type, item_path)
        else:
            positions[identity] = len(merged)
            merged.append(_merge_map({}, item, field.type, item_path))
    return merged


def _ordered(
    merged: list[Any],
    original: list[Any],
    patched: Sequence[object],
    order: Sequence[object],
    key: str,
    path: FieldPath,
) -> list[Any]:
    """Return `merged` in the order that Kubernetes gives it.

    Items in `order` (the patch's, or that of ``$setElementOrder``) keep that order, all others the original's. The
    two sequences are then interleaved: one of the others comes first only where it did so in the original.
    """
    _check_subsequence(patched, order, path)
    wanted = {identity: position for position, identity in reversed(list(enumerate(order)))}
    server: dict[object, int] = {}
    for position, item in enumerate(original):
        server.setdefault(_identity(item, key, path), position)
    pairs = [(_identity(item, key, path), item) for item in merged]
    named = sorted((pair for pair in pairs if pair[0] in wanted), key=lambda pair: wanted[pair[0]])
    others = [pair for pair in pairs if pair[0] not in wanted]
    result: list[Any] = []
    waiting = 0
    for identity, item in named:
        while (
            waiting < len(others)
            and identity in server
            and server.get(others[waiting][0], len(original)) < server[identity]
        ):
            result.append(others[waiting][1])
            waiting += 1
        result.append(item)
    return result + [item for _, item in others[waiting:]]


def _check_subsequence(patched: Sequence[object], order: Sequence[object], path: FieldPath) -> None:
    """Refuse a ``$setElementOrder`` that lacks an item of the patch or has them in another order."""
    if not order or patched is order:
        return
    remaining = iter(order)
    if not all(any(identity == wanted for wanted in remaining) for identity in patched):
        raise PatchError(path, "the patch's items are not in $setElementOrder, or not in its order")


def _order_only(
    result: dict[str, Any], patch: Mapping[str, Any], name: str, order: object, type_name: str, path: FieldPath
) -> None:
    """Carry out a ``$setElementOrder`` whose list the patch does not have; else it is done with the list."""
    current = result.get(name)
    list_path = path.field(name)
    if not isinstance(order, list):
        raise PatchError(path.field(_SET_ORDER + name), f"{_describe(order)} is not a list")
    if name in patch or current is None:
        return
    if not isinstance(current, list):
        raise PatchError(list_path, f"the template has {_describe(current)} where a list belongs")
    field = field_of(type_name, name) or _ATOMIC
    keys = _order_keys(order, field.merge_key, list_path)
    result[name] = _ordered(current, current, [], keys, field.merge_key, list_path)


def _order_keys(order: object, key: str, path: FieldPath) -> list[object]:
    if not isinstance(order, list):
        raise PatchError(path, f"$setElementOrder is {_describe(order)}, but it must be a list")
    return [_identity(item, key, path) for item in order]


def _delete_primitives(result: dict[str, Any], name: str, values: object, path: FieldPath) -> None:
    current = result.get(name)
    if not isinstance(values, list):
        raise PatchError(path.field(_DELETE_PRIMITIVES + name), f"{_describe(values)} is not a list")
    path = path.field(name)
    gone = {_identity(value, "", path) for value in values}
    if current is None:
        return
    if not isinstance(current, list):
        raise PatchError(path, f"the template has {_describe(current)} where a list belongs")
    result[name] = [item for item in current if _identity(item, "", path) not in gone]


def _identity(item: object, key: str, path: FieldPath) -> object:
    """Return what tells `item` from the others of its list: its merge key `key`, or itself where there is none.

    The type is part of it, since true is not 1 in JSON.
    """
    value = item
    if key:
        if not isinstance(item, Mapping):
            raise PatchError(path, f"{_describe(item)} is an item where maps with the merge key {key!r} belong")
        value = item.get(key)
        if value is None:
            raise PatchError(path, f"an item lacks {key!r}, which is what Kubernetes merges this list by")
    if isinstance(value, dict | list) or value is None:
        what = f"the merge key {key!r} is" if key else "an item is"
        raise PatchError(path, f"{what} {_describe(value)}, but only a string or a number can be told apart here")
    return (isinstance(value, bool), value)


def _plain(value: object, path: FieldPath) -> object:
    """Return a part of a replaced list as it goes into the spec: without nulls; directives are refused."""
    _check_depth(path)
    if isinstance(value, list):
        return [_plain(item, path.index(i)) for i, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    for name in value:
        if name in (_PATCH, _RETAIN_KEYS) or name.startswith((_SET_ORDER, _DELETE_PRIMITIVES)):
            raise PatchError(
                path.field(name),
                "Kubernetes has no merge key for this list, so that the patch replaces it whole and directives have "
                "no meaning in it: write the list as it is to be",
            )
    return {name: _plain(item, path.field(name)) for name, item in value.items() if item is not None}


def _check_depth(path: FieldPath) -> None:
    if path.depth > MAX_DEPTH:
        raise PatchError(FieldPath(), f"the patch is nested deeper than {MAX_DEPTH} levels")


_SHAPES: Final[Mapping[type, str]] = {dict: "a map", list: "a list", str: "a string, number or boolean"}


def _shape(value: object) -> type:
    """Return dict, list, or str for all else."""
    return dict if isinstance(value, Mapping) else list if isinstance(value, list) else str


def _describe(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    text = str(value)
    return f"{'the string' if isinstance(value, str) else 'the number'} {text[:40]!r}"
