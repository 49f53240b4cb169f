"""What a grid's Service has different in one site: as text between controller and agent, and how it is merged.

The controller writes a patch as canonical JSON into an annotation of a slice of that unit (`SERVICE_PATCH`), the
agent's views and single GETs merge it into the Service that they show. Field numbers are those of meta/v1 and core/v1
generated.proto.

Invariant: a patch that cannot be understood changes nothing, the Service is shown as it is. Held by
``tests/wire/test_servicepatch.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from sitegrid.wire import protobuf

Port = tuple[int, str]
"""Number and protocol, which tell a Service's ports apart."""


class ServicePatch(NamedTuple):
    """What differs; what is not given stays as it is."""

    external_ips: tuple[str, ...] | None = None
    annotations: Mapping[str, str] = MappingProxyType({})
    node_ports: Mapping[Port, int] = MappingProxyType({})

    def __bool__(self) -> bool:
        return self.external_ips is not None or bool(self.annotations) or bool(self.node_ports)

    def text(self) -> str:
        """Return the patch as one text, the same for equal patches."""
        found: dict[str, Any] = {}
        if self.external_ips is not None:
            found["externalIPs"] = [*self.external_ips]
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        if self.node_ports:
            found["nodePorts"] = [
                {"port": port, "protocol": protocol, "nodePort": number}
                for (port, protocol), number in sorted(self.node_ports.items())
            ]
        return json.dumps(found, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def parse_patch(text: str) -> ServicePatch | None:
    """Return the patch that `text` is, None where it is none."""
    try:
        found = json.loads(text)
        ips = found.pop("externalIPs", None)
        annotations = found.pop("annotations", {})
        ports = {(item["port"], item["protocol"]): item["nodePort"] for item in found.pop("nodePorts", ())}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    # What is left is of a later version and could mean anything.
    if found or not isinstance(annotations, dict) or not isinstance(ips, list | None):
        return None
    strings = (*(ips or ()), *annotations, *annotations.values(), *(protocol for _, protocol in ports))
    numbers = (*(port for port, _ in ports), *ports.values())
    if not all(isinstance(item, str) for item in strings) or not all(_is_port(item) for item in numbers):
        return None
    return ServicePatch(None if ips is None else tuple(ips), annotations, ports)


def _is_port(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 1 << 16


def patch_protobuf(message: bytes, patch: ServicePatch, rv: int) -> bytes:
    """Return a Service with `patch` and the resourceVersion `rv`, all else copied. Raises `ProtobufError`."""
    meta, spec = protobuf.only_message(message, 1), protobuf.only_message(message, 2)
    if meta is None or spec is None:
        raise protobuf.ProtobufError("Service without metadata or spec")
    done = {1: _meta(message, meta, patch, rv), 2: _spec(message, spec, patch)}
    first, second = sorted((meta, spec), key=lambda item: item.tag)
    return b"".join(
        (
            message[: first.tag],
            protobuf.write_bytes(first.number, done[first.number]),
            message[first.stop : second.tag],
            protobuf.write_bytes(second.number, done[second.number]),
            message[second.stop :],
        )
    )


def _meta(message: bytes, span: protobuf.Field, patch: ServicePatch, rv: int) -> bytes:
    """Return the ObjectMeta: resourceVersion = 6, annotations = 12."""
    kept = []
    for item in protobuf.fields(message, span.start, span.stop):
        if item.number == 6 or (item.number == 12 and protobuf.map_entry(message, item)[0] in patch.annotations):
            continue
        kept.append(message[item.tag : item.stop])
    kept.append(protobuf.write_bytes(6, str(rv).encode()))
    for name, value in sorted(patch.annotations.items()):
        kept.append(protobuf.write_bytes(12, protobuf.write_entry(name, value)))
    return b"".join(kept)


def _spec(message: bytes, span: protobuf.Field, patch: ServicePatch) -> bytes:
    """Return the ServiceSpec: ports = 1, externalIPs = 5."""
    kept = []
    for item in protobuf.fields(message, span.start, span.stop):
        if item.number == 1:
            kept.append(protobuf.write_bytes(1, _port(message, item, patch.node_ports)))
        elif item.number != 5 or patch.external_ips is None:
            kept.append(message[item.tag : item.stop])
    kept += (protobuf.write_bytes(5, address.encode()) for address in patch.external_ips or ())
    return b"".join(kept)


def _port(message: bytes, span: protobuf.Field, node_ports: Mapping[Port, int]) -> bytes:
    """Return a ServicePort: protocol = 2, port = 3, nodePort = 5."""
    if span.wire_type != protobuf.BYTES:
        raise protobuf.ProtobufError("a port is a message")
    number, protocol = 0, ""
    kept = []
    for item in protobuf.fields(message, span.start, span.stop):
        if item.number == 2:
            protocol = protobuf.text(message, item)
        elif item.number == 3 and item.wire_type == protobuf.VARINT:
            number = protobuf.read_varint(message, item.start, item.stop)[0]
        if item.number != 5:
            kept.append(message[item.tag : item.stop])
    wanted = node_ports.get((number, protocol or "TCP"))
    return message[span.start : span.stop] if wanted is None else b"".join(kept) + protobuf.write_int(5, wanted)


def patch_json(body: dict[str, Any], patch: ServicePatch, rv: int) -> dict[str, Any]:
    """Return a Service with `patch` and the resourceVersion `rv`. Raises `ValueError` for what is no Service."""
    meta, spec = body.get("metadata"), body.get("spec")
    if not isinstance(meta, dict) or not isinstance(spec, dict):
        raise ValueError("Service without metadata or spec")
    meta, spec = {**meta, "resourceVersion": str(rv)}, {**spec}
    if patch.annotations:
        meta["annotations"] = dict(sorted({**(meta.get("annotations") or {}), **patch.annotations}.items()))
    if patch.external_ips is not None:
        spec["externalIPs"] = [*patch.external_ips]
        if not patch.external_ips:
            del spec["externalIPs"]
    if patch.node_ports and spec.get("ports"):
        spec["ports"] = [_json_port(port, patch.node_ports) for port in spec["ports"]]
    return {**body, "metadata": meta, "spec": spec}


def _json_port(port: Any, node_ports: Mapping[Port, int]) -> Any:
    if not isinstance(port, dict):
        raise ValueError("a port is an object")
    wanted = node_ports.get((port.get("port", 0), port.get("protocol") or "TCP"))
    return port if wanted is None else {**port, "nodePort": wanted}
