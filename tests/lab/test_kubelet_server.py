"""The kubelet's port without a cluster: who is let in, and what is answered about pods that are files here."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from sitegrid.lab.kubelet import logs
from sitegrid.lab.kubelet.listener import API_SERVER, Listener, server_context
from sitegrid.lab.kubelet.record import TERMINATED, ContainerRecord, PodRecord
from sitegrid.lab.pki import Authority, KeyPair


class Kubelet:
    """A listener on loopback, and the files of the authority that its clients know."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pods = directory / "pods"
        self.authority = Authority()
        self._write("ca", self.authority.pair)
        self._write("kubelet", self.authority.server("kubelet", [], ["127.0.0.1"]))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        files = (directory / name for name in ("kubelet.crt", "kubelet.key", "ca.crt"))
        self.listener = Listener(self.pods, server_context(*files))

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

    def pod(self, **containers: ContainerRecord) -> Path:
        """Make the directory of the pod ``n/p``."""
        directory = self.pods / "n_p"
        directory.mkdir(parents=True, exist_ok=True)
        PodRecord({"metadata": {"uid": "u"}}, "10.0.0.1", "", True, dict(containers)).save(directory)
        return directory


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    """Run a listener."""
    kubelet = Kubelet(tmp_path)
    running = asyncio.create_task(kubelet.listener.run("127.0.0.1", kubelet.port))
    try:
        while not running.done():
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", kubelet.port)
            except ConnectionRefusedError:
                await asyncio.sleep(0)
            else:
                writer.close()
                break
        yield kubelet
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


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
