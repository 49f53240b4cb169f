"""Agents that take over from one another: two at once, a third one, and each of them killed at every step."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitegrid.agent.credentials import Credentials
from sitegrid.agent.handover import Handover
from sitegrid.agent.run import ListenError, Settings, serve
from sitegrid.agent.server import Server
from tests.support.controlplane import free_port

WATCH = "/apis/discovery.k8s.io/v1/endpointslices?watch=true&allowWatchBookmarks=true&resourceVersion="


class Agent:
    """An agent in this process, as a task; `end` tells it to end."""

    def __init__(self, settings: Settings) -> None:
        self.stop = asyncio.Event()
        self.handover = Handover()
        self.listening: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self.task = asyncio.ensure_future(serve(settings, self.stop, self.listening, self.handover))

    async def serves(self) -> None:
        """Return when it listens."""
        both: list[asyncio.Future[Any]] = [self.task, self.listening]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            await self.task

    async def end(self) -> None:
        """Tell it to end, as SIGTERM does."""
        self.stop.set()
        assert await asyncio.wait_for(self.task, 20) is False
        self.handover.close()

    async def crash(self) -> None:
        """Let it vanish as a killed process does: with all that it has open, and without another word."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.handover.close()


class Client:
    """A client of whoever listens on the port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.authorization = ""
        self.writers: list[asyncio.StreamWriter] = []

    async def open(self, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a GET on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        credential = f"Authorization: {self.authorization}\r\n" if self.authorization else ""
        writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{credential}\r\n".encode())
        return reader, writer

    async def get(self, target: str) -> Any:
        """Return the answer to a GET, which must be 200."""
        reader, writer = await self.open(target)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head, head
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        writer.close()
        return json.loads(body)

    async def watch(self, rv: str, target: str = WATCH) -> asyncio.StreamReader:
        """Open a watch of slices from a resourceVersion."""
        reader, _ = await self.open(target + rv)
        async with asyncio.timeout(20):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        return reader


async def events(reader: asyncio.StreamReader, count: int | None = None) -> list[tuple[str, str, str]]:
    """Return type, name and resourceVersion of the next events; all up to the watch's regular end without `count`."""
    found: list[tuple[str, str, str]] = []
    async with asyncio.timeout(20):
        while count is None or len(found) < count:
            size = int(await reader.readline(), 16)
            data = (await reader.readexactly(size + 2))[:-2]
            if not size:
                assert count is None
                break
            for line in data.splitlines():
                event = json.loads(line)
                meta = event["object"]["metadata"]
                found.append((event["type"], meta.get("name", ""), meta["resourceVersion"]))
    return found


@pytest.fixture
def settings(api: Any, objects: Any, tmp_path: Path) -> Settings:
    """Return the settings of agents on one data directory and one port."""
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    credentials = Credentials(f"http://127.0.0.1:{api.port}")
    return Settings("n1", credentials, listen=f"127.0.0.1:{free_port()}", data_dir=str(tmp_path / "data"))


@pytest.fixture
async def begin(settings: Settings) -> AsyncIterator[Callable[[], Awaitable[Agent]]]:
    """Return the function that starts one more agent, and returns when it serves."""
    agents: list[Agent] = []

    async def begin() -> Agent:
        agents.append(Agent(settings))
        await asyncio.wait_for(agents[-1].serves(), 20)
        return agents[-1]

    yield begin
    for agent in agents:
        await agent.crash()


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Client]:
    """Return a client of the agents."""
    client = Client(int(settings.listen.rpartition(":")[2]))
    yield client
    for writer in client.writers:
        writer.transport.abort()


Begin = Callable[[], Awaitable[Agent]]


async def test_a_watch_goes_on_where_it_was(begin: Begin, client: Client, api: Any, objects: Any) -> None:
    """Its end is a regular one with a bookmark, from which the next agent goes on; no object is told again."""
    first = await begin()
    reader = await client.watch("0")
    assert [name for _, name, _ in await events(reader, 3)] == ["a", "web-zone.u1", ""]
    second = await begin()
    [(kind, _, rv)] = await events(reader)
    assert kind == "BOOKMARK"
    again = await client.watch(rv)
    api.put(objects.slices, objects.plain("b", "10.9.0.2"))
    assert [(kind, name) for kind, name, _ in await events(again, 1)] == [("ADDED", "b")]
    await first.end()
    assert len((await client.get("/apis/discovery.k8s.io/v1/endpointslices"))["items"]) == 3
    await second.end()


