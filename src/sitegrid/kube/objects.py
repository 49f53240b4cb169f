"""Which object this is, and which version of it: all that the client, reflectors and stores look at themselves.

Objects are plain dicts, or partial msgspec Structs whose `metadata` has four identifying attributes. Used by the
store to key and order objects, and by whoever waits until its own write is observed. Held by
``tests/kube/test_objects.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast


class Identity(NamedTuple):
    """Which object, and which version of it."""

    namespace: str
    """"" for cluster-scoped objects."""
    name: str
    uid: str
    resource_version: str

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return (self.namespace, self.name)


class _Metadata(Protocol):
    name: str
    namespace: str
    uid: str
    resource_version: str


def identity(obj: object) -> Identity:
    """Return who `obj` is; KeyError or AttributeError if it has no name."""
    if isinstance(obj, dict):
        metadata = obj["metadata"]
        return Identity(
            metadata.get("namespace") or "",
            metadata["name"],
            metadata.get("uid") or "",
            metadata.get("resourceVersion") or "",
        )
    found = cast(_Metadata, cast(Any, obj).metadata)
    return Identity(found.namespace or "", found.name, found.uid, found.resource_version)


def is_older(resource_version: str, than: str) -> bool:
    """Tell whether one resourceVersion of a resource type is older than another.

    KEP-5504 promises that they are decimal integers without bound; where a server breaks that, no order is known and
    the answer is False.
    """
    if not (resource_version.isdecimal() and than.isdecimal()):
        return False
    return int(resource_version) < int(than)
