"""Which Host headers are answered: names that only this agent has.

A browser on the node may be led to the listener by a page from anywhere, whose name is made to resolve to 127.0.0.1
once it is loaded (DNS rebinding): to the browser it is still that page's own server, and what it answers is the
page's to read. Such a request tells its name in Host. Answered are loopback, the address that the connection came to,
and the names and addresses in the certificate that the listener shows. Asked by the server for each request. Held by
``tests/agent/test_hosts.py``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final

from sitegrid.agent.credentials import is_loopback

_ALTERNATIVE_NAMES: Final = bytes.fromhex("0603551d11")
"""The object identifier of a certificate's subjectAltName (RFC 5280, section 4.2.1.6), as DER."""
_OCTETS: Final = 0x04
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_MAPPED: Final = bytes(10) + b"\xff\xff"
"""What an IPv4 address begins with that is written as an IPv6 address."""


def address(text: str) -> bytes | None:
    """Return an IP address, in one form for all spellings; None where `text` is none."""
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return None
    return packed.removeprefix(_MAPPED)


def host_name(header: str) -> str:
    """Return the name or address in a Host header, without its port; empty where there is none that is legal."""
    host, colon, port = header.rpartition(":")
    if not colon or header.endswith("]"):
        host, port = header, ""
    if port and not (port.isascii() and port.isdigit()):
        return ""
    if host.startswith("["):
        return host[1:-1] if host.endswith("]") and ":" in host else ""
    return "" if ":" in host else host.lower().removesuffix(".")


def certificate_names(certificate: str) -> frozenset[str | bytes]:
    """Return the names (in lower case) and addresses in the first certificate of a PEM file's text."""
    _, begun, text = certificate.partition(ssl.PEM_HEADER)
    text, ended, _ = text.partition(ssl.PEM_FOOTER)
    der = ssl.PEM_cert_to_DER_cert(begun + text + ended) if ended else b""
    _, found, rest = der.partition(_ALTERNATIVE_NAMES)
    # Behind the identifier there may be a boolean (critical); then an octet string that holds the sequence of names.
    for tag, extension in _values(rest if found else b""):
        if tag == _OCTETS:
            names = next(_values(extension), (0, b""))[1]
            return frozenset(
                value.decode("latin-1").lower() if tag == _DNS_NAME else value
                for tag, value in _values(names)
                if tag in (_DNS_NAME, _IP_ADDRESS)
            )
    return frozenset()


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each value in DER."""
    position = 0
    while position + 1 < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        yield tag, data[position : position + length]
        position += length


def is_own(header: str, listening: str, certified: frozenset[str | bytes]) -> bool:
    """Tell whether a Host header names this agent.

    `listening` is the address that the connection came to, `certified` what `certificate_names` tells.
    """
    host = host_name(header)
    packed = address(host)
    if packed is not None:
        zoneless = listening.partition("%")[0]
        return is_loopback(host) or packed == address(zoneless) or packed in certified
    wildcard = f"*.{host.partition('.')[2]}"
    return is_loopback(host) or (bool(host) and not certified.isdisjoint({host, wildcard}))
