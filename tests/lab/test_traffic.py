"""The traffic client, run by path as the demo does, against servers on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab import traffic
from sitegrid.lab.kubelet.responder import HttpConnection
from tests.support.controlplane import free_port

PROGRAM = [sys.executable, "-I", "-S", str(Path(traffic.__file__))]


class Server:
    """Answers connections on loopback one by one, as pods named by turn."""

    def __init__(self, *pods: str) -> None:
        self._pods = pods
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self.asked = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client:
                data = client.recv(65536)
                if not data:
                    return
                pod = self._pods[self.connections % len(self._pods)]
                self.connections += 1
                client.sendall(self._answer(data, pod))
                self.asked.set()

    def _answer(self, data: bytes, pod: str) -> bytes:
        if pod == "closes":
            return b""
        body = {"pod": pod, "node": f"node-of-{pod}", "nodeLabels": {"zone": "a"}}
        text = "hello" if pod == "foreign" else json.dumps(body)
        return HttpConnection(text.encode, lambda _: None).receive(data)

    def close(self) -> None:
        """End the thread."""
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join()
        self._listener.close()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return a server whose pods are the parameter."""
    found = Server(*getattr(request, "param", ["p"]))
    yield found
    found.close()


def run(*args: str) -> dict[str, Any]:
    """Return the summary of one run."""
    summary: dict[str, Any] = json.loads(subprocess.run([*PROGRAM, *args], capture_output=True, check=True).stdout)
    return summary


@pytest.mark.parametrize("server", [["p", "q", "p"]], indirect=True)
def test_counts_by_pod(server: Server) -> None:
    """Each answer is counted for its pod, each over a connection of its own."""
    summary = run(f"http://127.0.0.1:{server.port}", "--requests", "6")
    entry = {"nodeLabels": {"zone": "a"}}
    assert summary["answers"] == {
        "p": {"node": "node-of-p", "count": 4, **entry},
        "q": {"node": "node-of-q", "count": 2, **entry},
    }
    assert (summary["requests"], summary["errors"], server.connections) == (6, {}, 6)


@pytest.mark.parametrize(
    ("server", "path", "reason"),
    [
        (["p"], "/fail", "answer: http 503"),
        (["foreign"], "/", "answer: not a stand-in's"),
        (["closes"], "/", "answer: connection closed without one"),
    ],
    indirect=["server"],
)
def test_bad_answers_are_errors(server: Server, path: str, reason: str) -> None:
    """What is not a stand-in's answer is an error with its reason."""
    summary = run(f"http://127.0.0.1:{server.port}{path}", "--requests", "2")
    assert (summary["answers"], summary["errors"]) == ({}, {reason: 2})


def test_refused_and_unresolved() -> None:
    """Nobody there, and no such name, are errors."""
    assert run(f"http://127.0.0.1:{free_port()}", "--requests", "1")["errors"] == {"connect: connection refused": 1}
    # An empty label: refused by the resolver itself, without asking a server.
    assert next(iter(run("http://a..b", "--requests", "1")["errors"])).startswith("dns: ")


def test_silent_server_times_out() -> None:
    """A request that is never answered is a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert run(url, "--requests", "1", "--timeout", "0.1")["errors"] == {"answer: timeout": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_prints_the_summary_so_far(server: Server, number: int) -> None:
    """After a signal every request that was begun is in the summary."""
    argv = [*PROGRAM, f"http://127.0.0.1:{server.port}", "--until-signal"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        server.asked.wait()
        process.send_signal(number)
        output, _ = process.communicate()
    assert process.returncode == 0
    assert json.loads(output)["requests"] == server.connections


def test_concurrency_keeps_the_number(server: Server) -> None:
    """Several threads send the wanted number together."""
    summary = run(f"http://127.0.0.1:{server.port}", "--requests", "20", "--concurrency", "4")
    assert (summary["requests"], summary["answers"]["p"]["count"]) == (20, 20)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://svc", "svc", 80),
        ("http://svc.ns:8080/a?b", "svc.ns", 8080),
        ("http://[::1]", "::1", 80),
        ("http://[::1]:81/", "::1", 81),
    ],
)
def test_urls(url: str, host: str, port: int) -> None:
    """Host and port are found, IPv6 addresses in brackets too."""
    target = traffic.Target(url)
    assert (target.host, target.port) == (host, port)


@pytest.mark.parametrize("url", ["https://svc", "svc", "http://", "http://svc:x"])
def test_bad_urls(url: str) -> None:
    """What cannot be asked is refused at once."""
    with pytest.raises(ValueError, match=r"http|host"):
        traffic.Target(url)
