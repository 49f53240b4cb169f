"""The process that is a lab: ``python -m sitegrid.lab.supervisor``, started by `Lab.up` and by nothing else.

It is process 1 of fresh mount, network and process namespaces (and a user namespace when not started by root). All
that the lab consists of lives in them, so however this process ends, the kernel removes every process, namespace,
link and mount. It boots the cluster, telling `Lab.up` on its standard output as JSON lines what it does; then it
answers the control socket (`control.py`) until told to end. Held by ``tests/lab/test_lab.py`` and
``tests/lab/test_crash.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sitegrid.lab import addresses, control, network
from sitegrid.lab.addresses import NodeAddresses
from sitegrid.lab.bootstrap import ACCOUNTS, Bootstrap
from sitegrid.lab.components import Components
from sitegrid.lab.config import LabConfig
from sitegrid.lab.credentials import NODE_CLIENTS, Credentials
from sitegrid.lab.errors import LabError
from sitegrid.lab.gateway import Gateway
from sitegrid.lab.layout import Layout
from sitegrid.lab.probe import http_status
from sitegrid.lab.processes import Process, ProcessSpec, Reaper, open_log, trim_logs
from sitegrid.lab.sites import Node

BOOT_TIMEOUT: Final = 180.0
"""Seconds until a part that is not ready is reported as a failure; a slow machine needs 60."""
_POLL: Final = 0.1
_CRASHES_TO_GIVE_UP: Final = 4
_LOG_CHECK: Final = 10.0
_REPORT_EVERY: Final = 5.0


class LabNode:
    """A node of the running lab: what was asked for, where it is, how it is connected."""

    def __init__(self, node: Node, index: int) -> None:
        self.node = node
        self.addresses = NodeAddresses(index)
        self.wan = True
        self.agent = node.agent

    @property
    def name(self) -> str:
        """The Node's name."""
        return self.node.name


