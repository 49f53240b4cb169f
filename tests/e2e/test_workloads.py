"""StatefulSetGrid, DaemonSetGrid, overrides in a whole lab: real pods in every site; only what is meant changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sitegrid.lab.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SITES = {"NodeUnit1": {"node12", "node14"}, "NodeUnit2": {"node21", "node23"}}


def _grid(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]}
    template = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    body = {"gridUniqKey": "zone", **spec, "template": {**template, **spec.get("template", {})}}
    return {"apiVersion": "tkeedge.io/v1", "kind": kind, "metadata": {"name": name}, "spec": body}


class Applied:
    """Grids in the lab, deleted after the test."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._applied: list[dict[str, Any]] = []

    def apply(self, *grids: dict[str, Any]) -> None:
        """Apply grids and wait until they are ready."""
        self._applied += grids
        self.lab.kubectl("apply", "-f", "-", input=json.dumps(_list(grids)))
        for grid in grids:
            name = f"{grid['kind'].lower()}/{grid['metadata']['name']}"
            self.lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", name)

    def pods(self, app: str) -> list[dict[str, Any]]:
        """Return the pods of an application."""
        found: list[dict[str, Any]] = json.loads(
            self.lab.kubectl("get", "pods", "-l", f"app={app}", "-o", "json").stdout
        )["items"]
        return found

    def clean(self) -> None:
        """Delete all of it; pods go in the background, so each test has its own names."""
        self.lab.kubectl("delete", "--ignore-not-found", "-f", "-", input=json.dumps(_list(self._applied)))


def _list(items: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": [*items]}


@pytest.fixture
def applied(lab: Lab) -> Iterator[Applied]:
    """A place to apply grids in the shared lab."""
    applied = Applied(lab)
    yield applied
    applied.clean()


def _until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def _site_of(pod: dict[str, Any]) -> str:
    node = pod["spec"].get("nodeName")
    if node is None:
        return "not scheduled yet"
    return next(site for site, nodes in SITES.items() if node in nodes)


def test_stateful_sets_with_a_headless_service(applied: Applied) -> None:
    """Two pods with stable names in every site, ready, each one behind the site's own headless Service."""
    headless = {
        "apiVersion": "tkeedge.io/v1",
        "kind": "ServiceGrid",
        "metadata": {"name": "db"},
        "spec": {
            "gridUniqKey": "zone",
            "template": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 80}]},
        },
    }
    applied.apply(headless, _grid("StatefulSetGrid", "db", template={"replicas": 2, "serviceName": "db-svc"}))
    pods = applied.pods("db")
    by_site = {site: sorted(pod["metadata"]["name"] for pod in pods if _site_of(pod) == site) for site in SITES}
    for site, names in by_site.items():
        assert len(names) == 2, by_site
        assert [name.rpartition("-")[2] for name in names] == ["0", "1"]
        assert all(name.startswith(f"db-{site.lower()}-") for name in names)
    status = json.loads(applied.lab.kubectl("get", "ssg", "db", "-o", "json").stdout)["status"]
    assert [(unit["name"], unit["state"], unit["readyReplicas"]) for unit in status["unitStates"]] == [
        ("NodeUnit1", "Ready", 2),
        ("NodeUnit2", "Ready", 2),
    ]


def test_daemon_sets_run_on_every_node_of_the_sites(applied: Applied) -> None:
    """One pod on each node of each unit, and none on others."""
    applied.apply(_grid("DaemonSetGrid", "log"))
    nodes = sorted(pod["spec"]["nodeName"] for pod in applied.pods("log"))
    assert nodes == sorted(SITES["NodeUnit1"] | SITES["NodeUnit2"])


@pytest.mark.parametrize("kind", ["DeploymentGrid", "StatefulSetGrid", "DaemonSetGrid"])
def test_override_restarts_only_its_units_pods(applied: Applied, kind: str) -> None:
    """The overridden site's pods are replaced; the other site's are the same pods as before."""
    name = f"shop-{kind.lower()}"
    grid = _grid(kind, name)
    applied.apply(grid)
    before = {pod["metadata"]["uid"]: _site_of(pod) for pod in applied.pods(name)}
    patch = {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}
    grid["spec"]["overrides"] = [{"units": {"names": ["NodeUnit2"]}, "patch": patch}]
    applied.lab.kubectl("apply", "-f", "-", input=json.dumps(grid))

    def images() -> set[tuple[str, str]]:
        return {(_site_of(pod), pod["spec"]["containers"][0]["image"]) for pod in applied.pods(name)}

    _until(lambda: images() == {("NodeUnit1", "web:1"), ("NodeUnit2", "web:2")}, "the new image in its site")
    applied.lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", f"{kind.lower()}/{name}")
    after = {pod["metadata"]["uid"]: _site_of(pod) for pod in applied.pods(name)}
    kept = {uid for uid, site in before.items() if site == "NodeUnit1"}
    assert kept == {uid for uid, site in after.items() if site == "NodeUnit1"}
    assert not {uid for uid, site in before.items() if site == "NodeUnit2"} & after.keys()
