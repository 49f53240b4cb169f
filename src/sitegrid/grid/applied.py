"""Tells whether a child still is what we applied, without holding the child: by a hash and by its managedFields.

Kubernetes takes a field out of our managedFields entry when somebody else changes or removes it (KEP-555), so drift
is "our entry no longer covers every path of the wanted object". A change of anything else, status above all, leaves
the entry's bytes as they were, and the verdict is remembered for those bytes.

Some paths never come to be ours (the API server drops a field of a disabled feature, say). What it answers to an
apply is therefore taken as the best there is (`Verdicts.settle`), or we would apply for ever (invariant I7). Held by
``tests/grid/test_applied.py``.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import msgspec

from sitegrid.api.meta import ManagedMeta
from sitegrid.wire.labels import GROUP

APPLIED_HASH: Final = f"{GROUP}/applied-hash"
"""Annotation of a child: which wanted object was applied last."""


def applied_hash(wanted: dict[str, Any]) -> str:
    """Return what tells `wanted` from every other object; the order of keys is no difference."""
    data = msgspec.json.encode(wanted, order="deterministic")
    return hashlib.sha256(data).hexdigest()[:32]


def annotated(wanted: dict[str, Any], digest: str) -> dict[str, Any]:
    """Return a copy of `wanted` that carries its hash; `wanted` stays as it is."""
    metadata = wanted["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_HASH: digest}
    return {**wanted, "metadata": {**metadata, "annotations": annotations}}


class Verdicts:
    """Remembers, per child, for which field set and hash it was found to be as applied, or not."""

    def __init__(self) -> None:
        self._verdicts: dict[str, tuple[bytes, str, bool]] = {}

    def in_sync(self, metadata: ManagedMeta, wanted: dict[str, Any], digest: str) -> bool:
        """Tell whether the child with `metadata` still is `wanted`, whose hash is `digest`."""
        if metadata.annotations.get(APPLIED_HASH) != digest:
            return False
        fields = metadata.applied_fields()
        known = self._verdicts.get(metadata.uid)
        if known is not None and known[:2] == (fields, digest):
            return known[2]
        verdict = covers(wanted, fields)
        self._verdicts[metadata.uid] = (fields, digest, verdict)
        return verdict

    def settle(self, metadata: ManagedMeta, digest: str) -> None:
        """Take the API server's answer to an apply as in sync, whichever paths it did not make ours."""
        self._verdicts[metadata.uid] = (metadata.applied_fields(), digest, True)

    def forget(self, uid: str) -> None:
        """Forget a child that is gone."""
        self._verdicts.pop(uid, None)


def covers(wanted: dict[str, Any], fields_v1: bytes) -> bool:
    """Tell whether the field set `fields_v1` (metav1.FieldsV1, JSON) has every path that `wanted` sets."""
    if not fields_v1:
        return False
    fields = msgspec.json.decode(fields_v1)
    metadata = {key: wanted["metadata"].get(key) for key in ("labels", "ownerReferences")}
    return _covers({"metadata": metadata, "spec": wanted.get("spec")}, fields)


def _covers(value: Any, fields: dict[str, Any]) -> bool:
    if _sets_nothing(value):
        return True
    if not fields:
        return True  # a leaf, or an atomic list or map: ours as a whole
    if isinstance(value, dict):
        return all(_member_covered(item, fields.get(f"f:{name}")) for name, item in value.items())
    if isinstance(value, list):
        return all(_item_covered(item, fields) for item in value)
    return True


def _sets_nothing(value: Any) -> bool:
    """Tell whether `value` sets no path: absent, or an empty struct or list, which defaulting may fill."""
    if isinstance(value, dict):
        return all(_sets_nothing(item) for item in value.values())
    return value is None or value == []


def _member_covered(value: Any, fields: dict[str, Any] | None) -> bool:
    if fields is None:
        return _sets_nothing(value)
    return _covers(value, fields)


def _item_covered(item: Any, fields: dict[str, Any]) -> bool:
    """Tell whether an item of a list is covered: keyed (``k:{…}``), or of a set (``v:…``)."""
    if not isinstance(item, dict):
        return any(name.startswith("v:") and json.loads(name[2:]) == item for name in fields)
    return any(
        name.startswith("k:") and _key_matches(json.loads(name[2:]), item) and _covers(item, item_fields)
        for name, item_fields in fields.items()
    )


def _key_matches(key: dict[str, Any], item: dict[str, Any]) -> bool:
    """Tell whether a list key is that of `item`, where what it leaves to defaulting (protocol) may be anything."""
    return all(item.get(name, value) == value for name, value in key.items())
