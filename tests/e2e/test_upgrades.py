"""Upgrades and long answers through the real API server, straight and through an agent: the same, in both directions.

The API server proxies to a pod (``pods/proxy``), for which the lab's cloud is given a way to the pod's address; a
server with upgrades runs in the pod's network.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from sitegrid.lab.addresses import AGENT_TLS, API_SERVER, API_SERVER_PORT, NodeAddresses
from sitegrid.lab.clients import Clients
from sitegrid.lab.lab import Lab
from tests.support import echo
from tests.support.faultsite import in_cloud

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NODE, PORT = "node12", 8099
"""The lab's first node."""
ECHO = [sys.executable, "-I", "-S", str(Path(echo.__file__))]
ACCESS = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: upgrader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: upgrader}
rules:
- {apiGroups: [""], resources: [pods/proxy], verbs: [get]}
- {apiGroups: [""], resources: [configmaps], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: upgrader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: upgrader}
subjects: [{kind: ServiceAccount, name: upgrader, namespace: default}]
"""
UPGRADE = {"Connection": "Upgrade", "Upgrade": "echo"}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Origin": "https://api",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "c2l0ZWdyaWQgc2l0ZWdyaQ==",
}


class Conversation:
    """One connection of a client on the node."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.output: IO[bytes] = process.stdin
        self.input: IO[bytes] = process.stdout

    def say(self, data: bytes) -> None:
        """Send bytes."""
        self.output.write(data)
        self.output.flush()

    def head(self) -> tuple[str, dict[str, str]]:
        """Read the head of an answer; what differs from one to the next is left out."""
        first = self.input.readline().decode().strip()
        headers = {}
        while line := self.input.readline().decode().strip():
            name, _, value = line.partition(":")
            if name.lower() not in ("date", "audit-id"):
                headers[name.lower()] = value.strip()
        return first, headers


class Ways:
    """The two ways to the API server, for a client with a token of its own."""

    def __init__(self, lab: Lab, pod: str) -> None:
        self._lab = lab
        self.token = lab.kubectl("create", "token", "upgrader").stdout.strip()
        namespace, _, name = pod.partition("/")
        self.proxy = f"/api/v1/namespaces/{namespace}/pods/{name}:{PORT}/proxy"
        self._ends = {
            "straight": (API_SERVER, str(API_SERVER_PORT)),
            "agent": tuple(AGENT_TLS.split(":")),
        }

    @contextlib.contextmanager
    def ask(self, way: str, path: str, headers: dict[str, str] | None = None) -> Iterator[Conversation]:
        """Send a GET; the connection is closed at the end of the block."""
        argv = self._lab.command(NODE, [*ECHO, "relay", *self._ends[way], str(self._lab.layout.pki / "ca.crt")])
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            conversation = Conversation(process)
            try:
                fields = {"Host": "localhost", "Authorization": f"Bearer {self.token}", **(headers or {})}
                head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                conversation.say(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
                yield conversation
            finally:
                conversation.output.close()


@pytest.fixture(scope="module")
def ways(lab: Lab, clients: Clients) -> Iterator[Ways]:
    """Give a client that may use the proxy, and the cloud a way to the pod."""
    pod = clients.pod(NODE)
    lab.kubectl("apply", "-f", "-", input=ACCESS)
    namespace, _, name = pod.partition("/")
    address = lab.kubectl("get", "pod", "-n", namespace, name, "-o", "jsonpath={.status.podIP}").stdout
    subprocess.run(in_cloud(lab, ["ip", "route", "add", address, "via", NodeAddresses(1).wan]), check=True)
    yield Ways(lab, pod)
    subprocess.run(in_cloud(lab, ["ip", "route", "del", address]), check=True)
    lab.kubectl("delete", "-f", "-", input=ACCESS)


@pytest.fixture
def server(ways: Ways, lab: Lab, clients: Clients) -> Iterator[IO[bytes]]:
    """Run the server in the pod's network; yield what it tells."""
    argv = lab.command(clients.pod(NODE), [*ECHO, "serve", str(PORT)])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        with process.stdin:
            assert process.stdout.readline() == b"serving\n"
            yield process.stdout


def upgraded(ways: Ways, way: str, server: IO[bytes]) -> list[object]:
    """Talk over an upgraded connection, which the client closes; return what was heard."""
    with ways.ask(way, f"{ways.proxy}/echo", UPGRADE) as talk:
        heard: list[object] = [talk.head(), talk.input.readline()]
        for word in (b"one\n", b"two\n"):
            talk.say(word)
            heard.append(talk.input.readline())
    return [*heard, server.readline()]


def test_an_upgrade_is_a_stream_both_ways_that_the_client_ends(ways: Ways, server: IO[bytes]) -> None:
    """The pod speaks first, answers word by word, and hears of the client's end; the head is the API server's own."""
    heard = upgraded(ways, "agent", server)
    assert heard == upgraded(ways, "straight", server)
    assert isinstance(heard[0], tuple)
    assert heard[0][0] == "HTTP/1.1 101 Switching Protocols"
    assert heard[1:] == [b"welcome\n", b"ONE\n", b"TWO\n", b"the client closed\n"]


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_an_upgraded_connection_that_the_pod_ends(ways: Ways, server: IO[bytes], way: str) -> None:
    """What it said before comes, and then the end."""
    with ways.ask(way, f"{ways.proxy}/echo", UPGRADE) as talk:
        talk.head()
        talk.say(b"one\nbye\n")
        assert talk.input.read() == b"welcome\nONE\n"


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_an_upgrade_that_the_pod_does_not_take(ways: Ways, server: IO[bytes], way: str) -> None:
    """Its plain answer is the client's."""
    with ways.ask(way, f"{ways.proxy}/none", UPGRADE) as talk:
        assert talk.head()[0].startswith("HTTP/1.1 404 ")


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_a_long_answer_comes_as_it_is_made(ways: Ways, server: IO[bytes], way: str) -> None:
    """Its first part is there while the server waits with the second."""
    with ways.ask(way, f"{ways.proxy}/stream", {"Connection": "close"}) as long:
        assert long.head()[0] == "HTTP/1.1 200 OK"
        assert [long.input.readline() for _ in range(3)] == [b"4\r\n", b"one\n", b"\r\n"]
        with ways.ask(way, f"{ways.proxy}/next") as other:
            assert other.head()[0] == "HTTP/1.1 200 OK"
        assert long.input.read() == b"4\r\ntwo\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_a_watch_over_a_websocket(ways: Ways, lab: Lab, way: str) -> None:
    """The API server's own upgrade: a change made while it is open is told."""
    name = f"socket-{way}"
    path = f"/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name={name}"
    with ways.ask(way, path, WEBSOCKET) as talk:
        first, headers = talk.head()
        assert (first, headers["upgrade"]) == ("HTTP/1.1 101 Switching Protocols", "websocket")
        lab.kubectl("create", "configmap", name)
        try:
            kind, size = talk.input.read(2)
            length = int.from_bytes(talk.input.read(2)) if size == 126 else size
            event = json.loads(talk.input.read(length))
        finally:
            lab.kubectl("delete", "configmap", name)
    assert (kind, event["type"], event["object"]["metadata"]["name"]) == (0x81, "ADDED", name)
