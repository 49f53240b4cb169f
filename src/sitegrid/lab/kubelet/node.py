"""The Node object: registration, status and its Lease.

`__main__` runs `NodeAgent`. It does what a kubelet with ``system:node`` credentials does and may do (NodeRestriction
admission): it creates its Node, afterwards sets only the labels that are a kubelet's own and leaves every other label
to its user; renews its Lease every 10 s (KEP-589) and writes the node's status every 5 min or when it is not what it
should be. A Node that is deleted is not made again before the kubelet starts again, as with the real one.

Invariant I7: between heartbeats there are no writes. Held by ``tests/lab/test_kubelet_node.py``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sitegrid.kube.backoff import Backoff
from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.kube.objects import identity
from sitegrid.kube.reflector import Reflector
from sitegrid.kube.resources import LEASES, NODES
from sitegrid.kube.store import Store
from sitegrid.lab.kubelet.listener import PORT
from sitegrid.lab.kubelet.status import differs, timestamp

_log = logging.getLogger(__name__)

LEASE_NAMESPACE: Final = "kube-node-lease"
LEASE_SECONDS: Final = 40
RENEW_SECONDS: Final = 10.0
STATUS_SECONDS: Final = 300.0
"""Between status heartbeats (the kubelet's nodeStatusReportFrequency)."""
MAX_PODS: Final = 110
KUBELET_VERSION: Final = "v1.36.3"
"""The API that this kubelet stands in for."""

DECLARED_FEATURES: Final = ["ExtendWebSocketsToKubelet"]
"""The API server passes ``kubectl exec``'s WebSocket on as it is (KEP-4006, KEP-5328). Older ones drop the field."""

_CAPACITY: Final = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "256Gi", "pods": str(MAX_PODS)}
"""Stand-ins need next to nothing, so requests made for real machines must always fit."""
_HEALTHY: Final = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
)
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """Return this machine's architecture by its Go name."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def own_labels(name: str) -> dict[str, str]:
    """Return the labels that a kubelet keeps on its Node."""
    return {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture()}


def may_set(key: str) -> bool:
    """Tell whether a kubelet may set label `key` on its own Node (KEP-279, k8s.io/kubelet's IsKubeletLabel)."""
    prefix, slash, _ = key.rpartition("/")
    if not slash or not f".{prefix}".endswith((".kubernetes.io", ".k8s.io")):
        return True
    allowed = {
        *("kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "node.kubernetes.io/instance-type"),
        *("topology.kubernetes.io/zone", "topology.kubernetes.io/region"),
    }
    return key in allowed or f".{prefix}".endswith((".kubelet.kubernetes.io", ".node.kubernetes.io"))


def node_status(name: str, node_ip: str, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """Return the wanted status; `before` is the present one, whose transition times and foreign conditions stay."""
    present = {condition["type"]: condition for condition in before.get("conditions") or []}
    conditions = [condition for kind, condition in present.items() if kind not in {row[0] for row in _HEALTHY}]
    for kind, value, reason, message in _HEALTHY:
        same = present.get(kind, {}).get("status") == value
        since = present[kind]["lastTransitionTime"] if same else now
        times = {"lastHeartbeatTime": now, "lastTransitionTime": since}
        conditions.append({"type": kind, "status": value, "reason": reason, "message": message, **times})
    uname = platform.uname()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {
        "addresses": [{"type": "InternalIP", "address": node_ip}, {"type": "Hostname", "address": name}],
        "capacity": dict(_CAPACITY),
        "allocatable": dict(_CAPACITY),
        "conditions": conditions,
        "declaredFeatures": DECLARED_FEATURES,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
        "nodeInfo": {
            "architecture": architecture(),
            "bootID": boot_id,
            "containerRuntimeVersion": "responder://1",
            "kernelVersion": uname.release,
            "kubeProxyVersion": "",
            "kubeletVersion": KUBELET_VERSION,
            "machineID": f"{boot_id}-{name}",
            "operatingSystem": "linux",
            "osImage": "sitegrid lab",
            "systemUUID": f"{boot_id}-{name}",
        },
    }


def _comparable(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return a status without what differs although it is right: heartbeats, and what an API server may not know."""
    conditions = sorted(status.get("conditions") or [], key=lambda condition: str(condition["type"]))
    kept = {key: value for key, value in status.items() if key != "declaredFeatures"}
    return {**kept, "conditions": [{k: v for k, v in c.items() if k != "lastHeartbeatTime"} for c in conditions]}


class NodeAgent:
    """Keeps this node's Node and Lease."""

    def __init__(
        self,
        client: Client,
        *,
        name: str,
        labels: Mapping[str, str],
        node_ip: str,
        pod_cidr: str,
        labels_file: Path,
    ) -> None:
        self._client = client
        self._name = name
        self._labels = {**labels, **own_labels(name)}
        self._node_ip = node_ip
        self._pod_cidr = pod_cidr
        self._labels_file = labels_file
        self._store: Store[dict[str, Any]] = Store()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Register, then keep status and Lease until cancelled."""
        if not self._labels_file.exists():
            self._write_labels(self._labels)
        await self._until_done("registration", self._register)
        self._store.add_handler(self._observe)
        reflector: Reflector[dict[str, Any]] = Reflector(
            self._client, NODES, self._store, field_selector=f"metadata.name={self._name}"
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(reflector.run())
            await reflector.synced.wait()
            group.create_task(self._keep_lease())
            group.create_task(self._keep_status())

    def _observe(self, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is not None:
            self._write_labels(new["metadata"].get("labels") or {})
            self._changed.set()

    def _write_labels(self, labels: Mapping[str, str]) -> None:
        """Keep the file that the responders read; it is replaced as a whole, and only when it changes."""
        text = json.dumps(labels, sort_keys=True)
        if not self._labels_file.exists() or self._labels_file.read_text() != text:
            aside = self._labels_file.with_name(self._labels_file.name + ".new")
            aside.write_text(text)
            aside.replace(self._labels_file)

    async def _register(self) -> None:
        refused = sorted(key for key in self._labels if not may_set(key))
        if refused:
            _log.warning("labels that a kubelet may not set on its Node are left out: %s", ", ".join(refused))
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self._name,
                "labels": {key: value for key, value in self._labels.items() if may_set(key)},
            },
            "spec": {"podCIDR": self._pod_cidr, "podCIDRs": [self._pod_cidr]},
            "status": node_status(self._name, self._node_ip, {}, timestamp(datetime.now(UTC))),
        }
        try:
            await self._client.create(NODES, node)
        except ApiError as error:
            if not error.already_exists:
                raise
            await self._adopt(await self._client.get(NODES, self._name))

    async def _adopt(self, node: dict[str, Any]) -> None:
        """Bring a Node that exists already up to date; labels that are not a kubelet's own are its user's."""
        patch: dict[str, Any] = {}
        labels = node["metadata"].get("labels") or {}
        if missing := {key: value for key, value in own_labels(self._name).items() if labels.get(key) != value}:
            patch["metadata"] = {"labels": missing}
        if not node["spec"].get("podCIDR"):
            patch["spec"] = {"podCIDR": self._pod_cidr, "podCIDRs": [self._pod_cidr]}
        elif node["spec"]["podCIDR"] != self._pod_cidr:
            _log.error(
                "Node has podCIDR %s, which cannot be changed; using %s", node["spec"]["podCIDR"], self._pod_cidr
            )
        if patch:
            await self._client.patch(NODES, self._name, patch)
        await self._write_status(node)

    async def _write_status(self, node: Mapping[str, Any]) -> None:
        wanted = node_status(self._name, self._node_ip, node.get("status") or {}, timestamp(datetime.now(UTC)))
        await self._client.patch(NODES, self._name, {"status": wanted}, subresource="status")

    async def _keep_status(self) -> None:
        """Write the status at each heartbeat, and when somebody changed it (as after a lost WAN: Ready Unknown)."""
        while True:
            await self._until_heartbeat()
            node = self._store.get(None, self._name)
            if node is not None:
                await self._until_done("node status", lambda node=node: self._write_status(node))

    async def _until_heartbeat(self) -> None:
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                while True:
                    await self._changed.wait()
                    self._changed.clear()
                    if self._is_wrong():
                        return
        except TimeoutError:
            return

    def _is_wrong(self) -> bool:
        node = self._store.get(None, self._name)
        if node is None:
            return False
        present = node.get("status") or {}
        wanted = node_status(self._name, self._node_ip, present, "")
        return differs(_comparable(wanted), _comparable(present))

    async def _keep_lease(self) -> None:
        while True:
            node = self._store.get(None, self._name)
            if node is not None:
                await self._until_done("lease", lambda node=node: self._renew(node))
            await asyncio.sleep(RENEW_SECONDS)

    async def _renew(self, node: dict[str, Any]) -> None:
        spec = {
            "holderIdentity": self._name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        try:
            await self._client.patch(LEASES, self._name, {"spec": spec}, LEASE_NAMESPACE)
        except ApiError as error:
            if not error.not_found:
                raise
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": identity(node).uid}
            metadata = {"name": self._name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]}
            lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
            await self._client.create(LEASES, lease)

    async def _until_done(self, what: str, action: Any) -> None:
        """Do `action` until the API server has taken it; one that finds no Node any more is given up."""
        backoff = Backoff(cap=5.0)
        while True:
            try:
                await action()
                return
            except ApiError as error:
                _log.warning("%s: %s", what, error)
                if error.not_found:
                    return
            except Unreachable as error:
                _log.debug("%s: %s", what, error)
            await asyncio.sleep(backoff.next(asyncio.get_running_loop().time()))
