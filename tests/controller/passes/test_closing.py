"""A grid's Service has no selector: how one that has loses it, and that no unit loses an endpoint by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.controller.queues import GridKey, Queues
from sitegrid.controller.triggers import Triggers
from sitegrid.grid.applied import annotated, applied_hash
from sitegrid.grid.service import wanted_service
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import SERVICES
from tests.support.fakeapi import NAMESPACE
from tests.support.lives import crash_after_every_write

Make = Callable[..., Any]
GRID = GridKey("ServiceGrid", "default", "web")
UNITS = {"zone.one": {"10.0.0.0"}, "zone.two": {"10.0.0.1"}}


def _served(scene: Any) -> dict[str, set[str]]:
    """Return the ready addresses that agents see, by unit id."""
    found: dict[str, set[str]] = {}
    for item in scene.api.of("endpointslices").values():
        labels = item["metadata"]["labels"]
        if labels["endpointslice.kubernetes.io/managed-by"] != "sitegrid" or "tkeedge.io/unit" not in labels:
            continue
        ready = {e["addresses"][0] for e in item["endpoints"] if e["conditions"]["ready"]}
        found.setdefault(labels["tkeedge.io/unit"], set()).update(ready)
    return found


def _own(scene: Any, service: str = "web-svc") -> set[str]:
    """Return the slices in which Kubernetes' readers look for a Service's endpoints."""
    items = scene.api.of("endpointslices").items()
    return {name for name, item in items if item["metadata"]["labels"].get("kubernetes.io/service-name") == service}


def _watch(scene: Any) -> None:
    """Fail as soon as a write has taken an endpoint from a unit."""

    def still_served(verb: str, name: str) -> None:
        assert _served(scene) == UNITS, f"before {verb} {name}"

    scene.api.refuse = still_served


async def _begin(scene: Any, controller: Any) -> None:
    """Let a ServiceGrid come to rest."""
    scene.node("a", "one")
    scene.node("b", "two")
    scene.grids()
    await controller.until_rest()


async def _made_before(scene: Any, controller: Any, endpoints: Any) -> None:
    """Leave what a controller made that knew of one Service only, with its selector and Kubernetes' slices for it."""
    await _begin(scene, controller)
    api = scene.api
    for plural, name in [*api.objects]:
        if "-sites" in name:
            del api.objects[plural, name]
    grid = msgspec.convert(api.of("servicegrids")["web"], ServiceGrid)
    former = wanted_service(grid)
    del api.objects["services", "web-svc"]["metadata"]["labels"]["tkeedge.io/sites"]
    await api.apply(SERVICES, annotated(former, applied_hash(former)), field_manager="sitegrid")
    endpoints(api)
    assert _own(scene) == {"web-svc-abcde"}


async def test_a_service_made_before_is_closed(new_scene: Make, new_controller: Make, endpoints: Any) -> None:
    """Killed after every single write: no unit is without its endpoint at any time, and nothing is left over."""

    async def prepare(scene: Any) -> None:
        await _made_before(scene, new_controller(scene), endpoints)
        _watch(scene)

    scene = await crash_after_every_write(new_scene, new_controller, prepare)
    service = scene.api.of("services")["web-svc"]
    assert "selector" not in service["spec"]
    assert service["metadata"]["labels"]["tkeedge.io/sites"] == "web-svc-sites"
    assert scene.api.of("services")["web-svc-sites"]["spec"]["selector"] == {"app": "web"}
    assert _own(scene) == set()
    assert "web-svc" not in scene.api.of("endpoints")
    assert _served(scene) == UNITS


