"""An API server in memory for the controller's passes: what they write, one at a time, with crashes and refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from sitegrid.kube.client import ObjectList
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import Resource

Manifest = dict[str, Any]
T = TypeVar("T")
NAMESPACE: Final = "default"

_CLUSTER: Final = ("nodes", "nodeunits", "nodegroups")
"""What is in no namespace."""
_CREATED: Final = ("endpointslices", "nodeunits", "nodegroups")
"""What is made by a POST and not by an apply."""
_MAPS: Final = ("labels", "annotations")


class Crash(BaseException):
    """The controller's process is dead."""


class FakeApi:
    """Enough of the API server for what the controller writes; it can refuse, and it can kill the controller.

    Server-side apply is of whole objects by our field manager, and of labels and annotations by others.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Manifest] = {}
        """By plural and name, in one namespace."""
        self.owned: dict[tuple[str, str], dict[str, set[tuple[str, str]]]] = {}
        """By object and field manager, the labels and annotations that it applied."""
        self.writes: list[str] = []
        self.lists: list[str] = []
        self.crash_after: int | None = None
        """Kill the controller right after this many writes took effect."""
        self.refuse: Callable[[str, str], ApiError | None] = lambda verb, name: None
        """What the API server says to a write, by verb and name; None lets it pass."""
        self.refused = 0
        self.dry_runs: list[Manifest] = []
        """What was asked by dry runs: the patches, with the metadata's fields beside the spec."""
        self.admit: Callable[[Manifest], ApiError | None] = lambda obj: None
        """What admission says to an object of a dry run; None lets it pass."""
        self._version = 0

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest:
        """Return one object."""
        self._alive()
        return copy.deepcopy(self._found(resource.plural, name))

    async def create(self, resource: Resource, obj: Manifest, *, field_manager: str | None = None) -> Manifest:
        """Create what does not exist."""
        assert resource.plural in _CREATED, "children are applied"
        name = obj["metadata"]["name"]
        self._may("create", name)
        if (resource.plural, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f"{name} exists")
        managed = [{"manager": field_manager, "operation": "Update"}]
        self.put(resource.plural, {**obj, "metadata": {**obj["metadata"], "managedFields": managed}})
        return self._wrote("create", resource.plural, name)

    async def apply(
        self,
        resource: Resource,
        obj: Manifest,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Manifest:
        """Apply: the manager's fields become what `obj` says; fields of others stay."""
        plural, name = resource.plural, obj["metadata"]["name"]
        self._may("apply", name)
        present, uid = self.objects.get((plural, name)), obj["metadata"].get("uid")
        if uid is not None and present is None:
            raise ApiError(404, "NotFound", f"{plural} {name} not found")
        if uid is not None and present is not None and present["metadata"]["uid"] != uid:
            raise ApiError(409, "Conflict", "uid differs")
        if subresource == "status":
            self._put_if_changed(plural, present, {**(present or {}), "status": copy.deepcopy(obj["status"])})
            return self._wrote("status", plural, name)
        if field_manager == "sitegrid":
            self._put_if_changed(plural, present, _merged(present, copy.deepcopy(obj)))
            return self._wrote("apply", plural, name)
        assert present is not None
        if field_manager == "sitegrid-released":
            assert {**present["spec"], **obj["spec"]} == present["spec"]  # what is released stays as it is
            return self._wrote("release", plural, name)
        assert not force
        self._apply_metadata(plural, copy.deepcopy(present), obj["metadata"], field_manager)
        return self._wrote("apply", plural, name, field_manager)

    def _apply_metadata(self, plural: str, present: Manifest, wanted: Manifest, manager: str) -> None:
        """Apply labels and annotations as one manager of several."""
        assert all(wanted.get(kind, True) for kind in _MAPS), "an empty map is owned"
        metadata = present["metadata"]
        owned = self.owned.setdefault((plural, metadata["name"]), {})
        fields = {(kind, key): value for kind in _MAPS for key, value in wanted.get(kind, {}).items()}
        for kind, key in fields:
            there = metadata.get(kind, {}).get(key)
            mine = (kind, key) in owned.get(manager, set())
            shared = any((kind, key) in theirs for other, theirs in owned.items() if other != manager)
            if there not in (None, fields[kind, key]) and (shared or not mine):
                raise ApiError(409, "Conflict", f"conflict: {key}")
        for kind, key in owned.pop(manager, set()) - fields.keys():
            if not any((kind, key) in theirs for theirs in owned.values()):
                metadata.get(kind, {}).pop(key, None)
        for (kind, key), value in fields.items():
            metadata.setdefault(kind, {})[key] = value
        owned[manager] = {*fields}
        self.put(plural, present)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Manifest,
        namespace: str | None = None,
        *,
        dry_run: bool = False,
    ) -> Manifest:
        """Merge patch, with its preconditions; a dry run is noted and changes nothing."""
        found = copy.deepcopy(self._found(resource.plural, name))
        metadata = patch["metadata"]
        if dry_run:
            assert metadata["uid"] == found["metadata"]["uid"]
            self.dry_runs.append({key: value for key, value in patch.items() if key != "metadata"} | metadata)
            self._may("dry-run", name)
            if (error := self.admit(_merge_patch(found, patch))) is not None:
                raise error
            return found
        self._may("patch", name)
        for field in ("uid", "resourceVersion"):
            if found["metadata"][field] != metadata[field]:
                raise ApiError(409, "Conflict", f"{field} differs")
        found = _merge_patch(found, patch)
        if found["metadata"].get("managedFields") == [{}]:
            del found["metadata"]["managedFields"]
        self.put(resource.plural, found)
        return self._wrote("annotate" if patch.keys() == {"metadata"} else "patch", resource.plural, name)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation_policy: str | None = None,
    ) -> None:
        """Delete, with preconditions."""
        self._alive()
        metadata = self._found(resource.plural, name)["metadata"]
        if (metadata["uid"], metadata["resourceVersion"]) != (uid, resource_version):
            raise ApiError(409, "Conflict", "it changed")
        del self.objects[resource.plural, name]
        self._wrote("delete", resource.plural, name)

    async def list_as(
        self,
        object_type: type[T],
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> ObjectList[T]:
        """Return the objects with labels, and with a field such as ``spec.nodeName``."""
        self._may("list", resource.plural)
        assert namespace == (None if resource.plural == "services" else NAMESPACE)
        labels = dict(term.split("=") for term in label_selector.split(",") if term)
        path, _, wanted = field_selector.partition("=")
        self.lists.append(f"{resource.plural} {wanted or label_selector}")
        found = [
            item
            for item in self.of(resource.plural).values()
            if labels.items() <= item["metadata"].get("labels", {}).items()
            and (not path or _field(item, path) == wanted)
        ]
        items = [msgspec.json.decode(msgspec.json.encode(item), type=object_type) for item in found]
        return ObjectList(items, str(self._version))

    def put(self, plural: str, obj: Manifest) -> None:
        """Store an object with a new resourceVersion, as anybody's write does."""
        self._version += 1
        key = (plural, obj["metadata"]["name"])
        former = self.objects.get(key)
        known = former["metadata"] if former is not None and "uid" not in obj["metadata"] else {}
        metadata = {
            **({} if plural in _CLUSTER else {"namespace": NAMESPACE}),
            "uid": f"uid-{self._version}",
            "creationTimestamp": f"2026-01-01T00:{self._version // 60:02}:{self._version % 60:02}Z",
            **known,
            **obj["metadata"],
        }
        generation = former["metadata"]["generation"] if former else 0
        if former is None or former.get("spec") != obj.get("spec"):
            generation += 1
        metadata.update(resourceVersion=str(self._version), generation=generation)
        self.objects[key] = {**obj, "metadata": metadata}

    def of(self, plural: str) -> dict[str, Manifest]:
        """Return the objects of one type by name."""
        return {name: obj for (kind, name), obj in self.objects.items() if kind == plural}

    def _put_if_changed(self, plural: str, present: Manifest | None, changed: Manifest) -> None:
        if present is None or _comparable(present) != _comparable(changed):
            self.put(plural, changed)

    def _found(self, plural: str, name: str) -> Manifest:
        if (plural, name) not in self.objects:
            raise ApiError(404, "NotFound", f"{plural} {name} not found")
        return self.objects[plural, name]

    def _alive(self) -> None:
        if self.crash_after is not None and len(self.writes) >= self.crash_after:
            raise Crash

    def _may(self, verb: str, name: str) -> None:
        self._alive()
        if (error := self.refuse(verb, name)) is not None:
            self.refused += 1
            raise error

    def _wrote(self, verb: str, plural: str, name: str, manager: str = "") -> Manifest:
        """Note a write, perhaps die of it, and return the object as it is now."""
        self.writes.append(f"{verb} {plural} {name} {manager}".rstrip())
        self._alive()
        return copy.deepcopy(self.objects.get((plural, name), {}))


def _merged(present: Manifest | None, obj: Manifest) -> Manifest:
    """Return `present` as an apply of the whole `obj` leaves it."""
    metadata = copy.deepcopy(present["metadata"]) if present else {}
    for field in _MAPS:
        metadata[field] = {**metadata.get(field, {}), **obj["metadata"].get(field, {})}
    metadata["ownerReferences"] = obj["metadata"]["ownerReferences"]
    metadata["name"] = obj["metadata"]["name"]
    owned = {"f:metadata": {"f:labels": _fields(obj["metadata"]["labels"]), "f:ownerReferences": {}}}
    if "spec" in obj:
        owned["f:spec"] = _fields(obj["spec"])
    metadata["managedFields"] = [{"manager": "sitegrid", "operation": "Apply", "fieldsV1": owned}]
    return {**(present or {}), **obj, "metadata": metadata}


def _fields(value: Any) -> Manifest:
    return {f"f:{name}": _fields(item) for name, item in value.items()} if isinstance(value, dict) else {}


def _merge_patch(value: Any, patch: Any) -> Any:
    """Return what RFC 7386 makes of `value`."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge_patch(merged.get(name), change)
    return merged


def _field(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name, {})
    return value


def _comparable(obj: Manifest) -> Manifest:
    metadata = {
        name: value for name, value in obj["metadata"].items() if name not in ("resourceVersion", "generation")
    }
    return {**obj, "metadata": metadata}


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, regarding: Manifest, *, type: str, reason: str, action: str, note: str) -> None:
        """Keep one."""
        self.events.append((reason, note))
