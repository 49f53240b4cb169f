"""Given objects → expected writes; crashes after every write; stale stores."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitegrid.kube.errors import ApiError
from tests.support.lives import crash_after_every_write

Make = Callable[..., Any]


def _article(scene: Any) -> None:
    """The article's nodes and grids."""
    for name, value in (("node12", "NodeUnit1"), ("node14", "NodeUnit1"), ("node21", "NodeUnit2"), ("cloud", None)):
        scene.node(name, value)
    scene.grids()


async def test_expected_writes(scene: Any, new_controller: Make) -> None:
    """A child per unit, two Services, a slice per unit (made, then shown), and a status per grid."""
    _article(scene)
    await new_controller(scene).until_rest()
    kinds = [write.split()[:2] for write in scene.api.writes]
    assert kinds.count(["apply", "deployments"]) == 2
    assert kinds.count(["apply", "services"]) == 2
    assert kinds.count(["create", "endpointslices"]) == 2
    assert kinds.count(["patch", "endpointslices"]) == 2
    assert kinds.count(["status", "deploymentgrids"]) == 1
    assert kinds.count(["status", "servicegrids"]) == 2  # what is made, and its endpoints
    assert len(kinds) == 11


async def test_second_pass_on_stale_stores_writes_nothing(scene: Any, new_controller: Make) -> None:
    """A pass that comes before the events of the former one repeats nothing."""
    _article(scene)
    controller = new_controller(scene)
    controller.sync()
    await controller.one_pass()
    writes = [*scene.api.writes]
    await controller.one_pass()
    await controller.one_pass()
    assert scene.api.writes == writes


async def test_crash_after_every_write(new_scene: Make, new_controller: Make) -> None:
    """Killed after any single write and started again, it reaches the same state, and stays."""

    async def article(scene: Any) -> None:
        _article(scene)

    await crash_after_every_write(new_scene, new_controller, article)


async def test_crash_after_every_write_of_a_change(new_scene: Make, new_controller: Make) -> None:
    """The same for a new template, a unit that goes, and one that comes."""

    async def changed(scene: Any) -> None:
        _article(scene)
        await new_controller(scene).until_rest()
        scene.grids(image="web:2", removal={"gracePeriodSeconds": 0})
        scene.node("node21", "NodeUnit3")

    whole = await crash_after_every_write(new_scene, new_controller, changed)
    assert len(whole.result()["deployments"]) == 2


_STORES = ("nodes", "deploymentgrids", "servicegrids", "deployments", "services", "endpointslices")
_steps = st.lists(
    st.sampled_from(("pass", "pass", "restart", "move", "image", "edit", "delete", *_STORES)), max_size=25
)


@given(steps=_steps)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
async def test_any_order_of_events_comes_to_the_same(new_scene: Make, new_controller: Make, steps: list[str]) -> None:
    """Stores that lag behind each other, restarts, users and nodes that change things: the end is the same."""
    scene = new_scene()
    _article(scene)
    controller = new_controller(scene)
    controller.sync()
    image, moved = 1, False
    for step in steps:
        if step == "pass":
            await controller.one_pass()
        elif step == "restart":
            controller = new_controller(scene)
            controller.sync()
        elif step == "move":
            moved = not moved
            scene.node("node14", "NodeUnit2" if moved else "NodeUnit1")
        elif step == "image":
            image += 1
            scene.grids(image=f"web:{image}")
        elif step in ("edit", "delete"):
            for name, child in [*scene.api.of("deployments").items()][:1]:
                if step == "delete":
                    del scene.api.objects["deployments", name]
                else:
                    fields = child["metadata"]["managedFields"][0]["fieldsV1"]
                    lost = {**fields, "f:spec": {k: v for k, v in fields["f:spec"].items() if k != "f:template"}}
                    entry = {**child["metadata"]["managedFields"][0], "fieldsV1": lost}
                    spec = {**child["spec"], "template": {}}
                    scene.api.put(
                        "deployments",
                        {**child, "spec": spec, "metadata": {**child["metadata"], "managedFields": [entry]}},
                    )
        else:
            controller.sync(step)
    controller.clock += 1000  # whatever was spaced out is due
    await controller.until_rest()
    fresh = new_scene()
    _article(fresh)
    fresh.grids(image=f"web:{image}")
    if moved:
        fresh.node("node14", "NodeUnit2")
    await new_controller(fresh).until_rest()
    got, wanted = scene.result(), fresh.result()
    for kind in ("deployments", "services", "slices"):
        assert got[kind] == wanted[kind]


