"""Patches of grid Services: as text, and merged."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.wire.codec import CodecError, Item
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.protobuf import ProtobufError
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.servicepatch import ServicePatch, parse_patch, patch_json, patch_protobuf

PATCHES = st.builds(
    ServicePatch,
    st.none() | st.lists(st.text(max_size=5)).map(tuple),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
    st.dictionaries(st.tuples(st.integers(1, 65535), st.sampled_from(["TCP", "UDP"])), st.integers(1, 65535)),
)
SERVICE: dict[str, Any] = {
    "metadata": {"name": "web", "namespace": "ns", "resourceVersion": "7", "annotations": {"a": "1", "b": "2"}},
    "spec": {
        "type": "NodePort",
        "externalIPs": ["10.9.9.9"],
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080},
            {"name": "dns", "protocol": "UDP", "port": 80, "nodePort": 30053},
        ],
    },
}


@given(PATCHES)
def test_a_patch_is_read_as_it_was_written(patch: ServicePatch) -> None:
    """Text is the seam between controller and agent; no patch at all is told from an empty list of addresses."""
    assert parse_patch(patch.text()) == patch


@given(PATCHES)
def test_equal_patches_have_one_text(patch: ServicePatch) -> None:
    """Nothing is written, or shown anew, for another order."""
    other = ServicePatch(
        patch.external_ips,
        dict(reversed([*patch.annotations.items()])),
        dict(reversed([*patch.node_ports.items()])),
    )
    assert other.text() == patch.text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '{"externalIPs":"10.1.1.1"}',
        '{"externalIPs":[1]}',
        '{"annotations":["a"]}',
        '{"annotations":{"a":1}}',
        '{"nodePorts":[{"port":80}]}',
        '{"nodePorts":[{"port":80,"protocol":"TCP","nodePort":70000}]}',
        '{"nodePorts":[{"port":true,"protocol":"TCP","nodePort":30000}]}',
        '{"nodePorts":[{"port":80,"protocol":[],"nodePort":30000}]}',
        '{"selector":{"a":"b"}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_patch_is_none(text: str) -> None:
    """Other types, other fields, no JSON: nobody can tell what is meant."""
    assert parse_patch(text) is None


def test_only_what_is_given_changes() -> None:
    """Addresses are replaced, annotations are added, and a port is found by its number and protocol."""
    patch = ServicePatch(("10.1.1.1",), {"b": "3", "c": "4"}, {(80, "UDP"): 31053, (443, "TCP"): 31443})
    changed = patch_json(SERVICE, patch, 9)
    assert changed["metadata"] == {
        **SERVICE["metadata"],
        "resourceVersion": "9",
        "annotations": {"a": "1", "b": "3", "c": "4"},
    }
    http, dns = SERVICE["spec"]["ports"]
    assert changed["spec"] == {
        **SERVICE["spec"],
        "externalIPs": ["10.1.1.1"],
        "ports": [http, {**dns, "nodePort": 31053}],
    }


def test_an_empty_list_of_addresses_takes_them_away() -> None:
    """As the API server says it: the field is not there."""
    changed = patch_json(SERVICE, ServicePatch(()), 9)
    assert "externalIPs" not in changed["spec"]


def test_a_service_that_cannot_be_read_is_an_error(encode: Any) -> None:
    """In both representations, so that the caller shows it as it is."""
    patch = ServicePatch(("10.1.1.1",))
    for raw in (b"{}", b'{"metadata":{},"spec":1}', b'{"metadata":{},"spec":{"ports":[1]}}'):
        changed = ServicePatch((), {}, {(80, "TCP"): 30000})
        with pytest.raises(CodecError):
            JSON.with_patch(Item("ns/web", 1, raw), changed, 2)
    meta = encode.blob(1, encode.meta("web", "ns"))
    for message in (meta, meta + encode.blob(2, "") + encode.blob(2, ""), meta + encode.blob(2, encode.number(1, 5))):
        with pytest.raises(CodecError):
            PROTOBUF.with_patch(Item("ns/web", 1, message), patch, 2)


@given(st.binary(max_size=100), PATCHES)
def test_hostile_bytes_end_in_an_error_or_an_object(data: bytes, patch: ServicePatch) -> None:
    """Nothing but `ProtobufError` comes out of them."""
    with contextlib.suppress(ProtobufError):
        patch_protobuf(data, patch, 1)


@given(PATCHES)
def test_merging_twice_is_merging_once(patch: ServicePatch) -> None:
    """The patch says how it is to be, not what to do."""
    once = patch_json(json.loads(json.dumps(SERVICE)), patch, 9)
    assert patch_json(once, patch, 9) == once
