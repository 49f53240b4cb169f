"""What a real API server takes and refuses of a ServiceGrid beyond its Service, and what comes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.cluster


def _seen(world: Any, unit: str) -> set[str]:
    """Return the addresses in a unit's slices."""
    items = world.plane.objects("endpointslices", world.namespace, f"tkeedge.io/unit={world.key}.{unit}")
    return {address for item in items for endpoint in item["endpoints"] for address in endpoint["addresses"]}


def _override(**patch: Any) -> dict[str, Any]:
    return {"units": {"names": ["one"]}, "patch": patch}


def test_a_unit_without_endpoints_falls_back(world: Any, wait_for: Any) -> None:
    """Kubernetes' own slices on one side: the neighbour's endpoints come, and go with the first own one."""
    one, two = world.node("a", "one"), world.node("b", "two")
    world.plane.apply(world.service_grid(fallback=[{"to": ["two"]}]))
    world.pod("p2", two, "10.244.2.1")
    wait_for(lambda: _seen(world, "one") == {"10.244.2.1"}, "the neighbour's endpoint", dump=world.dump)

    world.wait_status({"fallbacks": [{"unit": "one", "to": "two"}]}, kind="sg")
    world.pod("p1", one, "10.244.1.1")
    wait_for(lambda: _seen(world, "one") == {"10.244.1.1"}, "the own endpoint alone", dump=world.dump)
    assert _seen(world, "two") == {"10.244.2.1"}
    world.wait_status({"fallbackUnits": 0}, kind="sg")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"fallback": [{"to": []}]}, "spec.fallback[0].to"),
        ({"fallback": [{"units": {"names": ["one"]}}]}, "spec.fallback[0].to"),
        ({"fallback": [{"units": {}, "to": ["two"]}]}, "say which units are meant"),
        ({"fallback": [{"units": {"selector": {}}, "to": ["two"]}]}, "the selector is empty"),
        ({"overrides": [_override(selector={"a": "b"})]}, 'unknown field "spec.overrides[0].patch.selector"'),
        ({"overrides": [_override()]}, "may have externalIPs, annotations and nodePorts, and has none"),
        ({"overrides": [_override(externalIPs="10.1.1.1")]}, "spec.overrides[0].patch.externalIPs"),
        ({"overrides": [_override(nodePorts={"http": 70000})]}, "spec.overrides[0].patch.nodePorts.http"),
        ({"overrides": [{**_override(externalIPs=[]), "units": {}}]}, "say which units are meant"),
        ({"overrides": [{"patch": {"externalIPs": []}}]}, "spec.overrides[0].units: Required value"),
    ],
)
def test_mistakes_are_refused(world: Any, spec: dict[str, Any], words: str) -> None:
    """The API server says which field it is."""
    result = world.plane.kubectl("apply", "-f", "-", manifest=world.service_grid(**spec), check=False)
    assert result.returncode
    assert words in result.stderr


def test_what_differs_in_a_unit_is_written_for_it_alone(world: Any, wait_for: Any) -> None:
    """In a slice of its own, without managedFields and endpoints; one that cannot be is a condition."""
    world.nodes("one", "two", "three")
    free, taken = 32101, 32102
    other = {"type": "NodePort", "ports": [{"port": 80, "nodePort": taken}]}
    metadata = {"name": "other", "namespace": world.namespace}
    world.plane.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": other})
    # It remembers the cluster's node ports for some time: another grid's pass may have asked before that Service.
    assert world.running.controller.stop() == 0
    world.running.controller.start()
    rules = [
        {"units": {"names": ["one", "two"]}, "patch": {"externalIPs": ["10.1.1.1"], "nodePorts": {"80": taken}}},
        {"units": {"names": ["two"]}, "patch": {"annotations": {"site": "$(unit.name)"}, "nodePorts": {"80": free}}},
    ]
    template = {"type": "NodePort", "selector": {"app": "grid"}, "ports": [{"port": 80}]}
    world.plane.apply(world.service_grid(template=template, overrides=rules))

    def written() -> dict[str, Any]:
        items = world.plane.objects("endpointslices", world.namespace, "tkeedge.io/service-patch,tkeedge.io/unit")
        return {
            item["metadata"]["labels"]["tkeedge.io/unit"]: json.loads(
                item["metadata"]["annotations"]["tkeedge.io/service-patch"]
            )
            for item in items
            if not item["endpoints"] and "managedFields" not in item["metadata"]
        }

    ports = [{"port": 80, "protocol": "TCP", "nodePort": free}]
    wanted = {
        f"{world.key}.one": {"externalIPs": ["10.1.1.1"]},
        f"{world.key}.two": {"externalIPs": ["10.1.1.1"], "annotations": {"site": "two"}, "nodePorts": ports},
    }
    wait_for(lambda: written() == wanted, "the patches", dump=world.dump)

    def told() -> str:
        message: str = world.condition(type="Degraded", kind="sg").get("message", "")
        return message

    wait_for(
        lambda: f"{taken} is taken by Service {world.namespace}/other" in told(), "the condition", dump=world.dump
    )
    assert told().startswith("unit one: overrides[0]: patch.nodePorts.80: ")
    assert "a problem)" not in told()
    service = world.plane.get("services", "grid-svc", world.namespace)
    assert "externalIPs" not in service["spec"]
    text = _explain(world, "sg/grid", "two").stdout
    assert "# different here: " in text
    assert yaml.safe_load(text)["spec"]["externalIPs"] == ["10.1.1.1"]
    found = json.loads(_explain(world, "servicegrids/grid", "two", "-o", "json").stdout)
    assert found["service"]["metadata"]["annotations"]["site"] == "two"
    assert found["service"]["spec"]["ports"][0]["nodePort"] == free
    assert "# nothing is different here" in _explain(world, "sg/grid", "three").stdout


def _explain(world: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    flags = ("-n", world.namespace, f"--kubeconfig={world.plane.kubeconfig('admin')}")
    return subprocess.run(
        [sys.executable, "-m", "sitegrid", "explain", *arguments, *flags],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("sg/none", "one"), "there is no ServiceGrid"), (("sg/grid", "nowhere"), "has no unit nowhere; it has: one")],
)
def test_what_cannot_be_explained_is_told(world: Any, arguments: tuple[str, ...], words: str) -> None:
    """One sentence, and exit code 1."""
    world.nodes("one")
    world.plane.apply(world.service_grid())
    result = _explain(world, *arguments)
    assert result.returncode == 1
    assert words in result.stderr
