"""The same unit slices in both representations, as the API server sends them.

Written field by field (discovery/v1 and meta/v1 generated.proto), since the product has no encoder: it needs none.
"""

from __future__ import annotations

from typing import Any, Final

from sitegrid.wire.labels import (
    GRID_UNIQ_KEY,
    HEADLESS,
    MANAGED_BY,
    SERVICE_PROXY_NAME,
    SITEGRID,
    UNIT,
    UNIT_SERVICE_NAME,
)
from sitegrid.wire.protobuf import write_bytes, write_int

ENDPOINTS: Final = 10
UNIT_ID: Final = "site.site-0001"

_FIELDS: Final = (
    '{"f:addressType":{},"f:endpoints":{},"f:metadata":{"f:labels":{"f:'
    + '":{},"f:'.join(sorted((GRID_UNIQ_KEY, HEADLESS, MANAGED_BY, SERVICE_PROXY_NAME, UNIT, UNIT_SERVICE_NAME)))
    + '":{}},"f:ownerReferences":{"k:{\\"uid\\":\\"0\\"}":{}}},"f:ports":{}}'
)


def as_json(number: int) -> dict[str, Any]:
    """Return slice `number` as JSON values."""
    return {
        "metadata": {
            "name": _name(number),
            "namespace": "default",
            "uid": _uid(number),
            "resourceVersion": str(1000 + number),
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": _labels(number),
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Service", "name": _service(number), "uid": _uid(number)}
            ],
            "managedFields": [
                {
                    "manager": SITEGRID,
                    "operation": "Apply",
                    "apiVersion": "discovery.k8s.io/v1",
                    "time": "2026-01-01T00:00:00Z",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": _FIELDS,
                }
            ],
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [_address(number, index)],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": "site-0001-0",
                "targetRef": {"kind": "Pod", "namespace": "default", "name": _pod(number, index), "uid": _uid(index)},
            }
            for index in range(ENDPOINTS)
        ],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }


def as_protobuf(number: int) -> bytes:
    """Return slice `number` as a protobuf message."""
    owner = _texts({1: "Service", 3: _service(number), 4: _uid(number), 5: "v1"})
    manager = _texts({1: SITEGRID, 2: "Apply", 3: "discovery.k8s.io/v1", 6: "FieldsV1"})
    manager += write_bytes(4, write_int(1, 1767225600)) + write_bytes(7, _texts({1: _FIELDS}))
    meta = _texts({1: _name(number), 3: "default", 5: _uid(number), 6: str(1000 + number)})
    meta += write_int(7, 1) + write_bytes(8, write_int(1, 1767225600))
    meta += b"".join(write_bytes(11, _texts({1: key, 2: value})) for key, value in _labels(number).items())
    meta += write_bytes(13, owner) + write_bytes(17, manager)
    raw = write_bytes(1, meta)
    for index in range(ENDPOINTS):
        target = _texts({1: "Pod", 2: "default", 3: _pod(number, index), 4: _uid(index)})
        conditions = write_int(1, 1) + write_int(2, 1) + write_int(3, 0)
        endpoint = _texts({1: _address(number, index)}) + write_bytes(2, conditions) + write_bytes(4, target)
        raw += write_bytes(2, endpoint + _texts({6: "site-0001-0"}))
    return raw + write_bytes(3, _texts({1: "http", 2: "TCP"}) + write_int(3, 8080)) + _texts({4: "IPv4"})


def _texts(values: dict[int, str]) -> bytes:
    return b"".join(write_bytes(number, value.encode()) for number, value in values.items())


def _labels(number: int) -> dict[str, str]:
    return {
        MANAGED_BY: SITEGRID,
        HEADLESS: "",
        SERVICE_PROXY_NAME: SITEGRID,
        GRID_UNIQ_KEY: "site",
        UNIT_SERVICE_NAME: _service(number),
        UNIT: UNIT_ID,
    }


def _service(number: int) -> str:
    return f"shop-{number:04d}-svc"


def _name(number: int) -> str:
    return f"shop-{number:04d}-svc-site-0001-0123456789"


def _uid(number: int) -> str:
    return f"8c5e6e3a-6f8e-4a53-9d0e-{number:012d}"


def _pod(number: int, index: int) -> str:
    return f"shop-{number:04d}-site-0001-5d8f9c7b6f-{index:05d}"


def _address(number: int, index: int) -> str:
    return f"10.{128 + (number >> 8)}.{number & 255}.{index}"
