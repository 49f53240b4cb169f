"""Overrides on a real API server: what they change and what not, mistakes, the number of writes, explanations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from sitegrid.controller.statuses import HOLD

pytestmark = pytest.mark.cluster


def _image(image: str) -> dict[str, Any]:
    return {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}


def _override(patch: dict[str, Any] | None, *names: str, **fields: Any) -> dict[str, Any]:
    found = {"units": {"names": [*names]}, **fields}
    return found if patch is None else {**found, "patch": patch}


def _most_statuses(begin: float) -> int:
    """Return how often a status in motion since `begin` may have been written: once where it settled in `HOLD`."""
    return 1 + int((time.monotonic() - begin) / HOLD)


def _settled(world: Any, name: str, generation: int) -> bool:
    status = world.plane.get("dg", name, world.namespace)["status"]
    return bool(status["observedGeneration"] == generation and status["updatedUnits"] == status["units"])


def _sitegrid(world: Any, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sitegrid", *arguments, f"--kubeconfig={world.plane.kubeconfig('admin')}"],
        capture_output=True,
        text=True,
        check=check,
        env={"PATH": os.environ["PATH"]},
    )


def test_override_changes_its_unit_only(world: Any, wait_for: Any) -> None:
    """The patched unit's child changes, and the others are not even written."""
    world.nodes("one", "two", "three")
    world.plane.apply(world.deployment_grid())
    before = world.wait_children("grid-one", "grid-two", "grid-three")
    patch = {**_image("web:2"), "minReadySeconds": 5}
    rules = [_override(patch, "two", name="canary"), _override(None, "two", "nowhere", replicas=3)]
    world.plane.apply(world.deployment_grid(overrides=rules))
    wait_for(lambda: world.children()["grid-two"]["spec"]["replicas"] == 3, "the override", dump=world.dump)
    after = world.children()
    assert after["grid-two"]["spec"]["template"]["spec"]["containers"][0]["image"] == "web:2"
    assert after["grid-two"]["spec"]["minReadySeconds"] == 5
    for name in ("grid-one", "grid-three"):
        assert after[name]["metadata"]["generation"] == before[name]["metadata"]["generation"]
        assert after[name]["spec"] == before[name]["spec"]
    world.wait_status({"unknownUnits": ["nowhere"]})
    assert world.condition(type="Degraded")["status"] == "False"


def test_conflicting_overrides(world: Any) -> None:
    """Of two that say different things the later one wins, and explain says which one lost."""
    world.nodes("one")
    rules = [
        _override({**_image("web:2"), "minReadySeconds": 1}, "one", name="first"),
        _override(_image("web:3"), "one", name="second"),
    ]
    world.plane.apply(world.deployment_grid(overrides=rules))
    child = world.wait_children("grid-one")["grid-one"]["spec"]
    assert (child["template"]["spec"]["containers"][0]["image"], child["minReadySeconds"]) == ("web:3", 1)
    found = json.loads(_sitegrid(world, "explain", "grid", "one", "-n", world.namespace, "-o", "json").stdout)
    (image,) = (field for field in found["fields"] if field["path"].endswith("image"))
    assert (image["rule"], image["insteadOf"]) == ("overrides[1] (second)", ["overrides[0] (first)"])


