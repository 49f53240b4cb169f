"""Traffic from a client pod on every node, counted into a matrix: how closure is measured in a lab.

Used by the demo and by the end-to-end tests, so that both mean the same by "no request left its site". Every request
is a new connection with a fresh DNS look-up, sent by `sitegrid.lab.traffic` from inside a pod. Held by
``tests/e2e/test_closure.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from sitegrid.lab import traffic
from sitegrid.lab.lab import Lab
from sitegrid.lab.matrix import Matrix

_TRAFFIC: Final = (sys.executable, "-I", "-S", traffic.__file__)
"""By path and without site-packages it starts several times faster than by module name."""

PATIENCE: Final = 120.0
"""Seconds after which something that should have happened by itself counts as failed."""

_DAEMONSET: Final = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: client, namespace: default}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: client, image: client}]
"""

Target = tuple[str, str]
"""What a client on a node asks: (node, URL)."""


class ClientsError(Exception):
    """A client could not be had or could not run; says nothing about the service that was asked."""


class Clients:
    """One client pod on every node of `lab`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._pods: dict[str, str] = {}

    def deploy(self) -> None:
        """Create the DaemonSet of clients; nodes that join later get theirs by themselves."""
        self._lab.kubectl("apply", "-f", "-", input=_DAEMONSET)

    def pod(self, node: str) -> str:
        """Return ``namespace/name`` of the running client on `node`, waiting for it.

        Remembered once found, so that clients can be used while their node has no API server.
        """
        if node not in self._pods and not wait_until(lambda: self._find_pod(node)):
            raise ClientsError(f"no client pod runs on {node} after {PATIENCE:.0f} s")
        return self._pods[node]

    def ask(self, target: Target, requests: int, *, timeout: float = 2.0) -> dict[str, Any]:
        """Send `requests` requests one after another and return the traffic summary; `timeout` in seconds each."""
        node, url = target
        argv = [*_TRAFFIC, url, f"--requests={requests}", f"--timeout={timeout}"]
        result = self._lab.run(self.pod(node), argv, capture_output=True, text=True)
        if result.returncode != 0:
            raise ClientsError(f"the client on {node} failed: {result.stderr.strip()}")
        summary: dict[str, Any] = json.loads(result.stdout)
        return summary

    def until_answered(self, targets: Iterable[Target]) -> None:
        """Wait until each target has answered once: rules are in place, counting can start."""
        for target in targets:
            if not wait_until(lambda target=target: bool(self.ask(target, 1)["answers"])):  # type: ignore[misc]
                raise ClientsError(f"{target[1]} did not answer on {target[0]} within {PATIENCE:.0f} s")

    def measure(self, targets: Sequence[Target], sites: Mapping[str, str], requests: int) -> Matrix:
        """Send `requests` requests per target, several targets at once, and count them by `sites` (node → site)."""
        matrix = Matrix(sites)
        with ThreadPoolExecutor(max_workers=4) as pool:
            summaries = pool.map(lambda target: self.ask(target, requests), targets)
            for (node, _), summary in zip(targets, summaries, strict=True):
                matrix.add(node, summary)
        return matrix

    @contextlib.contextmanager
    def sending(
        self, targets: Iterable[Target], sites: Mapping[str, str], *, interval: float = 0.005
    ) -> Iterator[dict[Target, Matrix]]:
        """Send requests to all targets while the block runs; then the yielded dict has a matrix for each of them.

        `interval` is seconds between an answer and the next request. Whatever was begun is counted.
        """
        matrices: dict[Target, Matrix] = {}
        senders: dict[Target, subprocess.Popen[bytes]] = {}
        try:
            for node, url in targets:
                argv = self._lab.command(self.pod(node), [*_TRAFFIC, url, "--until-signal", f"--interval={interval}"])
                senders[node, url] = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
            yield matrices
            for (node, url), sender in senders.items():
                os.kill(entered(sender), signal.SIGTERM)
                output, _ = sender.communicate(timeout=60)
                matrices[node, url] = Matrix(sites)
                matrices[node, url].add(node, json.loads(output))
        finally:
            for sender in senders.values():
                with sender:
                    sender.kill()

    def sites(self, key: str) -> dict[str, str]:
        """Return every node's value of `key`, empty where it has none, as the API server has it now."""
        nodes = json.loads(self._lab.kubectl("get", "nodes", "-o", "json").stdout)["items"]
        return {node["metadata"]["name"]: node["metadata"]["labels"].get(key, "") for node in nodes}

    def members(self, key: str) -> dict[str, str]:
        """Return the value of `key` of every node that has one."""
        return {node: value for node, value in self.sites(key).items() if value}

    def node_url(self, node: str, port: int) -> str:
        """Return the URL of a NodePort on `node`'s own address."""
        address = next(status.address for status in self._lab.status().nodes if status.name == node)
        return f"http://{address}:{port}/"

    def _find_pod(self, node: str) -> bool:
        pods = json.loads(self._lab.kubectl("get", "pods", "-l", "app=client", "-o", "json").stdout)["items"]
        for pod in pods:
            if pod["spec"].get("nodeName") == node and pod["status"]["phase"] == "Running":
                self._pods[node] = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                return True
        return False


def entered(process: subprocess.Popen[Any]) -> int:
    """Return the process id of the program that `process`, a command of `Lab.command`, runs in the lab.

    nsenter forks: the program is its child, and a signal to nsenter would not reach it.
    """
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def wait_until(condition: Callable[[], bool], *, seconds: float = PATIENCE) -> bool:
    """Poll `condition` ten times a second; return whether it held within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
