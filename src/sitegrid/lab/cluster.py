"""The cluster in a lab: control plane, nodes and sitegrid's own parts, from nothing to ready, and its changes.

The supervisor has one `Cluster` and lives as its process 1; `verbs.py` calls it for control requests. A change
returns when the parts that it has touched are ready. Held by ``tests/lab/test_lab.py``, ``test_crash.py``,
``test_stock_nodes.py``.
"""

from __future__ import annotations

import asyncio
import compileall
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import sitegrid
from sitegrid.kube.client import Client
from sitegrid.kube.config import load_config
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.lab import addresses, bootstrap, network
from sitegrid.lab.components import Components
from sitegrid.lab.config import LabConfig
from sitegrid.lab.credentials import NODE_CLIENTS, Credentials
from sitegrid.lab.errors import LabError
from sitegrid.lab.layout import Layout
from sitegrid.lab.member import Member
from sitegrid.lab.nodetokens import NodeTokens
from sitegrid.lab.poweroff import power_off
from sitegrid.lab.processes import Process, ProcessSpec, Reaper
from sitegrid.lab.readiness import api_server_ready, get_nodes, last_words, unready_clients, unready_parts
from sitegrid.lab.sites import Node
from sitegrid.lab.slowness import Slowness

READY_TIMEOUT: Final = 180.0
"""Seconds until a part that is not ready is a failure; a busy machine may need 60."""

_POLL: Final = 0.1
_REPORT_EVERY: Final = 5.0
_CRASHES_TO_GIVE_UP: Final = 4
_REQUEST_TIMEOUT: Final = 10.0


def _quiet(text: str) -> None:
    """Report no progress."""


