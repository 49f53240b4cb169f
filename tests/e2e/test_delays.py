"""How soon a change at the API server is a rule in a node's kernel, behind a real kube-proxy: printed, never judged.

What is asserted is the change itself. The times (``pytest -rP``) are from the write until the first unit slice or
Service is written in the cloud, until a client of the node's agent is told the last of it, and until the
kernel has the last rule: what lies between is Kubernetes' and our controller's, the agent's, and kube-proxy's, which
writes the first change that it hears of at once, and what comes later after a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from sitegrid.kube.client import Client
from sitegrid.kube.config import load_config
from sitegrid.kube.resources import NODES, PODS, Resource
from sitegrid.lab.clients import entered, wait_until
from sitegrid.lab.config import LabConfig
from sitegrid.lab.lab import Lab
from tests.support.faultsite import FAULTY, OTHER, FaultSite

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SERVICE_GRIDS = Resource("tkeedge.io", "v1", "servicegrids", "ServiceGrid", True)
NODE_UNITS = Resource("tkeedge.io", "v1", "nodeunits", "NodeUnit", False)
GRID: dict[str, Any] = {
    "apiVersion": "tkeedge.io/v1",
    "kind": "ServiceGrid",
    "metadata": {"name": "delay", "namespace": "default"},
    "spec": {"gridUniqKey": "zone", "template": {"selector": {"appGrid": "nginx"}, "ports": [{"port": 80}]}},
}
UNIT: dict[str, Any] = {
    "apiVersion": "tkeedge.io/v1",
    "kind": "NodeUnit",
    "metadata": {"name": "delay"},
    "spec": {"gridUniqKey": "delay", "nodes": [FAULTY], "removal": {"gracePeriodSeconds": 0}},
}
SERVICE = "delay-svc"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?watch=true"
SERVICES = "/api/v1/namespaces/default/services?watch=true"
AGENT = "http://127.0.0.1:10351"
QUIET = 1.2
"""Seconds: kube-proxy writes rules at most once a second; a change after a quiet second is written at once."""

_SWEPT = ("delete chain ", "delete set ")
"""How `nft monitor` tells what kube-proxy clears away a second after it went out of use."""


class Lines:
    """The lines of a program that concern the Service, with the times at which they came."""

    def __init__(self, argv: list[str]) -> None:
        self._seen: list[float] = []
        self._swept: list[bool] = []
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                if SERVICE in line:
                    self._seen.append(time.monotonic())
                    self._swept.append(line.startswith(_SWEPT))

    def since(self, moment: float) -> list[float]:
        """Return the times after `moment`, in seconds, without those at which something was swept."""
        return [x - moment for x, swept in zip(self._seen, self._swept, strict=False) if x > moment and not swept]

    def quiet(self) -> bool:
        """Tell whether nothing came for a while."""
        return not self._seen or time.monotonic() - self._seen[-1] > QUIET

    def close(self) -> None:
        """End the program."""
        with contextlib.suppress(IndexError):  # a program of the host has no child
            os.kill(entered(self._process), signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._thread.join()


class Changes:
    """Makes changes, and notes when they were where."""

    def __init__(self, site: FaultSite) -> None:
        lab = self._lab = site.lab
        self._site = site
        self.table = [f"{'milliseconds until':28} {'cloud':>7} {'agent':>7} {'rules':>7}"]
        kubectl = [LabConfig.read(lab.layout.config).binaries["kubectl"], f"--kubeconfig={lab.kubeconfig}"]
        curl = ["curl", "-sN", "--max-time", "300"]
        unit = f"{SLICES}&labelSelector=tkeedge.io/unit"
        self._cloud = [Lines([*kubectl, "get", "--raw", unit]), Lines([*kubectl, "get", "--raw", SERVICES])]
        self._agent = [Lines(lab.command(FAULTY, [*curl, AGENT + path])) for path in (SLICES, SERVICES)]
        self._rules = Lines(lab.command(FAULTY, ["stdbuf", "-oL", "nft", "monitor"]))

    def close(self) -> None:
        """End all watching."""
        for lines in (*self._cloud, *self._agent, self._rules):
            lines.close()

    def rules(self) -> set[str]:
        """Return the pods that the node's rules have for the Service."""
        return self._site.in_rules(FAULTY, SERVICE)

    def hold(self, what: str, write: Callable[[Client], Awaitable[Any]], is_so: Callable[[], bool]) -> None:
        """Make a change after a quiet time, and wait until the rules are as they should be, and quiet again."""
        self._until_quiet()
        began = asyncio.run(self._write(write))
        assert wait_until(is_so), f"{what}: {self.rules()}"
        self._until_quiet()
        times = [
            min((seconds for lines in self._cloud for seconds in lines.since(began)), default=0),
            max(max(lines.since(began), default=0) for lines in self._agent),
            max(self._rules.since(began), default=0),
        ]
        self.table.append(f"{what:28} " + " ".join(f"{seconds * 1000:7.0f}" for seconds in times))

    def _until_quiet(self) -> None:
        streams = (*self._cloud, *self._agent, self._rules)
        assert wait_until(lambda: all(lines.quiet() for lines in streams))

    async def _write(self, write: Callable[[Client], Awaitable[Any]]) -> float:
        async with Client(load_config(str(self._lab.kubeconfig))) as client:
            await client.get(NODES, FAULTY)  # the connection is there before the clock runs
            began = time.monotonic()
            await write(client)
        return began


