"""Makes connections through address translation, in a network namespace of its own, and cuts one of them.

Run as ``python <this file> 4|6`` by ``tests/connections/test_conntrack.py``; prints one JSON object.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys

from sitegrid.connections.conntrack import Address, Conntrack, Flow

LOOPBACK = {"4": "127.0.0.1", "6": "::1"}
FAMILY = {"4": (socket.AF_INET, "ip", "10.96.0.1/32"), "6": (socket.AF_INET6, "ip6", "fd00::1/128")}


def main(version: str) -> None:
    """Connect to a Service's address by TCP and UDP, twice; have the kernel forget the first TCP connection."""
    family, table, service = FAMILY[version]
    host, address = LOOPBACK[version], service.partition("/")[0]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", service, "dev", "lo"], check=True)
    kinds = [socket.SOCK_STREAM, socket.SOCK_DGRAM]
    servers = [socket.socket(family, kind) for kind in kinds]
    for server in servers:
        server.bind((host, 8080))
    servers[0].listen()
    to = f"[{host}]:8080" if version == "6" else f"{host}:8080"
    rules = f"""
table {table} nat {{
  chain output {{
    type nat hook output priority -100
    {table} daddr {address} tcp dport 80 dnat to {to}
    {table} daddr {address} udp dport 80 dnat to {to}
  }}
}}
"""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    clients = [socket.socket(family, kind) for kind in (*kinds, socket.SOCK_STREAM)]
    for client in clients:
        client.connect((address, 80))
        client.send(b"x")
    table_of = Conntrack()
    wanted = Address(socket.IPPROTO_TCP, socket.inet_pton(family, address), 80)

    def ours() -> list[Flow]:
        return [flow for flow in table_of.flows() if flow.asked.ip == wanted.ip]

    before = ours()
    victim = next(flow for flow in before if flow.asked == wanted)
    deleted = [table_of.delete(victim), table_of.delete(victim)]
    after = ours()
    found = {
        "asked": sorted((flow.asked.protocol, flow.asked.port) for flow in before),
        "answering": sorted({(socket.inet_ntop(family, one.answering.ip), one.answering.port) for one in before}),
        "deleted": deleted,
        "left": [flow.entry in [other.entry for other in after] for flow in before if flow != victim],
        "gone": victim not in after,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
