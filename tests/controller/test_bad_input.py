"""Bad input on a real API server: refused with a sentence that helps, or a condition; other grids always go on."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.cluster


def _refused(world: Any, manifest: dict[str, Any]) -> str:
    """Return kubectl's error output for a manifest that must be refused."""
    result = world.plane.kubectl("apply", "-f", "-", manifest=manifest, check=False)
    assert result.returncode != 0
    return str(result.stderr)


@pytest.mark.parametrize(
    "key", ["", "Zone!", "-zone", "a/b/c", "Prefix.example/zone", "/zone", "zone/", "k" * 64, "p" * 254 + "/zone"]
)
def test_illegal_key_is_refused(world: Any, key: str) -> None:
    """A key that no node can carry is refused when it is applied, for both kinds, by the name of the field."""
    for manifest in (world.deployment_grid(gridUniqKey=key), world.service_grid(gridUniqKey=key)):
        message = _refused(world, manifest)
        assert "spec.gridUniqKey" in message
        assert "label key" in message or "Too long" in message


def test_missing_key_is_refused(world: Any) -> None:
    """A grid without a key is refused, and the message names the field."""
    manifest = world.deployment_grid()
    del manifest["spec"]["gridUniqKey"]
    assert "spec.gridUniqKey: Required value" in _refused(world, manifest)


def test_key_cannot_be_changed(world: Any) -> None:
    """Another key would move every unit at once; the message says what to do instead."""
    world.plane.apply(world.deployment_grid())
    assert "make a second grid" in _refused(world, world.deployment_grid(gridUniqKey="other"))


def test_missing_template_is_refused(world: Any) -> None:
    """A grid without a template is refused."""
    manifest = world.deployment_grid()
    del manifest["spec"]["template"]
    assert "spec.template: Required value" in _refused(world, manifest)


def test_template_keeps_unknown_fields(world: Any) -> None:
    """A field that this version of sitegrid has never heard of stays in the user's template."""
    world.plane.apply(world.service_grid(template={"ports": [{"port": 80}], "someday": {"deep": [1, {"a": True}]}}))
    assert world.plane.get("sg", "grid", world.namespace)["spec"]["template"]["someday"] == {"deep": [1, {"a": True}]}


def test_status_of_another_makers_grid_is_ignored(world: Any) -> None:
    """What `kubectl get -o yaml` gave elsewhere applies as it is: only the controller writes a status."""
    states = {"states": {"one": {"readyReplicas": 1}}}
    world.plane.apply(
        {**world.deployment_grid(), "status": states}, {**world.service_grid(), "status": {"loadBalancer": {}}}
    )
    world.wait_condition("NoUnits")
    world.wait_condition("ServiceApplied", kind="sg")
    for kind in ("dg", "sg"):
        assert not world.plane.get(kind, "grid", world.namespace)["status"].keys() & {"states", "loadBalancer"}


def test_nothing_is_defaulted_into_the_users_spec(world: Any) -> None:
    """What was applied is what is there (I3)."""
    manifest = world.deployment_grid()
    world.plane.apply(manifest)
    world.wait_condition("NoUnits")
    assert world.plane.get("dg", "grid", world.namespace)["spec"] == manifest["spec"]


@pytest.mark.parametrize("name", ["9grid", "a.b", "g" * 60])
def test_service_name_must_be_set_where_the_default_is_illegal(world: Any, name: str) -> None:
    """`<name>-svc` would be no Service name: the user is told to set serviceName, and that works."""
    assert "set spec.serviceName" in _refused(world, world.service_grid(name))
    world.plane.apply(world.service_grid(name, serviceName="fine"))
    assert world.wait_condition("ServiceApplied", name, kind="sg")["status"] == "True"
    assert world.plane.get("services", "fine", world.namespace) is not None


