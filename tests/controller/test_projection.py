"""Unit slices on a real API server: Kubernetes' own endpointslice controller on one side, ours on the other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.controlplane import CONTROLLER_USER

pytestmark = pytest.mark.cluster

THEIRS = (f"--as={CONTROLLER_USER}", "--as-group=system:masters")
"""Writes a unit slice as somebody whom the admission policies let, as an older controller or where there are none."""


def _unit_slices(world: Any) -> dict[str, set[str]]:
    """Return the addresses by unit id."""
    found: dict[str, set[str]] = {}
    selector = "endpointslice.kubernetes.io/managed-by=sitegrid,tkeedge.io/unit"
    for item in world.plane.objects("endpointslices", world.namespace, selector):
        addresses = found.setdefault(item["metadata"]["labels"]["tkeedge.io/unit"], set())
        addresses.update(address for endpoint in item["endpoints"] for address in endpoint["addresses"])
    return found


def test_endpoints_are_regrouped_by_unit(world: Any, wait_for: Any) -> None:
    """Every pod's endpoint is in its unit's slice and in no other; a pod outside all units is in none."""
    one, two, outside = world.node("a", "one"), world.node("b", "two"), world.node("c")
    world.plane.apply(world.service_grid())
    world.wait_condition("ServiceApplied", kind="sg")
    world.pod("p1", one, "10.244.1.1")
    world.pod("p2", two, "10.244.2.1")
    world.pod("p3", two, "10.244.2.2")
    world.pod("p4", outside, "10.244.3.1")
    wanted = {f"{world.key}.one": {"10.244.1.1"}, f"{world.key}.two": {"10.244.2.1", "10.244.2.2"}}
    wait_for(lambda: _unit_slices(world) == wanted, "the unit slices", dump=world.dump)


def test_slice_carries_the_agreed_labels(world: Any, wait_for: Any) -> None:
    """The seam to the agent: labels, owner, and not the label by which other consumers would find it."""
    one = world.node("a", "one")
    world.plane.apply(world.service_grid())
    world.pod("p1", one, "10.244.1.1")
    wait_for(lambda: _unit_slices(world), "the unit slice", dump=world.dump)
    (item,) = world.plane.objects(
        "endpointslices", world.namespace, "endpointslice.kubernetes.io/managed-by=sitegrid"
    )
    assert item["metadata"]["labels"] == {
        "tkeedge.io/unit": f"{world.key}.one",
        "tkeedge.io/service-name": "grid-svc",
        "tkeedge.io/grid-uniq-key": world.key,
        "service.kubernetes.io/service-proxy-name": "sitegrid",
        "service.kubernetes.io/headless": "",
        "endpointslice.kubernetes.io/managed-by": "sitegrid",
    }
    service = world.plane.get("services", "grid-svc", world.namespace)
    (owner,) = item["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner.get("controller")) == ("Service", service["metadata"]["uid"], None)
    (endpoint,) = item["endpoints"]
    assert endpoint["nodeName"] == one
    assert endpoint["conditions"]["ready"] is True
    assert item["ports"] == [{"name": "", "port": 80, "protocol": "TCP"}]


def test_relabelled_node_moves_its_endpoints(world: Any, wait_for: Any) -> None:
    """A node that changes units takes its endpoints with it."""
    one = world.node("a", "one")
    world.plane.apply(world.service_grid())
    world.pod("p1", one, "10.244.1.1")
    wait_for(lambda: _unit_slices(world).keys() == {f"{world.key}.one"}, "the first unit slice", dump=world.dump)
    world.plane.kubectl("label", "node", one, f"{world.key}=two", "--overwrite")
    wanted = {f"{world.key}.two": {"10.244.1.1"}}
    wait_for(lambda: _unit_slices(world) == wanted, "the endpoint in the other unit", dump=world.dump)


def test_headless_service_is_marked(world: Any, wait_for: Any) -> None:
    """The slices of a truly headless Service say so, since the headless label alone is on all of them."""
    one = world.node("a", "one")
    template = {"clusterIP": "None", "selector": {"app": "grid"}, "ports": [{"port": 80}]}
    world.plane.apply(world.service_grid(template=template))
    world.pod("p1", one, "10.244.1.1")
    wait_for(lambda: _unit_slices(world), "the unit slice", dump=world.dump)
    (item,) = world.plane.objects("endpointslices", world.namespace, "tkeedge.io/headless")
    assert item["endpoints"][0]["addresses"] == ["10.244.1.1"]


def test_edited_unit_slice_is_repaired(world: Any, wait_for: Any) -> None:
    """An endpoint that somebody else puts into a unit slice does not stay there."""
    one = world.node("a", "one")
    world.plane.apply(world.service_grid())
    world.pod("p1", one, "10.244.1.1")
    wait_for(lambda: _unit_slices(world), "the unit slice", dump=world.dump)
    (item,) = world.plane.objects(
        "endpointslices", world.namespace, "endpointslice.kubernetes.io/managed-by=sitegrid"
    )
    item = world.plane.get("endpointslices", item["metadata"]["name"], world.namespace)
    item["endpoints"].append({"addresses": ["10.9.9.9"]})
    world.plane.kubectl("replace", *THEIRS, "-f", "-", manifest=item)
    wanted = {f"{world.key}.one": {"10.244.1.1"}}
    wait_for(lambda: _unit_slices(world) == wanted, "the slice as it was", dump=world.dump)


def test_unit_slice_carries_no_managed_fields(world: Any, wait_for: Any) -> None:
    """What nobody reads does not cross a WAN with every slice: not at first, not after changes, not after edits."""

    def written(ready: str) -> Any:
        labels = "endpointslice.kubernetes.io/managed-by=sitegrid"
        for item in world.plane.objects("endpointslices", world.namespace, labels):
            metadata = item["metadata"]
            found = [address for endpoint in item["endpoints"] or () for address in endpoint["addresses"]]
            if found == [ready] and "managedFields" not in metadata and "tkeedge.io/unit" in metadata["labels"]:
                return metadata
        return None

    one = world.node("a", "one")
    world.plane.apply(world.service_grid())
    world.pod("p1", one, "10.244.1.1")
    wait_for(lambda: written("10.244.1.1"), "the unit slice", dump=world.dump)
    world.pod("p2", one, "10.244.1.2")
    world.plane.kubectl("delete", "pod", "p1", "-n", world.namespace, "--force", "--grace-period=0")
    wait_for(lambda: written("10.244.1.2"), "the changed slice", dump=world.dump)
    name = written("10.244.1.2")["name"]
    world.plane.kubectl("label", *THEIRS, "endpointslice", name, "-n", world.namespace, "tkeedge.io/unit-")
    world.plane.kubectl("annotate", "endpointslice", name, "-n", world.namespace, "who=me")
    wait_for(lambda: written("10.244.1.2"), "the slice as it was", dump=world.dump)


def test_orphaned_service_has_no_unit_slices(world: Any, wait_for: Any) -> None:
    """A Service whose grid was deleted without it is nobody's, and nobody is to see its endpoints."""
    one = world.node("a", "one")
    world.plane.apply(world.service_grid())
    world.pod("p1", one, "10.244.1.1")
    wait_for(lambda: _unit_slices(world), "the unit slice", dump=world.dump)
    world.plane.kubectl("delete", "sg", "grid", "-n", world.namespace, "--cascade=orphan")
    wait_for(lambda: not _unit_slices(world), "the unit slices to go", dump=world.dump)
    assert world.plane.get("services", "grid-svc", world.namespace) is not None
