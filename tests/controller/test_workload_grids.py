"""Every kind of workload grid on a real API server: children, units, budgets and autoscalers, canary templates."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

KINDS = {"DeploymentGrid": "deployments", "StatefulSetGrid": "statefulsets", "DaemonSetGrid": "daemonsets"}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _children(world: Any, kind: str) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in world.plane.objects(KINDS[kind], world.namespace)}


def _wait_children(world: Any, wait_for: Any, kind: str, *names: str) -> dict[str, Any]:
    wait_for(lambda: _children(world, kind).keys() == set(names), f"the {KINDS[kind]} {names}", dump=world.dump)
    return _children(world, kind)


def _refused(world: Any, manifest: dict[str, Any]) -> str:
    result = world.plane.kubectl("apply", "-f", "-", manifest=manifest, check=False)
    assert result.returncode != 0
    return str(result.stderr)


def _events(world: Any) -> list[tuple[str, str]]:
    found = world.plane.objects("events.events.k8s.io", world.namespace)
    return [(event["reason"], event["note"]) for event in found]


@every_kind
def test_each_unit_gets_a_child(world: Any, wait_for: Any, kind: str) -> None:
    """One child per unit, pinned to it; then there is rest."""
    world.nodes("one", "two")
    world.plane.apply(world.workload_grid(kind))
    children = _wait_children(world, wait_for, kind, "grid-one", "grid-two")
    for name, child in children.items():
        value = name.removeprefix("grid-")
        unit = {"tkeedge.io/unit": f"{world.key}.{value}"}
        assert child["spec"]["template"]["spec"]["nodeSelector"] == {world.key: value}
        assert child["spec"]["selector"]["matchLabels"] == {"app": "grid", **unit}
        owner = child["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["controller"]) == (kind, True)
    world.wait_quiet()
    assert len([write for write in world.writes() if KINDS[kind] in write]) == 2


@every_kind
def test_hand_made_changes_are_repaired(world: Any, wait_for: Any, kind: str) -> None:
    """What somebody edits or deletes comes back, and an event says so."""
    world.nodes("one")
    world.plane.apply(world.workload_grid(kind))
    before = _wait_children(world, wait_for, kind, "grid-one")["grid-one"]
    patch = {"spec": {"template": {"spec": {"nodeSelector": {world.key: "other"}}}}}
    arguments = ("-n", world.namespace, "--type=merge", "-p", json.dumps(patch))
    world.plane.kubectl("patch", KINDS[kind], "grid-one", *arguments)
    pin = {world.key: "one"}
    wait_for(
        lambda: _children(world, kind)["grid-one"]["spec"]["template"]["spec"]["nodeSelector"] == pin,
        "the repair",
        dump=world.dump,
    )
    wait_for(lambda: "Repaired" in dict(_events(world)), "the event", dump=world.dump)
    world.plane.kubectl("delete", KINDS[kind], "grid-one", "-n", world.namespace)
    wait_for(
        lambda: _children(world, kind).get("grid-one", before)["metadata"]["uid"] != before["metadata"]["uid"],
        "the child to be made again",
        dump=world.dump,
    )


def test_volume_claim_templates_are_kept_whole(world: Any, wait_for: Any) -> None:
    """A StatefulSet has the user's claims and serviceName, and is not applied again for what Kubernetes adds."""
    world.nodes("one")
    claim = {
        "metadata": {"name": "data", "labels": {"tier": "db"}, "annotations": {"note": "kept"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    grid = world.workload_grid("StatefulSetGrid")
    grid["spec"]["template"] |= {"volumeClaimTemplates": [claim], "serviceName": "grid-svc"}
    world.plane.apply(grid)
    child = _wait_children(world, wait_for, "StatefulSetGrid", "grid-one")["grid-one"]
    (made,) = child["spec"]["volumeClaimTemplates"]
    assert made["metadata"] == claim["metadata"]
    assert {name: made["spec"][name] for name in claim["spec"]} == claim["spec"]
    assert child["spec"]["serviceName"] == "grid-svc"
    world.wait_quiet()
    assert world.writes().count("patch statefulsets grid-one") == 1


def test_included_units_only(world: Any) -> None:
    """Units by name and by label; a name that no unit has is told and is no error."""
    world.nodes("one", "two", "three")
    include = {"names": ["one", "later"], "selector": {"matchLabels": {world.key: "two"}}}
    world.plane.apply(world.deployment_grid(units={"include": include}))
    world.wait_children("grid-one", "grid-two")
    world.wait_status({"units": 2, "unknownUnits": ["later"]})
    assert world.condition()["reason"] == "UnitsNotReady"


def test_excluded_unit_is_removed_through_the_grace_period(world: Any, wait_for: Any) -> None:
    """A unit that is left out keeps its child for the grace period, and gets it back untouched before that."""
    world.nodes("one", "two")
    world.plane.apply(world.deployment_grid())
    before = world.wait_children("grid-one", "grid-two")["grid-one"]

    def marked() -> bool:
        annotations = world.children()["grid-one"]["metadata"]["annotations"]
        return "tkeedge.io/unit-gone-since" in annotations

    exclude = {"exclude": {"names": ["one"]}}
    world.plane.apply(world.deployment_grid(units=exclude))
    wait_for(marked, "the mark", dump=world.dump)
    world.plane.apply(world.deployment_grid())
    wait_for(lambda: not marked(), "the mark to go", dump=world.dump)
    assert world.children()["grid-one"]["metadata"]["uid"] == before["metadata"]["uid"]
    world.plane.apply(world.deployment_grid(units=exclude, removal={"gracePeriodSeconds": 0}))
    world.wait_children("grid-two")


def test_selector_that_cannot_be_understood_changes_nothing(world: Any) -> None:
    """Nobody can tell which units are meant: the grid says so, and no child goes."""
    world.nodes("one")
    world.plane.apply(world.deployment_grid(removal={"gracePeriodSeconds": 0}))
    world.wait_children("grid-one")
    selector = {"matchExpressions": [{"key": "size", "operator": "In"}]}
    world.plane.apply(world.deployment_grid(units={"include": {"selector": selector}}))
    assert "needs at least one value" in world.wait_condition("UnitsInvalid")["message"]
    assert world.children().keys() == {"grid-one"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units": {"include": {}}}, "say which units are meant"),
        ({"units": {"exclude": {"names": []}}}, "say which units are meant"),
        ({"units": {"include": {"selector": {}}}}, "the selector is empty"),
        ({"overrides": [{"patch": {}}]}, "spec.overrides[0].units: Required value"),
        ({"overrides": [{"units": {}}]}, "say which units are meant"),
        ({"overrides": [{"units": {"names": ["a"], "selector": {"matchLabels": {}}}}]}, "the selector is empty"),
        ({"overrides": [{"units": {"names": ["a"]}, "replicas": -1}]}, "greater than or equal to 0"),
        ({"podDisruptionBudget": {"selector": {}}}, "leave selector out"),
        ({"autoscaling": {"scaleTargetRef": {"kind": "Deployment"}}}, "leave scaleTargetRef out"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(world: Any, change: dict[str, Any], words: str) -> None:
    """What can only be a slip is refused when it is applied."""
    assert words in _refused(world, world.deployment_grid(**change))


def test_replicas_of_a_daemon_set_are_refused(world: Any) -> None:
    """A DaemonSet has none."""
    override = {"units": {"names": ["one"]}, "replicas": 2}
    assert "a DaemonSet has no replicas" in _refused(
        world, world.workload_grid("DaemonSetGrid", overrides=[override])
    )


@pytest.mark.parametrize("kind", ["DeploymentGrid", "StatefulSetGrid"])
def test_scaling_by_hand_is_repaired(world: Any, wait_for: Any, kind: str) -> None:
    """Where the grid says how many pods there are, `kubectl scale` of a child is undone, and an event says so."""
    world.nodes("one")
    world.plane.apply(world.workload_grid(kind))
    _wait_children(world, wait_for, kind, "grid-one")
    world.plane.kubectl("scale", KINDS[kind], "grid-one", "--replicas=3", "-n", world.namespace)
    wait_for(lambda: "Repaired" in dict(_events(world)), "the event", dump=world.dump)
    wait_for(lambda: _children(world, kind)["grid-one"]["spec"]["replicas"] == 1, "the repair", dump=world.dump)


def test_scaling_by_hand_stays_where_the_template_says_nothing(world: Any, wait_for: Any) -> None:
    """Without `replicas` in the template they are somebody else's: scaling stays, also over changes of the grid."""
    world.nodes("one")
    grid = world.deployment_grid()
    del grid["spec"]["template"]["replicas"]
    world.plane.apply(grid)
    world.wait_children("grid-one")
    world.plane.kubectl("scale", "deployment", "grid-one", "--replicas=4", "-n", world.namespace)
    grid["spec"]["template"]["template"]["spec"]["containers"][0]["image"] = "web:2"
    world.plane.apply(grid)

    def image() -> str:
        containers = world.children()["grid-one"]["spec"]["template"]["spec"]["containers"]
        return str(containers[0]["image"])

    wait_for(lambda: image() == "web:2", "the new image", dump=world.dump)
    world.wait_quiet()
    assert world.children()["grid-one"]["spec"]["replicas"] == 4


def test_replicas_that_are_given_up_stay(world: Any, wait_for: Any) -> None:
    """A grid that hands its replicas over to others does not make Kubernetes scale the site down to 1."""
    world.nodes("one")
    grid = world.deployment_grid()
    grid["spec"]["template"]["replicas"] = 3
    world.plane.apply(grid)
    world.wait_children("grid-one")
    del grid["spec"]["template"]["replicas"]
    world.plane.apply(grid)

    def given_up() -> bool:
        child = json.loads(
            world.plane.kubectl(
                *("get", "deployment", "grid-one", "-n", world.namespace, "-o", "json", "--show-managed-fields")
            ).stdout
        )
        assert child["spec"]["replicas"] == 3
        (entry,) = (item for item in child["metadata"]["managedFields"] if item["manager"] == "sitegrid")
        return "f:replicas" not in entry["fieldsV1"]["f:spec"]

    wait_for(given_up, "the replicas to be given up", dump=world.dump)
    world.plane.kubectl("scale", "deployment", "grid-one", "--replicas=5", "-n", world.namespace)
    world.wait_quiet()
    assert world.children()["grid-one"]["spec"]["replicas"] == 5


def test_budget_and_autoscaler_of_each_unit(world: Any, wait_for: Any) -> None:
    """Each unit has its own, for its own pods; they are repaired, and go with the child or when not asked for."""
    world.nodes("one", "two")
    asked = {
        "podDisruptionBudget": {"maxUnavailable": 1},
        "autoscaling": {"minReplicas": 1, "maxReplicas": 4},
    }
    world.plane.apply(world.deployment_grid(**asked))
    children = world.wait_children("grid-one", "grid-two")

    def found(resource: str) -> dict[str, Any]:
        return {item["metadata"]["name"]: item for item in world.plane.objects(resource, world.namespace)}

    names = {"grid-one-deployment", "grid-two-deployment"}
    for resource in ("pdb", "hpa"):
        wait_for(lambda kind=resource: found(kind).keys() == names, resource, dump=world.dump)
    budget, scaler = found("pdb")["grid-one-deployment"], found("hpa")["grid-one-deployment"]
    assert budget["spec"]["selector"] == children["grid-one"]["spec"]["selector"]
    assert budget["spec"]["maxUnavailable"] == 1
    assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "grid-one"}
    assert budget["metadata"]["ownerReferences"][0]["uid"] == children["grid-one"]["metadata"]["uid"]
    patch = ("--type=merge", "-p", json.dumps({"spec": {"maxUnavailable": 2}}))
    world.plane.kubectl("patch", "pdb", "grid-one-deployment", "-n", world.namespace, *patch)
    wait_for(
        lambda: found("pdb")["grid-one-deployment"]["spec"]["maxUnavailable"] == 1, "the repair", dump=world.dump
    )
    world.plane.kubectl("delete", "pdb", "grid-one-deployment", "-n", world.namespace)
    wait_for(lambda: found("pdb").keys() == names, "the budget to be made again", dump=world.dump)
    world.plane.kubectl("scale", "deployment", "grid-one", "--replicas=3", "-n", world.namespace)
    world.wait_quiet()
    assert world.children()["grid-one"]["spec"]["replicas"] == 3  # the autoscaler's, whatever the template says
    world.plane.apply(world.deployment_grid(autoscaling=asked["autoscaling"]))
    wait_for(lambda: not found("pdb"), "the budgets to go", dump=world.dump)
    assert found("hpa").keys() == names
    exclude = {"exclude": {"names": ["two"]}}
    world.plane.apply(world.deployment_grid(units=exclude, removal={"gracePeriodSeconds": 0}, **asked))
    wait_for(lambda: found("hpa").keys() == {"grid-one-deployment"}, "the autoscaler to go", dump=world.dump)


def _canary(world: Any, **changes: Any) -> dict[str, Any]:
    grid: dict[str, Any] = world.deployment_grid(**changes)
    template = grid["spec"]["template"]

    def variant(image: str) -> dict[str, Any]:
        pod = template["template"]
        metadata = {"labels": {**pod["metadata"]["labels"], "track": image}, "annotations": {"note": image}}
        containers = [{**pod["spec"]["containers"][0], "image": image}]
        return {**template, "template": {"metadata": metadata, "spec": {"containers": containers}}}

    pool = {"stable": variant("stable"), "canary": variant("canary"), "old": variant("old")}
    grid["spec"] |= {"templatePool": pool, "defaultTemplateName": "stable", "templates": {"one": "canary"}}
    return grid


def _images(world: Any) -> dict[str, str]:
    return {
        name: child["spec"]["template"]["spec"]["containers"][0]["image"] for name, child in world.children().items()
    }


def test_canary_templates(world: Any) -> None:
    """Each unit has its template with the pod metadata; the user's spec stays; unused entries are reported."""
    world.nodes("one", "two", "three")
    grid = _canary(world)
    grid["spec"]["templates"]["three"] = "default"
    world.plane.apply(grid)
    children = world.wait_children("grid-one", "grid-two", "grid-three")
    assert _images(world) == {"grid-one": "canary", "grid-two": "stable", "grid-three": "web:1"}
    metadata = children["grid-one"]["spec"]["template"]["metadata"]
    assert (metadata["labels"]["track"], metadata["annotations"]) == ("canary", {"note": "canary"})
    world.wait_status({"units": 3, "unusedTemplates": ["old"]})
    world.wait_quiet()
    assert world.plane.get("dg", "grid", world.namespace)["spec"] == grid["spec"]


def test_missing_pool_entry_is_its_units_problem(world: Any) -> None:
    """A unit whose template does not exist is named; all others are done."""
    world.nodes("one", "two")
    grid = _canary(world)
    grid["spec"]["templates"] = {"one": "canery"}
    world.plane.apply(grid)
    world.wait_children("grid-two")
    message = world.wait_condition("TemplateMissing", type="Degraded")["message"]
    assert "unit one: spec.templates[one] is 'canery'" in message
    assert "canary, old, stable" in message


def test_unused_templates_are_deleted_where_the_field_says_so(world: Any, wait_for: Any) -> None:
    """autoDeleteUnusedTemplate takes out what nothing names, and nothing else."""
    world.nodes("one", "two")
    grid = _canary(world, autoDeleteUnusedTemplate=True)
    world.plane.apply(grid)

    def pool() -> dict[str, Any]:
        found: dict[str, Any] = world.plane.get("dg", "grid", world.namespace)["spec"]["templatePool"]
        return found

    wait_for(lambda: pool().keys() == {"stable", "canary"}, "the unused entry to go", dump=world.dump)
    assert pool()["canary"] == grid["spec"]["templatePool"]["canary"]
    world.wait_children("grid-one", "grid-two")
    world.wait_quiet()
    assert _images(world) == {"grid-one": "canary", "grid-two": "stable"}
