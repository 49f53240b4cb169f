"""Endpoints made from slices; ``tests/agent/test_endpoints.py`` holds them against Kubernetes' own controller."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sitegrid.wire import protobuf
from sitegrid.wire.codec import Item
from sitegrid.wire.endpoints import make_endpoints
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.protobuf import ProtobufError, write_bytes, write_int
from sitegrid.wire.protobufcodec import PROTOBUF


def _text(number: int, value: str) -> bytes:
    return write_bytes(number, value.encode())


def _service(*spec: bytes, ports: bool = True) -> Item:
    meta = _text(1, "web") + _text(3, "ns") + _text(6, "5") + write_bytes(8, write_int(1, 1_600_000_000))
    parts = [write_bytes(2, _text(1, "app") + _text(2, "web")), *([write_bytes(1, b"")] if ports else []), *spec]
    raw = write_bytes(1, meta) + write_bytes(2, b"".join(parts or [b""]))
    return Item("ns/web", 5, raw, {"team": "a"})


CLUSTER_IP = _text(3, "10.96.0.1") + _text(19, "IPv4")
HEADLESS = _text(3, "None") + _text(19, "IPv4")


def _address(ip: str, **conditions: bool) -> bytes:
    numbers = {"ready": 1, "serving": 2, "terminating": 3}
    body = _text(1, ip) + write_bytes(2, b"".join(write_int(numbers[name], on) for name, on in conditions.items()))
    reference = _text(1, "Pod") + _text(2, "ns") + _text(3, f"pod-{ip}") + _text(4, f"uid-{ip}")
    return body + write_bytes(4, reference) + _text(6, "n1")


def _slice(*addresses: bytes, ports: dict[str, int] | None = None, family: str = "IPv4") -> Item:
    raw = write_bytes(1, _text(1, "s") + _text(3, "ns") + _text(6, "7"))
    raw += b"".join(write_bytes(2, address) for address in addresses)
    for name, number in ({"http": 80} if ports is None else ports).items():
        raw += write_bytes(3, _text(1, name) + _text(2, "TCP") + write_int(3, number))
    return Item("ns/s", 7, raw + _text(4, family), {})


def _made(service: Item, *slices: Item) -> dict[str, Any]:
    item = make_endpoints(JSON, service, {"team": "a"}, slices, 9)
    assert item is not None
    body: dict[str, Any] = json.loads(item.raw)
    return body


def _ips(body: dict[str, Any]) -> list[tuple[list[str], list[str], list[str]]]:
    return [
        (
            [each["ip"] for each in subset.get("addresses", [])],
            [each["ip"] for each in subset.get("notReadyAddresses", [])],
            [each.get("name", "") for each in subset.get("ports", [])],
        )
        for subset in body.get("subsets", [])
    ]


def test_it_is_the_services_namesake() -> None:
    """Name, labels and time are the Service's; Kubernetes' controller is named as the one who manages it."""
    assert _made(_service(CLUSTER_IP), _slice(_address("10.0.0.1", ready=True))) == {
        "metadata": {
            "name": "web",
            "namespace": "ns",
            "resourceVersion": "9",
            "creationTimestamp": "2020-09-13T12:26:40Z",
            "labels": {"team": "a", "endpoints.kubernetes.io/managed-by": "endpoint-controller"},
        },
        "subsets": [
            {
                "addresses": [
                    {
                        "ip": "10.0.0.1",
                        "nodeName": "n1",
                        "targetRef": {
                            "kind": "Pod",
                            "namespace": "ns",
                            "name": "pod-10.0.0.1",
                            "uid": "uid-10.0.0.1",
                        },
                    }
                ],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            }
        ],
    }


def test_a_service_without_pods_has_endpoints_without_subsets() -> None:
    """As Kubernetes has them."""
    assert "subsets" not in _made(_service(CLUSTER_IP))


def test_addresses_are_grouped_by_the_ports_that_they_offer() -> None:
    """A pod that lacks a named port is not offered under it."""
    both = _slice(_address("10.0.0.2", ready=True), _address("10.0.0.1", ready=True), ports={"a": 1, "b": 2})
    one = _slice(_address("10.0.0.3", ready=True), ports={"a": 1})
    assert _ips(_made(_service(CLUSTER_IP), both, one)) == [
        (["10.0.0.1", "10.0.0.2", "10.0.0.3"], [], ["a"]),
        (["10.0.0.1", "10.0.0.2"], [], ["b"]),
    ]


def test_an_endpoint_in_two_slices_is_one() -> None:
    """While Kubernetes moves one it is in both; not ready trumps ready."""
    slices = (_slice(_address("10.0.0.1", ready=True)), _slice(_address("10.0.0.1", ready=False)))
    assert _ips(_made(_service(CLUSTER_IP), *slices)) == [([], ["10.0.0.1"], ["http"])]


def test_only_the_primary_family_is_shown() -> None:
    """Endpoints know one address of a pod: that of the Service's first family, or of its address."""
    slices = (_slice(_address("10.0.0.1")), _slice(_address("fd00::1"), family="IPv6"))
    assert _ips(_made(_service(CLUSTER_IP), *slices)) == [(["10.0.0.1"], [], ["http"])]
    assert _ips(_made(_service(_text(3, "None") + _text(19, "IPv6")), *slices)) == [(["fd00::1"], [], ["http"])]
    assert _ips(_made(_service(_text(3, "fd00::99")), *slices)) == [(["fd00::1"], [], ["http"])]


