"""The kubelet among the other parts of a whole lab: real scheduler, controllers, kube-proxies and CoreDNS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sitegrid.lab import traffic
from sitegrid.lab.lab import Lab

NAMESPACE = "kubelet"
WAIT = "--timeout=120s"


@pytest.fixture(scope="module")
def web(lab: Lab, until: Callable[[Callable[[], bool], str], None]) -> Iterator[Lab]:
    """Return the lab with a Deployment ``web``, its Service, and a client pod on node12."""
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1}
    container = {"name": "c", "image": "web", "ports": [{"containerPort": 80}], "readinessProbe": probe}
    meta = {"namespace": NAMESPACE}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", **meta},
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", **meta},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "client", **meta},
            "spec": {"nodeName": "node12", "containers": [{"name": "c", "image": "client"}]},
        },
    ]
    lab.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))
    lab.kubectl("rollout", "status", "deployment/web", "-n", NAMESPACE, WAIT)
    lab.kubectl("wait", "pod/client", "-n", NAMESPACE, "--for=condition=Ready", WAIT)
    # The client's kube-proxy hears of the Service some time after it is there.
    until(lambda: bool(ask(lab)["answers"]), "the Service answers")
    yield lab
    lab.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def client(lab: Lab, *args: str) -> list[str]:
    """Return the host's command line that asks ``http://web`` from the client pod."""
    program = [sys.executable, "-I", "-S", str(Path(traffic.__file__)), "http://web"]
    return lab.command(f"{NAMESPACE}/client", [*program, *args])


def ask(lab: Lab) -> dict[str, Any]:
    """Send one request from the client pod and return the summary."""
    done = subprocess.run(client(lab, "--requests", "1"), capture_output=True, check=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def runs(lab: Lab) -> dict[str, Any]:
    """Return what must stay as it is of each pod: uid, address, processes, restart counts."""
    items = json.loads(lab.kubectl("get", "pods", "-n", NAMESPACE, "-o", "json").stdout)["items"]
    keys = ("containerID", "restartCount")
    return {
        pod["metadata"]["uid"]: (
            pod["status"]["podIP"],
            [[container[key] for key in keys] for container in pod["status"]["containerStatuses"]],
        )
        for pod in items
    }


def test_rolling_update_loses_no_request(web: Lab) -> None:
    """Pods are ready only when they answer, and go on answering until kube-proxies have heard of their end."""
    pods = web.kubectl("get", "pods", "-n", NAMESPACE, "-l", "app=web", "-o", "name").stdout.split()
    argv = client(web, "--until-signal", "--interval", "0.01")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        web.kubectl("rollout", "restart", "deployment/web", "-n", NAMESPACE)
        web.kubectl("rollout", "status", "deployment/web", "-n", NAMESPACE, WAIT)
        web.kubectl("wait", "--for=delete", *pods, "-n", NAMESPACE, WAIT)
        # nsenter has forked: the program is its child, and a signal to nsenter would not reach it.
        child = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        os.kill(int(child), signal.SIGTERM)
        output, _ = process.communicate()
    summary = json.loads(output)
    assert summary["errors"] == {}
    assert len(summary["answers"]) > 4, "the old pods and the new ones"


def test_kubelet_restart_while_the_wan_is_cut(web: Lab) -> None:
    """A kubelet that starts without the API server keeps its pods, and its node is Ready when the WAN is back."""
    before = runs(web)
    web.cut_wan("node12")
    try:
        web.process("kubelet@node12", "restart")
        assert web.run(f"{NAMESPACE}/client", ["true"]).returncode == 0
    finally:
        web.restore_wan("node12")
    web.kubectl("wait", "node/node12", "--for=condition=Ready", WAIT)
    web.kubectl("rollout", "status", "deployment/web", "-n", NAMESPACE, WAIT)
    assert runs(web) == before