def test_mistaken_overrides_stay_with_their_unit(world: Any, wait_for: Any) -> None:
    """Each kind of mistake is told for its unit, in a sentence; all other units are done."""
    mistakes: dict[str, tuple[dict[str, Any], str]] = {
        "selector": ({"selector": {"matchLabels": {"app": "x"}}}, "cannot change the selector"),
        "name": ({"metadata": {"name": "x"}}, "cannot change the object around it"),
        "pin": ({"template": {"spec": {"nodeSelector": {world.key: "good"}}}}, "cannot change where"),
        "label": ({"template": {"metadata": {"labels": {"tkeedge.io/unit": "x"}}}}, "cannot change this label"),
        "container": (
            {"template": {"spec": {"containers": [{"name": "wev", "command": ["a"]}]}}},
            "no such container",
        ),
        "shape": ({"template": {"spec": {"containers": {"name": "web"}}}}, "containers"),
        "value": (_image("$(unit.values.none)"), "is not known"),
        "twice": ({"replicas": 2}, "replicas is given twice"),
        "type": ({"replicas": "many"}, "expected numeric"),
    }
    world.nodes("good", *mistakes)
    rules = [_override(patch, name) for name, (patch, _) in mistakes.items()]
    rules.append(_override({"replicas": 2}, "twice", replicas=3))
    world.plane.apply(world.deployment_grid(overrides=rules))
    world.wait_children("grid-good")
    told: dict[str, Any] = {}

    def all_told() -> bool:
        nonlocal told
        units = (world.plane.get("dg", "grid", world.namespace).get("status") or {}).get("unitStates", [])
        told = {unit["name"]: unit for unit in units if unit["state"] == "Degraded"}
        return told.keys() == mistakes.keys()

    wait_for(all_told, "each mistake to be told", dump=lambda: f"{told}\n{world.dump()}")
    for name, (_, words) in mistakes.items():
        assert words in told[name]["message"], name
    assert told["name"]["reason"] == "OverrideInvalid"
    assert told["type"]["reason"] != "OverrideInvalid"  # the API server's own
    world.wait_status({"units": len(mistakes) + 1})
    assert world.wait_degraded()["status"] == "True"


def test_one_override_among_40_units_is_one_write(world: Any, wait_for: Any) -> None:
    """A changed override writes its unit's child once, and the grid's status once: that it is done."""
    world.nodes(*(f"u{number:03}" for number in range(40)))
    grid = world.deployment_grid()
    grid["spec"]["template"]["replicas"] = 0
    world.plane.apply(grid)
    wait_for(lambda: len(world.children()) == 40, "40 children", dump=world.dump)
    world.wait_condition("UnitsReady")
    world.wait_quiet(4)
    before = world.writes()
    grid["spec"]["overrides"] = [_override(_image("web:2"), "u023")]
    begin = time.monotonic()
    world.plane.apply(grid)
    generation = world.plane.get("dg", "grid", world.namespace)["metadata"]["generation"]
    wait_for(lambda: _settled(world, "grid", generation), "the status", dump=world.dump)
    most = _most_statuses(begin)
    world.wait_quiet(4)
    child, *statuses = world.writes()[len(before) :]
    assert child == "patch deployments grid-u023"
    assert {*statuses} == {"patch deploymentgrids/status grid"}
    assert len(statuses) <= most


def test_new_unit_with_twenty_grids(world: Any, wait_for: Any) -> None:
    """A new site gets a child and a status per grid, its NodeUnit and the NodeGroup's status; then there is rest."""
    world.nodes("one")
    names = [f"g{number:02}" for number in range(20)]
    grids = [world.deployment_grid(name) for name in names]
    for grid in grids:
        grid["spec"]["template"]["replicas"] = 0
    world.plane.apply(*grids)
    world.wait_children(*(f"{name}-one" for name in names))
    for name in names:
        world.wait_condition("UnitsReady", name)
    world.wait_quiet(4)
    before, units_before = world.writes(), world.unit_writes()
    begin = time.monotonic()
    world.nodes("two")
    world.wait_children(*(f"{name}-{unit}" for name in names for unit in ("one", "two")))
    for name in names:
        world.wait_status({"readyUnits": 2}, name)
    kinds = {"create nodeunits", "patch nodeunits/status", "patch nodegroups/status"}
    wait_for(lambda: {*world.unit_writes()[len(units_before) :]} == kinds, "the unit's objects", dump=world.dump)
    most = _most_statuses(begin)
    world.wait_quiet(4)
    writes = Counter(world.writes()[len(before) :])
    children = {f"patch deployments {name}-two" for name in names}
    statuses = {f"patch deploymentgrids/status {name}" for name in names}
    assert writes.keys() == children | statuses
    assert all(writes[child] == 1 for child in children)
    assert all(writes[status] <= most for status in statuses)
    units = Counter(world.unit_writes()[len(units_before) :])
    assert units["create nodeunits"] == 1
    assert units.keys() == kinds
    assert units.total() <= 1 + 2 * most


