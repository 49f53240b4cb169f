"""Looks around inside a node: run as a script in the node's network namespace, asked by JSON lines on standard input.

Standard library only, since it is run by path. It answers what crossed the WAN, what a local page says, and when
each endpoint first had a rule. The last is read from the kernel's own announcements (netlink group NFNLGRP_NFTABLES),
which costs kube-proxy nothing, where polling `nft list` would keep it from the tables that it is to change. It ends
with its standard input.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_NETLINK_NETFILTER: Final = 12  # linux/netlink.h
_NFNLGRP_NFTABLES: Final = 7  # linux/netfilter/nfnetlink.h
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NETLINK_NO_ENOBUFS = 270, 1, 5
_SO_RCVBUFFORCE: Final = 33
_NFT_MSG_NEWSETELEM: Final = 10 << 8 | 12  # linux/netfilter/nf_tables.h, in the subsystem NFNL_SUBSYS_NFTABLES
_BUFFER: Final = 1 << 20
_QUEUE: Final = 64 << 20
"""Bytes of announcements that may wait; a start announces 40,000 endpoints at once."""
_HTTP_SECONDS: Final = 5.0

_ENDPOINT: Final = re.compile(rb"\x0a[\x80-\xff].{2}\x1f\x90", re.DOTALL)
"""10.128.0.0/9, port 8080 (`world.py`): an element of the map from which a Service's rule picks an endpoint."""


class Rules:
    """Every endpoint that kube-proxy has ever had a rule for here, and when it was first announced."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._news = threading.Condition()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        # What is too much for the queue is dropped in silence, and then missing in the answers.
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            data = self._socket.recv(_BUFFER)
            at = time.monotonic()
            found = [address for body in _new_elements(data) for address in _ENDPOINT.findall(body)]
            if found:
                with self._news:
                    for address in found:
                        self._seen.setdefault(socket.inet_ntoa(address[:4]), at)
                    self._news.notify_all()

    def when(self, address: str, timeout: float) -> float | None:
        """Return the monotonic time of the first rule for `address`, waiting at most `timeout` seconds for it."""
        with self._news:
            self._news.wait_for(lambda: address in self._seen, timeout)
            return self._seen.get(address)

    def progress(self) -> tuple[int, float]:
        """Return how many endpoints there were rules for so far, and when the last of them came."""
        with self._news:
            return len(self._seen), max(self._seen.values(), default=0.0)

    def all(self) -> list[str]:
        """Return all endpoints' addresses so far."""
        with self._news:
            return list(self._seen)


def _new_elements(data: bytes) -> Iterator[bytes]:
    """Yield the bodies of the messages in one datagram that announce new elements of a set."""
    place = 0
    while place + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, place)
        if length < 16:
            return
        if kind == _NFT_MSG_NEWSETELEM:
            yield data[place + 16 : place + length]
        place += (length + 3) & ~3


def wan_bytes(link: str) -> int:
    """Return the bytes received and sent on `link` so far, headers of packets included."""
    for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == link:
            fields = numbers.split()
            return int(fields[0]) + int(fields[8])
    raise OSError(f"no link {link}")


def get(port: int, path: str) -> tuple[int, str]:
    """Return status and body of a page at the node's loopback; status 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_HTTP_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def answer(rules: Rules, request: dict[str, Any]) -> Any:
    """Answer one request."""
    match request:
        case {"wan": str(link)}:
            return wan_bytes(link)
        case {"get": str(path), "port": int(port)}:
            return get(port, path)
        case {"when": str(address), "timeout": float(timeout)}:
            return rules.when(address, timeout)
        case {"progress": _}:
            return rules.progress()
        case {"all": _}:
            return rules.all()
    raise ValueError(f"unknown request {request}")


def main() -> None:
    """Answer each line of standard input with a line."""
    rules = Rules()
    for line in sys.stdin:
        print(json.dumps(answer(rules, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
