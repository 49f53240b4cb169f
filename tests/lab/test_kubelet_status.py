"""Pod status from pod and record."""

from __future__ import annotations

from typing import Any

import pytest

from sitegrid.lab.kubelet import status
from sitegrid.lab.kubelet.record import RUNNING, TERMINATED, WAITING, ContainerRecord, PodRecord

T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"


def pod(names: str = "c", *, deleting: bool = False, **spec: Any) -> dict[str, Any]:
    """Return a pod with one container per letter of `names`."""
    metadata = {"name": "p", "namespace": "n", "uid": "u"} | ({"deletionTimestamp": T0} if deleting else {})
    return {"metadata": metadata, "spec": {"containers": [{"name": n, "image": n} for n in names], **spec}}


def record(of: dict[str, Any], **containers: ContainerRecord) -> PodRecord:
    """Return a record with a complete sandbox."""
    return PodRecord(pod=of, address="10.0.0.2", started_at=T0, sandbox_ready=True, containers=containers)


def running(ready: bool = True) -> ContainerRecord:
    """Return a container that runs."""
    return ContainerRecord(state=RUNNING, pid=5, start_ticks=6, started_at=T0, started=True, ready=ready)


def ended(exit_code: int) -> ContainerRecord:
    """Return a container that has ended."""
    return ContainerRecord(state=TERMINATED, exit_code=exit_code, reason="Error", finished_at=T1)


def conditions(of: dict[str, Any], known: PodRecord, now: str = T1) -> dict[str, str]:
    """Return the conditions' statuses by type."""
    return {c["type"]: c["status"] for c in status.conditions(of, known, now)}


@pytest.mark.parametrize(
    ("policy", "containers", "phase"),
    [
        ("Always", {"a": running(), "b": ContainerRecord()}, "Pending"),
        ("Always", {"a": running(), "b": running(ready=False)}, "Running"),
        ("Always", {"a": running(), "b": ContainerRecord(state=WAITING, last={"exitCode": 1})}, "Running"),
        ("Always", {"a": ended(0), "b": ended(0)}, "Running"),
        ("Never", {"a": ended(0), "b": running()}, "Running"),
        ("Never", {"a": ended(0), "b": ended(0)}, "Succeeded"),
        ("Never", {"a": ended(0), "b": ended(1)}, "Failed"),
        ("OnFailure", {"a": ended(0), "b": ended(1)}, "Running"),
        ("OnFailure", {"a": ended(0), "b": ended(0)}, "Succeeded"),
    ],
)
def test_phase(policy: str, containers: dict[str, ContainerRecord], phase: str) -> None:
    """The phase follows from the containers' states and the restart policy."""
    of = pod("ab", restartPolicy=policy)
    assert status.phase(of, record(of, **containers)) == phase


def test_deleted_pod_with_restart_policy_always_gets_a_terminal_phase() -> None:
    """Once its containers have ended, a pod that is being deleted is Succeeded or Failed."""
    of = pod(deleting=True)
    assert status.phase(of, record(of, c=ended(0))) == "Succeeded"
    assert status.phase(of, record(of, c=ended(137))) == "Failed"


def test_terminal_phase_stays() -> None:
    """A terminal phase that is reported already is never taken back."""
    of = pod() | {"status": {"phase": "Failed"}}
    assert status.phase(of, record(of, c=running())) == "Failed"


def test_ready_when_all_containers_are() -> None:
    """One container that is not ready makes the pod not ready."""
    of = pod("ab")
    assert conditions(of, record(of, a=running(), b=running()))["Ready"] == "True"
    assert conditions(of, record(of, a=running(), b=running(ready=False)))["Ready"] == "False"


def test_terminating_pod_is_not_ready_at_once() -> None:
    """A deletion timestamp makes the pod not ready though its containers are."""
    of = pod(deleting=True)
    found = conditions(of, record(of, c=running()))
    assert (found["ContainersReady"], found["Ready"]) == ("True", "False")


def test_readiness_gates() -> None:
    """A pod is ready only when every condition that it names as a gate is True."""
    of = pod(readinessGates=[{"conditionType": "x/y"}])
    assert conditions(of, record(of, c=running()))["Ready"] == "False"
    gate = {"type": "x/y", "status": "True", "lastTransitionTime": T0}
    open_gate = of | {"status": {"conditions": [gate]}}
    assert conditions(open_gate, record(of, c=running()))["Ready"] == "True"


def test_foreign_conditions_stay() -> None:
    """Conditions of others are written back as they are."""
    foreign = {"type": "DisruptionTarget", "status": "True", "reason": "r", "lastTransitionTime": T0}
    of = pod() | {"status": {"conditions": [foreign]}}
    assert foreign in status.conditions(of, record(of, c=running()), T1)


def test_transition_time_changes_only_with_the_status() -> None:
    """What stays as it was keeps its time; what changed has the new one."""
    of = pod("ab")
    before = status.conditions(of, record(of, a=running(), b=running()), T0)
    later = of | {"status": {"conditions": before}}
    known = record(of, a=running(), b=running(ready=False))
    times = {c["type"]: c["lastTransitionTime"] for c in status.conditions(later, known, T1)}
    assert (times["Ready"], times["Initialized"]) == (T1, T0)


def test_same_input_is_no_difference() -> None:
    """A status that was written is not different a minute later (I7)."""
    of = pod("ab", initContainers=[{"name": "i", "image": "i"}])
    known = record(of, a=running(), b=running(ready=False))
    written = status.pod_status(of, known, host_ip="h", now=T0)
    later = of | {"status": {**written, "qosClass": "BestEffort"}}
    assert not status.differs(status.pod_status(later, known, host_ip="h", now=T1), later["status"])


def test_no_address_before_the_sandbox() -> None:
    """An address is reported only when something can answer there."""
    of = pod()
    known = record(of)
    known.sandbox_ready = False
    assert "podIP" not in status.pod_status(of, known, host_ip="h", now=T0)


def test_init_containers_are_completed_and_sidecars_run() -> None:
    """An init container counts as done; one with `restartPolicy: Always` gets a process and counts for readiness."""
    init = [{"name": "i", "image": "i"}, {"name": "s", "image": "s", "restartPolicy": "Always"}]
    of = pod(initContainers=init)
    assert [c["name"] for c in status.running_containers(of)] == ["s", "c"]
    known = record(of, c=running(), s=running(ready=False))
    found = status.pod_status(of, known, host_ip="h", now=T0)["initContainerStatuses"]
    assert found[0]["state"]["terminated"]["exitCode"] == 0
    assert "running" in found[1]["state"]
    assert conditions(of, known)["Ready"] == "False"


def test_container_that_was_restarted_tells_of_the_run_before() -> None:
    """Restart count and last state are reported, and why it waits."""
    waiting = ContainerRecord(reason="CrashLoopBackOff", restart_count=2, last={"exitCode": 3})
    of = pod()
    found = status.pod_status(of, record(of, c=waiting), host_ip="h", now=T0)["containerStatuses"][0]
    assert found["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
    assert (found["restartCount"], found["lastState"]) == (2, {"terminated": {"exitCode": 3}})
