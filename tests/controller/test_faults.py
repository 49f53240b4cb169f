"""Faults on a real control plane: API server gone and back, history lost, the controller ended and killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster


@pytest.fixture
def controller(world: Any, wait_for: Any) -> Iterator[Any]:
    """The shared controller; whatever a test did to it, it runs again afterwards."""
    controller = world.running.controller
    yield controller
    controller.stop()
    controller.start()
    wait_for(lambda: controller.http("/readyz")[0] == 200, "the shared controller to be ready again")


def test_api_server_restarted_in_the_middle(world: Any, wait_for: Any) -> None:
    """A rollout that the API server's crash interrupts is finished, each child once."""
    for number in range(20):
        world.node(f"n{number}", f"u{number}")
    world.plane.apply(world.deployment_grid(), world.service_grid())
    wait_for(world.children, "the first child", dump=world.dump)
    world.plane.stop_apiserver()
    world.plane.start_apiserver()
    world.plane.wait_until_ready()
    wait_for(lambda: len(world.children()) == 20, "all children", dump=world.dump)
    world.wait_condition("ServiceApplied", kind="sg")
    wait_for(lambda: world.running.controller.http("/readyz")[0] == 200, "readiness")
    world.node("later", "later")
    wait_for(lambda: "grid-later" in world.children(), "a unit after the restart", dump=world.dump)


def test_expired_watch_is_listed_again(world: Any, wait_for: Any, controller: Any) -> None:
    """What happened while the watch was down, and is no longer in the history, is seen: added, changed, deleted."""
    world.node("a", "one")
    two = world.node("b", "two")
    world.plane.apply(world.deployment_grid(), world.service_grid())
    world.wait_children("grid-one", "grid-two")
    world.wait_quiet()
    logged = len(controller.log())
    world.plane.stop_apiserver()
    controller.pause()
    world.plane.start_apiserver()
    world.plane.wait_until_ready()
    world.plane.kubectl("delete", "deployment", "grid-one", "-n", world.namespace)
    world.plane.kubectl("scale", "deployment", "grid-two", "--replicas=7", "-n", world.namespace)
    world.plane.kubectl("label", "node", two, f"{world.key}=three", "--overwrite")
    world.plane.compact()
    controller.go_on()
    children = world.wait_children("grid-one", "grid-two", "grid-three")
    assert "410 Expired" in controller.log()[logged:]
    wait_for(
        lambda: "tkeedge.io/unit-gone-since" in world.children()["grid-two"]["metadata"]["annotations"],
        "the gone unit's mark",
        dump=world.dump,
    )
    assert children["grid-one"]["spec"]["replicas"] == 1


def test_restarted_controller_has_nothing_to_do(world: Any, wait_for: Any, controller: Any) -> None:
    """A controller that starts in the wanted state writes nothing, and what changed meanwhile is done."""
    world.node("a", "one")
    world.plane.apply(world.deployment_grid(), world.service_grid())
    world.wait_children("grid-one")
    world.wait_condition("ServiceApplied", kind="sg")
    world.wait_quiet()
    before = world.writes()
    assert controller.stop() == 0
    controller.start()
    wait_for(lambda: "sitegrid_leader 1.0" in controller.http("/metrics")[1], "the lead", dump=world.dump)
    world.wait_quiet(3)
    assert world.writes() == before
    controller.stop()
    world.node("b", "two")
    controller.start()
    world.wait_children("grid-one", "grid-two")


def test_asked_to_end_it_gives_the_lease_back(world: Any, wait_for: Any, controller: Any) -> None:
    """After SIGTERM another replica leads at once, instead of waiting for the Lease to expire."""
    wait_for(lambda: "sitegrid_leader 1.0" in controller.http("/metrics")[1], "the lead", dump=world.dump)
    assert controller.stop() == 0
    lease = world.plane.get("leases", "sitegrid-controller", "kube-system")
    assert lease["spec"].get("holderIdentity", "") == ""


def test_two_replicas_have_one_leader(world: Any, wait_for: Any, new_controller: Any, controller: Any) -> None:
    """The second replica observes and waits; when the first is gone it goes on."""
    wait_for(lambda: "sitegrid_leader 1.0" in controller.http("/metrics")[1], "the lead", dump=world.dump)
    second = new_controller()
    second.start("--identity=second")
    wait_for(lambda: second.http("/readyz")[0] == 200, "the second replica to be ready")
    assert "sitegrid_leader 0.0" in second.http("/metrics")[1]
    world.node("a", "one")
    world.plane.apply(world.deployment_grid())
    world.wait_children("grid-one")
    assert controller.stop() == 0
    world.node("b", "two")
    world.wait_children("grid-one", "grid-two")
    assert "sitegrid_leader 1.0" in second.http("/metrics")[1]


def test_killed_again_and_again_during_a_rollout(world: Any, wait_for: Any, controller: Any) -> None:
    """kill -9 at any moment of a rollout: it is finished, and then there is rest."""
    for number in range(15):
        world.node(f"n{number}", f"u{number}")
    controller.stop()
    world.plane.apply(world.deployment_grid(), world.service_grid())
    for round_ in range(4):
        before = len(world.writes())
        controller.start("--no-leader-elect")
        wait_for(
            lambda before=before: len(world.writes()) > before or len(world.children()) == 15,
            f"a write in round {round_}",
            dump=world.dump,
        )
        controller.kill()
    controller.start("--no-leader-elect")
    wait_for(lambda: len(world.children()) == 15, "all children", dump=world.dump)
    world.wait_condition("ServiceApplied", kind="sg")
    world.wait_quiet()
    children = [write for write in world.writes() if write.startswith("patch deployments ")]
    # A write under way when its process was killed may be repeated by the next one, never all of them.
    assert len(set(children)) == 15
    assert len(children) < 15 + 4 * 24


def test_unusable_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kubeconfig that does not exist, or an address that is none, ends with a sentence and exit code 1."""
    from sitegrid.cli.main import main

    assert main(["controller", "--kubeconfig", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
