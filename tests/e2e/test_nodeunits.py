"""Sites declared as NodeUnits on real nodes: pods and traffic follow; deleted, they leave the nodes as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sitegrid.lab.clients import Clients, wait_until
from sitegrid.lab.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

KEY = "floor"
SITES = {"ground": ["node12"], "first": ["node21", "node23"]}


def _grid(kind: str, template: dict[str, Any]) -> dict[str, Any]:
    spec = {"gridUniqKey": KEY, "template": template}
    return {"apiVersion": "tkeedge.io/v1", "kind": kind, "metadata": {"name": "lift"}, "spec": spec}


def _manifests() -> list[dict[str, Any]]:
    labels = {"app": "lift"}
    pod = {"containers": [{"name": "web", "image": "nginx:1.7.9", "ports": [{"containerPort": 80}]}]}
    units: list[dict[str, Any]] = [
        {
            "apiVersion": "tkeedge.io/v1",
            "kind": "NodeUnit",
            "metadata": {"name": site},
            "spec": {
                "gridUniqKey": KEY,
                "nodes": nodes,
                "setNode": {"labels": {"lift": "yes"}},
                "removal": {"gracePeriodSeconds": 1},
            },
        }
        for site, nodes in SITES.items()
    ]
    template = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    service = {"selector": labels, "ports": [{"port": 80}]}
    return [*units, _grid("DeploymentGrid", template), _grid("ServiceGrid", service)]


@pytest.fixture
def declared(lab: Lab, clients: Clients) -> Iterator[Clients]:
    """Declare two sites and run a grid in them."""
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": _manifests()})
    lab.kubectl("apply", "-f", "-", input=manifest)
    yield clients
    lab.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", input=manifest)


def _sites(lab: Lab, key: str = KEY) -> dict[str, str]:
    """Return the value of a label by node, for the nodes that have it."""
    nodes = json.loads(lab.kubectl("get", "nodes", "-l", key, "-o", "json").stdout)["items"]
    return {node["metadata"]["name"]: node["metadata"]["labels"][key] for node in nodes}


def _rows(lab: Lab, what: str) -> dict[str, list[str]]:
    """Return what `kubectl get` prints, by name."""
    lines = lab.kubectl("get", what, "--no-headers").stdout.splitlines()
    return {line.split()[0]: line.split()[1:-1] for line in lines}


def test_declared_sites_run_grids_closed_and_are_shown(lab: Lab, declared: Clients) -> None:
    """Two NodeUnits and two grids: each site answers its own requests, and `kubectl get` shows it."""
    wanted = {node: site for site, nodes in SITES.items() for node in nodes}
    assert wait_until(lambda: _sites(lab) == wanted), _sites(lab)
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "dg/lift", "nu/ground", "nu/first")
    url = "http://lift-svc/"
    declared.until_answered([(node, url) for node in wanted])
    matrix = declared.measure([(node, url) for node in wanted], wanted, 50)
    assert (matrix.requests, matrix.misplaced, matrix.lost) == (150, 0, 0), "\n" + matrix.render()
    shown = {"ground": [KEY, "ground", "1", "1"], "first": [KEY, "first", "2", "2"]}
    assert wait_until(lambda: _rows(lab, "nu").items() >= shown.items()), lab.kubectl("get", "nu").stdout
    assert wait_until(lambda: _rows(lab, "ng").get(KEY) == [KEY, "2", "3", "3"]), lab.kubectl("get", "ng").stdout


def test_deleted_sites_leave_the_nodes_as_they_were(lab: Lab, declared: Clients) -> None:
    """After the grace period no label of theirs is left, and the NodeGroup goes with the grids."""
    assert wait_until(lambda: len(_sites(lab)) == 3), _sites(lab)
    lab.kubectl("delete", "nu", *SITES)
    assert wait_until(lambda: not _sites(lab) and not _sites(lab, "lift")), _sites(lab)
    lab.kubectl("delete", "dg/lift", "sg/lift")
    assert wait_until(lambda: KEY not in _rows(lab, "ng")), lab.kubectl("get", "ng").stdout
