"""The kubelet's port without a cluster: who is let in, and what is answered about pods that are files here.

Commands run where the test does; `tests/e2e/test_kubectl.py` has them in a pod, and by real kubectl.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest

from sitegrid.lab.kubelet import command, containers, logs
from sitegrid.lab.kubelet.listener import API_SERVER, Listener, server_context
from sitegrid.lab.kubelet.record import RUNNING, TERMINATED, ContainerRecord, PodRecord
from sitegrid.lab.pki import Authority, KeyPair
from tests.support.spdyclient import SpdyClient


class Kubelet:
    """A listener on loopback, and the files of the authority that its clients know."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pods = directory / "pods"
        self.task: asyncio.Task[None]
        self.authority = Authority()
        self._write("ca", self.authority.pair)
        self._write("kubelet", self.authority.server("kubelet", [], ["127.0.0.1"]))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        files = (directory / name for name in ("kubelet.crt", "kubelet.key", "ca.crt"))
        self.listener = Listener(self.pods, server_context(*files))

    def stop(self) -> None:
        """End the listener."""
        self.task.cancel()

    def _write(self, name: str, pair: KeyPair) -> None:
        (self.directory / f"{name}.crt").write_bytes(pair.certificate)
        (self.directory / f"{name}.key").write_bytes(pair.key)

    def client(self, pair: KeyPair | None) -> ssl.SSLContext:
        """Return the TLS settings of a client that shows `pair`."""
        context = ssl.create_default_context(cafile=self.directory / "ca.crt")
        if pair is not None:
            self._write("client", pair)
            context.load_cert_chain(self.directory / "client.crt", self.directory / "client.key")
        return context

    async def ask(self, path: str, context: ssl.SSLContext | None = None) -> tuple[int, str]:
        """Return status and text of an answer, by default to the API server."""
        context = context or self.client(self.authority.client(API_SERVER))
        url = f"https://127.0.0.1:{self.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
            return response.status, await response.text()

    def exec(
        self, *argv: str, protocol: str = "v5.channel.k8s.io", **flags: int
    ) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """Run a command in the pod ``n/p`` as the API server does."""
        query = urlencode([("command", word) for word in argv] + list(flags.items()))
        return self._socket(f"/exec/n/p/c?{query}", protocol)

    def forward(self) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """Forward ports of the pod ``n/p`` as the API server does."""
        return self._socket("/portForward/n/p", "SPDY/3.1+portforward.k8s.io")

    @asynccontextmanager
    async def _socket(self, path: str, protocol: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        url = f"https://127.0.0.1:{self.port}{path}"
        context = self.client(self.authority.client(API_SERVER))
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, ssl=context, protocols=[protocol]) as talk,
        ):
            yield talk

    def pod(self, **containers: ContainerRecord) -> Path:
        """Make the directory of the pod ``n/p``."""
        directory = self.pods / "n_p"
        directory.mkdir(parents=True, exist_ok=True)
        PodRecord({"metadata": {"uid": "u"}}, "127.0.0.1", "", True, dict(containers)).save(directory)
        return directory


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    """Run a listener."""
    kubelet = Kubelet(tmp_path)
    task = kubelet.task = asyncio.create_task(kubelet.listener.run("127.0.0.1", kubelet.port))
    try:
        while not task.done():
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", kubelet.port)
            except ConnectionRefusedError:
                await asyncio.sleep(0)
            else:
                writer.close()
                break
        yield kubelet
    finally:
        kubelet.stop()
        await asyncio.gather(task, return_exceptions=True)


async def test_log_is_for_the_api_server(kubelet: Kubelet) -> None:
    """The API server gets the log of a container that has ended, whole."""
    directory = kubelet.pod(c=ContainerRecord(state=TERMINATED, restart_count=1))
    logs.log_path(directory, "c", 1).write_text("one\ntwo\n")
    assert await kubelet.ask("/containerLogs/n/p/c?follow=true") == (200, "one\ntwo\n")


async def test_log_of_the_run_before(kubelet: Kubelet) -> None:
    """With ``previous`` the log of the run that was restarted is sent."""
    directory = kubelet.pod(c=ContainerRecord(restart_count=1))
    logs.log_path(directory, "c", 0).write_text("before\n")
    assert await kubelet.ask("/containerLogs/n/p/c?previous=true") == (200, "before\n")


async def test_client_without_a_certificate_is_refused(kubelet: Kubelet) -> None:
    """TLS does not let it get as far as a request."""
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await kubelet.ask("/containerLogs/n/p/c", kubelet.client(None))


async def test_client_with_another_certificate_of_the_lab_is_refused(kubelet: Kubelet) -> None:
    """An administrator goes through the API server, which authorizes and audits."""
    admin = kubelet.client(kubelet.authority.client("sitegrid-lab-admin", ["system:masters"]))
    assert await kubelet.ask("/containerLogs/n/p/c", admin) == (403, "only the API server may ask a kubelet")


