"""The kernel's table of tracked connections, read and cut over netlink.

Numbers and layouts are those of linux/netlink.h, linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h: headers in
the machine's byte order, addresses and ports in the network's. `run.py` asks for all flows and has single ones
deleted, each by its tuple and its id, so that no other entry is ever meant; nothing is deleted by a filter, which an
older kernel would take for "all". Needs CAP_NET_ADMIN in the user namespace of the network namespace.

What a deletion does: a packet of a flow without an entry is as a new flow's first one. It gets the address
translation of now, so it reaches another endpoint, which answers a TCP segment that it does not know with a reset, or
it reaches nobody.
Held by ``tests/connections/test_conntrack.py``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_NETLINK_NETFILTER: Final = 12
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_GET, _DELETE = 0x101, 0x102
"""Subsystem 1 (ctnetlink), IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_DELETE."""
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SOURCE, _IP_DESTINATION = (1, 3), (2, 4)
"""For IPv4 and IPv6."""
_PROTO_NUM, _PROTO_SOURCE_PORT, _PROTO_DESTINATION_PORT = 1, 2, 3
_TYPE_MASK: Final = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct("=BBH")
_NUMBER: Final = struct.Struct("=i")
_BUFFER: Final = 1 << 17
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class Address(NamedTuple):
    """One end of a flow: IP protocol number, address in network byte order, port."""

    protocol: int
    ip: bytes
    port: int


class Flow(NamedTuple):
    """A tracked connection: what its client connected to, and who answers it.

    `entry` is what names it to the kernel: its address family, tuple and id.
    """

    asked: Address
    answering: Address
    entry: tuple[int, bytes]


class ConntrackError(OSError):
    """The kernel refuses, or cannot."""


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    """Return the payloads of netlink attributes by their type. Raises `struct.error`, ValueError."""
    found = {}
    position = 0
    while position < len(data):
        length, kind = struct.unpack_from("=HH", data, position)
        if length < 4 or position + length > len(data):
            raise ValueError("an attribute ends outside its message")
        found[kind & _TYPE_MASK] = data[position + 4 : position + length]
        position += length + (-length % 4)
    return found


def _attribute(kind: int, payload: bytes) -> bytes:
    return _pad(struct.pack("=HH", 4 + len(payload), kind) + payload)


def _message(kind: int, flags: int, family: int, body: bytes = b"") -> bytes:
    payload = _FAMILY.pack(family, 0, 0) + body
    return _HEADER.pack(_HEADER.size + len(payload), kind, _REQUEST | flags, 1, 0) + payload


def dump_request(family: int) -> bytes:
    """Return the question for all flows of an address family."""
    return _message(_GET, _DUMP, family)


def delete_request(flow: Flow) -> bytes:
    """Return the order to forget one flow."""
    family, body = flow.entry
    return _message(_DELETE, _ACK, family, body)


def _end(data: bytes, ip: tuple[int, int], port: int) -> Address:
    parts = _attributes(data)
    addresses, protocol = _attributes(parts[_TUPLE_IP]), _attributes(parts[_TUPLE_PROTO])
    found = next(addresses[kind] for kind in ip if kind in addresses)
    return Address(protocol[_PROTO_NUM][0], found, int.from_bytes(protocol.get(port, b""), "big"))


def read_flow(payload: bytes) -> Flow | None:
    """Return the flow in the payload of a message; None where it is in a zone of others, or cannot be understood.

    The answering end is the source of the packets of the reply direction: behind the address translation.
    """
    try:
        family, _, _ = _FAMILY.unpack_from(payload)
        found = _attributes(payload[_FAMILY.size :])
        if any(found.get(_ZONE, b"")):
            return None
        original = found[_TUPLE_ORIG]
        entry = _attribute(0x8000 | _TUPLE_ORIG, original) + _attribute(_ID, found[_ID])
        return Flow(
            _end(original, _IP_DESTINATION, _PROTO_DESTINATION_PORT),
            _end(found[_TUPLE_REPLY], _IP_SOURCE, _PROTO_SOURCE_PORT),
            (family, entry),
        )
    except (KeyError, IndexError, StopIteration, ValueError, struct.error):
        return None


def read_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of each message of a datagram."""
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size:
            return
        yield kind, data[position + _HEADER.size : position + length]
        position += length + (-length % 4)


class Conntrack:
    """The table of the network namespace that this process is in. Methods raise `ConntrackError`."""

    def flows(self) -> Iterator[Flow]:
        """Yield every flow. One that begins or ends meanwhile may be missed."""
        for family in _FAMILIES:
            for payload in self._ask(dump_request(family)):
                flow = read_flow(payload)
                if flow is not None:
                    yield flow

    def delete(self, flow: Flow) -> bool:
        """Forget a flow; return whether it was still there."""
        try:
            list(self._ask(delete_request(flow)))
        except ConntrackError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def _ask(self, request: bytes) -> Iterator[bytes]:
        """Yield the payloads of the answers until the kernel says that it is done."""
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
                netlink.send(request)
                while True:
                    for kind, payload in read_messages(netlink.recv(_BUFFER)):
                        if kind == _DONE:
                            return
                        if kind == _ERROR:
                            number = -_NUMBER.unpack_from(payload)[0]
                            if number:
                                raise ConntrackError(number, os.strerror(number))
                            return
                        yield payload
        except ConntrackError:
            raise
        except OSError as error:
            raise ConntrackError(error.errno, error.strerror) from error
