"""What a unit's child is to be, and which rule set each field."""

from __future__ import annotations

from typing import Any

from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.explain import Explanation, FieldRule, explain
from sitegrid.grid.kinds import DEPLOYMENT
from sitegrid.grid.overrides import Unit
from sitegrid.grid.problem import Problem

ONE = Unit("zone", "one", {"zone": "one"}, {"mirror": "m"})


def _explained(grid: Any, unit: Unit = ONE) -> Explanation:
    found = explain(DEPLOYMENT, grid, unit)
    assert isinstance(found, Explanation)
    return found


def _image(image: str) -> dict[str, Any]:
    return {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}


def test_each_rule_is_named(make_grid: Any) -> None:
    """Overrides with what they superseded, values of the unit, and what sitegrid itself adds."""
    overrides = [
        {"name": "all", "units": {"names": ["one"]}, "patch": _image("web:2"), "replicas": 4},
        {"units": {"names": ["one"]}, "patch": _image("web:3")},
        {"units": {"names": ["two"]}, "replicas": 9},
    ]
    grid = make_grid(overrides=overrides)
    grid.spec.template["template"]["metadata"]["annotations"] = {"from": "$(unit.values.mirror)"}
    rules = {item.path: item for item in _explained(grid).fields}
    image = "template.spec.containers[web].image"
    assert rules["replicas"] == FieldRule("replicas", "overrides[0] (all)")
    assert rules[image] == FieldRule(image, "overrides[1]", instead_of=("overrides[0] (all)",))
    assert rules["template.metadata.annotations.from"].rule == "values of the unit"
    assert rules['selector.matchLabels["tkeedge.io/unit"]'].rule == "sitegrid"
    assert rules["template.spec.nodeSelector.zone"].rule == "sitegrid"


def test_child_is_what_the_controller_makes(make_grid: Any) -> None:
    """The explanation and the plan cannot differ."""
    grid = make_grid(overrides=[{"units": {"names": ["one"]}, "replicas": 4}])
    made = Blueprint(DEPLOYMENT, grid).child(ONE)
    assert not isinstance(made, Problem)
    assert _explained(grid).child == made[0]


def test_template_and_who_chose_it(make_grid: Any) -> None:
    """The place in the grid, and the field that says so."""
    pool: dict[str, Any] = {"canary": {"template": {}}, "stable": {"template": {}}}
    grid = make_grid(templatePool=pool, templates={"one": "canary"}, defaultTemplateName="stable")
    assert _explained(grid).template == "spec.templatePool.canary, by spec.templates[one]"
    assert _explained(grid, Unit("zone", "two")).template == "spec.templatePool.stable, by spec.defaultTemplateName"
    assert _explained(make_grid()).template == "spec.template"


def test_replicas_left_to_the_autoscaler(make_grid: Any) -> None:
    """That sitegrid takes the replicas away is said."""
    found = _explained(make_grid(autoscaling={"maxReplicas": 3}))
    assert FieldRule("replicas", "sitegrid", removed=True) in found.fields


def test_unit_that_can_have_no_child(make_grid: Any) -> None:
    """The same problem as in the grid's status."""
    found = explain(DEPLOYMENT, make_grid(defaultTemplateName="nope"), ONE)
    assert isinstance(found, Problem)
    assert found.reason == "TemplateMissing"