async def test_client_of_another_lab_is_refused(kubelet: Kubelet) -> None:
    """The name alone is not enough: the lab's own authority must have signed for it."""
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await kubelet.ask("/containerLogs/n/p/c", kubelet.client(Authority().client(API_SERVER)))


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/containerLogs/n/other/c", 404, 'pod "n/other" does not run on this node'),
        ("/containerLogs/n/p/init", 400, 'container "init" in pod "n/p" is not one that the lab\'s kubelet runs'),
        ("/containerLogs/n/p/c", 400, 'container "c" is waiting to start: ContainerCreating'),
        ("/containerLogs/n/p/c?previous=true", 400, 'previous terminated container "c" not found'),
        ("/containerLogs/n/p/c?tailLines=x", 400, "log option tailLines: 'x' is no legal value"),
        ("/metrics", 404, "the lab's kubelet does not serve GET /metrics"),
    ],
)
async def test_request_that_cannot_be_answered(kubelet: Kubelet, path: str, status: int, reason: str) -> None:
    """It is refused with a sentence."""
    kubelet.pod(c=ContainerRecord())
    assert await kubelet.ask(path) == (status, reason)


@pytest.fixture
def here(kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch) -> Kubelet:
    """Return the kubelet with a pod whose container is this process, and commands that run beside it."""
    monkeypatch.setattr(command, "command_argv", lambda _pod, argv, *, tty: argv)
    kubelet.pod(c=running(os.getpid()))
    return kubelet


def running(pid: int) -> ContainerRecord:
    """Return the record of a container whose process is `pid`."""
    return ContainerRecord(state=RUNNING, pid=pid, start_ticks=containers.start_ticks(pid))


async def told(talk: aiohttp.ClientWebSocketResponse) -> dict[int, bytes]:
    """Return all that the server says until it closes, by channel."""
    heard: dict[int, bytes] = {}
    async for message in talk:
        heard[message.data[0]] = heard.get(message.data[0], b"") + message.data[1:]
    assert talk.close_code == aiohttp.WSCloseCode.OK
    return heard


def code(heard: dict[int, bytes]) -> int:
    """Return the exit code in the Status at the end."""
    status = json.loads(heard[3])
    if status["status"] == "Success":
        return 0
    assert status["reason"] == "NonZeroExitCode"
    causes = {cause["reason"]: cause["message"] for cause in status["details"]["causes"]}
    return int(causes["ExitCode"])


@pytest.mark.parametrize("exit_code", [0, 3])
async def test_command_has_channels_and_an_exit_code(here: Kubelet, exit_code: int) -> None:
    """What it writes comes on two channels, and its exit code at the end."""
    async with here.exec("sh", "-c", f"echo out; echo err >&2; exit {exit_code}", output=1, error=1) as talk:
        heard = await told(talk)
    assert (heard[1], heard[2], code(heard)) == (b"out\n", b"err\n", exit_code)


async def test_command_reads_its_input_to_the_end(here: Kubelet) -> None:
    """The message that closes channel 0 is the end of its input."""
    async with here.exec("cat", input=1, output=1) as talk:
        for message in (b"\0one ", b"\0", b"", b"\0two", b"\xff\x00"):
            await talk.send_bytes(message)
        assert await told(talk) == {1: b"one two", 3: json.dumps({"metadata": {}, "status": "Success"}).encode()}


async def test_command_without_input_reads_nothing(here: Kubelet) -> None:
    """Where nobody is at the other end of its input, it ends at once; output that nobody wants is dropped."""
    async with here.exec("sh", "-c", "cat; echo err >&2", output=1) as talk:
        assert set(await told(talk)) == {3}


async def test_command_that_reads_no_input(here: Kubelet) -> None:
    """Input that it has not read when it ends is dropped."""
    async with here.exec("sh", "-c", "exec <&-; echo closed; sleep 0.1; exit 4", input=1, output=1) as talk:
        assert await talk.receive_bytes() == b"\x01closed\n"
        for _ in range(3):
            await talk.send_bytes(b"\0" + bytes(100_000))
        assert code(await told(talk)) == 4


async def test_terminal_has_a_size(here: Kubelet) -> None:
    """Its size is the client's window's, and what is no size changes nothing."""
    program = "import os, sys; input(); print(os.get_terminal_size(0)); print(os.isatty(1), file=sys.stderr)"
    async with here.exec(sys.executable, "-c", program, input=1, output=1, tty=1) as talk:
        for size in (b'{"Width": 100, "Height": 30}', b"{}", b'{"Width": 70000, "Height": 1}', b"wide"):
            await talk.send_bytes(b"\x04" + size)
        await talk.send_bytes(b"\0\r")
        heard = await told(talk)
    assert (code(heard), set(heard)) == (0, {1, 3})
    assert b"columns=100, lines=30" in heard[1]
    assert b"True" in heard[1], "a terminal has one output"


