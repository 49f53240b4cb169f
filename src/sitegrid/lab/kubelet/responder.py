"""What runs in place of a container: answers HTTP on the container's ports and says who answered.

The lab kubelet starts one per container, in the pod's network namespace, as ``python -I -S responder.py CONFIG``: the
standard library only and no threads, because a lab runs dozens of them on a small machine. CONFIG is JSON
(`Identity`). The container's image, command and arguments are not run. Every path answers 200 with a JSON object of
exactly the keys ``namespace pod node nodeLabels image port``, except paths that begin with ``/fail``: these answer
503, so that a probe can be made to fail. On UDP ports every datagram is answered with the same object. A container
without ports just waits. Each request is a line on stderr, which is the container's log (`Log`).

Start: stdin and stdout are one socket to the kubelet. The kubelet records the process and sends ``g``; the responder
binds, sends ``r`` and lets go of the socket. When the kubelet dies before it has recorded the process, the read ends
and the responder exits, so there is never a responder that nobody knows.

End: after SIGTERM it goes on to accept, because kube-proxies need a moment to stop sending, and exits after
`QUIET` seconds without a new connection, at most `LONGEST_DRAIN`.

Invariant: a keep-alive connection stays in step whatever a request's body or the split of its bytes.
Held by ``tests/lab/test_kubelet_responder.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time

TYPE_CHECKING = False  # `typing` would double the start time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

QUIET = 2.0
"""Seconds without a new connection after which a terminating responder ends. A kube-proxy writes rules at most once a
second (its minSyncPeriod): connections were seen until 1.02 s after the deletion."""
LONGEST_DRAIN = 10.0
"""Seconds after SIGTERM at which it ends anyway."""
MAX_HEAD = 64 * 1024
"""Bytes of request line and headers; more is answered with 431."""
FAIL_PREFIX = b"/fail"
"""Paths that begin so are answered with 503."""
LOG_LIMIT = 512 * 1024
"""Bytes of a log; what is older is kept once, in the file beside it (`OLDER`)."""
OLDER = ".1"
"""What the name of the older file ends with."""
_SHOWN = 256
"""Bytes of a path or a user agent that a log line shows."""

_REASONS = {200: b"OK", 400: b"Bad Request", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}


class Identity:
    """Who answers: the fixed part from the kubelet, the node's labels from a file that the kubelet keeps fresh."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.ports: list[tuple[int, str]] = [(port, protocol) for port, protocol in config["ports"]]
        self._fixed = {key: config[key] for key in ("namespace", "pod", "node", "image")}
        self.image = self._fixed["image"]
        self._labels_file: str = config["labelsFile"]
        self._labels: dict[str, str] = {}
        self._labels_stamp: object = None

    def answer(self, port: int) -> bytes:
        """Return the JSON object (UTF-8, with a line end) that says who answers on `port`, with the labels of now."""
        return json.dumps(self._fixed | {"nodeLabels": self._node_labels(), "port": port}).encode() + b"\n"

    def _node_labels(self) -> dict[str, str]:
        with contextlib.suppress(OSError, ValueError):  # the labels last read are better than no answer
            stat = os.stat(self._labels_file)  # noqa: PTH116 - pathlib would double the start time
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._labels_stamp:
                with open(self._labels_file, encoding="utf-8") as file:  # noqa: PTH123
                    self._labels = json.load(file)
                self._labels_stamp = stamp
        return self._labels


class Log:
    """The container's log: the file that is stderr, a line per event after the time, as container runtimes write it.

    Invariant: a reader finds every line in the file or in the older one, until that is replaced.
    """

    def __init__(self) -> None:
        self._size = os.fstat(2).st_size

    def write(self, text: str) -> None:
        """Write one line. A full disk or a pod's directory that is gone is no reason to end."""
        now = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
        line = f"{stamp}.{now % 10**9:09}Z {text}\n".encode()
        if self._size + len(line) > LOG_LIMIT:
            self._size = 0
            with contextlib.suppress(OSError):
                self._rotate()
        with contextlib.suppress(OSError):
            os.write(2, line)
            self._size += len(line)

    def _rotate(self) -> None:
        path = os.readlink("/proc/self/fd/2")  # noqa: PTH115 - pathlib would double the start time
        os.rename(path, path + OLDER)  # noqa: PTH104
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 2)
        os.close(file)


