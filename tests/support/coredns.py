"""A real CoreDNS behind an agent, and questions to it, for the agent's tests."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.controlplane import free_port, wait_for
from tests.support.processes import running

_TYPES = {"A": 1, "PTR": 12, "AAAA": 28, "SRV": 33}
_START_TIMEOUT = 60.0
"""Seconds that CoreDNS may take until it gives its first answer."""
_ANSWER_TIMEOUT = 10.0


class Dns:
    """Asks one server; `answers` keeps every packet that it sent."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: list[bytes] = []

    def ask(self, kind: str, name: str) -> list[str] | None:
        """Return the sorted records of the answer section, None while nobody answers."""
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", _TYPES[kind], 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(_ANSWER_TIMEOUT)
            try:
                # Connected, it hears at once that nobody listens.
                client.connect(("127.0.0.1", self.port))
                client.send(query)
                answer = client.recv(4096)
            except OSError:
                return None
        self.answers.append(answer)
        found, position = [], len(query)
        for _ in range(struct.unpack(">H", answer[6:8])[0]):
            _, position = _name(answer, position)
            number, _, _, length = struct.unpack(">HHIH", answer[position : position + 10])
            position += 10
            if number == _TYPES[kind]:
                found.append(_record(answer, position, length, kind))
            position += length
        return sorted(found)


def _name(packet: bytes, position: int) -> tuple[str, int]:
    """Return the name at `position`, and the position behind it."""
    labels: list[str] = []
    while length := packet[position]:
        if length >= 0xC0:
            rest, _ = _name(packet, struct.unpack(">H", packet[position : position + 2])[0] & 0x3FFF)
            return ".".join([*labels, rest]), position + 2
        labels.append(packet[position + 1 : position + 1 + length].decode())
        position += 1 + length
    return ".".join(labels), position + 1


def _record(packet: bytes, position: int, length: int, kind: str) -> str:
    if kind == "SRV":
        (port,) = struct.unpack(">H", packet[position + 4 : position + 6])
        return f"{_name(packet, position + 6)[0]}:{port}"
    if kind == "PTR":
        return _name(packet, position)[0]
    return str(ipaddress.ip_address(packet[position : position + length]))


@contextmanager
def coredns(program: Path, kubeconfig: Path, directory: Path, name: str, *zones: str) -> Iterator[Dns]:
    """Run CoreDNS in `directory` for cluster.local and `zones`; yield once it has an answer for `name`."""
    # CoreDNS listens on TCP and UDP: the port has to be free for both.
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", port))
    (directory / "Corefile").write_text(
        f".:{port} {{\n bind 127.0.0.1\n errors\n"
        f" kubernetes {' '.join(('cluster.local', *zones))} {{\n  kubeconfig {kubeconfig}\n  ttl 0\n }}\n}}\n"
    )
    dns, log = Dns(port), directory / "coredns.log"
    with running([program, "-conf", directory / "Corefile"], log, cwd=directory):
        wait_for(lambda: dns.ask("A", name), "CoreDNS's first answer", _START_TIMEOUT, log.read_text)
        yield dns
