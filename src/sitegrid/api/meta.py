"""The parts of Kubernetes object metadata that sitegrid reads, as partial structs: msgspec skips all other fields.

Used by every decoded object, of the API and of the cluster. Field names and meanings are those of
apimachinery's metav1.ObjectMeta. Times stay RFC 3339 strings; only code that compares them parses them.
Held by ``tests/api/test_types.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Raw, Struct, field

FIELD_MANAGER: Final = "sitegrid"
"""The field manager of every server-side apply; its managedFields entry is how drift is seen."""


class OwnerReference(Struct, rename="camel", gc=False, frozen=True):
    """One entry of metadata.ownerReferences."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class ManagedFields(Struct, rename="camel", gc=False):
    """One entry of metadata.managedFields; the field set stays undecoded, and is kept only where it is ours."""

    manager: str = ""
    operation: str = ""
    subresource: str = ""
    fields_v1: Raw = field(name="fieldsV1", default_factory=Raw)

    def __post_init__(self) -> None:
        """Copy the field set out of the message, since a Raw keeps the whole LIST alive; drop other managers'."""
        self.fields_v1 = self.fields_v1.copy() if self.manager == FIELD_MANAGER else Raw()


class ObjectMeta(Struct, rename="camel", gc=False):
    """The metadata of any object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    owner_references: list[OwnerReference] = field(default_factory=list)

    def controller(self) -> OwnerReference | None:
        """Return the owner reference that says who controls the object, if anyone does."""
        return next((owner for owner in self.owner_references if owner.controller), None)


class ManagedMeta(ObjectMeta, rename="camel", gc=False):
    """The metadata of an object whose drift is seen by its managedFields."""

    managed_fields: list[ManagedFields] = field(default_factory=list)

    def applied_fields(self) -> bytes:
        """Return the field set (fieldsV1, JSON) that our server-side apply owns; empty where there is none."""
        for entry in self.managed_fields:
            if entry.manager == FIELD_MANAGER and entry.operation == "Apply" and not entry.subresource:
                return bytes(entry.fields_v1)
        return b""


def timestamp(moment: datetime) -> str:
    """Return `moment` (aware) as metav1.Time spells it: RFC 3339, UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime | None:
    """Return the moment that an RFC 3339 `text` names, or None where it is none or has no time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def owner_reference(api_version: str, kind: str, name: str, uid: str) -> dict[str, Any]:
    """Return the reference that makes the named object the controller of a child.

    `blockOwnerDeletion` lets a foreground deletion of the owner wait for the child.
    """
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
