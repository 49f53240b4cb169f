"""Canary templates: which unit uses which."""

from __future__ import annotations

from typing import Any

import pytest

from sitegrid.api.workloads import DaemonSetGrid
from sitegrid.grid.problem import Problem
from sitegrid.grid.templates import Template, template_of, unused_templates

POOL = {"stable": {"replicas": 1}, "canary": {"replicas": 2}}


@pytest.mark.parametrize(
    ("fields", "unit", "name"),
    [
        ({}, "one", ""),
        ({"templates": {"one": "canary"}}, "one", "canary"),
        ({"templates": {"one": "canary"}}, "two", ""),
        ({"templates": {"one": "canary"}, "defaultTemplateName": "stable"}, "two", "stable"),
        ({"templates": {"one": "default"}, "defaultTemplateName": "stable"}, "one", ""),
        ({"defaultTemplateName": "default"}, "one", ""),
    ],
)
def test_template_of_a_unit(make_grid: Any, fields: dict[str, Any], unit: str, name: str) -> None:
    """`templates` first, then `defaultTemplateName`, then `template`; `default` is `template`."""
    grid = make_grid(templatePool=POOL, **fields)
    wanted = Template(name, POOL[name] if name else grid.spec.template)
    assert template_of(grid.spec, unit) == wanted


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"templates": {"one": "nope"}}, "spec.templates[one] is 'nope'"),
        ({"defaultTemplateName": "nope"}, "spec.defaultTemplateName is 'nope'"),
    ],
)
def test_missing_entry_says_what_there_is(make_grid: Any, fields: dict[str, Any], words: str) -> None:
    """The problem names the field, and the entries that exist."""
    problem = template_of(make_grid(templatePool=POOL, **fields).spec, "one")
    assert isinstance(problem, Problem)
    assert words in problem.message
    assert "canary, stable" in problem.message


def test_template_path_is_where_the_user_wrote_it() -> None:
    """Messages and explain name the place in the grid."""
    assert Template("canary", {}).path == "spec.templatePool.canary"
    assert Template("", {}).path == "spec.template"


def test_unused_entries(make_grid: Any) -> None:
    """What neither `templates` nor `defaultTemplateName` names; a kind without a pool has none."""
    assert unused_templates(make_grid(templatePool=POOL).spec) == ["canary", "stable"]
    assert unused_templates(make_grid(templatePool=POOL, defaultTemplateName="stable").spec) == ["canary"]
    assert unused_templates(make_grid(templatePool=POOL, templates={"later": "canary"}).spec) == ["stable"]
    assert unused_templates(make_grid(kind=DaemonSetGrid).spec) == []
