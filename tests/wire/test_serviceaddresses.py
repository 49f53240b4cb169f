"""Addresses and ports of Services that Google's protobuf wrote."""

from __future__ import annotations

import pytest

from sitegrid.wire.protobuf import ProtobufError, write_bytes, write_int
from sitegrid.wire.serviceaddresses import ServiceAddresses, ServicePort, read_service_addresses
from tests.support.kubeproto import CLASSES


def _service(**spec: object) -> bytes:
    made: bytes = CLASSES["Service"](spec=spec).SerializeToString()
    return made


def test_every_address_and_port_is_read() -> None:
    """Of both families, external ones, and those that a load balancer has given."""
    raw = _service(
        clusterIP="10.96.0.1",
        clusterIPs=["10.96.0.1", "fd00::1"],
        externalIPs=["192.0.2.1"],
        ports=[
            {"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080},
            {"name": "dns", "protocol": "UDP", "port": 53},
        ],
    )
    points = [write_bytes(1, b"192.0.2.9"), write_bytes(2, b"lb.example.com")]
    status = write_bytes(1, b"".join(write_bytes(1, point) for point in points))
    assert read_service_addresses(raw + write_bytes(3, status)) == ServiceAddresses(
        frozenset({"10.96.0.1", "fd00::1", "192.0.2.1", "192.0.2.9"}),
        (ServicePort("TCP", 80, 30080), ServicePort("UDP", 53, 0)),
    )


def test_a_headless_service_has_no_address() -> None:
    """Its clients connect to pods."""
    raw = _service(clusterIP="None", clusterIPs=["None"], ports=[{"protocol": "TCP", "port": 80}])
    assert read_service_addresses(raw) == ServiceAddresses(frozenset(), (ServicePort("TCP", 80, 0),))


@pytest.mark.parametrize(
    "raw",
    [
        write_int(2, 1),
        write_int(3, 1),
        write_bytes(2, write_int(1, 1)),
        write_bytes(2, write_int(3, 1)),
        write_bytes(2, write_bytes(1, write_bytes(3, b"80"))),
        write_bytes(3, write_bytes(1, write_int(1, 1))),
        write_bytes(2, b"\x0a\xff"),
    ],
)
def test_what_is_no_service_is_refused(raw: bytes) -> None:
    """Rather than read as one without addresses."""
    with pytest.raises(ProtobufError):
        read_service_addresses(raw)
