"""The process ``wan@NODE`` of a lab: carries the packets of a slow WAN from one port to another, and takes its time.

``python -m sitegrid.lab.slowlink``, run by the supervisor in the cloud's network namespace while a node's WAN is
slow; `network.slow_wan` makes the ports. It reads and writes whole Ethernet frames by packet sockets, which need no
more of the kernel than the lab's other links do. (The kernel's own way, netem, is missing from many.)

Invariant: nothing passes sooner than it may, and nothing overtakes. At rest it waits for packets and costs nothing.
Held by ``tests/lab/test_slowlink.py`` and ``tests/lab/test_wan.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import select
import socket
import sys
import time
from collections import deque
from typing import Final, NoReturn

from sitegrid.lab.slowness import Slowness

QUEUE_SECONDS: Final = 4.0
"""How long a packet may wait for the link to be free; with more in front of it, it is lost."""

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_VNET_HDR: Final = 15
_PACKET_IGNORE_OUTGOING: Final = 23
"""Options of packet sockets (linux/if_packet.h) that the `socket` module does not know."""
_HEADER: Final = 10
"""Bytes before each frame that say which checksums the receiver need not look at (linux/virtio_net.h)."""
_LARGEST: Final = _HEADER + (1 << 16)
_BUFFER: Final = 4 << 20


class Way:
    """One direction: frames `enter`, and are there to be taken once they have `arrived`. Times are in seconds."""

    def __init__(self, slow: Slowness, chance: random.Random) -> None:
        self._slow = slow
        self._chance = chance
        self._free = 0.0
        """When the last frame has been sent."""
        self._arrivals: deque[tuple[float, bytes]] = deque()

    def enter(self, frame: bytes, now: float) -> None:
        """Take a frame to be sent."""
        slow = self._slow
        sent = now
        if slow.rate:
            begin = max(now, self._free)
            if begin - now > QUEUE_SECONDS:
                return
            self._free = sent = begin + 8 * (len(frame) - _HEADER) / slow.rate
        if slow.loss and self._chance.random() < slow.loss:
            return
        arrival = sent + slow.delay + self._chance.uniform(-slow.jitter, slow.jitter)
        if self._arrivals:
            arrival = max(arrival, self._arrivals[-1][0])
        self._arrivals.append((arrival, frame))

    @property
    def next_arrival(self) -> float | None:
        """Return when the next frame arrives, None where none is under way."""
        return self._arrivals[0][0] if self._arrivals else None

    def arrived(self, now: float) -> list[bytes]:
        """Return the frames that have arrived since the last call."""
        found = []
        while self._arrivals and self._arrivals[0][0] <= now:
            found.append(self._arrivals.popleft()[1])
        return found


def main() -> int:
    """Relay until the ports are gone."""
    parser = argparse.ArgumentParser(prog="sitegrid.lab.slowlink")
    parser.add_argument("ports", nargs=2, metavar="PORT", help="the two links whose frames are exchanged")
    for name in ("delay", "jitter", "loss", "rate"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    args = parser.parse_args()
    slow = Slowness(args.delay, args.jitter, args.loss, args.rate)
    try:
        _relay([_open(port) for port in args.ports], slow)
    except OSError as error:
        print(f"the link {' - '.join(args.ports)} is gone: {error.strerror}", file=sys.stderr)
        return 1


def _open(port: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    end.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    end.setblocking(False)
    end.bind((port, _ETH_P_ALL))
    return end


def _relay(ends: list[socket.socket], slow: Slowness) -> NoReturn:
    """Exchange the frames of both `ends` for ever. Raises OSError when one is gone."""
    ways = {end.fileno(): Way(slow, random.Random()) for end in ends}
    sources = {end.fileno(): end for end in ends}
    sinks = {ends[0].fileno(): ends[1], ends[1].fileno(): ends[0]}
    poll = select.poll()
    for number in sources:
        poll.register(number, select.POLLIN)
    while True:
        arrivals = [way.next_arrival for way in ways.values() if way.next_arrival is not None]
        pause = max(0.0, min(arrivals) - time.monotonic()) * 1000 if arrivals else None
        for number, _ in poll.poll(pause):
            with contextlib.suppress(BlockingIOError):
                while frame := sources[number].recv(_LARGEST):
                    ways[number].enter(frame, time.monotonic())
        for number, way in ways.items():
            for frame in way.arrived(time.monotonic()):
                # A receiver that is not ready is a frame lost, as on any link.
                with contextlib.suppress(BlockingIOError):
                    sinks[number].send(frame)


if __name__ == "__main__":
    sys.exit(main())