def test_illegal_service_name_is_refused(world: Any) -> None:
    """A serviceName that is no Service name is refused."""
    assert "serviceName is not a legal Service name" in _refused(world, world.service_grid(serviceName="Svc_1"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"selector": None}, "spec.selector: Required value"),
        ({"selector": {}}, "empty selector is invalid"),
        ({"selector": {"matchLabels": {"app": "other"}}}, "`selector` does not match template `labels`"),
        ({"template": "text"}, "spec.template"),
        ({"replicas": -1}, "spec.replicas"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_refused_template_is_a_condition(world: Any, change: dict[str, Any], words: str) -> None:
    """What Kubernetes refuses is told in its own words, and the grid beside it goes on."""
    world.node("a", "one")
    bad = world.deployment_grid("bad")
    bad["spec"]["template"].update(change)
    bad["spec"]["template"] = {k: v for k, v in bad["spec"]["template"].items() if v is not None}
    world.plane.apply(bad, world.deployment_grid("good"))
    world.wait_children("good-one")
    world.wait_condition("UnitsNotReady", "good")
    condition = world.wait_degraded("bad")
    assert words in condition["message"]
    assert "unit one" in condition["message"]
    assert condition["status"] == "True"


def test_corrected_template_is_tried_at_once(world: Any) -> None:
    """A user who corrects the template does not wait for a backoff."""
    world.node("a", "one")
    bad = world.deployment_grid()
    bad["spec"]["template"]["replicas"] = -1
    world.plane.apply(bad)
    world.wait_degraded()
    world.plane.apply(world.deployment_grid())
    world.wait_children("grid-one")
    world.wait_condition("AsExpected", type="Degraded")


def test_odd_unit_values(world: Any, wait_for: Any) -> None:
    """Legal label values that are no object names, and two that look alike, each get a Deployment of their own."""

    def pins() -> list[str]:
        children = world.children().values()
        return sorted(child["spec"]["template"]["spec"]["nodeSelector"][world.key] for child in children)

    values = ["NodeUnit1", "nodeunit1", "a_b", "a-b", "A.B", "a.b", "x" * 63, "X" * 63, "1"]
    for number, value in enumerate(values):
        world.node(f"n{number}", value)
    world.plane.apply(world.deployment_grid())
    wait_for(lambda: pins() == sorted(values), "a child of each unit", dump=world.dump)
    wanted = {"grid-nodeunit1", "grid-a-b", "grid-a.b", "grid-1", "grid-" + "x" * 63}
    assert wanted <= world.children().keys()


def test_longest_grid_name(world: Any, wait_for: Any) -> None:
    """A grid whose name has 253 characters gets its children, and their ReplicaSets can be made."""
    world.node("a", "one")
    world.node("b", "y" * 63)
    name = "g" * 253
    world.plane.apply(world.deployment_grid(name))
    wait_for(lambda: len(world.children()) == 2, "two Deployments", dump=world.dump)
    wait_for(
        lambda: len(world.plane.objects("replicasets", world.namespace)) == 2, "two ReplicaSets", dump=world.dump
    )


def test_key_with_a_prefix(world: Any) -> None:
    """A key such as topology.kubernetes.io/zone works."""
    world.key = f"topology.kubernetes.io/{world.key}"
    world.node("a", "one")
    world.plane.apply(world.deployment_grid(), world.service_grid())
    child = world.wait_children("grid-one")["grid-one"]
    assert child["spec"]["template"]["spec"]["nodeSelector"] == {world.key: "one"}
    world.wait_condition("ServiceApplied", kind="sg")


def test_own_node_selector_and_affinity_are_kept(world: Any) -> None:
    """The unit's pin is merged with what the user says about nodes."""
    world.node("a", "one")
    affinity = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "grid"}}, "topologyKey": "kubernetes.io/hostname"}
            ]
        }
    }
    manifest = world.deployment_grid()
    manifest["spec"]["template"]["template"]["spec"].update(nodeSelector={"disk": "ssd"}, affinity=affinity)
    world.plane.apply(manifest)
    pod = world.wait_children("grid-one")["grid-one"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"disk": "ssd", world.key: "one"}
    assert pod["affinity"] == affinity


def test_own_node_selector_for_the_key(world: Any) -> None:
    """A template that pins the key itself cannot be for the other units: those have a problem that says so."""
    world.node("a", "one")
    world.node("b", "two")
    manifest = world.deployment_grid()
    manifest["spec"]["template"]["template"]["spec"]["nodeSelector"] = {world.key: "one"}
    world.plane.apply(manifest, world.deployment_grid("good"))
    condition = world.wait_condition("NodeSelectorConflict")
    assert "unit two" in condition["message"]
    assert f"remove {world.key} from" in condition["message"]
    world.wait_children("grid-one", "good-one", "good-two")


