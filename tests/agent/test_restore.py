"""etcd's data are set back to a backup, and then changed until their revision has passed what the agent had.

So the API server takes up a watch from the future that was lost as if it were of this history. It is a real one, with
its own etcd, whose data directory is copied and put back while it is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitegrid.agent.credentials import from_kubeconfig
from tests.agent.conftest import Site, run_agent
from tests.support.controlplane import ApiServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

TOKEN = "admin-token"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"


class Relay:
    """The way to the API server, which can be cut: then connections end, and new ones are refused."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Take the way away."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the test ends
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers |= {writer, back}
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()
        self._writers.discard(writer)


@pytest.fixture
def cloud(tmp_path: Path, certificates: Any) -> Iterator[ApiServer]:
    """Run a control plane of the test's own."""
    certificates(tmp_path)
    tls = (f"--tls-cert-file={tmp_path}/tls.crt", f"--tls-private-key-file={tmp_path}/tls.key")
    server = ApiServer(tmp_path, {TOKEN: ("admin", "system:masters")}, *tls)
    server.ca = tmp_path / "tls.crt"
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(tmp_path / "etcd-data", ignore_errors=True)


@pytest.fixture
async def relay(cloud: ApiServer) -> AsyncIterator[Relay]:
    """Give the way to it."""
    relay = Relay(cloud.port)
    await relay.open()
    yield relay
    relay.cut()


@pytest.fixture
def kubeconfig(cloud: ApiServer, relay: Relay) -> str:
    """Return the agent's kubeconfig."""
    cluster = {"server": f"https://127.0.0.1:{relay.port}", "certificate-authority": str(cloud.ca)}
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
    }
    path = cloud.directory / "kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


class Story:
    """What is done to the cloud; each step in a thread, since the agent runs in this one's loop."""

    def __init__(self, cloud: ApiServer) -> None:
        self._cloud = cloud
        self._data = cloud.directory / "etcd-data"
        self._backup = cloud.directory / "backup"

    async def write(self, method: str, path: str, body: Any = None) -> int:
        """Write, and return the resourceVersion."""
        status, answer = await asyncio.to_thread(self._cloud.request, method, path, TOKEN, body)
        assert status < 300, answer
        return int(answer["metadata"].get("resourceVersion", 0))

    async def back_up(self) -> None:
        """Keep the data as they are, with the cloud down."""
        await asyncio.to_thread(self._down_and_up, self._data, self._backup)

    async def restore(self) -> None:
        """Set the data back."""
        await asyncio.to_thread(self._down_and_up, self._backup, self._data)

    def _down_and_up(self, source: Path, target: Path) -> None:
        self._cloud.end("kube-apiserver")
        self._cloud.end("etcd")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        self._cloud.start_etcd()
        self._cloud.start_apiserver()
        self._cloud.wait_until_ready()

    async def advance(self, revision: int) -> None:
        """Write something else until the data are past the revision."""
        number = 0
        while await self.write("POST", CONFIGMAPS, {"metadata": {"name": f"filler-{number}"}}) <= revision:
            number += 1


async def shown(site: Site, path: str, names: dict[str, str]) -> dict[str, str]:
    """Return the addresses of all slices that the agent shows, as soon as those of `names` are these ("": none)."""
    async with asyncio.timeout(60):
        while True:
            status, body = await site.get(path)
            items = body["items"] if status == 200 else []
            found = {item["metadata"]["name"]: item["endpoints"][0]["addresses"][0] for item in items}
            found.pop("kubernetes", None)  # the API server's own
            if status == 200 and {name: found.get(name, "") for name in names} == names:
                return found
            await asyncio.sleep(0.05)


BEFORE = {"web-zone.u1": "10.1.0.1", "plain": "10.9.0.1"}
LATER = {"later-zone.u1": "10.1.0.9", "later": "10.9.0.9"}


async def change(story: Story, objects: Any) -> dict[str, str]:
    """Change both."""
    await story.write("PUT", f"{SLICES}/web-zone.u1", objects.unit("zone.u1", "10.1.0.2"))
    await story.write("PUT", f"{SLICES}/plain", objects.plain("plain", "10.9.0.2"))
    return {"web-zone.u1": "10.1.0.2", "plain": "10.9.0.2"}


async def delete(story: Story, objects: Any) -> dict[str, str]:
    """Delete both."""
    for name in BEFORE:
        await story.write("DELETE", f"{SLICES}/{name}")
    return dict.fromkeys(BEFORE, "")


async def create(story: Story, objects: Any) -> dict[str, str]:
    """Create two more."""
    await story.write("POST", SLICES, objects.unit("zone.u1", "10.1.0.3", "other"))
    await story.write("POST", SLICES, objects.plain("other", "10.9.0.3"))
    return {**BEFORE, "other-zone.u1": "10.1.0.3", "other": "10.9.0.3"}


async def leave(story: Story, objects: Any) -> dict[str, str]:
    """Change nothing: what is lost is another's."""
    return BEFORE


@pytest.mark.parametrize("lose", [change, delete, create, leave])
async def test_a_lost_future_is_given_up(
    cloud: ApiServer, relay: Relay, kubeconfig: str, objects: Any, lose: Any
) -> None:
    """Once the agent shows events of after the restore, it shows nothing that was lost, and lacks nothing new."""
    story = Story(cloud)
    await story.write("POST", "/api/v1/nodes", objects.node("n1", zone="u1"))
    await story.write("POST", SLICES, objects.unit("zone.u1", "10.1.0.1"))
    await story.write("POST", SLICES, objects.plain("plain", "10.9.0.1"))
    await story.back_up()
    async with run_agent(from_kubeconfig(kubeconfig)) as site:
        await shown(site, objects.slices, BEFORE)
        await shown(site, objects.slices, await lose(story, objects))
        revision = await story.write("POST", CONFIGMAPS, {"metadata": {"name": "last"}})
        relay.cut()
        await story.restore()
        await story.write("POST", SLICES, objects.plain("missed", "10.9.0.4"))
        await story.advance(revision)
        await relay.open()
        await story.write("POST", SLICES, objects.unit("zone.u1", "10.1.0.9", "later"))
        await story.write("POST", SLICES, objects.plain("later", "10.9.0.9"))
        assert await shown(site, objects.slices, LATER) == {**BEFORE, **LATER, "missed": "10.9.0.4"}


async def test_a_wan_that_was_gone_costs_no_list(
    cloud: ApiServer, relay: Relay, kubeconfig: str, objects: Any
) -> None:
    """The same API server is known by the TLS session that it resumes: watches go on where they were."""
    story = Story(cloud)
    await story.write("POST", "/api/v1/nodes", objects.node("n1", zone="u1"))
    await story.write("POST", SLICES, objects.plain("plain", "10.9.0.1"))
    async with run_agent(from_kubeconfig(kubeconfig)) as site:
        await shown(site, objects.slices, {"plain": "10.9.0.1"})
        relay.cut()
        await objects.eventually(lambda: site.metrics.get("wan_down") == 1)
        await relay.open()
        await story.write("POST", SLICES, objects.plain("later", "10.9.0.9"))
        await shown(site, objects.slices, {"later": "10.9.0.9"})
        assert site.metrics.get("relists_total") == 0
        assert site.metrics.get("upstream_failures_total", "other history") == 0
