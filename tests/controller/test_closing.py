"""A grid's Service and its selector on a real API server, with Kubernetes' own controllers of endpoints.

Every state of the unit slices is replayed after each test, as agents have seen it: no unit was ever without its ready
endpoint.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.grid.applied import annotated, applied_hash
from sitegrid.grid.service import wanted_service
from tests.support.mortal import lives_until_rest

pytestmark = pytest.mark.cluster

UNIT_SLICES = "endpointslice.kubernetes.io/managed-by=sitegrid,tkeedge.io/unit"
SERVED = {"one": {"10.244.1.1"}, "two": {"10.244.2.1"}}
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
Slices = dict[str, dict[str, Any]]


def _slices(world: Any) -> Slices:
    found = world.plane.objects("endpointslices", world.namespace, UNIT_SLICES)
    return {item["metadata"]["name"]: item for item in found}


def _served(slices: Slices) -> dict[str, set[str]]:
    """Return the ready addresses by unit."""
    found: dict[str, set[str]] = {}
    for item in slices.values():
        unit = item["metadata"]["labels"]["tkeedge.io/unit"].partition(".")[2]
        ready = {endpoint["addresses"][0] for endpoint in item["endpoints"] or () if endpoint["conditions"]["ready"]}
        found.setdefault(unit, set()).update(ready)
    return found


def _never_missed(world: Any, before: Slices) -> None:
    """Replay a watch of unit slices from the state `before` until now: each unit always had its ready endpoint."""
    name = min(_slices(world))
    path = f"/apis/discovery.k8s.io/v1/namespaces/{world.namespace}/endpointslices/{name}"
    world.plane.write("PATCH", path, {"metadata": {"annotations": {"replay": "end"}}}, MERGE)
    version = max((item["metadata"]["resourceVersion"] for item in before.values()), key=int)
    slices = dict(before)
    assert _served(slices) == SERVED
    for event in world.plane.watched("endpointslices", world.namespace, UNIT_SLICES, version):
        item = event["object"]
        if event["type"] == "DELETED":
            slices.pop(item["metadata"]["name"], None)
        else:
            slices[item["metadata"]["name"]] = item
        assert _served(slices) == SERVED, event
        if item["metadata"].get("annotations", {}).get("replay"):
            return
    raise AssertionError("the watch ended early")


def _own(world: Any) -> list[str]:
    """Return the slices in which Kubernetes' readers look for the endpoints of the grid's Service."""
    items = world.plane.objects("endpointslices", world.namespace, "kubernetes.io/service-name=grid-svc")
    return [item["metadata"]["name"] for item in items]


def _closed(world: Any) -> bool:
    """Tell whether nobody at the API server finds an endpoint of the grid's Service."""
    service = world.plane.get("services", "grid-svc", world.namespace)
    return not (
        service["spec"].get("selector") or _own(world) or world.plane.get("endpoints", "grid-svc", world.namespace)
    )


def _begin(world: Any, wait_for: Any, template: dict[str, Any]) -> Slices:
    """Let a ServiceGrid come to rest; return its unit slices."""
    pods = (("p1", world.node("a", "one"), "10.244.1.1"), ("p2", world.node("b", "two"), "10.244.2.1"))
    for pod in pods:
        world.pod(*pod)
    spec = {"selector": {"app": "grid"}, "ports": [{"port": 80}], **template}
    world.plane.apply(world.service_grid(template=spec))
    wait_for(lambda: _served(_slices(world)) == SERVED, "the unit slices", dump=world.dump)
    world.wait_status({"servedUnits": 2}, kind="sg")
    return _slices(world)


def _open_again(world: Any, wait_for: Any, manager: str = "") -> None:
    """Make of it, while no controller runs, what a controller left that knew of one Service only.

    `manager` is somebody else who has set the same selector.
    """
    plane, namespace = world.plane, world.namespace
    plane.write("DELETE", f"/api/v1/namespaces/{namespace}/services/grid-svc-sites")
    grid = msgspec.convert(plane.get("sg", "grid", namespace), ServiceGrid)
    former = wanted_service(grid)
    path = f"/api/v1/namespaces/{namespace}/services/grid-svc?force=true&fieldManager="
    plane.write("PATCH", f"{path}sitegrid", annotated(former, applied_hash(former)), APPLY)
    if manager:
        plane.write("PATCH", f"{path}{manager}", _with_selector(world, former["spec"]["selector"]), APPLY)

    def made() -> bool:
        found = plane.get("endpoints", "grid-svc", namespace)
        return len(_endpoints(found)) == 2 and bool(_own(world))

    wait_for(made, "Kubernetes' slices and Endpoints", dump=world.dump)
    assert "tkeedge.io/sites" not in plane.get("services", "grid-svc", namespace)["metadata"]["labels"]


