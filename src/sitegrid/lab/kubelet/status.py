"""Pod status as a pure function of the pod, its record and the time.

The worker calls it after each change and writes the result where it differs from what the API server has. Rules are
core/v1's (PodStatus, ContainerStatus; pkg/kubelet/kubelet_pods.go and status/generate.go).

Invariants: the same input gives the same status, so nothing is written at rest (I7); a transition time changes only
with its status; conditions that others own are kept. Held by ``tests/lab/test_kubelet_status.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sitegrid.lab.kubelet.record import RUNNING, TERMINATED, WAITING, ContainerRecord, PodRecord

TERMINAL_PHASES: Final = frozenset({"Succeeded", "Failed"})


def timestamp(now: datetime) -> str:
    """Return `now` (UTC) as Kubernetes writes times: RFC 3339, whole seconds."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def sidecars(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the init containers that run beside the others (``restartPolicy: Always``, KEP-753)."""
    return [c for c in pod["spec"].get("initContainers") or [] if c.get("restartPolicy") == "Always"]


def running_containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the containers that get a process: sidecars and the pod's own."""
    return [*sidecars(pod), *pod["spec"]["containers"]]


def phase(pod: Mapping[str, Any], record: PodRecord) -> str:
    """Return the pod's phase from the states of its own containers."""
    reported: str = pod.get("status", {}).get("phase", "")
    if reported in TERMINAL_PHASES:  # for good, whoever wrote it (core/v1 PodPhase)
        return reported
    restart_policy = pod["spec"].get("restartPolicy", "Always")
    containers = [record.containers.get(c["name"], ContainerRecord()) for c in pod["spec"]["containers"]]
    if any(c.state == WAITING and not c.last for c in containers):
        return "Pending"
    if any(c.state != TERMINATED for c in containers):
        return "Running"
    deleting = "deletionTimestamp" in pod["metadata"]
    if restart_policy == "Always" and not deleting:
        return "Running"
    if any(record.containers.get(c["name"], ContainerRecord()).state == RUNNING for c in sidecars(pod)):
        return "Running"  # a terminal phase says that nothing runs any more
    if all(c.exit_code == 0 for c in containers):
        return "Succeeded"
    return "Running" if restart_policy == "OnFailure" and not deleting else "Failed"


def pod_status(pod: Mapping[str, Any], record: PodRecord, *, host_ip: str, now: str) -> dict[str, Any]:
    """Return the status fields that a kubelet owns, for a merge patch of the pod's status subresource."""
    status: dict[str, Any] = {
        "phase": phase(pod, record),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": record.started_at,
        "conditions": conditions(pod, record, now),
        "containerStatuses": [_container(c, record) for c in pod["spec"]["containers"]],
    }
    if record.sandbox_ready:
        status |= {"podIP": record.address, "podIPs": [{"ip": record.address}]}
    if pod["spec"].get("initContainers"):
        running = {c["name"] for c in sidecars(pod)}
        status["initContainerStatuses"] = [
            _container(c, record) if c["name"] in running else _completed(c, record.started_at)
            for c in pod["spec"]["initContainers"]
        ]
    return status


def conditions(pod: Mapping[str, Any], record: PodRecord, now: str) -> list[dict[str, Any]]:
    """Return the pod's conditions: the kubelet's own, with transition times carried over, and everyone else's."""
    before = {c["type"]: c for c in pod.get("status", {}).get("conditions") or []}
    ends = phase(pod, record) in TERMINAL_PHASES
    wanted = running_containers(pod)
    unready = [c["name"] for c in wanted if not record.containers.get(c["name"], ContainerRecord()).ready]
    gates = [g["conditionType"] for g in pod["spec"].get("readinessGates") or []]
    closed = [g for g in gates if before.get(g, {}).get("status") != "True"]
    terminating = "deletionTimestamp" in pod["metadata"]
    completed = ("PodCompleted", "") if phase(pod, record) == "Succeeded" else None
    not_ready = ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]") if unready else None
    containers_ready = completed or (("PodFailed", "") if ends else not_ready)
    own: dict[str, tuple[str, str] | None] = {
        "PodReadyToStartContainers": None if record.sandbox_ready and not ends else ("", ""),
        "Initialized": None if record.sandbox_ready or ends else ("ContainersNotInitialized", ""),
        "ContainersReady": containers_ready,
        "Ready": containers_ready
        or (("ReadinessGatesNotReady", f"readiness gates not met: [{' '.join(closed)}]") if closed else None)
        or (("PodTerminating", "") if terminating else None),
    }
    if "PodScheduled" not in before:
        own["PodScheduled"] = None
    result = [_condition(kind, fault, before.get(kind), now) for kind, fault in own.items()]
    return sorted([*result, *(c for kind, c in before.items() if kind not in own)], key=lambda c: str(c["type"]))


def _condition(
    kind: str, fault: tuple[str, str] | None, before: Mapping[str, Any] | None, now: str
) -> dict[str, Any]:
    value = "False" if fault else "True"
    same = before is not None and before["status"] == value and before.get("lastTransitionTime")
    since = before["lastTransitionTime"] if before is not None and same else now
    condition = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": since}
    if fault:
        condition |= {key: text for key, text in zip(("reason", "message"), fault, strict=True) if text}
    return condition


def _container(container: Mapping[str, Any], record: PodRecord) -> dict[str, Any]:
    state = record.containers.get(container["name"], ContainerRecord())
    status: dict[str, Any] = {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": container.get("image", ""),
        "ready": state.ready,
        "started": state.started,
        "restartCount": state.restart_count,
        "state": _state(state),
        "lastState": {"terminated": state.last} if state.last else {},
    }
    if state.pid:
        status["containerID"] = f"responder://{state.pid}-{state.start_ticks}"
    return status


def _state(state: ContainerRecord) -> dict[str, Any]:
    if state.state == RUNNING:
        return {"running": {"startedAt": state.started_at}}
    if state.state == TERMINATED:
        return {"terminated": terminated(state)}
    waiting = {"reason": state.reason}
    return {"waiting": waiting | ({"message": state.message} if state.message else {})}


def terminated(state: ContainerRecord) -> dict[str, Any]:
    """Return the ContainerStateTerminated of a container whose process has ended."""
    return {
        "exitCode": state.exit_code,
        "reason": state.reason,
        "startedAt": state.started_at or None,
        "finishedAt": state.finished_at,
        "containerID": f"responder://{state.pid}-{state.start_ticks}",
    }


def _completed(container: Mapping[str, Any], when: str) -> dict[str, Any]:
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": when, "finishedAt": when}
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": container.get("image", ""),
        "ready": True,
        "started": False,
        "restartCount": 0,
        "state": {"terminated": ended},
        "lastState": {},
    }


def differs(wanted: Mapping[str, Any], observed: Mapping[str, Any]) -> bool:
    """Tell whether writing `wanted` would change the observed status (null and absent are the same)."""
    return any(_without_nulls(observed.get(key)) != _without_nulls(value) for key, value in wanted.items())


def _without_nulls(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nulls(item) for item in value]
    return value
