"""The parts of objects that every user of the API needs: metadata, owners, and which object this is.

Objects are plain dicts, or partial msgspec Structs whose `metadata` is an `ObjectMeta` (or has its four identifying
attributes). Used by the store to key and order objects. Structs here are `gc=False`: the cyclic collector walking
decoded objects was the main cost of a large list. Held by ``tests/kube/test_objects.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import msgspec


class OwnerReference(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """`metav1.OwnerReference`."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """The parts of `metav1.ObjectMeta` that controllers look at; all else is skipped while decoding."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None
    finalizers: list[str] | None = None


class PartialObject(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """Any object, metadata only."""

    metadata: ObjectMeta


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


def controller_of(metadata: ObjectMeta) -> OwnerReference | None:
    """Return the owner that manages the object (`controller: true`), if it has one."""
    return next((owner for owner in metadata.owner_references or () if owner.controller), None)
