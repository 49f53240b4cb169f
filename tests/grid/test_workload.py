"""The wanted Deployment: the user's template, pinned to one unit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.grid.kinds import DEPLOYMENT
from sitegrid.grid.overrides import Unit
from sitegrid.grid.problem import Problem
from sitegrid.grid.workload import WantedChild, wanted_child
from sitegrid.wire.labels import unit_id

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=2)
    ),
    max_leaves=5,
)
_labels = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["web", "db"]))


def _or_odd(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return strategy | _json


_pods = _or_odd(
    st.fixed_dictionaries(
        {},
        optional={
            "metadata": _or_odd(
                st.fixed_dictionaries({}, optional={"labels": _or_odd(_labels), "annotations": _json})
            ),
            "spec": _or_odd(
                st.fixed_dictionaries({}, optional={"nodeSelector": _or_odd(_labels), "containers": _json})
            ),
        },
    )
)
_selectors = st.fixed_dictionaries({}, optional={"matchLabels": _or_odd(_labels), "matchExpressions": _json})
_templates = st.fixed_dictionaries(
    {}, optional={"selector": _or_odd(_selectors), "template": _pods, "replicas": _json, "strategy": _json}
)


def _child(grid: Any, value: str) -> dict[str, Any]:
    child = wanted_child(DEPLOYMENT, grid, _unit(grid, value))
    assert isinstance(child, WantedChild)
    return child.manifest


def _unit(grid: Any, value: str) -> Unit:
    return Unit(grid.spec.grid_uniq_key, value)


def test_child_selects_and_is_pinned_to_its_unit(make_grid: Any) -> None:
    """Selector, pod labels and node selector all name the unit."""
    child = _child(make_grid(), "NodeUnit1")
    unit = unit_id("zone", "NodeUnit1")
    assert child["spec"]["selector"] == {"matchLabels": {"app": "web", "tkeedge.io/unit": unit}}
    assert child["spec"]["template"]["metadata"]["labels"] == {"app": "web", "tkeedge.io/unit": unit}
    assert child["spec"]["template"]["spec"]["nodeSelector"] == {"zone": "NodeUnit1"}
    # `kubectl expose` copies them to a Service, which tkeedge.io/grid-uniq-key would close.
    assert child["metadata"]["labels"] == {"tkeedge.io/grid": "grid", "tkeedge.io/unit": unit}


def test_rest_of_the_template_is_kept(make_grid: Any) -> None:
    """What sitegrid does not add is the user's, word for word."""
    grid = make_grid()
    spec = _child(grid, "one")["spec"]
    assert spec["replicas"] == 2
    assert spec["template"]["spec"]["containers"] == grid.spec.template["template"]["spec"]["containers"]


def test_child_is_controlled_by_its_grid(make_grid: Any) -> None:
    """The owner reference is what decides whose a child is, and what garbage collection goes by."""
    assert _child(make_grid(), "one")["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "tkeedge.io/v1",
            "kind": "DeploymentGrid",
            "name": "grid",
            "uid": "uid-grid",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


@given(template=_templates, value=st.sampled_from(["one", "NodeUnit1"]))
def test_users_objects_are_never_changed(make_grid: Any, template: dict[str, Any], value: str) -> None:
    """Whatever the template looks like, it is read and not written (I3)."""
    grid = make_grid(template=template)
    before = copy.deepcopy(grid.spec.template)
    wanted_child(DEPLOYMENT, grid, _unit(grid, value))
    assert grid.spec.template == before


@given(template=_templates)
def test_unit_only_differs_by_unit(make_grid: Any, template: dict[str, Any]) -> None:
    """Nothing that varies is in a pod template: the same grid and unit give the same child, however often (I4)."""
    unit = Unit("zone", "one")
    assert wanted_child(DEPLOYMENT, make_grid(template=template), unit) == wanted_child(
        DEPLOYMENT, make_grid(template=copy.deepcopy(template)), unit
    )


@pytest.mark.parametrize("selector", [None, {}, {"matchLabels": {}}, {"matchLabels": None}])
def test_selector_is_not_invented(make_grid: Any, selector: dict[str, Any] | None) -> None:
    """A missing or empty selector is passed on, for the API server to refuse in its own words."""
    grid = make_grid()
    grid.spec.template["selector"] = selector
    assert _child(grid, "one")["spec"]["selector"] == selector


def test_selector_of_expressions_gets_the_unit(make_grid: Any) -> None:
    """A selector without matchLabels must not select other units' pods either."""
    grid = make_grid()
    expressions = [{"key": "app", "operator": "Exists"}]
    grid.spec.template["selector"] = {"matchExpressions": expressions}
    assert _child(grid, "one")["spec"]["selector"] == {
        "matchExpressions": expressions,
        "matchLabels": {"tkeedge.io/unit": "zone.one"},
    }


def test_node_selectors_are_merged(make_grid: Any) -> None:
    """The user's own node selector stays beside the unit's."""
    grid = make_grid()
    grid.spec.template["template"]["spec"]["nodeSelector"] = {"disk": "ssd", "zone": "one"}
    assert _child(grid, "one")["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "ssd", "zone": "one"}


def test_node_selector_for_another_unit_is_a_problem(make_grid: Any) -> None:
    """A template that pins the key to another unit has no child here, and the reason is said."""
    grid = make_grid()
    grid.spec.template["template"]["spec"]["nodeSelector"] = {"zone": "one"}
    problem = wanted_child(DEPLOYMENT, grid, _unit(grid, "two"))
    assert isinstance(problem, Problem)
    assert problem.reason == "NodeSelectorConflict"
    assert "zone=one" in problem.message


def test_long_names_are_legal_labels(make_grid: Any) -> None:
    """A grid name or key that is no label value still gives legal labels."""
    labels = _child(make_grid("g" * 253, "topology.kubernetes.io/zone"), "x" * 63)["metadata"]["labels"]
    assert all(len(value) <= 63 and "/" not in value for value in labels.values())