async def test_a_service_keeps_its_selector_until_the_other_has_its_endpoints(
    scene: Any, new_controller: Make, endpoints: Any
) -> None:
    """As long as slices are refused, by a quota perhaps, everything stays as it is."""
    await _made_before(scene, new_controller(scene), endpoints)
    controller = new_controller(scene)
    for _ in range(5):
        controller.sync()
        await controller.one_pass()
    assert scene.api.of("services")["web-svc"]["spec"]["selector"] == {"app": "web"}
    assert _served(scene) == UNITS
    endpoints(scene.api)
    await controller.until_rest()
    assert "selector" not in scene.api.of("services")["web-svc"]["spec"]


async def test_a_selector_that_somebody_adds_goes(new_scene: Make, new_controller: Make, endpoints: Any) -> None:
    """With it Kubernetes would give the Service the endpoints of all units again; what it made goes, too."""

    async def prepare(scene: Any) -> None:
        await _begin(scene, new_controller(scene))
        service = scene.api.of("services")["web-svc"]
        scene.api.put("services", {**service, "spec": {**service["spec"], "selector": {"app": "other"}}})
        endpoints(scene.api)
        assert _own(scene)
        _watch(scene)

    scene = await crash_after_every_write(new_scene, new_controller, prepare)
    assert "selector" not in scene.api.of("services")["web-svc"]["spec"]
    assert _own(scene) == set()
    assert "web-svc" not in scene.api.of("endpoints")


async def test_endpoints_that_somebody_wrote_stay(scene: Any, new_controller: Make) -> None:
    """They have none of our labels; that they are no unit's is the agents' affair (I3)."""
    controller = new_controller(scene)
    await _begin(scene, controller)
    theirs = {"metadata": {"name": "web-svc", "labels": {}}, "subsets": [1]}
    scene.api.put("endpoints", theirs)
    labels = {"kubernetes.io/service-name": "web-svc", "endpointslice.kubernetes.io/managed-by": "me"}
    scene.api.put("endpointslices", {"metadata": {"name": "theirs", "labels": labels}, "endpoints": []})
    await controller.until_rest()
    assert "web-svc" in scene.api.of("endpoints")
    assert "theirs" in scene.api.of("endpointslices")


async def test_a_missing_service_takes_no_endpoint(new_scene: Make, new_controller: Make, endpoints: Any) -> None:
    """The one with the selector is deleted by hand, and its slices go with it: units keep what they have."""

    async def prepare(scene: Any) -> None:
        await _begin(scene, new_controller(scene))
        del scene.api.objects["services", "web-svc-sites"]
        for name in _own(scene, "web-svc-sites"):
            del scene.api.objects["endpointslices", name]
        _watch(scene)

    scene = await crash_after_every_write(new_scene, new_controller, prepare)
    assert _served(scene) == UNITS
    assert "web-svc-sites" in scene.api.of("services")


async def test_slices_that_come_one_after_another_take_no_endpoint(scene: Any, new_controller: Make) -> None:
    """Kubernetes writes slices of 100 endpoints for a Service that is made again; the rest stays meanwhile."""
    controller = new_controller(scene)
    await _begin(scene, controller)
    item = scene.api.of("endpointslices")["web-svc-sites-abcde"]
    del scene.api.objects["endpointslices", "web-svc-sites-abcde"]
    _watch(scene)
    controller.sync()
    await controller.one_pass()
    scene.api.put("endpointslices", {**item, "endpoints": item["endpoints"][:1]})
    controller.sync()
    await controller.one_pass()
    assert _served(scene) == UNITS


async def test_a_relabelled_node_is_no_exception(scene: Any, new_controller: Make) -> None:
    """What is kept while slices are missing goes with its node: it is of no other unit than the node (I1)."""
    controller = new_controller(scene)
    await _begin(scene, controller)
    del scene.api.objects["endpointslices", "web-svc-sites-abcde"]
    scene.node("a", None)
    controller.sync()
    await controller.one_pass()
    assert _served(scene) == {"zone.two": {"10.0.0.1"}}


