"""Kubernetes' messages as generated classes: made by Google's protobuf, from tables of the fields that tests look at.

`sitegrid.wire.protobuf` and what the agent sends are held against these, never against themselves. Numbers and types
are those of meta/v1, core/v1, discovery/v1 and runtime generated.proto; fields that are not in the tables are kept as
unknown ones, as in every generated class. Used by ``tests/wire`` and the clients of ``tests/agent/faults``.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_Proto = descriptor_pb2.FieldDescriptorProto
_TYPES: Final = {int: _Proto.TYPE_INT64, bool: _Proto.TYPE_BOOL, bytes: _Proto.TYPE_BYTES, str: _Proto.TYPE_STRING}

TABLES: Final[dict[str, dict[int, Any]]] = {
    "Time": {1: ("seconds", int), 2: ("nanos", int)},
    "OwnerReference": {
        1: "kind", 3: "name", 4: "uid", 5: "apiVersion", 6: ("controller", bool), 7: ("blockOwnerDeletion", bool)
    },
    "ObjectMeta": {
        1: "name", 2: "generateName", 3: "namespace", 5: "uid", 6: "resourceVersion", 7: ("generation", int),
        8: ("creationTimestamp", "Time"), 11: ("labels", dict), 12: ("annotations", dict),
        13: ("ownerReferences", ["OwnerReference"]), 14: ("finalizers", [str]),
    },
    "ObjectReference": {1: "kind", 2: "namespace", 3: "name", 4: "uid"},
    "EndpointConditions": {1: ("ready", bool), 2: ("serving", bool), 3: ("terminating", bool)},
    "ForZone": {1: "name"},
    "EndpointHints": {1: ("forZones", ["ForZone"])},
    "Endpoint": {
        1: ("addresses", [str]), 2: ("conditions", "EndpointConditions"), 3: "hostname",
        4: ("targetRef", "ObjectReference"), 6: "nodeName", 7: "zone", 8: ("hints", "EndpointHints"),
    },
    "EndpointPort": {1: "name", 2: "protocol", 3: ("port", int), 4: "appProtocol"},
    "EndpointSlice": {
        1: ("metadata", "ObjectMeta"), 2: ("endpoints", ["Endpoint"]), 3: ("ports", ["EndpointPort"]),
        4: "addressType",
    },
    "ServicePort": {
        1: "name", 2: "protocol", 3: ("port", int), 5: ("nodePort", int), 6: "appProtocol"
    },
    "ServiceSpec": {
        1: ("ports", ["ServicePort"]), 2: ("selector", dict), 3: "clusterIP", 4: "type", 5: ("externalIPs", [str]),
        7: "sessionAffinity", 10: "externalName", 17: "ipFamilyPolicy", 18: ("clusterIPs", [str]),
        19: ("ipFamilies", [str]), 22: "internalTrafficPolicy",
    },
    "Service": {1: ("metadata", "ObjectMeta"), 2: ("spec", "ServiceSpec")},
    "EndpointAddress": {1: "ip", 2: ("targetRef", "ObjectReference"), 3: "hostname", 4: "nodeName"},
    "EndpointSubset": {
        1: ("addresses", ["EndpointAddress"]), 2: ("notReadyAddresses", ["EndpointAddress"]),
    },
    "Endpoints": {1: ("metadata", "ObjectMeta"), 2: ("subsets", ["EndpointSubset"])},
    # What the agent reads of any object, all else unknown. Maps are lists of their entries here: an entry with an
    # unknown field is one for Go's classes, and for Python's an unknown field as a whole.
    "Entry": {1: "key", 2: "value"},
    "AnyMeta": {
        1: "name", 3: "namespace", 6: "resourceVersion", 11: ("labels", ["Entry"]), 12: ("annotations", ["Entry"])
    },
    "AnyObject": {1: ("metadata", "AnyMeta")},
    "Status": {2: "status", 3: "message", 4: "reason", 6: ("code", int)},
    "ListMeta": {2: "resourceVersion", 3: "continue", 4: ("remainingItemCount", int)},
    "List": {1: ("metadata", "ListMeta"), 2: ("items", [bytes])},
    "TypeMeta": {1: "apiVersion", 2: "kind"},
    "Unknown": {1: ("typeMeta", "TypeMeta"), 2: ("raw", bytes), 3: "contentEncoding", 4: "contentType"},
    "RawExtension": {1: ("raw", bytes)},
    "WatchEvent": {1: "type", 2: ("object", "RawExtension")},
}  # fmt: skip
"""By number: the name of a string, or a name and its type; a list is repeated, a word is another message."""


def _classes() -> dict[str, type[Message]]:
    # As Kubernetes' own, these are of proto2, in which a field that is empty differs from one that is not there.
    file = descriptor_pb2.FileDescriptorProto(name="kubernetes.proto", package="k", syntax="proto2")
    for name, fields in TABLES.items():
        message = file.message_type.add(name=name)
        for number, entry in fields.items():
            label, kind = entry if isinstance(entry, tuple) else (entry, str)
            _add(message, number, label, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"k.{name}")) for name in TABLES}


def _add(message: descriptor_pb2.DescriptorProto, number: int, name: str, kind: Any) -> None:
    """Add a field to a message."""
    field = message.field.add(name=name, number=number, label=_Proto.LABEL_OPTIONAL)
    if kind is dict:
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add(entry, 1, "key", str)
        _add(entry, 2, "value", str)
        kind = [f"{message.name}.{entry.name}"]
    if isinstance(kind, list):
        field.label = _Proto.LABEL_REPEATED
        (kind,) = kind
    if isinstance(kind, str):
        field.type, field.type_name = _Proto.TYPE_MESSAGE, f".k.{kind}"
    else:
        field.type = _TYPES[kind]


CLASSES: Final = _classes()


def parse(name: str, data: bytes) -> Any:
    """Return `data` as the message `name`. Raises `google.protobuf.message.DecodeError`."""
    return CLASSES[name].FromString(data)


def as_dict(message: Any) -> dict[str, Any]:
    """Return the fields of a message that are there and in the tables."""
    return {field.name: _value(value) for field, value in message.ListFields()}


def _value(value: Any) -> Any:
    if isinstance(value, Message):
        return as_dict(value)
    if isinstance(value, str | bytes | int):
        return value
    return dict(value) if hasattr(value, "keys") else [_value(item) for item in value]
