"""The kernel's table: read and cut for real, and messages that are not what they should be."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.connections.conntrack import (
    Address,
    Flow,
    delete_request,
    dump_request,
    read_flow,
    read_messages,
)
from sitegrid.lab.requirements import check_requirements
from tests.support import nattedflows


def attribute(kind: int, payload: bytes) -> bytes:
    """Return a netlink attribute."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def end(source: bytes, destination: bytes, source_port: int, destination_port: int) -> bytes:
    """Return the payload of a tuple of TCP over IPv4, nested as the kernel nests it."""
    ip = attribute(1, source) + attribute(2, destination)
    proto = attribute(1, b"\x06") + attribute(2, struct.pack("!H", source_port))
    proto += attribute(3, struct.pack("!H", destination_port))
    return attribute(0x8001, ip) + attribute(0x8002, proto)


CLIENT, VIP, POD = b"\x0a\xf4\x01\x02", b"\x0a\x60\x00\x01", b"\x0a\xf4\x02\x07"
ORIGINAL = attribute(0x8001, end(CLIENT, VIP, 40000, 80))
REPLY = attribute(0x8002, end(POD, CLIENT, 8080, 40000))
ID = attribute(12, b"\x01\x02\x03\x04")
ENTRY = b"\x02\x00\x00\x00" + ORIGINAL + REPLY + attribute(3, b"\x00\x00\x01\x8e") + ID


def test_a_flow_is_who_was_asked_and_who_answers() -> None:
    """The latter is behind the address translation; the former names it to the kernel, with its id."""
    flow = read_flow(ENTRY)
    assert flow == Flow(Address(6, VIP, 80), Address(6, POD, 8080), (2, ORIGINAL + ID))
    head = struct.pack("=IHHII", 20 + len(ORIGINAL + ID), 0x102, 0x5, 1, 0) + b"\x02\x00\x00\x00"
    assert delete_request(flow) == head + ORIGINAL + ID
    assert dump_request(10) == struct.pack("=IHHII", 20, 0x101, 0x301, 1, 0) + b"\x0a\x00\x00\x00"


@pytest.mark.parametrize(("zone", "read"), [(b"\0\0", True), (b"\0\x07", False)])
def test_a_zone_of_others_is_not_looked_at(zone: bytes, read: bool) -> None:
    """kube-proxy's connections are in none; a network plug-in's may have the same addresses."""
    assert (read_flow(ENTRY + attribute(18, zone)) is not None) is read


@pytest.mark.parametrize("left", [ORIGINAL, REPLY, ID])
def test_what_cannot_be_named_is_left_alone(left: bytes) -> None:
    """An entry without tuple or id cannot be meant alone."""
    assert read_flow(ENTRY.replace(left, b"")) is None


@given(st.integers(0, len(ENTRY) - 1), st.binary(max_size=8))
def test_damaged_entries_raise_nothing(place: int, data: bytes) -> None:
    """They are no flows, or others."""
    read_flow(ENTRY[:place])
    read_flow(ENTRY[:place] + data + ENTRY[place + len(data) :])


@given(st.binary(max_size=64))
def test_damaged_datagrams_end(data: bytes) -> None:
    """Each message moves on."""
    assert len(list(read_messages(data))) <= len(data) // 16 + 1


@pytest.mark.parametrize("version", nattedflows.LOOPBACK)
def test_the_kernel_forgets_the_one_that_is_meant(version: str) -> None:
    """Of three connections to the same address; the second time it is gone already."""
    user = ["--user", "--map-root-user"] if check_requirements() else []
    argv = ["unshare", *user, "--net", "--", sys.executable, nattedflows.__file__, version]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "asked": [[6, 80], [6, 80], [17, 80]],
        "answering": [[nattedflows.LOOPBACK[version], 8080]],
        "deleted": [True, False],
        "left": [True, True],
        "gone": True,
    }