class Supervisor:
    """One lab, from nothing to ready, and its control verbs."""

    def __init__(self, config: LabConfig, layout: Layout, listener: socket.socket) -> None:
        self._config = config
        self._layout = layout
        self._components = Components(config, layout)
        self._credentials = Credentials(layout)
        self._gateway = Gateway(listener, addresses.API_SERVER_PORT)
        self._reaper = Reaper()
        self._processes: dict[str, Process] = {}
        self._nodes: dict[str, LabNode] = {}
        self._tokens: Mapping[str, str] = {}
        self._bootstrap: Bootstrap | None = None
        self._changing = asyncio.Lock()
        self.ended = asyncio.Event()

    # --- boot ---

    async def boot(self, report: Callable[[str], None]) -> None:
        """Bring everything up; returns when all of it is ready, raises `LabError` where something cannot be."""
        self._reaper.install()
        report("starting the control plane")
        network.create_cloud()
        self._layout.logs.mkdir(exist_ok=True)
        self._credentials.write_control_plane(self._config.port)
        self._start(self._components.etcd())
        self._start(self._components.api_server())
        await self._gateway.start()
        await control.serve(self._layout.control, self._answer)
        for node in self._config.nodes:
            self._create_node(node)
        self._bootstrap = Bootstrap(self._layout.pki)
        await self._wait(self._pending_api_server, report)
        report(f"starting {len(self._nodes)} nodes")
        self._start(self._components.controller_manager())
        self._start(self._components.scheduler())
        for member in self._nodes.values():
            self._start(self._components.kubelet(member.node, member.addresses))
        await self._authorize()
        if self._config.controller:
            self._credentials.write_controller(self._tokens["controller"])
            self._start(self._components.controller())
        for member in self._nodes.values():
            self._start_clients(member)
        await self._wait(self._pending, report)

    async def watch_logs(self) -> None:
        """Keep the logs bounded, for ever."""
        while True:
            await asyncio.sleep(_LOG_CHECK)
            with contextlib.suppress(OSError):
                trim_logs(self._layout.logs)

    @property
    def _api(self) -> Bootstrap:
        if self._bootstrap is None:
            raise LabError("the lab is still starting")
        return self._bootstrap

    async def _authorize(self) -> None:
        deadline = asyncio.get_running_loop().time() + BOOT_TIMEOUT
        while True:
            try:
                await self._api.apply()
                tokens = await asyncio.gather(*(self._api.token(account) for account in ACCOUNTS.values()))
            except LabError:
                # The API server makes its own namespaces a moment after it is ready.
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_POLL)
            else:
                self._tokens = dict(zip(ACCOUNTS, tokens, strict=True))
                return

    def _create_node(self, node: Node) -> LabNode:
        index = len(self._nodes) + 1
        member = LabNode(node, index)
        member.agent = node.agent and self._config.agents
        network.create_node(
            node.name, member.addresses, [(other.name, other.addresses) for other in self._nodes.values()]
        )
        self._nodes[node.name] = member
        directory = self._layout.node(node.name)
        self._layout.pods(node.name).mkdir(parents=True)
        (directory / "Corefile").write_text(self._components.corefile(node.name), encoding="utf-8")
        self._credentials.write_kubelet(node.name)
        self._credentials.write_agent_server(node.name)
        return member

    def _start_clients(self, member: LabNode) -> None:
        """Start what asks for Services on a node: the agent, and kube-proxy and CoreDNS behind it."""
        self._credentials.write_node_clients(member.name, self._tokens, through_agent=member.agent)
        if member.agent:
            self._start(self._components.agent(member.name))
        self._start(self._components.kube_proxy(member.name))
        self._start(self._components.coredns(member.name))

    def _start(self, spec: ProcessSpec) -> None:
        process = self._processes.get(spec.name)
        if process is None:
            log = self._layout.logs / f"{spec.name}.log"
            process = self._processes[spec.name] = Process(spec, log, self._reaper)
        process.start()

    # --- readiness ---

    async def _wait(
        self, pending: Callable[[], Awaitable[list[str]]], report: Callable[[str], None] | None = None
    ) -> None:
        """Wait until nothing is pending; raises `LabError` after `BOOT_TIMEOUT` or when a part keeps ending."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BOOT_TIMEOUT
        quiet_until = loop.time() + _REPORT_EVERY
        before = {name: process.restarts for name, process in self._processes.items()}
        while missing := await pending():
            if report is not None and loop.time() > quiet_until:
                report(f"waiting for {_some(missing)}")
                quiet_until = loop.time() + _REPORT_EVERY
            for name, process in self._processes.items():
                if process.restarts - before.get(name, 0) >= _CRASHES_TO_GIVE_UP:
                    raise LabError(f"{name} keeps ending: {last_words(process.log)}")
            if loop.time() > deadline:
                raise LabError(f"not ready after {BOOT_TIMEOUT:.0f} s: {_some(missing)}; see {self._layout.logs}")
            await asyncio.sleep(_POLL)

    async def _pending_api_server(self) -> list[str]:
        return [] if await self._api.ready() else ["kube-apiserver"]

    async def _pending(self) -> list[str]:
        ready = await self._ready_nodes()
        pending = await asyncio.gather(*(self._pending_node(member, ready) for member in self._nodes.values()))
        missing = [name for names in pending for name in names]
        if self._config.controller and not await self._controller_ready():
            missing.append("controller")
        return missing

    async def _pending_node(self, member: LabNode, ready: Mapping[str, bool]) -> list[str]:
        """Return which of the node's parts are not ready, kubelet (the Node) first."""
        netns = network.netns_path(member.name)
        probes = {
            "kube-proxy": (addresses.KUBE_PROXY_HEALTH_PORT, "/healthz"),
            "coredns": (addresses.COREDNS_READY_PORT, "/ready"),
        }
        if member.agent:
            probes["agent"] = (int(addresses.AGENT.rpartition(":")[2]), "/sitegrid/readyz")
        statuses = await asyncio.gather(*(http_status(*probe, netns=netns) for probe in probes.values()))
        missing = [] if ready.get(member.name) else [f"kubelet@{member.name}"]
        return missing + [
            f"{name}@{member.name}" for name, status in zip(probes, statuses, strict=True) if status != 200
        ]

    async def _controller_ready(self) -> bool:
        return await http_status(int(addresses.CONTROLLER_METRICS.rpartition(":")[2]), "/readyz") == 200

    async def _ready_nodes(self) -> dict[str, bool]:
        try:
            nodes = await self._api.nodes()
        except LabError:
            return {}
        return {name: _is_ready(node) for name, node in nodes.items()}

    # --- control verbs ---

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one control request; raises `LabError` for what cannot be done."""
        match request:
            case {"verb": "status"}:
                return await self._status()
            case {"verb": "wan", "action": ("cut" | "restore") as action, "target": str(target)}:
                return {"nodes": await self._switch_wan(target, up=action == "restore")}
            case {"verb": "node-add", "name": str(name), "labels": dict(labels), "agent": bool(agent)}:
                await self._add_node(Node(name, labels, agent))
            case {"verb": "process", "name": str(name), "action": str(action)}:
                await self._act(self._process(name), action)
            case {"verb": "set-agent", "node": str(name), "agent": bool(agent)}:
                await self._set_agent(self._member(name), agent)
            case {"verb": "down"}:
                self.ended.set()
            case _:
                raise LabError(f"unknown control request {request.get('verb')!r}")
        return {}

    async def _status(self) -> dict[str, Any]:
        try:
            nodes = await self._api.nodes()
        except LabError:
            nodes = None
        return {
            "nodes": [
                {
                    "name": member.name,
                    "labels": _user_labels(nodes, member),
                    "wan": member.wan,
                    "ready": None if nodes is None else _is_ready(nodes.get(member.name, {})),
                    "agent": member.agent,
                    "address": member.addresses.lan,
                }
                for member in self._nodes.values()
            ],
            "processes": [
                {
                    "name": name,
                    "pid": process.pid,
                    "running": process.pid is not None,
                    "restarts": process.restarts,
                    "memory": _resident(process.pid),
                }
                for name, process in self._processes.items()
            ],
        }

    async def _switch_wan(self, target: str, *, up: bool) -> list[str]:
        """Cut or restore the uplinks of a node, or of all nodes with the label ``KEY=VALUE``; return their names."""
        members = await self._targets(target)
        for member in members:
            if member.wan != up:
                (network.restore_wan if up else network.cut_wan)(member.addresses)
                member.wan = up
        return [member.name for member in members]

    async def _targets(self, target: str) -> list[LabNode]:
        key, separator, value = target.partition("=")
        if not separator:
            return [self._member(target)]
        try:
            nodes = await self._api.nodes()
        except LabError:
            nodes = None
        members = [m for m in self._nodes.values() if _user_labels(nodes, m).get(key) == value]
        if not members:
            raise LabError(f"no node has the label {target}")
        return members

    async def _add_node(self, node: Node) -> None:
        async with self._changing:
            if not self._tokens:
                raise LabError("the lab is still starting")
            if node.name in self._nodes:
                raise LabError(f"node {node.name!r} exists already")
            member = self._create_node(node)
            self._start(self._components.kubelet(node, member.addresses))
            self._start_clients(member)

            async def pending() -> list[str]:
                return await self._pending_node(member, await self._ready_nodes())

            await self._wait(pending)

    async def _set_agent(self, member: LabNode, agent: bool) -> None:
        """Put the node's kube-proxy and CoreDNS behind an agent, or make it a stock node."""
        async with self._changing:
            running = self._processes.get(f"agent@{member.name}")
            if not agent and running is not None:
                await running.stop()
            member.agent = agent
            for client in NODE_CLIENTS:
                await self._process(f"{client}@{member.name}").stop()
            self._start_clients(member)

            async def pending() -> list[str]:
                return await self._pending_node(member, {member.name: True})

            await self._wait(pending)

    async def _act(self, process: Process, action: str) -> None:
        async with process.changing:
            match action:
                case "start":
                    process.start()
                case "stop":
                    await process.stop()
                case "restart":
                    await process.stop()
                    process.start()
                case "kill":
                    process.signal(signal.SIGKILL)
                case _:
                    raise LabError(f"unknown action {action!r}: use start, stop, restart or kill")

    def _process(self, name: str) -> Process:
        try:
            return self._processes[name]
        except KeyError:
            raise LabError(f"no process {name!r} in this lab; `lab status` lists them") from None

    def _member(self, name: str) -> LabNode:
        try:
            return self._nodes[name]
        except KeyError:
            raise LabError(f"no node {name!r} in this lab") from None