def _with_selector(world: Any, selector: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": "grid-svc", "namespace": world.namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": selector}}


def _endpoints(found: dict[str, Any] | None) -> list[Any]:
    return [address for subset in (found or {}).get("subsets") or () for address in subset.get("addresses") or ()]


@pytest.mark.parametrize("manager", ["", "kubectl-edit"])
@pytest.mark.parametrize("template", [{}, {"clusterIP": "None"}], ids=["ClusterIP", "headless"])
def test_upgrade_in_place(world: Any, wait_for: Any, template: dict[str, Any], manager: str) -> None:
    """The selector goes, then what Kubernetes made for it, and both stay gone, whoever else has set the selector."""
    _begin(world, wait_for, template)
    assert world.running.controller.stop() == 0
    _open_again(world, wait_for, manager)
    before = _slices(world)
    world.running.controller.start()
    wait_for(lambda: _closed(world), "the Service to be closed", dump=world.dump)
    world.wait_quiet()
    assert _closed(world)
    _never_missed(world, before)


@pytest.fixture
def upgrade(world: Any, wait_for: Any, request: pytest.FixtureRequest) -> Slices:
    """Return the unit slices of a Service that waits, without any controller, to be closed."""
    _begin(world, wait_for, {})
    request.getfixturevalue("alone")
    _open_again(world, wait_for)
    return _slices(world)


async def test_upgrade_killed_after_each_single_write(world: Any, wait_for: Any, upgrade: Slices) -> None:
    """Each life ends with its first write; together they close the Service, and no unit misses an endpoint."""
    # The second Service, the selector, the Endpoints, Kubernetes' slice, and a status perhaps.
    assert await lives_until_rest(world, wait_for, lambda: _closed(world)) >= 4
    await asyncio.to_thread(_never_missed, world, upgrade)


@pytest.mark.parametrize("content_type", [MERGE, APPLY], ids=["patch", "apply"])
def test_a_selector_that_somebody_adds_goes(world: Any, wait_for: Any, content_type: str) -> None:
    """However it is added; so does what Kubernetes made meanwhile, and an event tells."""
    before = _begin(world, wait_for, {})
    body = _with_selector(world, {"app": "grid"})
    path = f"/api/v1/namespaces/{world.namespace}/services/grid-svc?fieldManager=somebody"
    world.plane.write("PATCH", path, body, content_type)

    def told() -> bool:
        events = world.plane.objects("events", world.namespace)
        return any(event["reason"] == "SelectorRemoved" for event in events)

    wait_for(told, "the event", dump=world.dump)
    wait_for(lambda: _closed(world), "the Service to be closed", dump=world.dump)
    world.wait_quiet()
    assert _closed(world)
    _never_missed(world, before)


@pytest.mark.parametrize("cascade", ["Background", "Foreground"])
def test_the_second_service_is_deleted_by_hand(world: Any, wait_for: Any, cascade: str) -> None:
    """It comes again, and no unit has missed its endpoint meanwhile."""
    before = _begin(world, wait_for, {})
    uid = world.plane.get("services", "grid-svc-sites", world.namespace)["metadata"]["uid"]
    path = f"/api/v1/namespaces/{world.namespace}/services/grid-svc-sites?propagationPolicy={cascade}"
    world.plane.write("DELETE", path)

    def again() -> bool:
        found = world.plane.get("services", "grid-svc-sites", world.namespace)
        sites = world.plane.objects("endpointslices", world.namespace, "tkeedge.io/sites-of=grid-svc")
        owners = {owner["uid"] for item in sites for owner in item["metadata"]["ownerReferences"]}
        return found is not None and found["metadata"]["uid"] != uid and owners == {found["metadata"]["uid"]}

    wait_for(again, "another one with slices", dump=world.dump)
    world.wait_quiet()
    _never_missed(world, before)


def test_host_names_are_those_of_the_first_service(world: Any, wait_for: Any) -> None:
    """Pods whose subdomain is the grid's Service have them, as with the selector on it; others have none."""
    node = world.node("a", "one")
    for number, (hostname, subdomain) in enumerate([("h0", "grid-svc"), ("h1", "other"), ("h2", "")]):
        world.pod(f"p{number}", node, f"10.244.1.{number}", hostname=hostname, subdomain=subdomain)
    template = {"clusterIP": "None", "selector": {"app": "grid"}, "ports": [{"port": 80}]}
    world.plane.apply(world.service_grid(template=template))

    def named() -> dict[str, str | None]:
        items = _slices(world).values()
        return {
            endpoint["addresses"][0]: endpoint.get("hostname") for item in items for endpoint in item["endpoints"]
        }

    wanted = {"10.244.1.0": "h0", "10.244.1.1": None, "10.244.1.2": None}
    wait_for(lambda: named() == wanted, "the host names", dump=lambda: json.dumps(named()))