async def test_newer_slice_is_not_overwritten(scene: Any, new_controller: Make) -> None:
    """A unit slice that is not what the store has, a namesake perhaps, is written once the store has seen it."""
    _article(scene)
    controller = new_controller(scene)
    await controller.until_rest()
    (name, *_) = (name for name, item in scene.api.of("endpointslices").items() if "tkeedge.io/unit" in
                  item["metadata"]["labels"])  # fmt: skip
    item = scene.api.of("endpointslices")[name]
    del scene.api.objects["endpointslices", name]
    scene.api.put("endpointslices", {**item, "metadata": {**item["metadata"], "uid": "another"}})
    newer = scene.api.of("endpointslices")[name]
    scene.api.put("nodes", {"metadata": {"name": "node12", "labels": {}}})
    controller.sync("nodes")
    await controller.one_pass()
    assert scene.api.of("endpointslices")[name] == newer
    await controller.until_rest()
    assert scene.api.of("endpointslices")[name]["endpoints"] != newer["endpoints"]


async def test_one_units_refusal_stops_no_other(scene: Any, new_controller: Make) -> None:
    """A refused child is a problem of its unit, the other is made, and the refused one is not tried at every pass."""
    _article(scene)
    controller = new_controller(scene)
    first = "web-nodeunit1"
    scene.api.refuse = lambda verb, name: (
        ApiError(403, "Forbidden", "exceeded quota") if name.startswith(first) else None
    )
    await controller.until_rest()
    (name,) = scene.api.of("deployments")
    assert name.startswith("web-nodeunit2")
    status = scene.api.of("deploymentgrids")["web"]["status"]
    degraded = [unit for unit in status["unitStates"] if unit["state"] == "Degraded"]
    assert [(unit["name"], unit["reason"]) for unit in degraded] == [("NodeUnit1", "Forbidden")]
    for _ in range(60):
        await controller.one_pass()  # one a second
    assert 3 <= controller.recorder.events.count(("FailedCreate", "Unit NodeUnit1: exceeded quota")) <= 9


async def test_name_taken_by_others_is_not_written(scene: Any, new_controller: Make) -> None:
    """A Deployment that is not ours gets no write at all, not even the first pass's (I3)."""
    scene.node("n", "one")
    foreign = {"metadata": {"name": "web-one", "labels": {}}, "spec": {"theirs": True}}
    scene.api.put("deployments", foreign)
    scene.grids()
    controller = new_controller(scene)
    controller.sync("nodes", "deploymentgrids", "servicegrids")  # it has no label of ours, so no store shows it
    await controller.one_pass()
    assert [write for write in scene.api.writes if "deployments" in write] == []
    assert scene.api.of("deployments")["web-one"]["spec"] == {"theirs": True}
    assert scene.api.of("deploymentgrids")["web"]["status"]["unitStates"][0]["reason"] == "NameConflict"


async def test_status_is_written_a_few_times_a_second(scene: Any, new_controller: Make) -> None:
    """However fast the state changes, statuses that follow closely are written together."""
    _article(scene)
    controller = new_controller(scene)
    await controller.until_rest()
    before = scene.api.writes.count("status deploymentgrids web")
    for number in range(20):
        controller.clock -= 0.95  # a pass takes 1 s, so 50 ms go by
        scene.node(f"extra{number}", f"extra{number}")
        controller.sync()
        await controller.one_pass()
    assert scene.api.writes.count("status deploymentgrids web") - before <= 3


async def test_deleted_grid_gets_no_further_child(scene: Any, new_controller: Make) -> None:
    """A grid that goes away while its children are being made gets no more of them."""
    for number in range(60):
        scene.node(f"n{number}", f"u{number}")
    scene.grids()
    controller = new_controller(scene)
    controller.sync()

    def delete_grid(verb: str, name: str) -> None:
        if len(scene.api.of("deployments")) == 10:
            scene.api.objects.pop(("deploymentgrids", "web"), None)
            controller.sync("deploymentgrids")

    scene.api.refuse = delete_grid
    with contextlib.suppress(ApiError):  # its status has nowhere to go
        await controller.one_pass()
    assert 10 <= len(scene.api.of("deployments")) <= 10 + 24
