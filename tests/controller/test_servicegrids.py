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


def test_a_service_that_takes_an_overrides_node_port_is_told_at_once(world: Any, wait_for: Any) -> None:
    """The API server gives the port away, for it knows of no patch; condition and event say so, until it is free."""
    world.nodes("one")
    port = 32103
    template = {"type": "NodePort", "selector": {"app": "grid"}, "ports": [{"port": 80}]}
    rule = {"units": {"names": ["one"]}, "patch": {"nodePorts": {"80": port}}}
    world.plane.apply(world.service_grid(template=template, overrides=[rule]))

    def patches() -> int:
        return len(world.plane.objects("endpointslices", world.namespace, "tkeedge.io/service-patch,tkeedge.io/unit"))

    wait_for(lambda: patches() == 1, "the patch", dump=world.dump)
    metadata = {"name": "later", "namespace": world.namespace}
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}
    world.plane.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    # Within the time of a test, which is less than that between two looks at everything.
    condition = world.wait_condition("OverrideInvalid", type="Degraded", kind="sg")
    assert f"{port} is taken by Service {world.namespace}/later" in condition["message"]
    wait_for(lambda: patches() == 0, "the patch to go", dump=world.dump)

    def told() -> bool:
        events = world.plane.objects("events", world.namespace)
        return any(item["reason"] == "OverrideInvalid" and item["regarding"]["name"] == "grid" for item in events)

    wait_for(told, "the event", dump=world.dump)
    world.plane.kubectl("delete", "service", "later", "-n", world.namespace)
    wait_for(lambda: patches() == 1, "the patch to come back", dump=world.dump)
    world.wait_condition("AsExpected", type="Degraded", kind="sg")


def test_a_workload_can_be_exposed_by_hand(world: Any, wait_for: Any) -> None:
    """`kubectl expose` of a child makes a plain Service with the child's labels; the controller has no part in it."""
    world.nodes("one")
    world.plane.apply(world.service_grid(), world.deployment_grid())
    world.wait_children("grid-one")
    world.make_pods_ready(f"one-{world.namespace}")
    world.plane.kubectl("expose", "deployment", "grid-one", "--name=exposed", "--port=80", "-n", world.namespace)
    service = world.plane.get("services", "exposed", world.namespace)
    assert service["metadata"]["labels"] == {"tkeedge.io/grid": "grid", "tkeedge.io/unit": f"{world.key}.one"}

    def endpoints() -> bool:
        selector = "kubernetes.io/service-name=exposed,tkeedge.io/grid,!tkeedge.io/grid-uniq-key"
        return any(item["endpoints"] for item in world.plane.objects("endpointslices", world.namespace, selector))

    wait_for(endpoints, "the endpoints of the Service", dump=world.dump)
    world.wait_quiet()
    assert not world.plane.objects("endpointslices", world.namespace, "tkeedge.io/service-name=exposed")
    assert not [write for write in world.writes() if "exposed" in write]
    world.wait_condition("ServiceApplied", kind="sg")
    world.plane.kubectl("delete", "service", "exposed", "-n", world.namespace)
    world.wait_quiet()
    assert world.plane.get("services", "grid-svc", world.namespace)


def test_policies_have_a_say_in_what_differs_in_a_unit(world: Any, wait_for: Any) -> None:
    """What one refuses is left out and told in its words; the rest and other units go on; nothing is written."""
    world.nodes("one", "two")
    name = f"no-external-ips-{world.namespace}"
    rules = [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["services"]}
    ]
    only = {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}
    policy = {
        "matchConstraints": {"resourceRules": rules, "namespaceSelector": only},
        "validations": [{"expression": "!has(object.spec.externalIPs)", "message": "no external addresses here"}],
    }
    binding = {"policyName": name, "validationActions": ["Deny"]}
    group = "admissionregistration.k8s.io/v1"
    try:
        for kind, spec in (("ValidatingAdmissionPolicy", policy), ("ValidatingAdmissionPolicyBinding", binding)):
            world.plane.apply({"apiVersion": group, "kind": kind, "metadata": {"name": name}, "spec": spec})
        other = {"name": "other", "namespace": world.namespace}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": other}
        service["spec"] = {"ports": [{"port": 80}], "externalIPs": ["10.1.1.9"]}

        def refused() -> bool:
            arguments = ("apply", "--dry-run=server", "-f", "-")
            return bool(world.plane.kubectl(*arguments, manifest=service, check=False).returncode)

        wait_for(refused, "the policy to be in force", dump=world.dump)
        overrides = [
            {"units": {"names": ["one"]}, "patch": {"externalIPs": ["10.1.1.1"], "annotations": {"a": "b"}}},
            {"units": {"names": ["two"]}, "patch": {"annotations": {"a": "c"}}},
        ]
        world.plane.apply(world.service_grid(overrides=overrides))
        condition = world.wait_condition("OverrideInvalid", type="Degraded", kind="sg")
        assert condition["message"].startswith("unit one: patch.externalIPs: the API server refuses it: ")
        assert "no external addresses here" in condition["message"]

        def written() -> dict[str, Any]:
            items = world.plane.objects("endpointslices", world.namespace, "tkeedge.io/service-patch,tkeedge.io/unit")
            return {
                item["metadata"]["labels"]["tkeedge.io/unit"]: json.loads(
                    item["metadata"]["annotations"]["tkeedge.io/service-patch"]
                )
                for item in items
            }

        wanted = {f"{world.key}.one": {"annotations": {"a": "b"}}, f"{world.key}.two": {"annotations": {"a": "c"}}}
        wait_for(lambda: written() == wanted, "the patches", dump=world.dump)
    finally:
        for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            world.plane.kubectl("delete", kind, name, "--ignore-not-found")


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