def test_a_terminating_pod_is_gone_unless_all_are_published() -> None:
    """publishNotReadyAddresses shows every pod as ready."""
    slices = _slice(_address("10.0.0.1", ready=False, terminating=True), _address("10.0.0.2", ready=False))
    assert _ips(_made(_service(CLUSTER_IP), slices)) == [([], ["10.0.0.2"], ["http"])]
    published = _service(CLUSTER_IP, write_int(13, 1))
    assert _ips(_made(published, slices)) == [(["10.0.0.1", "10.0.0.2"], [], ["http"])]


def test_endpoints_without_ports_are_a_headless_services_without_ports() -> None:
    """Elsewhere no port means that the pod has none of the Service's."""
    bare = _slice(_address("10.0.0.1"), ports={})
    assert _ips(_made(_service(HEADLESS, ports=False), bare)) == [(["10.0.0.1"], [], [])]
    assert _ips(_made(_service(HEADLESS), bare)) == []
    assert _ips(_made(_service(CLUSTER_IP), bare)) == []
    assert _made(_service(HEADLESS), bare)["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_protobuf_says_the_same() -> None:
    """The bytes are the message of generated.proto: ip, targetRef, hostname, nodeName; name, port, protocol."""
    item = make_endpoints(PROTOBUF, _service(CLUSTER_IP), {"team": "a"}, [_slice(_address("10.0.0.1"))], 9)
    assert item is not None
    meta = protobuf.read_meta(item.raw)
    assert (meta.name, meta.namespace, meta.resource_version) == ("web", "ns", "9")
    assert meta.labels == {"team": "a", "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
    subset = protobuf.only_message(item.raw, 2)
    assert subset is not None
    reference = _text(1, "Pod") + _text(2, "ns") + _text(3, "pod-10.0.0.1") + _text(4, "uid-10.0.0.1")
    address = _text(1, "10.0.0.1") + write_bytes(2, reference) + _text(3, "") + _text(4, "n1")
    port = _text(1, "http") + write_int(2, 80) + _text(3, "TCP")
    assert item.raw[subset.start : subset.stop] == write_bytes(1, address) + write_bytes(3, port)


@pytest.mark.parametrize("spec", [_text(4, "ExternalName") + CLUSTER_IP])
def test_an_alias_has_no_endpoints(spec: bytes) -> None:
    """Nor has a Service without a selector: Kubernetes makes none for them."""
    assert make_endpoints(JSON, _service(spec), {}, [], 9) is None
    bare = Item("ns/web", 5, write_bytes(1, _text(1, "web")) + write_bytes(2, CLUSTER_IP), {})
    assert make_endpoints(JSON, bare, {}, [], 9) is None


@pytest.mark.parametrize(
    "raw", [write_bytes(2, b""), write_int(2, 1), write_bytes(2, _text(1, "10.0.0.1") + write_int(2, 1)), b"\x12\x05"]
)
def test_what_cannot_be_read_is_an_error(raw: bytes) -> None:
    """Nothing is guessed of a slice that is not one."""
    with pytest.raises(ProtobufError):
        make_endpoints(JSON, _service(CLUSTER_IP), {}, [Item("ns/s", 7, raw, {})], 9)


def test_a_time_that_there_is_not_is_an_error() -> None:
    """A Service of the year 290 billion has no Endpoints, and ends nothing else."""
    service = _service(CLUSTER_IP)
    span = protobuf.only_message(service.raw, 1)
    assert span is not None
    meta = service.raw[span.start : span.stop] + write_bytes(8, write_int(1, 1 << 63))
    odd = Item(service.key, 5, write_bytes(1, meta) + service.raw[span.stop :], {})
    with pytest.raises(ProtobufError):
        make_endpoints(JSON, odd, {}, [], 9)
