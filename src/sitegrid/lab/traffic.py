"""Counts who answers: a client that sends HTTP requests to stand-ins and sums up the answers by pod.

The demo and the tests run it inside pods, as ``python -I -S <this file> URL --requests N`` (by path: it needs nothing
but the standard library, and starts in a moment), or as ``python -m sitegrid.lab.traffic``. Each request resolves the
name anew and opens a new connection, so DNS and the choice of an endpoint take part in every single one. The result
is one JSON object on stdout:

``{"requests": N, "answers": {POD: {"node": …, "count": …, "nodeLabels": {…}}}, "errors": {REASON: count}}``

A reason begins with the step that failed, ``dns``, ``connect`` or ``answer``, so that an unknown name, a Service
without endpoints (refused), a pod's address that nobody has and a pod that ended can be told apart.

Invariant: every request that was begun is counted once, as an answer or as an error, also after a signal.
Held by ``tests/lab/test_traffic.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time

TYPE_CHECKING = False  # `typing` would double the start time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_MAX_ANSWER = 1024 * 1024


class Target:
    """A parsed ``http://host[:port][/path]``; raises ValueError for anything else."""

    def __init__(self, url: str) -> None:
        scheme, separator, rest = url.partition("://")
        if scheme != "http" or not separator:
            raise ValueError(f"not an http:// URL: {url}")
        authority, _, path = rest.partition("/")
        host, colon, port = authority.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = authority, "80"
        if not host or not port.isdigit():
            raise ValueError(f"no host and port in {url}")
        self.host, self.port = host.strip("[]"), int(port)
        self.request = (
            f"GET /{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: sitegrid-traffic\r\nConnection: close\r\n\r\n"
        ).encode()


class Tally:
    """The sums, shared by the threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, int] = {}
        self._requests = 0

    def answer(self, body: dict[str, Any]) -> None:
        """Count an answer of a stand-in."""
        with self._lock:
            self._requests += 1
            entry = self._answers.setdefault(body["pod"], {"node": body["node"], "count": 0, "nodeLabels": {}})
            entry["count"] += 1
            entry["nodeLabels"] = body["nodeLabels"]

    def error(self, reason: str) -> None:
        """Count a request without answer."""
        with self._lock:
            self._requests += 1
            self._errors[reason] = self._errors.get(reason, 0) + 1

    def summary(self) -> dict[str, Any]:
        """Return the result object."""
        with self._lock:
            return {"requests": self._requests, "answers": self._answers, "errors": self._errors}


class RequestError(Exception):
    """No answer; the message is the reason it is counted under."""


def send(target: Target, timeout: float) -> dict[str, Any]:
    """Send one request and return the stand-in's answer; raise `RequestError` with a short reason."""
    deadline = time.monotonic() + timeout
    try:
        # As bytes: a str would load Python's IDNA tables, for names that have none of it.
        addresses = socket.getaddrinfo(target.host.encode(), target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RequestError(f"dns: {error.strerror or error}") from None
    family, kind, protocol, _, address = addresses[0]
    step = "connect"
    try:
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.connect(address)
            step = "answer"
            connection.sendall(target.request)
            data = _read_all(connection, deadline)
    except TimeoutError:
        raise RequestError(f"{step}: timeout") from None
    except OSError as error:
        raise RequestError(f"{step}: {(error.strerror or str(error)).lower()}") from None
    return _parse(data)


def _read_all(connection: socket.socket, deadline: float) -> bytes:
    data = b""
    while len(data) < _MAX_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data


def _parse(data: bytes) -> dict[str, Any]:
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2:
        raise RequestError("answer: connection closed without one")
    if words[1] != b"200":
        raise RequestError(f"answer: http {words[1].decode(errors='replace')}")
    try:
        answer = json.loads(body)
        return {key: answer[key] for key in ("pod", "node", "nodeLabels")}
    except (ValueError, KeyError, TypeError):
        raise RequestError("answer: not a stand-in's") from None


class Sender:
    """Sends until the number is reached or `stop` is set."""

    def __init__(
        self, target: Target, tally: Tally, *, requests: int | None, interval: float, timeout: float
    ) -> None:
        self.stop = threading.Event()
        self._target = target
        self._tally = tally
        self._left = requests
        self._interval = interval
        self._timeout = timeout
        self._lock = threading.Lock()

    def run(self) -> None:
        """Send one request after the other (the body of each thread)."""
        while self._take():
            try:
                self._tally.answer(send(self._target, self._timeout))
            except RequestError as error:
                self._tally.error(str(error))
            if self._interval:
                self.stop.wait(self._interval)

    def _take(self) -> bool:
        with self._lock:
            if self.stop.is_set() or self._left == 0:
                return False
            if self._left is not None:
                self._left -= 1
            return True


def main(argv: Sequence[str] | None = None) -> int:
    """Send, print the summary, return 0; errors among the answers are the caller's to judge."""
    parser = argparse.ArgumentParser(description="Send HTTP requests to stand-ins and count who answers.")
    parser.add_argument("url", metavar="URL")
    number = parser.add_mutually_exclusive_group(required=True)
    number.add_argument("--requests", type=int, metavar="N")
    number.add_argument("--until-signal", action="store_true", help="until SIGINT or SIGTERM")
    parser.add_argument("--interval", type=float, default=0.0, metavar="S", help="seconds between requests")
    parser.add_argument("--timeout", type=float, default=2.0, metavar="S", help="seconds for one request")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N")
    args = parser.parse_args(argv)
    try:
        target = Target(args.url)
    except ValueError as error:
        parser.error(str(error))
    # getaddrinfo takes no timeout; glibc reads its own from here (resolv.conf(5)).
    os.environ.setdefault("RES_OPTIONS", f"timeout:{max(1, round(args.timeout))} attempts:1")
    tally = Tally()
    sender = Sender(target, tally, requests=args.requests, interval=args.interval, timeout=args.timeout)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: sender.stop.set())
    threads = [threading.Thread(target=sender.run) for _ in range(args.concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)  # with a limit: a signal may interrupt another thread than this one
    print(json.dumps(tally.summary()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
