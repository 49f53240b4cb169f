"""What one generation of a grid wants: parsed once, made once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sitegrid.grid import overrides
from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.kinds import DEPLOYMENT
from sitegrid.grid.labelselector import LabelSelector, parse_label_selector
from sitegrid.grid.nodeunits import Declaration
from sitegrid.grid.overrides import Unit
from sitegrid.grid.problem import Problem
from sitegrid.grid.units import units_of

SMALL = {"selector": {"matchExpressions": [{"key": "size", "operator": "DoesNotExist"}]}}
NODES = [(f"node-{value}", {"zone": value}) for value in ("one", "two", "three")]
UNITS = units_of("zone", NODES, {("zone", "two"): Declaration({"size": "big"})})


def _chosen(grid: Any) -> list[str]:
    chosen = Blueprint(DEPLOYMENT, grid).choose(UNITS)
    assert isinstance(chosen, dict)
    return sorted(chosen)


@pytest.mark.parametrize(
    ("units", "wanted"),
    [
        (None, ["one", "three", "two"]),
        ({}, ["one", "three", "two"]),
        ({"include": {"names": ["one", "nowhere"]}}, ["one"]),
        ({"include": {"selector": {"matchLabels": {"size": "big"}}}}, ["two"]),
        ({"include": {"names": ["one"], "selector": {"matchLabels": {"size": "big"}}}}, ["one", "two"]),
        ({"exclude": {"selector": {"matchLabels": {"zone": "one"}}}}, ["three", "two"]),
        ({"include": {"names": ["one", "two"]}, "exclude": {"names": ["two"]}}, ["one"]),
        ({"include": SMALL}, ["one", "three"]),
    ],
)
def test_chosen_units(make_grid: Any, units: dict[str, Any] | None, wanted: list[str]) -> None:
    """By name and by label; what is excluded stays out."""
    assert _chosen(make_grid(**({} if units is None else {"units": units}))) == wanted


def test_declared_unit_without_nodes_is_not_chosen(make_grid: Any) -> None:
    """Nothing can run there, and nothing is made."""
    units = units_of("zone", NODES, {("zone", "later"): Declaration()})
    chosen = Blueprint(DEPLOYMENT, make_grid()).choose(units)
    assert isinstance(chosen, dict)
    assert "later" not in chosen


def test_selectors_are_parsed_once(make_grid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per generation, and not for each of a thousand units."""
    parsed = []

    def count(selector: dict[str, Any]) -> LabelSelector:
        parsed.append(selector)
        return parse_label_selector(selector)

    monkeypatch.setattr(overrides, "parse_label_selector", count)
    selector = {"matchLabels": {"size": "big"}}
    grid = make_grid(
        units={"exclude": {"selector": selector}}, overrides=[{"units": {"selector": selector}, "replicas": 1}]
    )
    blueprint = Blueprint(DEPLOYMENT, grid)
    for _ in range(3):
        blueprint.choose(UNITS)
        for info in UNITS.values():
            blueprint.child(info.unit)
    assert len(parsed) == 2


def test_children_are_made_once(make_grid: Any) -> None:
    """The same child comes out until the unit's own labels or values change."""
    blueprint = Blueprint(DEPLOYMENT, make_grid())
    first = blueprint.child(Unit("zone", "one"))
    assert blueprint.child(Unit("zone", "one")) is first
    assert blueprint.child(Unit("zone", "one", values={"a": "b"})) is not first


def test_blueprint_is_for_one_generation_of_one_grid(make_grid: Any) -> None:
    """Another spec, or another grid of the same name, has its own."""
    grid = make_grid()
    blueprint = Blueprint(DEPLOYMENT, grid)
    assert blueprint.is_for(grid)
    for field, value in (("generation", 2), ("uid", "other")):
        other = make_grid()
        other.metadata = msgspec.structs.replace(grid.metadata, **{field: value})
        assert not blueprint.is_for(other)


def test_values_of_the_unit_are_put_in(make_grid: Any) -> None:
    """Templates know their unit; one that asks for what its unit does not have is that unit's problem."""
    grid = make_grid()
    grid.spec.template["template"]["spec"]["containers"][0]["image"] = "$(unit.values.mirror)/web"
    blueprint = Blueprint(DEPLOYMENT, grid)
    made = blueprint.child(Unit("zone", "one", values={"mirror": "m.example"}))
    assert not isinstance(made, Problem)
    assert made[0]["spec"]["template"]["spec"]["containers"][0]["image"] == "m.example/web"
    problem = blueprint.child(Unit("zone", "two"))
    assert isinstance(problem, Problem)
    assert problem.reason == "TemplateInvalid"
    assert "spec.template: template.spec.containers[0].image" in problem.message


def test_names_that_no_unit_has(make_grid: Any) -> None:
    """All places that name units are looked at; a declared unit without nodes is still to come."""
    grid = make_grid(
        units={"exclude": {"names": ["a"]}},
        overrides=[{"units": {"names": ["one", "b"]}, "replicas": 1}],
        templates={"c": "default", "two": "default"},
    )
    assert Blueprint(DEPLOYMENT, grid).unknown(UNITS) == ["a", "b", "c"]


_SECONDS = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 9}


@pytest.mark.parametrize(
    ("tolerations", "wanted"),
    [
        ([_SECONDS], {"node.kubernetes.io/unreachable"}),
        ([{"operator": "Exists"}], {"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"}),
        ([], set()),
        ("odd", set()),
    ],
)
def test_tolerations_are_those_of_the_unit(make_grid: Any, tolerations: Any, wanted: set[str]) -> None:
    """What an override or the unit's template of the pool says counts for its units, and for no others."""
    template = make_grid().spec.template
    pod = template["template"]
    pool = {"own": {**template, "template": {**pod, "spec": {**pod["spec"], "tolerations": tolerations}}}}
    patch = {"template": {"spec": {"tolerations": tolerations}}}
    override = {"units": {"names": ["patched"]}, "patch": patch}
    overrides = [override] if isinstance(tolerations, list) else []
    blueprint = Blueprint(
        DEPLOYMENT, make_grid(overrides=overrides, templatePool=pool, templates={"pooled": "own", "broken": "none"})
    )
    assert blueprint.tolerated(Unit("zone", "pooled")) == wanted
    if overrides:
        assert blueprint.tolerated(Unit("zone", "patched")) == wanted
    for other in ("other", "broken"):
        assert blueprint.tolerated(Unit("zone", other)) == set()


@pytest.mark.parametrize("pod", [None, "odd", {"spec": None}, {"spec": "odd"}])
def test_odd_pod_template_tolerates_nothing(make_grid: Any, pod: Any) -> None:
    """What Kubernetes will refuse anyway must not end the pass."""
    assert Blueprint(DEPLOYMENT, make_grid(template={"template": pod})).tolerated(Unit("zone", "a")) == set()