async def test_older_protocol(here: Kubelet) -> None:
    """A client of v4, which cannot end its input alone, has the same channels."""
    async with here.exec(
        "sh", "-c", "read word; echo $word", protocol="v4.channel.k8s.io", input=1, output=1
    ) as talk:
        await talk.send_bytes(b"\0word\n")
        assert (await told(talk))[1] == b"word\n"


async def test_command_ends_with_its_client(here: Kubelet, tmp_path: Path) -> None:
    """It is killed when the connection closes."""
    async with here.exec("sh", "-c", "echo $$; exec sleep 600", output=1) as talk:
        pid = int((await talk.receive_bytes())[1:])
        ticks = containers.start_ticks(pid)
    await containers.wait_ended(pid, ticks)


async def test_command_ends_with_its_container(here: Kubelet) -> None:
    """Its client hears that it was killed."""
    container = await asyncio.create_subprocess_exec("sleep", "600")
    here.pod(c=running(container.pid))
    async with here.exec("sh", "-c", "echo begun; exec sleep 600", output=1) as talk:
        assert await talk.receive_bytes() == b"\x01begun\n"
        container.kill()
        assert code(await told(talk)) == 137
    await container.wait()


async def test_command_ends_with_the_kubelet(here: Kubelet) -> None:
    """It is killed when the kubelet stops answering."""
    async with here.exec("sh", "-c", "echo $$; exec sleep 600", output=1) as talk:
        pid = int((await talk.receive_bytes())[1:])
        ticks = containers.start_ticks(pid)
        here.stop()
        await containers.wait_ended(pid, ticks)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/exec/n/p/c", "there is no command to run"),
        ("/exec/n/p/c?command=true", "over a WebSocket with v5.channel.k8s.io or v4.channel.k8s.io"),
        ("/attach/n/p/c", "a stand-in of the lab has no input or output to attach to; see kubectl logs"),
        ("/portForward/n/p", "over a WebSocket with SPDY/3.1+portforward.k8s.io"),
    ],
)
async def test_what_is_not_run_is_refused(here: Kubelet, path: str, reason: str) -> None:
    """The answer says what to do instead."""
    status, text = await here.ask(path)
    assert (status, reason in text) == (400, True)


async def test_command_in_a_container_that_does_not_run(here: Kubelet) -> None:
    """It is refused with the container's state."""
    here.pod(c=ContainerRecord(reason="CrashLoopBackOff"))
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with here.exec("true"):
            pass
    assert refused.value.status == 400


async def test_port_is_forwarded(here: Kubelet) -> None:
    """A connection is two streams: data goes both ways to the end of each, and then no error is told."""

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async with await asyncio.start_server(shout, "127.0.0.1", 0) as server:
        client, port = SpdyClient(), server.sockets[0].getsockname()[1]
        async with here.forward() as talk:
            await talk.send_bytes(streams(client, port) + client.data(3, b"hel"))
            await talk.send_bytes(client.data(3, b"lo") + client.data(3, b"", last=True))
            assert await ends(talk) == {1: b"", 3: b"HELLO"}


async def test_port_that_nothing_listens_on(here: Kubelet) -> None:
    """The error stream says why; another connection can still be made."""
    client = SpdyClient()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with here.forward() as talk:
        await talk.send_bytes(streams(client, port))
        assert await ends(talk) == {
            1: f"cannot connect to port {port} of the pod: Connection refused".encode(),
            3: b"",
        }
        ping = client.control(6, b"\0\0\0\1")
        await talk.send_bytes(ping)
        assert await talk.receive_bytes() == ping


async def test_forwarding_ends_with_what_is_no_spdy(here: Kubelet) -> None:
    """The connection is closed."""
    async with here.forward() as talk:
        await talk.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
        assert (await talk.receive()).type is aiohttp.WSMsgType.CLOSE


def streams(client: SpdyClient, port: int) -> bytes:
    """Return the frames with which kubectl begins a connection: error stream 1, which it does not use, and 3."""
    headers = {"port": str(port), "requestid": "0"}
    error = client.open(1, {**headers, "streamtype": "error"}) + client.data(1, b"", last=True)
    return error + client.open(3, {**headers, "streamtype": "data"})


async def ends(talk: aiohttp.ClientWebSocketResponse) -> dict[int, bytes]:
    """Return what comes on the streams until both have ended."""
    heard = {1: b"", 3: b""}
    ended: set[int] = set()
    while ended != {1, 3}:
        frame = await talk.receive_bytes()
        if not frame[0] >> 7:
            stream = int.from_bytes(frame[:4])
            heard[stream] += frame[8:]
            ended |= {stream} if frame[4] else set()
    return heard
