"""What a person types at a cluster, by real kubectl: straight at the API server, and behind a node's agent.

The API server asks the lab's kubelet on the node; `tests/lab/test_kubelet_*.py` have its parts without a cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab.addresses import AGENT_URL, API_SERVER_URL, NodeAddresses
from sitegrid.lab.clients import Clients, entered, wait_until
from sitegrid.lab.config import LabConfig
from sitegrid.lab.kubelet import record
from sitegrid.lab.kubelet.listener import PORT
from sitegrid.lab.kubelet.sandbox import directory_name
from sitegrid.lab.lab import Lab
from tests.support.faultsite import metrics
from tests.support.processes import start

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NODE, NEIGHBOUR = "node12", "node14"
"""The lab's first node and the one beside it."""
KEY = "c2l0ZWdyaWQgc2l0ZWdyaQ=="
OBJECTS = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: typist}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: typist}
rules:
- {apiGroups: [""], resources: [pods, pods/log, pods/exec, pods/portforward], verbs: [get, create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: typist}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: typist}
subjects: [{kind: ServiceAccount, name: typist, namespace: default}]
---
apiVersion: v1
kind: Pod
metadata: {name: typed}
spec:
  nodeName: node12
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: web, ports: [{containerPort: 80}]}]
"""


TYPED_AT = """
import os, signal, sys
try:
    print(os.get_terminal_size(0).lines, os.get_terminal_size(0).columns, 'begun', flush=True)
    signal.pause()
except KeyboardInterrupt:
    print('caught')
    sys.exit(4)
