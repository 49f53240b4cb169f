"""Pods and helpers for tests that ask a lab something."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from sitegrid.lab.lab import Lab

_DAEMONSET = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: web, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: everywhere}
spec:
  selector: {app: everywhere}
  ports: [{port: 80, targetPort: 8080}]
"""


@pytest.fixture(scope="session")
def pods(lab: Lab, until: Callable[[Callable[[], bool], str], None]) -> Iterator[dict[str, str]]:
    """Run a pod on every node of the shared lab, behind the Service ``everywhere``; return node → pod address."""
    lab.kubectl("apply", "-f", "-", input=_DAEMONSET)
    found: dict[str, str] = {}

    def everywhere() -> bool:
        items = json.loads(lab.kubectl("get", "pods", "-l", "app=everywhere", "-o", "json").stdout)["items"]
        ready = [
            item for item in items if item["status"].get("podIP") and "deletionTimestamp" not in item["metadata"]
        ]
        found.update((item["spec"]["nodeName"], item["status"]["podIP"]) for item in ready)
        return found.keys() == {node.name for node in lab.status().nodes}

    until(everywhere, "there is a pod on every node")
    lab.kubectl("rollout", "status", "daemonset/everywhere", "--timeout=120s")
    yield found
    lab.kubectl("delete", "--wait=false", "-f", "-", input=_DAEMONSET)


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool], str], None]:
    """Return a function that waits for a condition and fails, saying `what`, where it does not come."""

    def until(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited in vain until {what}")
            time.sleep(0.05)

    return until