def test_template_of_a_megabyte(world: Any) -> None:
    """A template as large as an object may be does not harm others: it is done, or a condition says why not."""
    world.nodes("one")
    grid = world.deployment_grid("huge")
    grid["spec"]["template"]["template"]["spec"]["containers"][0]["env"] = [{"name": "X", "value": "x" * 1_000_000}]
    world.plane.kubectl("apply", "--server-side", "-f", "-", manifest=grid)
    world.plane.apply(world.deployment_grid())
    world.wait_condition("UnitsNotReady")
    condition = world.wait_condition("UnitsNotReady", "huge")
    assert condition["status"] == "False"
    assert {"grid-one", "huge-one"} == world.children().keys()


def test_template_that_is_too_large(world: Any, wait_for: Any) -> None:
    """A grid that fits, with a child that does not, says so; the grid beside it is done."""
    world.nodes("one")
    grid = world.deployment_grid("huge")
    container = grid["spec"]["template"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "X", "value": "x" * 800_000}]
    more = [{"name": f"Y{number}", "value": "$(unit.values.big)"} for number in range(250)]
    patch = {"template": {"spec": {"containers": [{"name": "web", "env": more}]}}}
    grid["spec"]["overrides"] = [_override(patch, "one")]
    big = {"gridUniqKey": world.key, "unit": "one", "values": {"big": "y" * 4096}}
    unit = {"apiVersion": "tkeedge.io/v1", "kind": "NodeUnit", "metadata": {"name": f"one-{world.namespace}"}}
    world.plane.kubectl("apply", "--server-side", "-f", "-", manifest={**unit, "spec": big})
    try:
        world.plane.kubectl("apply", "--server-side", "-f", "-", manifest=grid)
        world.plane.apply(world.deployment_grid())
        # The NodeUnit may be heard of after the grid, which lacks its value until then.
        wait_for(lambda: "too large" in world.wait_degraded("huge")["message"], "the refusal", dump=world.dump)
        assert "unit one: " in world.wait_degraded("huge")["message"]
        world.wait_children("grid-one")
        world.wait_condition("AsExpected", type="Degraded")
    finally:
        world.plane.kubectl("delete", "nodeunit", f"one-{world.namespace}")


def test_suspended_unit_is_left_alone(world: Any, wait_for: Any) -> None:
    """While its NodeUnit is suspended nothing of the unit changes, and the status says so; then it catches up."""
    world.nodes("one", "two")
    world.plane.apply(world.deployment_grid())
    world.wait_children("grid-one", "grid-two")
    unit: dict[str, Any] = {
        "apiVersion": "tkeedge.io/v1",
        "kind": "NodeUnit",
        "metadata": {"name": f"one-{world.namespace}", "labels": {"size": "big"}},
        "spec": {"gridUniqKey": world.key, "unit": "one", "suspend": True, "values": {"image": "web:9"}},
    }
    world.plane.apply(unit)
    try:
        by_label = {"units": {"selector": {"matchLabels": {"size": "big"}}}, "patch": _image("$(unit.values.image)")}

        def images() -> dict[str, str]:
            return {
                name: child["spec"]["template"]["spec"]["containers"][0]["image"]
                for name, child in world.children().items()
            }

        def states() -> dict[str, str]:
            found = world.plane.get("dg", "grid", world.namespace).get("status", {}).get("unitStates", [])
            return {state["name"]: state["state"] for state in found}

        wait_for(lambda: states().get("one") == "Suspended", "the suspension", dump=world.dump)
        grid = world.deployment_grid(overrides=[by_label, _override(_image("web:2"), "two")])
        world.plane.apply(grid)
        wait_for(lambda: images()["grid-two"] == "web:2", "the other unit", dump=world.dump)
        world.wait_quiet()
        assert images()["grid-one"] == "web:1"
        assert "suspended: one" in world.condition("grid", "Progressing")["message"]
        unit["spec"]["suspend"] = False
        world.plane.apply(unit)
        wait_for(lambda: images()["grid-one"] == "web:9", "the unit to catch up", dump=world.dump)
    finally:
        world.plane.kubectl("delete", "nodeunit", unit["metadata"]["name"])