def _shown(data: bytes) -> str:
    """Return bytes of a client for a log: short, and without what would move a terminal's cursor."""
    return repr(data[:_SHOWN])[2:-1]


class HttpConnection:
    """The server's side of one HTTP/1.1 connection, without I/O (RFC 9112).

    A table of states: ``head`` → (``length`` | ``size`` → ``chunk`` → … → ``trailer``) → answer → ``head``.
    `log` is told of each answer: method, path, status and user agent in one text.
    """

    def __init__(self, answer: Callable[[], bytes], log: Callable[[str], None]) -> None:
        self._answer = answer
        self._log = log
        self._buffer = b""
        self._state = "head"
        self._left = 0
        self._method, self._path, self._agent = b"-", b"-", b""
        self.draining = False
        """Set when the process ends: the next answer asks the client to close."""
        self.closed = False
        """Set when nothing more may be read; close once the bytes returned so far are sent."""

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the client and return bytes to send (possibly none)."""
        self._buffer += data
        out = b""
        while not self.closed:
            step = getattr(self, "_in_" + self._state)()
            if step is None:
                break
            out += step
        return out

    def _line(self) -> bytes | None:
        line, end, rest = self._buffer.partition(b"\n")
        if not end:
            if len(self._buffer) > MAX_HEAD:
                self._fail(431)
            return None
        self._buffer = rest
        return line.rstrip(b"\r")

    def _in_head(self) -> bytes | None:
        self._method, self._path, self._agent = b"-", b"-", b""
        self._buffer = self._buffer.lstrip(b"\r\n")  # RFC 9112, 2.2: empty lines before a request are ignored
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD:
            return self._fail(431)
        if not end:
            return None
        self._buffer = rest
        first, *lines = head.split(b"\r\n")
        parts = first.split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            return self._fail(400)
        self._method, self._path = parts[:2]
        headers = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon:
                return self._fail(400)
            headers[name.strip().lower()] = value.strip()
        self._agent = headers.get(b"user-agent", b"")
        connection = headers.get(b"connection", b"").lower()
        if b"close" in connection or (parts[2] == b"HTTP/1.0" and b"keep-alive" not in connection):
            self.draining = True
        return self._begin_body(headers)

    def _begin_body(self, headers: dict[bytes, bytes]) -> bytes:
        if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
            self._state = "size"
        else:
            length = headers.get(b"content-length", b"0")
            if not length.isdigit():
                return self._fail(400)
            self._state, self._left = "length", int(length)
        return b"HTTP/1.1 100 Continue\r\n\r\n" if headers.get(b"expect", b"").lower() == b"100-continue" else b""

    def _in_length(self) -> bytes | None:
        return self._respond() if self._skip() else None

    def _in_size(self) -> bytes | None:
        line = self._line()
        if line is None:
            return None
        try:
            size = int(line.partition(b";")[0].strip(), 16)
        except ValueError:
            return self._fail(400)
        self._state, self._left = ("chunk", size + 2) if size else ("trailer", 0)  # 2: the chunk's own line end
        return b""

    def _in_chunk(self) -> bytes | None:
        if not self._skip():
            return None
        self._state = "size"
        return b""

    def _in_trailer(self) -> bytes | None:
        line = self._line()
        if line is None:
            return None
        return b"" if line else self._respond()

    def _skip(self) -> bool:
        taken = min(self._left, len(self._buffer))
        self._buffer = self._buffer[taken:]
        self._left -= taken
        return self._left == 0

    def _respond(self) -> bytes:
        self._state = "head"
        if self.draining:
            self.closed = True
        if self._path.startswith(FAIL_PREFIX):
            return self._message(503, b'{"error": "paths that begin with /fail fail"}\n')
        return self._message(200, self._answer())

    def _fail(self, status: int) -> bytes:
        self.draining = self.closed = True
        return self._message(status, b"")

    def _message(self, status: int, body: bytes) -> bytes:
        self._log(f"{_shown(self._method)} {_shown(self._path)} {status} {_shown(self._agent) or '-'}")
        head = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n" % (
            status,
            _REASONS[status],
            len(body),
            b"Connection: close\r\n" if self.draining else b"",
        )
        return head if self._method == b"HEAD" else head + body


class Responder:
    """All sockets of one container on one selector."""

    def __init__(self, identity: Identity, log: Log) -> None:
        self._identity = identity
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._pending: dict[socket.socket, bytes] = {}
        self._connections: dict[socket.socket, HttpConnection] = {}
        self._deadline: float | None = None
        self._quiet_until = 0.0

    def listen(self) -> None:
        """Bind every port on all IPv4 addresses of the namespace.

        Raises OSError where a port is taken, as a real server's start would fail; the log says which one.
        """
        ports = [f"{port}/{protocol}" for port, protocol in self._identity.ports]
        self._log.write(f"stand-in for {self._identity.image}, ports: {', '.join(ports) or 'none'}")
        for port, protocol in self._identity.ports:
            kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
            listener = socket.socket(socket.AF_INET, kind)
            if kind == socket.SOCK_STREAM:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            try:
                listener.bind(("", port))
            except OSError as error:
                self._log.write(f"cannot listen on {port}/{protocol}: {error.strerror}")
                raise
            if kind == socket.SOCK_STREAM:
                listener.listen(256)
            handler = self._accept if kind == socket.SOCK_STREAM else self._datagram
            self._selector.register(listener, selectors.EVENT_READ, (handler, port))

    def catch_signals(self) -> None:
        """From now on SIGTERM begins the drain."""
        wake, self._signalled = socket.socketpair()
        wake.setblocking(False)
        self._signalled.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self._selector.register(wake, selectors.EVENT_READ, (self._drain, 0))

    def run(self) -> None:
        """Serve until SIGTERM and the drain after it."""
        while True:
            timeout = self._until_end()
            if timeout is not None and timeout <= 0:
                return
            for key, events in self._selector.select(timeout):
                handler, port = key.data
                handler(key.fileobj, port, events)

    def _until_end(self) -> float | None:
        if self._deadline is None:
            return None
        if not self._identity.ports:
            return 0.0
        return min(self._deadline, self._quiet_until) - time.monotonic()

    def _drain(self, wake: socket.socket, _port: int, _events: int) -> None:
        wake.recv(64)
        now = time.monotonic()
        if self._deadline is None:
            self._log.write("SIGTERM: ends when no connection comes any more")
            self._deadline, self._quiet_until = now + LONGEST_DRAIN, now + QUIET
        for connection in self._connections.values():
            connection.draining = True

    def _accept(self, listener: socket.socket, port: int, _events: int) -> None:
        try:
            client, (host, _) = listener.accept()
        except OSError:
            return  # the client is gone already
        client.setblocking(False)
        connection = HttpConnection(
            lambda: self._identity.answer(port), lambda text: self._log.write(f"{host} {text}")
        )
        if self._deadline is not None:
            connection.draining = True
            self._quiet_until = time.monotonic() + QUIET
        self._connections[client] = connection
        self._pending[client] = b""
        self._selector.register(client, selectors.EVENT_READ, (self._serve, port))

    def _serve(self, client: socket.socket, port: int, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = client.recv(65536)
                if not data:
                    return self._close(client)
                self._pending[client] += self._connections[client].receive(data)
            if self._pending[client]:
                sent = client.send(self._pending[client])
                self._pending[client] = self._pending[client][sent:]
        except BlockingIOError:
            pass
        except OSError:
            return self._close(client)
        if not self._pending[client] and self._connections[client].closed:
            return self._close(client)
        # While an answer waits to be sent nothing more is read, so a client that never reads cannot fill the memory.
        wanted = selectors.EVENT_WRITE if self._pending[client] else selectors.EVENT_READ
        self._selector.modify(client, wanted, (self._serve, port))
        return None

    def _close(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        del self._connections[client], self._pending[client]
        client.close()

    def _datagram(self, listener: socket.socket, port: int, _events: int) -> None:
        with contextlib.suppress(OSError):
            data, address = listener.recvfrom(65536)
            self._log.write(f"{address[0]} UDP {port} {len(data)} bytes")
            listener.sendto(self._identity.answer(port), address)


def main(config: str) -> int:
    """Shake hands with the kubelet on stdin/stdout, serve, and return the exit code (0 after SIGTERM)."""
    responder = Responder(Identity(json.loads(config)), Log())
    if os.read(0, 1) != b"g":
        return 1
    try:
        responder.listen()
    except OSError:  # the log says which port it was
        return 1
    responder.catch_signals()  # before the kubelet hears that we run, and may end us
    with contextlib.suppress(OSError):  # the kubelet ended after it recorded us; the next one takes us over
        os.write(1, b"r")
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 0)
    os.dup2(devnull, 1)
    os.close(devnull)
    responder.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
