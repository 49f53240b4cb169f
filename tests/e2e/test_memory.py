"""The agent stays small, however large the cluster is around its unit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from sitegrid.kube.client import Client
from sitegrid.kube.config import load_config
from sitegrid.kube.resources import ENDPOINTSLICES, SERVICES, Resource
from sitegrid.lab.bootstrap import lift_admission
from sitegrid.lab.clients import wait_until
from sitegrid.lab.lab import Lab
from sitegrid.lab.sites import Node, Sites
from sitegrid.wire.labels import (
    GRID_UNIQ_KEY,
    HEADLESS,
    MANAGED_BY,
    SERVICE_NAME,
    SERVICE_PROXY_NAME,
    SITEGRID,
    UNIT,
    UNIT_SERVICE_NAME,
)

LIMIT = 30_000_000
"""Bytes resident with kube-proxy, CoreDNS and the kubelet attached."""
WATCHES = 9
"""Services, EndpointSlices, the node, ServiceCIDRs by kube-proxy; the first two and namespaces by CoreDNS; the node
and its pods by the kubelet."""
UNITS, SERVICES_OF_OTHER_KEYS, PLAIN_SERVICES = 1000, 300, 1000


def unit_slice(number: int) -> dict[str, Any]:
    """Return a unit slice of another unit."""
    labels = {UNIT: f"zone.u{number}", UNIT_SERVICE_NAME: "web", GRID_UNIQ_KEY: "zone", MANAGED_BY: SITEGRID}
    return {
        "metadata": {
            "name": f"web-u{number}",
            "namespace": "default",
            "labels": {**labels, SERVICE_PROXY_NAME: SITEGRID, HEADLESS: ""},
        },
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [f"10.9.{number >> 8}.{number & 255}"], "conditions": {"ready": True}, "nodeName": "far"}
        ],
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
    }


def service(number: int) -> dict[str, Any]:
    """Return a grid's Service of another unique key."""
    labels = {GRID_UNIQ_KEY: "other", SERVICE_PROXY_NAME: SITEGRID}
    return {
        "metadata": {"name": f"other-{number}", "namespace": "default", "labels": labels},
        "spec": {"ports": [{"port": 80}]},
    }


def plain_service(number: int) -> dict[str, Any]:
    """Return a Service of no grid: every node has it, and the slice behind it."""
    metadata = {"name": f"plain-{number}", "namespace": "default", "labels": {"app": f"plain-{number}"}}
    return {"metadata": metadata, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}


def plain_slice(number: int) -> dict[str, Any]:
    """Return the slice of a Service of no grid."""
    labels = {
        SERVICE_NAME: f"plain-{number}",
        MANAGED_BY: "endpointslice-controller.k8s.io",
        "app": f"plain-{number}",
    }
    endpoints = [
        {
            "addresses": [f"10.{place}.{number >> 8}.{number & 255}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"site-{number % 300}",
            "targetRef": {
                "kind": "Pod",
                "namespace": "default",
                "name": f"plain-{number}-{place}",
                "uid": str(uuid4()),
            },
        }
        for place in (10, 11)
    ]
    return {
        "metadata": {"name": f"plain-{number}-x", "namespace": "default", "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


async def pad(kubeconfig: str) -> None:
    """Create all of them, some at a time."""
    limit = asyncio.Semaphore(16)

    async def create(client: Client, resource: Resource, obj: dict[str, Any]) -> None:
        async with limit:
            await client.create(resource, {"apiVersion": resource.api_version, "kind": resource.kind, **obj})

    async with Client(load_config(kubeconfig)) as client:
        await lift_admission(client)
        await asyncio.gather(
            *(create(client, ENDPOINTSLICES, unit_slice(number)) for number in range(UNITS)),
            *(create(client, SERVICES, service(number)) for number in range(SERVICES_OF_OTHER_KEYS)),
            *(create(client, SERVICES, plain_service(number)) for number in range(PLAIN_SERVICES)),
            *(create(client, ENDPOINTSLICES, plain_slice(number)) for number in range(PLAIN_SERVICES)),
        )


def resident(lab: Lab) -> int:
    """Return the agent's resident memory in bytes; 0 while it does not run."""
    return next(process.memory or 0 for process in lab.status().processes if process.name == "agent@n1")


def settled(lab: Lab) -> bool:
    """Tell whether kube-proxy and CoreDNS watch all that they watch, and the agent's disk has it."""
    argv = ["curl", "-s", "-m", "5", "http://127.0.0.1:10351/sitegrid/metrics"]
    lines = lab.run("n1", argv, capture_output=True).stdout.splitlines()
    return {f"sitegrid_agent_watchers {WATCHES}", "sitegrid_agent_snapshots_unwritten 0"} <= set(lines)


def test_the_agent_stays_below_thirty_megabytes(new_lab: Callable[[str], Lab]) -> None:
    """Among other units' slices, other keys' Services, plain ones: after changes, its restart, and its clients'."""
    lab = new_lab("memory")
    lab.up(Sites((Node("n1", {"zone": "here"}),)))
    asyncio.run(pad(str(lab.kubeconfig)))
    for what, then in (
        ("after the changes", ["agent"]),
        ("after its restart", ["kube-proxy", "coredns"] * 3),
        ("after its clients' restarts", []),
    ):
        assert wait_until(lambda: settled(lab))
        print(f"agent {what}: {resident(lab) / 1e6:.1f} MB")
        assert resident(lab) <= LIMIT, what
        for process in then:
            lab.process(f"{process}@n1", "restart")