async def test_a_name_that_is_taken_is_left_alone(scene: Any, new_controller: Make) -> None:
    """The second name is taken then, and stays when the first becomes free; where both are, the condition says so."""
    theirs = {"metadata": {"name": "web-svc-sites", "labels": {}}, "spec": {"theirs": True}}
    scene.api.put("services", theirs)
    controller = new_controller(scene)
    controller.stores.pop("services")
    _only_ours(controller, scene)
    await _begin(scene, controller)
    status = scene.api.of("servicegrids")["web"]["status"]
    name = status["sitesService"]
    assert name.endswith("-sites") and name != "web-svc-sites"
    assert scene.api.of("services")["web-svc"]["metadata"]["labels"]["tkeedge.io/sites"] == name
    assert scene.api.of("services")["web-svc-sites"]["spec"] == {"theirs": True}
    assert _served(scene) == UNITS
    del scene.api.objects["services", "web-svc-sites"]
    writes = len(scene.api.writes)
    await controller.until_rest()
    assert scene.api.writes[writes:] == []


def _only_ours(controller: Any, scene: Any) -> None:
    """Let the store of Services see those with our label only, as the watch does."""
    from sitegrid.grid.observed import Service

    store = controller.cluster.services.store
    sync = controller.sync

    def synced(*plurals: str) -> None:
        sync(*plurals)
        ours = [item for item in scene.api.of("services").values() if "tkeedge.io/grid" in item["metadata"]["labels"]]
        store.replace([msgspec.json.decode(msgspec.json.encode(item), type=Service) for item in ours])

    controller.sync = synced


@pytest.mark.parametrize("refused", ["web-svc", "web-svc-sites"])
async def test_a_refusal_is_the_grids_condition(scene: Any, new_controller: Make, refused: str) -> None:
    """Whichever Service it is, in the API server's words; after it was lifted all is well."""
    scene.api.refuse = lambda verb, name: (
        ApiError(403, "Forbidden", "exceeded quota") if (verb, name) == ("apply", refused) and not lifted else None
    )
    lifted: list[bool] = []
    controller = new_controller(scene)
    scene.node("a", "one")
    scene.node("b", "two")
    scene.grids()
    scene.api.refuse, refuse = lambda verb, name: None, scene.api.refuse

    def but_status(verb: str, name: str) -> ApiError | None:
        return refuse(verb, name) if name in ("web-svc", "web-svc-sites") else None

    scene.api.refuse = but_status
    controller.sync()
    await controller.one_pass()
    (ready, *_) = scene.api.of("servicegrids")["web"]["status"]["conditions"]
    assert (ready["status"], ready["reason"], "exceeded quota" in ready["message"]) == ("False", "Forbidden", True)
    lifted.append(True)
    controller.clock += 1000
    await controller.until_rest()
    assert scene.api.of("servicegrids")["web"]["status"]["conditions"][0]["status"] == "True"
    assert _served(scene) == UNITS


async def test_a_template_that_loses_its_selector_loses_the_other_service(scene: Any, new_controller: Make) -> None:
    """Nothing selects any more, and that is said; the same for an external name, which is well."""
    controller = new_controller(scene)
    await _begin(scene, controller)
    grid = scene.api.of("servicegrids")["web"]
    scene.api.put("servicegrids", {**grid, "spec": {"gridUniqKey": "zone", "template": {"ports": [{"port": 80}]}}})
    await controller.until_rest()
    assert {*scene.api.of("services")} == {"web-svc"}
    status = scene.api.of("servicegrids")["web"]["status"]
    assert (status["sitesService"], status["conditions"][0]["reason"]) == ("", "NoSelector")