def test_values_of_the_unit_in_budget_and_autoscaler(world: Any, wait_for: Any) -> None:
    """Each unit has its own numbers; one without them says so and has its workload all the same."""
    world.nodes("one", "two", "bare")
    units: list[dict[str, Any]] = [
        {
            "apiVersion": "tkeedge.io/v1",
            "kind": "NodeUnit",
            "metadata": {"name": f"{unit}-{world.namespace}"},
            "spec": {"gridUniqKey": world.key, "unit": unit, "values": {"min": least, "max": most}},
        }
        for unit, least, most in (("one", "1", "4"), ("two", "50%", "8"))
    ]
    world.plane.apply(*units)
    try:
        budget, scaling = {"minAvailable": "$(unit.values.min)"}, {"maxReplicas": "$(unit.values.max)"}
        world.plane.apply(world.deployment_grid(podDisruptionBudget=budget, autoscaling=scaling))
        world.wait_children("grid-one", "grid-two", "grid-bare")

        def found(kind: str, field: str) -> dict[str, Any]:
            items = world.plane.objects(kind, world.namespace)
            return {item["metadata"]["name"]: item["spec"][field] for item in items}

        least = {"grid-one-deployment": 1, "grid-two-deployment": "50%"}
        most = {"grid-one-deployment": 4, "grid-two-deployment": 8}
        wait_for(lambda: found("pdb", "minAvailable") == least, "the budgets", dump=world.dump)
        wait_for(lambda: found("hpa", "maxReplicas") == most, "the autoscalers", dump=world.dump)
        message = world.wait_condition("TemplateInvalid", type="Degraded")["message"]
        assert "unit bare: spec." in message
        assert "is not known" in message
    finally:
        for unit in units:
            world.plane.kubectl("delete", "nodeunit", unit["metadata"]["name"])


def test_explain(world: Any) -> None:
    """What is printed is what kubectl diff finds no difference to, with the rule of each changed field."""
    world.nodes("one", "two")
    rules = [_override(_image("web:2"), "one", name="canary"), _override(None, "two", replicas=4)]
    world.plane.apply(world.deployment_grid(overrides=rules))
    world.wait_children("grid-one", "grid-two")
    world.wait_quiet()
    text = _sitegrid(world, "explain", "grid", "one", "-n", world.namespace).stdout
    assert f"# Deployment {world.namespace}/grid-one of DeploymentGrid grid, unit one ({world.key}=one)\n" in text
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("#   ")}
    assert "overrides[0] (canary)" in lines["template.spec.containers[web].image"]
    assert "replicas" not in lines
    found = json.loads(_sitegrid(world, "explain", "dg/grid", "two", "-n", world.namespace, "-o", "json").stdout)
    assert {"path": "replicas", "rule": "overrides[1]", "removed": False, "insteadOf": []} in found["fields"]
    child = found["child"]
    same = world.plane.kubectl("diff", "--server-side", "-f", "-", manifest=child)
    assert same.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("nope", "one"), "there is no DeploymentGrid nope in namespace", 1),
        (("pods/grid", "one"), "not [KIND/]NAME", 2),
        (("ssg", "grid", "one"), "there is no StatefulSetGrid", 1),
        (("sg/grid", "one"), "there is no ServiceGrid", 1),
        (("grid", "three"), "has no unit three; it has: one", 1),
        (("grid", "onne"), "has no unit onne, did you mean 'one'? it has: one", 1),
    ],
)
def test_explain_says_what_is_wrong(world: Any, arguments: tuple[str, ...], words: str, code: int) -> None:
    """One line, and the exit code tells a slip of the fingers from what is not there."""
    world.nodes("one")
    world.plane.apply(world.deployment_grid())
    result = _sitegrid(world, "explain", *arguments, "-n", world.namespace, check=False)
    assert result.returncode == code
    assert result.stderr.startswith("error: ")
    assert words in result.stderr


def test_explain_tells_that_a_unit_is_left_out(world: Any) -> None:
    """That comes first where the template would not do for the unit anyway."""
    world.nodes("one", "two")
    grid = world.deployment_grid(units={"exclude": {"names": ["two"]}})
    grid["spec"]["template"]["template"]["metadata"]["annotations"] = {"a": "$(unit.values.nope)"}
    world.plane.apply(grid)
    result = _sitegrid(world, "explain", "grid", "two", "-n", world.namespace, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "error: spec.units leaves this unit out: the child is not made; it could not be: "
    )
