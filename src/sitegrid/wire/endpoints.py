"""Makes the core/v1 Endpoints of a grid's Service from the unit slices that a node may see.

Kubernetes' own Endpoints of such a Service hold every unit's pods, so they are never shown. What is made here is what
Kubernetes' endpoints controller would make if there were no other pods than the unit's
(pkg/controller/endpoint/endpoints_controller.go, RepackSubsets in pkg/api/v1/endpoints/util.go). The differences:
ports and subsets are in the order of their names, not of a hash that changes with Kubernetes' version, there is no
limit of 1,000 addresses, and no uid. Service and slices are read as protobuf, which a node's kube-proxy has the agent
keep anyway. Called by the agent's views; which slices count has been decided there.

Invariant: no address that is not in one of the given slices. Held by ``tests/wire/test_endpoints.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sitegrid.wire import protobuf
from sitegrid.wire.codec import Codec, Item
from sitegrid.wire.jsoncodec import dump
from sitegrid.wire.labels import HEADLESS, SITES
from sitegrid.wire.protobufcodec import PROTOBUF

_MANAGED_BY: Final = ("endpoints.kubernetes.io/managed-by", "endpoint-controller")
_REFERENCE: Final = {1: "kind", 2: "namespace", 3: "name", 4: "uid", 5: "apiVersion", 6: "resourceVersion"}
"""Fields of core/v1 ObjectReference (7, fieldPath, is never set for a pod)."""


_END_OF_TIME: Final = 253402300800
"""The year 10000, in Unix time; RFC 3339 ends there."""


class _Port(NamedTuple):
    name: str
    number: int
    protocol: str
    app_protocol: str | None


class _Address(NamedTuple):
    ip: str
    hostname: str
    node: str | None
    target: bytes | None
    """The ObjectReference as it was sent."""
    uid: str
    ready: bool
    terminating: bool


class _Slice(NamedTuple):
    family: str
    ports: tuple[_Port, ...]
    addresses: tuple[_Address, ...]


class _Service(NamedTuple):
    created: bytes
    family: str
    headless: bool
    ports: bool
    publish_not_ready: bool
    endpoints: bool
    """Whether Kubernetes makes Endpoints for it by itself: it has a selector and is no alias of another name."""


class _Subset(NamedTuple):
    ready: tuple[_Address, ...]
    not_ready: tuple[_Address, ...]
    ports: tuple[_Port, ...]


def make_endpoints(
    codec: Codec, service: Item, labels: dict[str, str], slices: Iterable[Item], rv: int
) -> Item | None:
    """Return the Endpoints of `service` (protobuf, shown under `labels`) from `slices` (protobuf), for `codec`.

    None where Kubernetes makes none. Raises `ProtobufError`.
    """
    facts = _read_service(service.raw)
    if not facts.endpoints and SITES not in labels:
        return None
    shown = {**labels, _MANAGED_BY[0]: _MANAGED_BY[1]}
    shown.pop(HEADLESS, None)
    if facts.headless:
        shown[HEADLESS] = ""
    subsets = _subsets(facts, [read_slice(item.raw) for item in slices])
    namespace, _, name = service.key.partition("/")
    if codec is PROTOBUF:
        raw = _meta_protobuf(namespace, name, rv, facts.created, shown)
        return Item(service.key, rv, raw + b"".join(_subset_protobuf(subset) for subset in subsets), shown)
    meta: dict[str, Any] = {"name": name, "namespace": namespace, "resourceVersion": str(rv)}
    if facts.created:
        meta["creationTimestamp"] = _timestamp(facts.created)
    body: dict[str, Any] = {"metadata": {**meta, "labels": dict(sorted(shown.items()))}}
    if subsets:
        body["subsets"] = [_subset_json(subset) for subset in subsets]
    return Item(service.key, rv, dump(body))


def _subsets(service: _Service, slices: list[_Slice]) -> list[_Subset]:
    """Group the addresses by the ports that they offer, as RepackSubsets does; not ready trumps ready."""
    known: dict[tuple[str, str], _Address] = {}
    offered: dict[_Port | None, dict[tuple[str, str], bool]] = {}
    for item in slices:
        if item.family != service.family:
            continue
        # Only a headless Service without ports has endpoints without ports.
        ports = item.ports or ((None,) if service.headless and not service.ports else ())
        for address in item.addresses:
            if address.terminating and not service.publish_not_ready:
                continue
            key = (address.ip, address.uid)
            known.setdefault(key, address)
            for port in ports:
                states = offered.setdefault(port, {})
                states[key] = states.get(key, True) and (address.ready or service.publish_not_ready)
    groups: dict[tuple[tuple[tuple[str, str], bool], ...], list[_Port]] = {}
    for port in sorted(offered, key=_port_order):
        group = groups.setdefault(tuple(sorted(offered[port].items())), [])
        if port is not None:
            group.append(port)
    return [
        _Subset(
            tuple(known[key] for key, ready in states if ready),
            tuple(known[key] for key, ready in states if not ready),
            tuple(ports),
        )
        for states, ports in groups.items()
    ]


def _port_order(port: _Port | None) -> tuple[str, int, str, str]:
    return ("", 0, "", "") if port is None else (port.name, port.number, port.protocol, port.app_protocol or "")


# Reading: core/v1 Service and discovery/v1 EndpointSlice, generated.proto.
def _number(data: bytes, field: protobuf.Field) -> int:
    if field.wire_type != protobuf.VARINT:
        raise protobuf.ProtobufError(f"field {field.number} is not a number")
    return protobuf.read_varint(data, field.start, field.stop)[0]


def _inside(data: bytes, field: protobuf.Field) -> list[protobuf.Field]:
    if field.wire_type != protobuf.BYTES:
        raise protobuf.ProtobufError(f"field {field.number} is not a message")
    return protobuf.fields(data, field.start, field.stop)


def _read_service(raw: bytes) -> _Service:
    created = b""
    texts = {3: "", 4: ""}
    families: list[str] = []
    ports = selector = publish = False
    for part in protobuf.fields(raw):
        if part.number == 1:
            times = [raw[field.start : field.stop] for field in _inside(raw, part) if field.number == 8]
            created = times[-1] if times else b""
        elif part.number == 2:
            for field in _inside(raw, part):
                ports = ports or field.number == 1
                selector = selector or field.number == 2
                if field.number in texts:
                    texts[field.number] = protobuf.text(raw, field)
                elif field.number == 13:
                    publish = bool(_number(raw, field))
                elif field.number == 19:
                    families.append(protobuf.text(raw, field))
    address = texts[3]
    family = families[0] if families else "IPv6" if ":" in address else "IPv4"
    # The API server writes "None", and an address for every other Service that has endpoints.
    headless = address in ("", "None")
    return _Service(created, family, headless, ports, publish, selector and texts[4] != "ExternalName")


def read_slice(raw: bytes) -> _Slice:
    """Return ports and addresses of an EndpointSlice. Raises `ProtobufError`."""
    family = ""
    ports, addresses = [], []
    for part in protobuf.fields(raw):
        if part.number == 2:
            addresses.append(_read_address(raw, _inside(raw, part)))
        elif part.number == 3:
            ports.append(_read_port(raw, _inside(raw, part)))
        elif part.number == 4:
            family = protobuf.text(raw, part)
    return _Slice(family, tuple(ports), tuple(addresses))


def _read_port(raw: bytes, fields: list[protobuf.Field]) -> _Port:
    texts: dict[int, str] = {}
    number = 0
    for field in fields:
        if field.number == 3:
            number = _number(raw, field)
        elif field.number in (1, 2, 4):
            texts[field.number] = protobuf.text(raw, field)
    return _Port(texts.get(1, ""), number, texts.get(2, ""), texts.get(4))


def _read_address(raw: bytes, fields: list[protobuf.Field]) -> _Address:
    texts: dict[int, str] = {}
    conditions: dict[int, int] = {}
    target: bytes | None = None
    for field in fields:
        if field.number in (1, 3, 6):
            texts.setdefault(field.number, protobuf.text(raw, field))
        elif field.number == 2:
            conditions = {each.number: _number(raw, each) for each in _inside(raw, field)}
        elif field.number == 4:
            _inside(raw, field)
            target = raw[field.start : field.stop]
    if not texts.get(1):
        raise protobuf.ProtobufError("endpoint without an address")
    # discovery/v1 EndpointConditions: an unknown readiness is to be taken for ready.
    ready, terminating = bool(conditions.get(1, 1)), bool(conditions.get(3, 0))
    uid = _reference(target).get("uid", "") if target is not None else ""
    return _Address(texts[1], texts.get(3, ""), texts.get(6), target, uid, ready, terminating)


def _reference(raw: bytes) -> dict[str, str]:
    return {
        _REFERENCE[field.number]: value
        for field in protobuf.fields(raw)
        if field.number in _REFERENCE and (value := protobuf.text(raw, field))
    }


# Writing: core/v1 Endpoints, as the API server does it.
def _timestamp(raw: bytes) -> str:
    seconds = sum(_number(raw, field) for field in protobuf.fields(raw) if field.number == 1)
    if seconds >= _END_OF_TIME:
        raise protobuf.ProtobufError("a time that cannot be written")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _subset_json(subset: _Subset) -> dict[str, Any]:
    parts = {
        "addresses": [_address_json(address) for address in subset.ready],
        "notReadyAddresses": [_address_json(address) for address in subset.not_ready],
        "ports": [_port_json(port) for port in subset.ports],
    }
    return {name: part for name, part in parts.items() if part}


def _address_json(address: _Address) -> dict[str, Any]:
    body: dict[str, Any] = {"ip": address.ip}
    if address.hostname:
        body["hostname"] = address.hostname
    if address.node is not None:
        body["nodeName"] = address.node
    if address.target is not None:
        body["targetRef"] = _reference(address.target)
    return body


def _port_json(port: _Port) -> dict[str, Any]:
    body: dict[str, Any] = {"name": port.name} if port.name else {}
    body |= {"port": port.number, "protocol": port.protocol}
    return body if port.app_protocol is None else {**body, "appProtocol": port.app_protocol}


def _text(number: int, value: str) -> bytes:
    return protobuf.write_bytes(number, value.encode())


def _meta_protobuf(namespace: str, name: str, rv: int, created: bytes, labels: dict[str, str]) -> bytes:
    texts = enumerate((name, "", namespace, "", "", str(rv)), start=1)
    meta = b"".join(_text(number, value) for number, value in texts)
    meta += protobuf.write_int(7, 0) + protobuf.write_bytes(8, created)
    entries = (_text(1, key) + _text(2, value) for key, value in sorted(labels.items()))
    return protobuf.write_bytes(1, meta + b"".join(protobuf.write_bytes(11, entry) for entry in entries))


def _subset_protobuf(subset: _Subset) -> bytes:
    parts = [protobuf.write_bytes(1, _address_protobuf(address)) for address in subset.ready]
    parts += [protobuf.write_bytes(2, _address_protobuf(address)) for address in subset.not_ready]
    parts += [protobuf.write_bytes(3, _port_protobuf(port)) for port in subset.ports]
    return protobuf.write_bytes(2, b"".join(parts))


def _address_protobuf(address: _Address) -> bytes:
    body = _text(1, address.ip)
    if address.target is not None:
        body += protobuf.write_bytes(2, address.target)
    body += _text(3, address.hostname)
    return body if address.node is None else body + _text(4, address.node)


def _port_protobuf(port: _Port) -> bytes:
    body = _text(1, port.name) + protobuf.write_int(2, port.number) + _text(3, port.protocol)
    return body if port.app_protocol is None else body + _text(4, port.app_protocol)