def readiness(pod: dict[str, Any], status: str) -> dict[str, Any]:
    """Return the patch that gives a pod's Ready that status."""
    conditions = [{**x, "status": status} if x["type"] == "Ready" else x for x in pod["status"]["conditions"]]
    return {"status": {"conditions": conditions}}


@pytest.fixture
def changes(site: FaultSite) -> Iterator[Changes]:
    """Watch a ServiceGrid that is not there yet, on a node of NodeUnit2."""
    found = Changes(site)
    yield found
    found.close()
    site.lab.kubectl("delete", "--ignore-not-found", "servicegrid/delay", "nodeunit/delay")
    site.lab.kubectl("label", "--overwrite", "node", FAULTY, "zone=NodeUnit2")


def test_every_change_is_in_the_rules_of_the_node(changes: Changes, site: FaultSite, lab: Lab) -> None:
    """Grid made, changed and deleted, pod ready or not, node relabelled, unit changed: the node's kernel follows."""
    pods, members = site.items(), site.clients.members("zone")
    places = {pod["spec"]["nodeName"] for pod in pods}
    assert {FAULTY, OTHER} < places
    own = {f"{FAULTY}:80", f"{OTHER}:80"}
    moved = {f"{node}:80" for node in places if node == FAULTY or members.get(node) == "NodeUnit1"}
    pod = next(pod for pod in pods if pod["spec"]["nodeName"] == OTHER)
    name = pod["metadata"]["name"]
    port = {"spec": {"template": {"ports": [{"port": 80, "targetPort": 81}]}}}

    def relabel(unit: str) -> Callable[[Client], Awaitable[Any]]:
        return lambda client: client.patch(NODES, FAULTY, {"metadata": {"labels": {"zone": unit}}})

    def become(status: str) -> Callable[[Client], Awaitable[Any]]:
        return lambda client: client.patch(PODS, name, readiness(pod, status), "default", subresource="status")

    hold, rules = changes.hold, changes.rules
    hold("ServiceGrid made", lambda client: client.create(SERVICE_GRIDS, GRID), lambda: rules() == own)
    lab.process(f"kubelet@{OTHER}", "stop")  # it would put its pod's status right at once
    try:
        hold("pod not ready", become("False"), lambda: rules() == {f"{FAULTY}:80"})
        hold("pod ready", become("True"), lambda: rules() == own)
    finally:
        lab.process(f"kubelet@{OTHER}", "start")
    hold("node relabelled", relabel("NodeUnit1"), lambda: rules() == moved)
    hold("and back", relabel("NodeUnit2"), lambda: rules() == own)
    hold(
        "ServiceGrid's port changed",
        lambda client: client.patch(SERVICE_GRIDS, "delay", port, "default"),
        lambda: rules() == {f"{FAULTY}:81", f"{OTHER}:81"},
    )
    hold("ServiceGrid deleted", lambda client: client.delete(SERVICE_GRIDS, "delay", "default"), lambda: not rules())

    declared = {**GRID, "spec": {**GRID["spec"], "gridUniqKey": UNIT["spec"]["gridUniqKey"]}}
    lab.kubectl("apply", "-f", "-", input=json.dumps(UNIT))
    hold(
        "with another key", lambda client: client.create(SERVICE_GRIDS, declared), lambda: rules() == {f"{FAULTY}:80"}
    )
    more = {"spec": {"nodes": [FAULTY, OTHER]}}
    hold("NodeUnit has a node more", lambda client: client.patch(NODE_UNITS, "delay", more), lambda: rules() == own)
    print("\n".join(changes.table))