class Cluster:
    """Everything that runs in one lab."""

    def __init__(self, config: LabConfig, layout: Layout) -> None:
        self.members: dict[str, Member] = {}
        self.processes: dict[str, Process] = {}
        self._config = config
        self._layout = layout
        self._components = Components(config, layout)
        self._credentials = Credentials(layout)
        self._reaper = Reaper()
        self._tokens: Mapping[str, str] = {}
        self._node_tokens = NodeTokens()
        self._client: Client | None = None
        self._changing = asyncio.Lock()

    async def boot(self, report: Callable[[str], None]) -> None:
        """Bring everything up; returns when all of it is ready, raises `LabError` where something cannot be."""
        async with self._changing:
            report("starting the control plane")
            self._reaper.install()
            self._layout.logs.mkdir()
            # Agents cannot keep what Python compiles.
            await asyncio.to_thread(compileall.compile_dir, Path(sitegrid.__file__).parent, quiet=2)
            self._credentials.write_control_plane(self._config.port)
            self._node_tokens.serve(addresses.NODE_TOKENS)
            self._start(self._components.etcd())
            self._start(self._components.api_server())
            for node in self._config.nodes:
                self._create(node)
            self._client = await Client(
                load_config(str(self._layout.pki / "admin.kubeconfig")), timeout=_REQUEST_TIMEOUT
            ).__aenter__()
            await self._wait(self._unready_api_server, report)
            report(f"starting {len(self.members)} nodes")
            self._start(self._components.controller_manager())
            self._start(self._components.scheduler())
            await self._authorize()
            if self._config.controller:
                self._credentials.write_controller(self._tokens["controller"])
                self._start(self._components.controller())
            for member in self.members.values():
                self._start_clients(member)
            await self._wait_for(self.members.values(), report, controller=self._config.controller)

    async def nodes(self) -> dict[str, dict[str, Any]] | None:
        """Return the API server's Nodes by name, None while it does not answer."""
        return await get_nodes(self._client) if self._client is not None else None

    async def add_node(self, node: Node) -> None:
        """Add a node; raises `LabError` where there is one of that name or it does not become ready."""
        async with self._changing:
            if node.name in self.members:
                raise LabError(f"node {node.name!r} exists already")
            member = self._create(node)
            self._start_clients(member)
            await self._wait_for([member])

    async def set_agent(self, member: Member, agent: bool) -> None:
        """Put the node's kubelet, kube-proxy and CoreDNS behind an agent, or make it a stock node."""
        async with self._changing:
            names = [f"{client}@{member.name}" for client in NODE_CLIENTS]
            if not agent and f"agent@{member.name}" in self.processes:
                names.append(f"agent@{member.name}")
            await asyncio.gather(*(self.processes[name].stop() for name in names))
            member.agent = agent
            self._start_clients(member)
            await self._wait_for([member])

    async def set_wan(self, member: Member, *, up: bool, slow: Slowness | None = None) -> None:
        """Connect the node's uplink, as a `slow` one or as fast as the machine is, or cut it."""
        async with member.linking:
            if (member.wan, member.slow) == (up, slow):
                return
            await self._end_slow(member)
            if up and slow is None:
                network.restore_wan(member.addresses)
            else:
                network.cut_wan(member.addresses)
            member.wan, member.slow = up, slow
            self._begin_slow(member)

    def _begin_slow(self, member: Member) -> None:
        """Have a relay for the cut uplink of a node whose WAN is slow."""
        if member.slow is not None:
            network.slow_wan(member.name, member.addresses)
            self._start(self._components.slow_link(member.name, member.addresses, member.slow))

    async def _end_slow(self, member: Member) -> None:
        """Undo `_begin_slow`."""
        if member.slow is not None:
            relay = self.processes.pop(f"wan@{member.name}")
            async with relay.changing:
                await relay.stop()
            network.unslow_wan(member.name, member.addresses)

    async def reboot_node(self, member: Member) -> None:
        """Cut the node's power and start it from its disk; returns when its parts that can be are ready.

        Kept are the directories of kubelet and agent, and what the lab has put there. The WAN stays as it is.
        """
        async with self._changing:
            names = [f"{part}@{member.name}" for part in ("agent", *NODE_CLIENTS)]
            parts = [process for name in names if (process := self.processes.get(name)) and process.wanted]
            await asyncio.gather(*(process.stop(by_force=True) for process in parts))
            await power_off(member.name, self._layout.pods(member.name))
            async with member.linking:
                await self._end_slow(member)
                network.remove_node(member.name, member.addresses)
                others = [(m.name, m.addresses) for m in self.members.values() if m is not member]
                network.create_node(member.name, member.addresses, others)
                if not member.wan or member.slow:
                    network.cut_wan(member.addresses)
                self._begin_slow(member)
            for process in parts:
                process.start()
            if member.wan or member.agent:
                await self._wait(lambda: unready_clients(member), _quiet)

    def process(self, name: str) -> Process:
        """Return the process `name`; raises `LabError` where there is none."""
        try:
            return self.processes[name]
        except KeyError:
            raise LabError(f"no process {name!r} in this lab; `lab status` lists them") from None

    def member(self, name: str) -> Member:
        """Return the node `name`; raises `LabError` where there is none."""
        try:
            return self.members[name]
        except KeyError:
            raise LabError(f"no node {name!r} in this lab") from None

    def _create(self, node: Node) -> Member:
        """Make the node's links, directory and credentials; nothing runs on it yet."""
        member = Member(node, len(self.members) + 1)
        member.agent = node.agent and self._config.agents
        others = [(other.name, other.addresses) for other in self.members.values()]
        network.create_node(node.name, member.addresses, others)
        self.members[node.name] = member
        self._layout.pods(node.name).mkdir(parents=True)
        corefile = self._layout.node(node.name) / "Corefile"
        corefile.write_text(self._components.corefile(node.name), encoding="utf-8")
        self._credentials.write_node_servers(node.name, member.addresses.lan)
        return member

    def _start_clients(self, member: Member) -> None:
        """Start what runs on a node: the agent, and kubelet, kube-proxy and CoreDNS behind it."""
        tokens = {**self._tokens, "kubelet": self._node_tokens.of(member.name)}
        self._credentials.write_node_clients(member.name, tokens, through_agent=member.agent)
        if member.agent:
            self._start(self._components.agent(member.name))
        self._start(self._components.kubelet(member.node, member.addresses))
        self._start(self._components.kube_proxy(member.name))
        self._start(self._components.coredns(member.name))

    def _start(self, spec: ProcessSpec) -> None:
        process = self.processes.get(spec.name)
        if process is None:
            log = self._layout.logs / f"{spec.name}.log"
            process = self.processes[spec.name] = Process(spec, log, self._reaper)
        process.start()

    async def _authorize(self) -> None:
        """Create accounts and permissions and take the tokens."""
        assert self._client is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_TIMEOUT
        while True:
            try:
                await bootstrap.apply(self._client)
                self._tokens = await bootstrap.tokens(self._client)
            except (ApiError, Unreachable) as error:
                # The API server makes its own namespaces a moment after it says that it is ready.
                if loop.time() > deadline:
                    raise LabError(f"the API server does not take the lab's accounts: {error}") from error
                await asyncio.sleep(_POLL)
            else:
                return

    async def _wait_for(
        self, members: Iterable[Member], report: Callable[[str], None] = _quiet, *, controller: bool = False
    ) -> None:
        members = list(members)

        async def unready() -> list[str]:
            assert self._client is not None
            return await unready_parts(self._client, members, controller=controller)

        await self._wait(unready, report)

    async def _unready_api_server(self) -> list[str]:
        assert self._client is not None
        return [] if await api_server_ready(self._client) else ["kube-apiserver"]

    async def _wait(self, unready: Callable[[], Awaitable[list[str]]], report: Callable[[str], None]) -> None:
        """Wait until nothing is unready; raises `LabError` after `READY_TIMEOUT` or when a part keeps ending."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_TIMEOUT
        next_report = loop.time() + _REPORT_EVERY
        before = {name: process.restarts for name, process in self.processes.items()}
        while missing := await unready():
            for name, process in self.processes.items():
                if process.restarts - before.get(name, 0) >= _CRASHES_TO_GIVE_UP:
                    raise LabError(f"{name} keeps ending: {last_words(process.log)}")
            if loop.time() > deadline:
                words = last_words(self._layout.logs / f"{missing[0]}.log")
                raise LabError(f"not ready after {READY_TIMEOUT:.0f} s: {_some(missing)}; {missing[0]} says: {words}")
            if loop.time() > next_report:
                report(f"waiting for {_some(missing)}")
                next_report = loop.time() + _REPORT_EVERY
            await asyncio.sleep(_POLL)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