async def test_status_says_where_the_endpoints_are(scene: Any, new_controller: Make) -> None:
    """By unit, also for one that has none; a unit that comes is one write."""
    controller = new_controller(scene)
    await _begin(scene, controller)
    status = scene.api.of("servicegrids")["web"]["status"]
    assert status["unitEndpoints"] == [
        {"unit": "one", "ready": 1, "total": 1},
        {"unit": "two", "ready": 1, "total": 1},
    ]
    assert (status["units"], status["servedUnits"], status["sitesService"]) == (2, 2, "web-svc-sites")
    before = scene.api.writes.count("status servicegrids web")
    scene.node("c", "three")
    controller.sync()
    await controller.one_pass()
    await controller.until_rest()
    assert scene.api.writes.count("status servicegrids web") - before == 1
    assert scene.api.of("servicegrids")["web"]["status"]["servedUnits"] == 3


async def test_a_plain_service_with_the_same_selector_is_told(scene: Any, new_controller: Make) -> None:
    """Once, at once, and again where it was away meanwhile; nothing of it is touched."""
    controller = new_controller(scene)
    await _begin(scene, controller)
    triggers = Triggers(controller.cluster)
    triggers.queues = queues = Queues()
    plain = {"metadata": {"name": "plain", "labels": {}}, "spec": {"selector": {"app": "web"}}}
    writes = len(scene.api.writes)
    for _ in range(2):
        scene.api.put("services", plain)
        controller.sync("services")
        assert GridKey("ServiceGrid", "default", "web") in {
            await queues.grids.get() for _ in range(len(queues.grids))
        }
        queues.grids.done(GridKey("ServiceGrid", "default", "web"))
        for _ in range(2):
            await controller.one_pass()
        told = [note for reason, note in controller.recorder.events if reason == "SideDoor"]
        assert told == ["These pods are also selected by plain Services, which reach all units: plain"]
        controller.recorder.events.clear()
        del scene.api.objects["services", "plain"]
        controller.sync("services")
        await controller.one_pass()
    assert scene.api.writes[writes:] == []


async def test_a_service_on_its_way_out_takes_no_endpoint(scene: Any, new_controller: Make) -> None:
    """A foreground deletion takes its slices one after another while it is still there (I8)."""
    controller = new_controller(scene)
    await _begin(scene, controller)
    sites = scene.api.of("services")["web-svc-sites"]
    item = scene.api.of("endpointslices")["web-svc-sites-abcde"]
    leaving = {**sites["metadata"], "deletionTimestamp": "2026-01-01T00:01:00Z"}
    scene.api.put("services", {**sites, "metadata": leaving})
    _watch(scene)
    endpoints: list[Any] = item["endpoints"]
    for left in (endpoints[:1], []):
        scene.api.put("endpointslices", {**item, "endpoints": left})
        controller.sync()
        await controller.one_pass()
        assert _served(scene) == UNITS


async def test_a_selector_that_goes_by_itself_is_no_work_for_ever(scene: Any, new_controller: Make) -> None:
    """Who added it was faster to take it off: the conflict is forgotten, or its pass would come again at once."""
    controller = new_controller(scene)
    await _begin(scene, controller)
    service = scene.api.of("services")["web-svc"]
    scene.api.put("services", {**service, "spec": {**service["spec"], "selector": {"app": "other"}}})
    controller.sync()
    scene.api.put("services", service)
    key = GridKey("ServiceGrid", NAMESPACE, "web")
    assert await controller.services.reconcile(key) is not None  # the conflict's delay
    controller.sync()
    controller.clock += 1000
    assert await controller.services.reconcile(key) is None
    assert [reason for reason, _ in controller.recorder.events if reason == "SelectorRemoved"] == []