async def test_what_changes_in_between_is_told(
    begin: Begin, client: Client, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes of which the former agent heard nothing any more are differences for the clients of the next one."""
    first = await begin()
    reader = await client.watch("0")
    await events(reader, 3)
    end = Server.end

    async def change(server: Server) -> None:
        await end(server)
        api.put(objects.slices, objects.plain("b", "10.9.0.2"))
        api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2"))
        api.delete(objects.slices, "a")
        api.expired_below = api.rv  # the fake knows no history

    monkeypatch.setattr(Server, "end", change)
    await begin()
    [(_, _, rv)] = await events(reader)
    again = await client.watch(rv)
    told = {(kind, name) for kind, name, _ in await events(again, 3)}
    assert told == {("ADDED", "b"), ("MODIFIED", "web-zone.u1"), ("DELETED", "a")}
    await first.end()


async def test_clients_come_back_one_after_the_other(begin: Begin, client: Client, api: Any, objects: Any) -> None:
    """Who comes after the first one's source has gone on is told what has changed since, as everybody."""
    first = await begin()
    selected = WATCH.replace("?", "?labelSelector=!made-up&")
    readers = [await client.watch("0"), await client.watch("0", selected)]
    for reader in readers:
        await events(reader, 3)
    await begin()
    places = [(await events(reader))[0][2] for reader in readers]
    early = await client.watch(places[0])
    api.put(objects.slices, objects.plain("b", "10.9.0.2"))
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2"))
    api.put(objects.slices, objects.plain("a", "10.9.0.3"))
    wanted = {("ADDED", "b"), ("MODIFIED", "web-zone.u1"), ("MODIFIED", "a")}
    assert {(kind, name) for kind, name, _ in await events(early, 3)} == wanted
    late = await client.watch(places[1], selected)
    assert {(kind, name) for kind, name, _ in await events(late, 3)} == wanted
    await first.end()


async def test_a_place_is_gone_on_from_by_the_same_state_only(begin: Begin, client: Client, api: Any) -> None:
    """An agent that begins with another state than the one before has left says 410."""
    first = await begin()
    reader = await client.watch("0")
    await events(reader, 3)
    await first.end()
    [(_, _, rv)] = await events(reader)
    await api.stop()
    api.objects["/apis/discovery.k8s.io/v1/endpointslices"].pop("default/a")
    api.rv += 1
    api.expired_below = api.rv
    await api.start()
    await begin()
    again, _ = await client.open(WATCH + rv)
    async with asyncio.timeout(20):
        assert b'"code":410' in await again.readuntil(b'"code":410')


async def test_an_agent_that_ended_is_gone_on_from_too(begin: Begin, client: Client) -> None:
    """Nobody listens in between; afterwards who has the last place lists nothing anew."""
    first = await begin()
    reader = await client.watch("0")
    await events(reader, 3)
    await first.end()
    [(_, _, rv)] = await events(reader)
    second = await begin()
    again = await client.watch(rv)
    await second.end()
    assert [kind for kind, _, _ in await events(again)] == ["BOOKMARK"]


SELECTED = WATCH.replace("?", "?labelSelector=mine&")


async def test_who_was_accepted_is_known_to_the_next_agents(
    begin: Begin, client: Client, api: Any, objects: Any
) -> None:
    """The selection of a client whose token was accepted once goes on at the next agent, and at the third."""
    client.authorization = "Bearer mine"
    await begin()
    reader, _ = await client.open("/apis/x/v1/y")
    assert b" 200 " in await reader.readline()
    reader = await client.watch("0", SELECTED)
    await events(reader, 1)
    for number in range(2):
        await begin()
        *_, (_, _, rv) = await events(reader)
        reader = await client.watch(rv, SELECTED)
        api.put(objects.slices, objects.plain(f"m{number}", "10.9.0.7", mine="yes"))
        assert [(kind, name) for kind, name, _ in await events(reader, 1)] == [("ADDED", f"m{number}")]
    asked = [target for _, target, headers in api.requests if headers.get("authorization") == "Bearer mine"]
    assert asked == ["/apis/x/v1/y"]


async def test_nobodys_selections_are_not_left_to_the_next_agent(begin: Begin, client: Client) -> None:
    """What somebody without an accepted token has made up is not written: its client lists anew."""
    await begin()
    reader = await client.watch("0", SELECTED)
    await events(reader, 1)
    await begin()
    *_, (_, _, rv) = await events(reader)
    again, _ = await client.open(SELECTED + rv)
    async with asyncio.timeout(20):
        assert b'"code":410' in await again.readuntil(b'"code":410')


async def test_who_connects_in_between_waits_and_is_served(
    begin: Begin, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection made while nobody accepts is the next agent's."""
    await begin()
    waiting: list[asyncio.Task[Any]] = []
    end = Server.end

    async def connect(server: Server) -> None:
        await end(server)
        for _ in range(20):
            waiting.append(asyncio.ensure_future(client.get("/apis/discovery.k8s.io/v1/endpointslices")))
        await asyncio.sleep(0)

    monkeypatch.setattr(Server, "end", connect)
    await begin()
    monkeypatch.undo()
    assert len(waiting) == 20
    for answer in await asyncio.gather(*waiting):
        assert len(answer["items"]) == 2


async def test_one_after_the_other_takes_over(begin: Begin, client: Client) -> None:
    """A second and a third; each that ends while it stands by changes nothing; the last one serves."""
    first, second, third = await begin(), await begin(), await begin()
    assert not first.task.done()
    await second.end()
    assert await client.get("/apis/discovery.k8s.io/v1/endpointslices")
    await first.end()
    assert await client.get("/apis/discovery.k8s.io/v1/endpointslices")
    await third.end()


async def test_three_that_begin_at_once_are_one_in_the_end(settings: Settings, client: Client) -> None:
    """Whatever their order, one serves and the others stand by."""
    agents = [Agent(settings) for _ in range(3)]
    await asyncio.wait_for(asyncio.gather(*(agent.serves() for agent in agents)), 60)
    assert await client.get("/apis/discovery.k8s.io/v1/endpointslices")
    assert not any(agent.task.done() for agent in agents)
    for agent in agents:
        await agent.crash()


@pytest.mark.parametrize("stands_by", [1, 2])
async def test_who_took_over_is_killed_and_who_stood_by_is_wanted_again(begin: Begin, stands_by: int) -> None:
    """The last one that stands by hears of it; those before it do not, as long as that one is there."""
    agents = [await begin() for _ in range(stands_by + 1)]
    await agents.pop().crash()
    while agents:
        assert await asyncio.wait_for(agents[-1].task, 20) is True
        assert not any(agent.task.done() for agent in agents[:-1])
        agents.pop().handover.close()


async def test_who_stood_by_serves_again_with_the_same_sockets(
    begin: Begin, settings: Settings, client: Client
) -> None:
    """Who asks after the second one was killed waits until the first one has begun again."""
    first = await begin()
    second = await begin()
    await second.crash()
    asking = asyncio.ensure_future(client.get("/apis/discovery.k8s.io/v1/endpointslices"))
    assert await asyncio.wait_for(first.task, 20) is True
    first.handover.wanted.clear()
    stop = asyncio.Event()
    again = asyncio.ensure_future(serve(settings, stop, handover=first.handover))
    assert len((await asking)["items"]) == 2
    stop.set()
    assert await again is False


async def test_who_asked_and_is_killed_before_it_is_answered(begin: Begin, settings: Settings) -> None:
    """The agent that has ended for it is wanted again."""
    first = await begin()
    second = Agent(settings)
    await asyncio.wait_for(first.handover.wanted.wait(), 20)
    await second.crash()
    assert await asyncio.wait_for(first.task, 20) is True


async def test_the_agent_is_killed_while_another_one_waits_for_it(
    begin: Begin, client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then that one begins on its own."""

    async def hang(server: Server) -> None:
        await server.close()
        await asyncio.Event().wait()

    first = await begin()
    monkeypatch.setattr(Server, "end", hang)
    second = Agent(settings)
    await asyncio.wait_for(first.handover.wanted.wait(), 20)
    await first.crash()
    monkeypatch.undo()
    await asyncio.wait_for(second.serves(), 20)
    assert await client.get("/apis/discovery.k8s.io/v1/endpointslices")
    await second.end()


async def test_an_agent_that_does_not_hand_over_keeps_its_directory(
    begin: Begin, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else serves from it, or writes there."""
    monkeypatch.setattr("sitegrid.agent.handover.PATIENCE", 0.2)
    first = await begin()
    first.handover.unwatch()
    second = Agent(settings)
    with pytest.raises(ListenError, match="is another agent's, which does not hand over"):
        await asyncio.wait_for(second.task, 20)
    first.handover.watch()


async def test_a_stranger_is_handed_nothing(
    begin: Begin, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of another account is hung up on, and the agent goes on."""
    first = await begin()
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    monkeypatch.setattr("sitegrid.agent.handover.ROOT", 4712)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        directory = os.open(settings.data_dir, os.O_RDONLY)
        stranger.setblocking(False)
        stranger.connect(f"/proc/self/fd/{directory}/handover")
        os.close(directory)
        async with asyncio.timeout(20):
            assert await asyncio.get_running_loop().sock_recv(stranger, 1) == b""
    assert not first.handover.wanted.is_set()


async def test_other_addresses_are_listened_on_anew(begin: Begin, settings: Settings, client: Client) -> None:
    """What the agent before has listened on is closed, where the next one has other options."""
    await begin()
    second = Agent(settings._replace(listen=f"127.0.0.1:{free_port()}"))
    [port] = await asyncio.wait_for(second.listening, 20)
    assert await Client(port).get("/apis/discovery.k8s.io/v1/endpointslices")
    await second.crash()


Process = subprocess.Popen[str]


@pytest.fixture
def process(settings: Settings, api: Any) -> Iterator[Callable[..., Process]]:
    """Return the function that starts an agent as a process of its own; with code, that runs before."""
    running: list[Process] = []
    options = {**settings._asdict(), "kubeconfig": "", "server": f"http://127.0.0.1:{api.port}", "token_file": "",
               "ca_file": "", "verbose": True}  # fmt: skip
    del options["credentials"]

    def start(code: str = "") -> Process:
        token = Path(settings.data_dir).with_name("token")
        token.touch()
        options["token_file"] = str(token)
        main = f"import runpy, sys\n{code}\nrunpy.run_module('sitegrid.agent', run_name='__main__', alter_sys=True)"
        argv = [sys.executable, *(["-c", main] if code else ["-m", "sitegrid.agent"]), json.dumps(options)]
        running.append(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


async def _said(process: Process, text: str) -> None:
    """Return when the process has logged a line with `text`."""
    assert process.stderr is not None
    while line := await asyncio.to_thread(process.stderr.readline):
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")


async def test_a_process_begins_anew_in_place(process: Callable[..., Process], client: Client) -> None:
    """SIGHUP: the same process goes on with the same sockets, and a watch where it was."""
    agent = process()
    await _said(agent, "serving node")
    reader = await client.watch("0")
    await events(reader, 3)
    agent.send_signal(signal.SIGHUP)
    [(_, _, rv)] = await events(reader)
    again = await client.watch(rv)
    agent.terminate()
    assert [kind for kind, _, _ in await events(again)] == ["BOOKMARK"]
    assert await asyncio.to_thread(agent.wait, 20) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_stood_by_steps_in(
    process: Callable[..., Process], client: Client, number: signal.Signals
) -> None:
    """However the one that took over ends, nobody is refused: the one before it begins again."""
    first = process()
    await _said(first, "serving node")
    second = process()
    await _said(second, "serving node")
    await _said(first, "standing by")
    second.send_signal(number)
    assert len((await client.get("/apis/discovery.k8s.io/v1/endpointslices"))["items"]) == 2
    await _said(first, "serving node")


FAULT = """
from sitegrid.agent.node import NodeUnits
told = NodeUnits.source_changed
def fail(self, *arguments):
    if self.known:
        raise RuntimeError("a bug")
    told(self, *arguments)
NodeUnits.source_changed = fail
"""


async def test_a_fault_of_its_own_has_it_begin_anew_once(
    process: Callable[..., Process], client: Client, api: Any, objects: Any
) -> None:
    """It keeps the sockets, so that nobody is refused; the same fault soon after ends it."""
    agent = process(FAULT)
    await _said(agent, "serving node")
    await client.get("/apis/discovery.k8s.io/v1/endpointslices")
    api.put(objects.nodes, objects.node("n1", zone="u2"))
    await _said(agent, "a bug")
    answer = asyncio.ensure_future(client.get("/apis/discovery.k8s.io/v1/endpointslices"))
    await _said(agent, "serving node")
    assert await answer
    api.put(objects.nodes, objects.node("n1", zone="u3"))
    await _said(agent, "it has to be started again")
    assert await asyncio.to_thread(agent.wait, 20) == 1