"""
"""A program that waits for Ctrl-C."""


class Typist:
    """A user at a shell of the node, who has a token and kubectl."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.token = lab.kubectl("create", "token", "typist").stdout.strip()
        self.url = "http://" + lab.kubectl("get", "pod", "typed", "-o", "jsonpath={.status.podIP}").stdout
        self._kubectl = LabConfig.read(lab.layout.config).binaries["kubectl"]

    def argv(self, way: str, *args: str) -> list[str]:
        """Return the host's command line of kubectl at that shell."""
        root = self.lab.layout.root
        return self.lab.command(
            NODE,
            [
                *(self._kubectl, f"--server={AGENT_URL if way == 'agent' else API_SERVER_URL}"),
                *(f"--certificate-authority={root / 'pki' / 'ca.crt'}", f"--token={self.token}"),
                *(f"--cache-dir={root / 'typist'}", "--kubeconfig=/dev/null", *args),
            ],
        )

    def run(self, way: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl to its end."""
        return subprocess.run(self.argv(way, *args), capture_output=True, text=True, **options)

    def in_lab(self, where: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program in a node or pod."""
        return self.lab.run(where, argv, capture_output=True)


@pytest.fixture(scope="module")
def typist(lab: Lab, clients: Clients) -> Iterator[Typist]:
    """Return a user who may read logs and run commands in pods, and run the pod ``typed`` on the node."""
    lab.kubectl("apply", "-f", "-", input=OBJECTS)
    lab.kubectl("wait", "pod/typed", "--for=condition=Ready", "--timeout=120s")
    yield Typist(lab)
    lab.kubectl("delete", "--wait=false", "-f", "-", input=OBJECTS)


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_logs_follow_the_requests(typist: Typist, way: str) -> None:
    """A request that is made while ``kubectl logs -f`` runs is shown, with who made it."""
    argv = typist.argv(way, "logs", "-f", "typed", "--tail=1")
    with start(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as following:
        assert following.stdout is not None
        try:
            following.stdout.readline()
            typist.in_lab(NODE, ["curl", "-s", "-A", "typist", f"{typist.url}/{way}"])
            assert following.stdout.readline() == f"{NodeAddresses(1).lan} GET /{way} 200 typist\n".encode()
        finally:
            os.kill(entered(following), signal.SIGKILL)


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_exec_has_streams_and_an_exit_code(typist: Typist, way: str) -> None:
    """Input goes in to its end, output and errors come apart, and kubectl ends as the command does."""
    done = typist.run(way, "exec", "-i", "typed", "--", "sh", "-c", "cat; echo err >&2; exit 3", input="one\ntwo")
    assert (done.stdout, done.stderr.splitlines()[0], done.returncode) == ("one\ntwo", "err", 3)


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_exec_carries_many_bytes_both_ways(typist: Typist, way: str) -> None:
    """Nothing is lost or mixed up of megabytes that come back while more go in."""
    text = "".join(f"{number:07}\n" for number in range(400_000))
    done = typist.run(way, "exec", "-i", "typed", "--", "cat", input=text)
    assert done.returncode == 0
    assert done.stdout == text


def test_exec_is_in_the_pod(typist: Typist) -> None:
    """The command has the pod's address and host name, and sees no process but its own."""
    program = "ip -o -4 address show eth0; hostname; ls -d /proc/[0-9]*"
    done = typist.run("agent", "exec", "typed", "--", "sh", "-c", program)
    assert typist.url.removeprefix("http://") in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[1] == "typed"
    assert "/proc/1\n" in done.stdout
    assert len(done.stdout.splitlines()) < 8


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_exec_with_a_terminal(typist: Typist, way: str) -> None:
    """It has the size of the user's, and Ctrl-C reaches the command in it instead of ending kubectl."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (33, 99))
    argv = typist.argv(way, "exec", "-it", "typed", "--", sys.executable, "-I", "-S", "-c", TYPED_AT)
    with start(argv, stdin=theirs, stdout=theirs) as talk:
        os.close(theirs)
        try:
            assert b"33 99" in hear(ours, b"begun")
            os.write(ours, b"\x03")
            hear(ours, b"caught")
            assert talk.wait() == 4
        finally:
            os.close(ours)


def hear(terminal: int, last: bytes) -> bytes:
    """Read until the word `last` comes; return all that was read."""
    heard = b""
    while last not in heard:
        heard += os.read(terminal, 4096)
    return heard


@pytest.mark.parametrize("way", ["straight", "agent"])
def test_port_forward(typist: Typist, way: str) -> None:
    """Connections to kubectl's port get to the pod, side by side, and one that fails says why."""
    with start(typist.argv(way, "port-forward", "typed", ":80"), stdout=subprocess.PIPE) as forwarding:
        assert forwarding.stdout is not None
        try:
            port = forwarding.stdout.readline().decode().split()[2].rpartition(":")[2]
            argv = ["curl", "-sS", "-Z", "--noproxy", "*", *(f"http://127.0.0.1:{port}/{n}" for n in range(20))]
            answers = typist.in_lab(NODE, argv).stdout.splitlines()
            assert [json.loads(answer)["pod"] for answer in answers] == ["typed"] * 20
        finally:
            os.kill(entered(forwarding), signal.SIGKILL)


@pytest.mark.parametrize("end", ["kubectl", "kubelet", "container"])
def test_nothing_is_left_of_an_exec(typist: Typist, end: str) -> None:
    """Where kubectl, kubelet or container is killed, the command ends with all that it has started."""
    mark = f"left-by-{end}"
    sleep = f"exec -a {mark} sleep 600"
    program = f"setsid bash -c '{sleep}' & echo begun; {sleep}"
    with start(typist.argv("agent", "exec", "typed", "--", "bash", "-c", program), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == b"begun\n"
            assert wait_until(lambda: len(named(mark)) == 2)
            if end == "kubectl":
                os.kill(entered(running), signal.SIGKILL)
            elif end == "kubelet":
                typist.lab.process(f"kubelet@{NODE}", "kill")
                assert wait_until(lambda: typist.run("straight", "logs", "typed").returncode == 0)
            else:
                typist.in_lab(NODE, ["kill", "-KILL", str(container(typist.lab))])
            assert wait_until(lambda: not named(mark))
        finally:
            running.kill()


def named(mark: str) -> list[int]:
    """Return the processes that call themselves `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(mark.encode()):
                found.append(int(entry.name))
    return found


def container(lab: Lab) -> int:
    """Return the process of the pod's container, as the lab numbers it."""
    found = record.load(lab.layout.pods(NODE) / directory_name("default", "typed"))
    assert found is not None
    return found.containers["c"].pid


def test_nobody_but_the_api_server_may_ask_the_kubelet(typist: Typist) -> None:
    """A client on the node's LAN, without the API server's certificate, gets no answer."""
    ca = str(typist.lab.layout.pki / "ca.crt")
    url = f"https://{NodeAddresses(1).lan}:{PORT}/containerLogs/default/typed/c"
    done = typist.in_lab(NEIGHBOUR, ["curl", "-sS", "--cacert", ca, url])
    # An alert, unless the connection's end overtakes it.
    ended = any(words in done.stderr.lower() for words in ("alert", "empty reply", "reset by peer"))
    assert (done.stdout, ended) == ("", True), done.stderr


def test_exec_while_the_wan_is_cut_fails_at_once(typist: Typist) -> None:
    """The agent answers the upgrade with 503 itself, without a wait for TCP."""
    lab = typist.lab
    lab.cut_wan(NODE)
    try:
        lab.process(f"agent@{NODE}", "kill")
        assert wait_until(lambda: metrics(lab, NODE).get("wan_down") == 1)
        ca = str(lab.layout.pki / "ca.crt")
        url = f"{AGENT_URL}/api/v1/namespaces/default/pods/typed/exec?container=c&command=true&stdout=true"
        fields = [f"Authorization: Bearer {typist.token}", "Connection: Upgrade", "Upgrade: websocket"]
        fields += [
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: v5.channel.k8s.io",
            f"Sec-WebSocket-Key: {KEY}",
        ]
        headers = [word for field in fields for word in ("-H", field)]
        answer = typist.in_lab(NODE, ["curl", "-si", "-m", "5", "--cacert", ca, *headers, url]).stdout
        assert answer.startswith("HTTP/1.1 503 ")
        assert '"reason":"ServiceUnavailable"' in answer
    finally:
        lab.restore_wan(NODE)
    assert wait_until(lambda: metrics(lab, NODE).get("wan_down") == 0)