def test_superedge_leftovers_in_the_template(world: Any) -> None:
    """`strategy: {}` and `creationTimestamp: null`, as generated manifests have them, are no problem and no drift."""
    world.node("a", "one")
    manifest = world.deployment_grid()
    manifest["spec"]["template"]["strategy"] = {}
    manifest["spec"]["template"]["template"]["metadata"]["creationTimestamp"] = None
    world.plane.apply(manifest)
    world.wait_children("grid-one")
    world.wait_quiet()
    assert [write for write in world.writes() if " deployments " in write] == ["patch deployments grid-one"]


def test_foreign_deployment_is_left_alone(world: Any, wait_for: Any) -> None:
    """A Deployment of the wanted name is not adopted; the condition says what to do, and doing it helps."""
    world.node("a", "one")
    world.node("b", "two")
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "grid-one", "namespace": world.namespace},
        "spec": world.deployment_grid()["spec"]["template"],
    }
    world.plane.apply(foreign)
    world.plane.apply(world.deployment_grid())
    condition = world.wait_condition("NameConflict")
    assert f"Deployment {world.namespace}/grid-one already exists" in condition["message"]
    assert world.wait_children("grid-one", "grid-two")["grid-one"]["metadata"].get("ownerReferences") is None
    assert [write for write in world.writes() if write.endswith("deployments grid-one")] == []
    world.plane.kubectl("delete", "deployment", "grid-one", "-n", world.namespace)
    wait_for(
        lambda: "ownerReferences" in world.children().get("grid-one", {"metadata": {}})["metadata"],
        "our own Deployment",
        dump=world.dump,
    )
    world.wait_condition("AsExpected", type="Degraded")


def test_foreign_service_is_left_alone(world: Any) -> None:
    """A Service of the wanted name is not adopted."""
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "grid-svc", "namespace": world.namespace},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}},
    }
    world.plane.apply(foreign)
    world.plane.apply(world.service_grid(), world.service_grid("other"))
    condition = world.wait_condition("NameConflict", kind="sg")
    assert f"Service {world.namespace}/grid-svc already exists" in condition["message"]
    world.wait_condition("ServiceApplied", "other", kind="sg")
    service = world.plane.get("services", "grid-svc", world.namespace)
    assert service["spec"]["selector"] == {"app": "theirs"}
    assert "labels" not in service["metadata"]


def test_two_grids_that_want_the_same_child(world: Any) -> None:
    """`a` with unit `b-c` and `a-b` with unit `c` both want `a-b-c`: the second one says so and touches nothing."""
    world.node("n1", "b-c")
    world.plane.apply(world.deployment_grid("a"))
    first = world.wait_children("a-b-c")["a-b-c"]
    world.node("n2", "c")
    world.plane.apply(world.deployment_grid("a-b"))
    condition = world.wait_condition("NameConflict", "a-b")
    assert "is controlled by DeploymentGrid a;" in condition["message"]
    children = world.wait_children("a-b-c", "a-c", "a-b-b-c")
    assert children["a-b-c"]["metadata"]["uid"] == first["metadata"]["uid"]
    assert children["a-b-c"]["metadata"]["ownerReferences"] == first["metadata"]["ownerReferences"]


def test_grid_deleted_while_its_children_are_made(world: Any, wait_for: Any) -> None:
    """A grid that is deleted in the middle of a rollout leaves nothing behind."""
    for number in range(30):
        world.node(f"n{number}", f"u{number}")
    world.plane.apply(world.deployment_grid(), world.service_grid())
    wait_for(world.children, "the first child", dump=world.dump)
    world.plane.kubectl("delete", "dg,sg", "grid", "-n", world.namespace, "--wait=false")
    wait_for(lambda: not world.children(), "the children to go", dump=world.dump)
    wait_for(lambda: world.plane.get("services", "grid-svc", world.namespace) is None, "the Service to go")
    world.wait_quiet()
    assert world.children() == {}
