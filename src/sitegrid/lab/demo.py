"""The main job on a real cluster, told step by step: `sitegrid demo`.

Boots a lab, plays the article's example (two YAML files, every site, traffic closed), and proves each claim by
counting who answered whom. Called by `sitegrid.cli.demo`; every figure it prints was measured in this very run. A
claim that does not hold is printed as FAILED, the rest still runs, and the result is false.
Held by ``tests/e2e/test_demo.py``.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sitegrid.lab.clients import PATIENCE, Clients, Target, wait_until
from sitegrid.lab.lab import Lab
from sitegrid.lab.manifests import example
from sitegrid.lab.matrix import Matrix

KEY: Final = "zone"
SECOND_KEY: Final = "test"
REQUESTS: Final = 100
"""Requests per client and way in (name, NodePort)."""
SERVICE_URL: Final = "http://servicegrid-demo-svc/"
NODE_PORT: Final = 30080


class DemoError(Exception):
    """The demo cannot go on: something that everything else needs did not happen."""


class Demo:
    """One run of the demo in `lab`; `say` prints one line."""

    def __init__(self, lab: Lab, say: Callable[[str], None]) -> None:
        self._lab = lab
        self._clients = Clients(lab)
        self._say = say
        self._failed: list[str] = []
        self._figures: list[tuple[str, str]] = []
        self._requests = self._misplaced = 0
        self._step_number = 0

    def run(self) -> bool:
        """Play every step; return whether all claims held.

        Raises:
            DemoError: a step could not be played at all.
        """
        started = time.monotonic()
        with self._step("Boot a Kubernetes of 4 nodes in 2 sites on this machine"):
            boot = time.monotonic()
            self._lab.up(progress=lambda line: self._say(f"   {line}"))
            self._figures.append(("cluster ready after", f"{time.monotonic() - boot:.1f} s"))
        self._two_yaml_files()
        self._closed()
        self._second_group()
        self._new_site()
        self._wan_cut()
        self._no_agent()
        self._memory()
        self._figures.append(("whole demo", f"{time.monotonic() - started:.0f} s"))
        return self._summary()

    # The steps, in the order in which they are told.

    def _two_yaml_files(self) -> None:
        with self._step("Two YAML files: one DeploymentGrid, one ServiceGrid"):
            self._kubectl("get", "nodes", "-L", f"{KEY},{SECOND_KEY}")
            self._clients.deploy()
            applied = time.monotonic()
            self._kubectl("apply", "-f", example("deploymentgrid.yaml"), "-f", example("servicegrid.yaml"))
            self._wait_ready("dg/deploymentgrid-demo", "sg/servicegrid-demo")
            self._figures.append(("two files applied → every site ready", f"{time.monotonic() - applied:.1f} s"))
            self._kubectl("apply", "-f", example("nodeport.yaml"))
            self._wait_ready("sg/servicegrid-nodeport")
            self._kubectl("get", "dg,sg,deployments")
            self._kubectl("get", "pods", "-l", "appGrid", "-o", "wide")

    def _closed(self) -> None:
        with self._step(f"{REQUESTS} requests from every node to the Service's name, {REQUESTS} to its own NodePort"):
            self._matrix_step("no request left its site", self._both_ways(self._clients.members(KEY)))

    def _second_group(self) -> None:
        with self._step(f"A second ServiceGroup divides the same nodes by another label, {SECOND_KEY!r}"):
            self._kubectl("apply", "-f", example("second-group.yaml"))
            self._wait_ready("dg/probe", "sg/probe")
            url = "http://probe-svc/"
            members = self._clients.members(SECOND_KEY)
            self._clients.until_answered([(node, url) for node in members])
            self._matrix_step(
                f"nodes with a label {SECOND_KEY!r} are served by their own unit",
                [(n, url) for n in members],
                SECOND_KEY,
            )
            outsiders = [(node, url) for node in self._clients.sites(KEY) if node not in members]
            self._nothing_step(f"nodes without a label {SECOND_KEY!r} reach nothing of it", outsiders, SECOND_KEY)

    def _new_site(self) -> None:
        with self._step("A third site: a new node joins, then gets its label; nothing else is done"):
            self._lab.add_node("node31", {})
            self._clients.pod("node31")
            labelled = time.monotonic()
            self._kubectl("label", "node", "node31", f"{KEY}=NodeUnit3")
            self._clients.until_answered([("node31", SERVICE_URL)])
            self._figures.append(("new site → first answered request", f"{time.monotonic() - labelled:.1f} s"))
            self._wait_ready("dg/deploymentgrid-demo")
            self._kubectl("get", "dg", "deploymentgrid-demo")
            self._matrix_step("three sites, each closed", self._both_ways(self._clients.members(KEY)))

    def _wan_cut(self) -> None:
        site = "NodeUnit2"
        with self._step(f"Cut the WAN of {site}: its nodes lose the API server"):
            nodes = [node for node, value in self._clients.members(KEY).items() if value == site]
            self._lab.cut_wan(f"{KEY}={site}")
            try:
                reachable = [node for node in nodes if self._reaches_api_server(node)]
                self._claim(not reachable, f"no node of {site} reaches the API server")
                self._matrix_step(f"traffic inside {site} goes on", self._both_ways(nodes))
            finally:
                self._lab.restore_wan(f"{KEY}={site}")
            back = wait_until(lambda: all(self._reaches_api_server(node) for node in nodes))
            self._claim(back, f"after the WAN is back, {site} reaches the API server again")

    def _no_agent(self) -> None:
        with self._step("A node of NodeUnit1 without an agent: a stock kube-proxy straight at the API server"):
            self._lab.add_node("node15", {KEY: "NodeUnit1"}, agent=False)
            self._clients.pod("node15")
            targets = [("node15", SERVICE_URL), ("node15", self._clients.node_url("node15", NODE_PORT))]
            self._nothing_step("a node without an agent reaches nothing", targets, KEY)

    def _memory(self) -> None:
        processes = self._lab.status().processes
        sizes = [
            process.memory / 1e6 for process in processes if process.name.startswith("agent@") and process.memory
        ]
        if sizes:
            self._figures.append(("agent's resident memory", f"{min(sizes):.1f}-{max(sizes):.1f} MB"))

    def _summary(self) -> bool:
        self._say("")
        self._say("Summary")
        self._claim(self._misplaced == 0, f"{self._misplaced} of {self._requests} requests out of place")
        for name, figure in self._figures:
            self._say(f"   {name}: {figure}")
        for failure in self._failed:
            self._say(f"   FAILED: {failure}")
        self._say("   everything held" if not self._failed else "   not everything held")
        return not self._failed

    # How a step counts and looks.

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        self._step_number += 1
        self._say("")
        self._say(f"{self._step_number}. {title}")
        yield

    def _claim(self, held: bool, text: str) -> None:
        self._say(f"   {'ok' if held else 'FAILED'}: {text}")
        if not held:
            self._failed.append(text)

    def _matrix_step(self, claim: str, targets: Sequence[Target], key: str = KEY) -> None:
        """Send requests, show the matrix, and claim that none was misplaced or lost."""
        matrix = self._measure(targets, key, REQUESTS)
        self._claim(matrix.misplaced == 0 and matrix.lost == 0, f"{claim} ({matrix.requests} requests)")

    def _nothing_step(self, claim: str, targets: Sequence[Target], key: str) -> None:
        """Send a few requests and claim that none was answered; few, since each waits for its time-out."""
        matrix = self._measure(targets, key, 5)
        self._claim(matrix.lost == matrix.requests, f"{claim} ({matrix.requests} requests)")

    def _measure(self, targets: Sequence[Target], key: str, requests: int) -> Matrix:
        matrix = self._clients.measure(targets, self._clients.sites(key), requests)
        for line in matrix.render().splitlines():
            self._say(f"   {line}")
        self._requests += matrix.requests
        self._misplaced += matrix.misplaced
        return matrix

    def _both_ways(self, nodes: Iterable[str]) -> list[Target]:
        """Return the Service's name and the own NodePort as seen from each of `nodes`, once they all answer."""
        ways = [(node, url) for node in nodes for url in (SERVICE_URL, self._clients.node_url(node, NODE_PORT))]
        self._clients.until_answered(ways)
        return ways

    # What the steps ask of the lab.

    def _kubectl(self, *args: str | Path) -> None:
        words = [str(arg) for arg in args]
        shown = " ".join(f"examples/{Path(word).name}" if word.endswith(".yaml") else word for word in words)
        self._say(f"   $ kubectl {shown}")
        for line in self._lab.kubectl(*words).stdout.splitlines():
            self._say(f"   {line}")

    def _wait_ready(self, *objects: str) -> None:
        result = self._lab.kubectl(
            "wait", "--for=condition=Ready", f"--timeout={PATIENCE:.0f}s", *objects, check=False
        )
        if result.returncode != 0:
            raise DemoError(f"not ready within {PATIENCE:.0f} s: {' '.join(objects)}: {result.stderr.strip()}")

    def _reaches_api_server(self, node: str) -> bool:
        argv = ["curl", "--silent", "--insecure", "--max-time", "2", "https://172.31.0.1:6443/readyz"]
        return self._lab.run(node, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