def last_words(log: Path) -> str:
    """Return the last line that a process wrote itself."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    own = [line for line in lines if line.strip() and not line.startswith("[lab]")]
    return own[-1] if own else f"nothing in {log}"


def main() -> int:
    """Run the supervisor."""
    parser = argparse.ArgumentParser(prog="sitegrid.lab.supervisor")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--lock", type=int, required=True)
    args = parser.parse_args()
    os.set_inheritable(args.listener, False)
    os.set_inheritable(args.lock, False)
    return asyncio.run(_run(Layout(args.root), args.listener))


async def _run(layout: Layout, listener: int) -> int:
    loop = asyncio.get_running_loop()
    supervisor = Supervisor(LabConfig.read(layout.config), layout, socket.socket(fileno=listener))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.ended.set)
    # The pipe to `Lab.up` becomes readable only when its other end is closed: nobody waits for this lab any more.
    loop.add_reader(1, supervisor.ended.set)
    boot = asyncio.create_task(supervisor.boot(lambda text: _say({"progress": text})))
    ended = asyncio.create_task(supervisor.ended.wait())
    await asyncio.wait([boot, ended], return_when=asyncio.FIRST_COMPLETED)
    if not boot.done():
        _say({"error": "it was told to end before it was ready"})
        return 1
    try:
        boot.result()
    except LabError as error:
        _say({"error": str(error)})
        return 1
    _say({"ready": True})
    loop.remove_reader(1)
    _redirect_output(layout)
    await asyncio.wait([ended, asyncio.create_task(supervisor.watch_logs())], return_when=asyncio.FIRST_COMPLETED)
    return 0


def _say(message: dict[str, Any]) -> None:
    """Tell `Lab.up`, if it still listens."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(message), flush=True)


def _redirect_output(layout: Layout) -> None:
    with open_log(layout.logs / "supervisor.log") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _user_labels(nodes: Mapping[str, Any] | None, member: LabNode) -> dict[str, str]:
    """Return the Node's labels but for those that Kubernetes sets itself; the initial ones while it is unknown."""
    if nodes is None or member.name not in nodes:
        return dict(member.node.labels)
    labels: dict[str, str] = nodes[member.name]["metadata"].get("labels") or {}
    automatic = ("kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch")
    return {
        key: value
        for key, value in labels.items()
        if key not in automatic and not key.startswith("beta.kubernetes.io/")
    }


def _resident(pid: int | None) -> int | None:
    """Return the resident memory of a process in bytes, None where it does not run."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"


if __name__ == "__main__":
    sys.exit(main())
