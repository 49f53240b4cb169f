"""Every example on a real API server: it applies as it is, and every unit gets what it says, without a problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
UNITS = ("NodeUnit1", "NodeUnit2")
SHORT = {"DeploymentGrid": "dg", "StatefulSetGrid": "ssg", "DaemonSetGrid": "dsg", "ServiceGrid": "sg"}
CHILDREN = {"DeploymentGrid": "deployments", "StatefulSetGrid": "statefulsets", "DaemonSetGrid": "daemonsets"}
KEYS = {"zone", "test"}
"""The unique keys of the lab's nodes, for which the examples are written."""


def _ours(world: Any, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return an example's object in the test's namespace and for its key."""
    metadata, spec = manifest["metadata"], manifest["spec"]
    assert spec["gridUniqKey"] in KEYS
    if manifest["kind"] == "NodeUnit":
        metadata = {**metadata, "name": f"{metadata['name']}-{world.namespace}"}
    else:
        metadata = {**metadata, "namespace": world.namespace}
    return {**manifest, "metadata": metadata, "spec": {**spec, "gridUniqKey": world.key}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(world: Any, path: Path) -> None:
    """No grid has a problem, and each has a child in every unit."""
    world.nodes(*UNITS)
    manifests = [_ours(world, manifest) for manifest in yaml.safe_load_all(path.read_text())]
    try:
        world.plane.apply(*manifests)
        for manifest in manifests:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            if kind not in SHORT:
                continue
            world.wait_status({"units": len(UNITS)}, name, kind=SHORT[kind])
            world.wait_condition("AsExpected", name, type="Degraded", kind=SHORT[kind])
            grid = world.plane.get(SHORT[kind], name, world.namespace)
            assert grid["spec"] == manifest["spec"]  # no field of it is unknown
            if kind in CHILDREN:
                children = world.plane.objects(CHILDREN[kind], world.namespace, f"tkeedge.io/grid={name}")
                assert len(children) == len(UNITS)
    finally:
        for manifest in manifests:
            if manifest["kind"] == "NodeUnit":
                world.plane.kubectl("delete", "nodeunit", manifest["metadata"]["name"])


def _applied(world: Any, name: str) -> None:
    (path,) = (path for path in EXAMPLES if path.stem == name)
    world.plane.apply(*(_ours(world, manifest) for manifest in yaml.safe_load_all(path.read_text())))


def test_sites_differ_as_the_example_says(world: Any, wait_for: Any) -> None:
    """Values, overrides and autoscalers of examples/overrides.yaml."""
    world.nodes(*UNITS)
    try:
        _applied(world, "overrides")

        def found() -> dict[str, Any]:
            pods = [child["spec"]["template"]["spec"] for child in world.children().values()]
            containers = {pod["nodeSelector"][world.key]: pod["containers"][0] for pod in pods}
            return {
                unit: (item["image"], item["env"][0]["value"], item["resources"]["requests"]["cpu"])
                for unit, item in containers.items()
            }

        wanted = {"NodeUnit1": ("nginx:1.7.9", "Hangzhou", "20m"), "NodeUnit2": ("nginx:1.8.1", "Ningbo", "10m")}
        wait_for(lambda: found() == wanted, "the children", dump=world.dump)
        world.wait_condition("AsExpected", "shop", type="Degraded")
        wait_for(
            lambda: {item["spec"]["maxReplicas"] for item in world.plane.objects("hpa", world.namespace)} == {6, 2},
            "the autoscalers",
            dump=world.dump,
        )
    finally:
        for unit in ("hangzhou", "ningbo"):
            world.plane.kubectl("delete", "nodeunit", f"{unit}-{world.namespace}")


def test_canary_is_in_one_site(world: Any) -> None:
    """Templates of examples/canary.yaml."""
    world.nodes(*UNITS)
    _applied(world, "canary")
    states = world.wait_status({"units": len(UNITS)}, "till")["unitStates"]
    world.wait_condition("AsExpected", "till", type="Degraded")
    assert {state["name"]: state["template"] for state in states} == {"NodeUnit1": "stable", "NodeUnit2": "next"}