async def test_an_older_cluster_role_stops_no_slice(
    scene: Any, new_controller: Make, endpoints: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no right to Endpoints: what Kubernetes made stays, the log says why, and units are served as ever."""
    await _made_before(scene, new_controller(scene), endpoints)
    controller, get = new_controller(scene), scene.api.get

    async def forbidden(resource: Any, *args: Any) -> Any:
        if resource.plural == "endpoints":
            raise ApiError(403, "Forbidden", "may not get endpoints")
        return await get(resource, *args)

    scene.api.get = forbidden
    await controller.until_rest()
    assert "selector" not in scene.api.of("services")["web-svc"]["spec"]
    assert "web-svc-abcde" in _own(scene)
    assert "deploy/rbac/controller.yaml" in caplog.text
    scene.node("c", "three")
    await controller.until_rest()
    assert _served(scene) == {**UNITS, "zone.three": {"10.0.0.2"}}
    scene.api.get = get
    await controller.until_rest()
    assert _own(scene) == set()


async def test_a_quota_stops_an_upgrade_and_no_unit(scene: Any, new_controller: Make, endpoints: Any) -> None:
    """No room for a second Service: the first keeps its selector, its units their endpoints, and it is told."""
    await _made_before(scene, new_controller(scene), endpoints)
    controller = new_controller(scene)

    def quota(verb: str, name: str) -> ApiError | None:
        full = (verb, name) == ("apply", "web-svc-sites")
        return ApiError(403, "Forbidden", "exceeded quota") if full else None

    scene.api.refuse = quota
    await controller.until_rest()
    assert scene.api.of("services")["web-svc"]["spec"]["selector"] == {"app": "web"}
    assert _served(scene) == UNITS
    ready = scene.api.of("servicegrids")["web"]["status"]["conditions"][0]
    assert (ready["status"], "exceeded quota" in ready["message"]) == ("False", True)
    scene.api.refuse = lambda verb, name: None
    controller.clock += 1000
    await controller.until_rest()
    assert "selector" not in scene.api.of("services")["web-svc"]["spec"]
    assert _own(scene) == set()


@pytest.mark.parametrize("first", ["x", "x-sites"])
async def test_a_service_named_as_anothers_second_one(scene: Any, new_controller: Make, first: str) -> None:
    """Two grids want ``x`` and ``x-sites``: who comes second gets another name, or its condition says whose it is."""
    scene.node("a", "one")
    other = {"x": "x-sites", "x-sites": "x"}[first]
    controller = new_controller(scene)
    for name in (first, other):
        template = {"selector": {"app": name}, "ports": [{"port": 80}]}
        spec = {"gridUniqKey": "zone", "serviceName": name, "template": template}
        scene.api.put("servicegrids", {"metadata": {"name": f"grid-{name}"}, "spec": spec})
        await controller.until_rest()
    services, status = scene.api.of("services"), scene.api.of("servicegrids")[f"grid-{other}"]["status"]
    if first == "x":
        assert {*services} == {"x", "x-sites"}
        assert status["conditions"][0]["reason"] == "NameConflict"
        assert "ServiceGrid grid-x" in status["conditions"][0]["message"]
    else:
        assert services["x-sites"]["metadata"]["labels"]["tkeedge.io/sites"] == "x-sites-sites"
        assert status["conditions"][0]["status"] == "True"
        assert services[status["sitesService"]]["spec"]["selector"] == {"app": "x"}


async def test_a_service_takes_the_name_of_its_second_one(scene: Any, new_controller: Make) -> None:
    """serviceName becomes ``x-sites`` where that was the headless one: it is made anew, with an address."""
    scene.node("a", "one")
    template = {"selector": {"app": "x"}, "ports": [{"port": 80}]}
    controller = new_controller(scene)
    for name in ("x", "x-sites"):
        spec = {"gridUniqKey": "zone", "serviceName": name, "template": template}
        former = scene.api.of("servicegrids").get("grid", {"metadata": {"name": "grid"}})
        scene.api.put("servicegrids", {**former, "spec": spec})
        headless = scene.api.of("services").get("x-sites", {"metadata": {"uid": ""}})["metadata"]["uid"]
        await controller.until_rest()
    services = scene.api.of("services")
    assert {*services} == {"x-sites", "x-sites-sites"}
    assert services["x-sites"]["metadata"]["uid"] != headless
    assert services["x-sites"]["metadata"]["labels"].keys().isdisjoint({"tkeedge.io/sites-of"})
