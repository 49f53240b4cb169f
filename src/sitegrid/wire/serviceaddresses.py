"""Under which addresses and ports a Service is reached: what kube-proxy makes rules for.

Read from protobuf (core/v1 generated.proto), as the agent's clients get it, by what tells a Service's connections
from others (`sitegrid.connections`). Held by ``tests/wire/test_serviceaddresses.py``.
"""

from __future__ import annotations

from typing import NamedTuple

from sitegrid.wire import protobuf


class ServicePort(NamedTuple):
    """A port: protocol as ``TCP``; `node` is 0 where it has no node port."""

    protocol: str
    number: int
    node: int


class ServiceAddresses(NamedTuple):
    """Cluster IPs, external IPs and those of load balancers, as text; and the ports that are the same for all."""

    ips: frozenset[str]
    ports: tuple[ServicePort, ...]


def read_service_addresses(raw: bytes) -> ServiceAddresses:
    """Return those of a Service. Raises `ProtobufError`."""
    ips: set[str] = set()
    ports: list[ServicePort] = []
    for part in protobuf.fields(raw):
        if part.number == 2:  # Service.spec
            for field in _inside(raw, part):
                if field.number == 1:
                    ports.append(_port(raw, field))
                elif field.number in (3, 5, 18):  # clusterIP, externalIPs, clusterIPs
                    ips.add(protobuf.text(raw, field))
        elif part.number == 3:  # Service.status, its loadBalancer, the ingress points of that, their ip
            balancers = (field for field in _inside(raw, part) if field.number == 1)
            points = (field for balancer in balancers for field in _inside(raw, balancer) if field.number == 1)
            ips.update(
                protobuf.text(raw, field) for point in points for field in _inside(raw, point) if field[0] == 1
            )
    return ServiceAddresses(frozenset(ips - {"", "None"}), tuple(ports))


def _inside(raw: bytes, field: protobuf.Field) -> list[protobuf.Field]:
    if field.wire_type != protobuf.BYTES:
        raise protobuf.ProtobufError(f"field {field.number} is not a message")
    return protobuf.fields(raw, field.start, field.stop)


def _port(raw: bytes, part: protobuf.Field) -> ServicePort:
    numbers = {3: 0, 5: 0}
    protocol = "TCP"
    for field in _inside(raw, part):
        if field.number == 2:
            protocol = protobuf.text(raw, field)
        elif field.number in numbers:
            if field.wire_type != protobuf.VARINT:
                raise protobuf.ProtobufError(f"field {field.number} is not a number")
            numbers[field.number] = protobuf.read_varint(raw, field.start, field.stop)[0]
    return ServicePort(protocol, numbers[3], numbers[5])
