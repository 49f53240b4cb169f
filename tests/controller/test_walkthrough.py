"""The article's example on a real API server, as far as the controller goes."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.cluster


def test_controller_waits_for_missing_crds(running: Any, wait_for: Any) -> None:
    """Started before the CRDs are installed, it says what it misses, and goes on when they come."""
    status, text = running.before_crds
    assert status == 503
    assert "deploymentgrids: the CustomResourceDefinition is not installed" in text
    for page in ("/readyz", "/healthz"):
        wait_for(lambda page=page: running.controller.http(page) == (200, "ok\n"), page)
    assert "deploymentgrids: the CustomResourceDefinition is not installed" in running.controller.log()


def test_each_unit_gets_a_deployment(world: Any, wait_for: Any) -> None:
    """Two units, one of them with a name that is no object name: two Deployments, each pinned to its unit."""
    world.node("node12", "NodeUnit1")
    world.node("node14", "NodeUnit1")
    world.node("node21", "edge2")
    world.node("node99")
    world.plane.apply(world.deployment_grid())
    wait_for(lambda: len(world.children()) == 2, "two Deployments", dump=world.dump)
    world.wait_condition("UnitsNotReady")
    children = world.children()
    assert len(children) == 2
    pins = {name: child["spec"]["template"]["spec"]["nodeSelector"] for name, child in children.items()}
    assert pins.pop("grid-edge2") == {world.key: "edge2"}
    assert [*pins.values()] == [{world.key: "NodeUnit1"}]
    for child in children.values():
        unit = child["metadata"]["labels"]["tkeedge.io/unit"]
        assert child["spec"]["selector"]["matchLabels"] == {"app": "grid", "tkeedge.io/unit": unit}
        assert child["spec"]["template"]["metadata"]["labels"] == {"app": "grid", "tkeedge.io/unit": unit}
        assert child["metadata"]["ownerReferences"][0]["controller"] is True


def test_new_unit_is_served_without_a_further_step(world: Any) -> None:
    """A node with a new value gets its Deployment."""
    world.node("a", "one")
    world.plane.apply(world.deployment_grid())
    world.wait_children("grid-one")
    world.node("b", "two")
    world.wait_children("grid-one", "grid-two")


def test_service_is_closed_and_shared(world: Any) -> None:
    """A ServiceGrid makes one Service for all units, without a selector, which stock kube-proxies ignore."""
    world.node("a", "one")
    world.plane.apply(world.service_grid())
    condition = world.wait_condition("ServiceApplied", kind="sg")
    assert condition["status"] == "True"
    service = world.plane.get("services", "grid-svc", world.namespace)
    assert service is not None
    assert service["metadata"]["labels"] == {
        "tkeedge.io/grid": "grid",
        "tkeedge.io/grid-uniq-key": world.key,
        "service.kubernetes.io/service-proxy-name": "sitegrid",
        "tkeedge.io/sites": "grid-svc-sites",
    }
    assert "selector" not in service["spec"]
