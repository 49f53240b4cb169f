"""Explains one unit's child: what it is to be, and which rule set each field that is not as in the template.

Called by ``sitegrid explain``. The same functions make the child as in the controller, so the two cannot differ. Held
by ``tests/grid/test_explain.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sitegrid.api.workloads import ReplicatedGridSpec, WorkloadGrid
from sitegrid.grid.blueprint import override_of
from sitegrid.grid.fieldchanges import changed_fields
from sitegrid.grid.kinds import WorkloadKind
from sitegrid.grid.overrides import Unit
from sitegrid.grid.problem import Problem
from sitegrid.grid.substitution import substitute, unit_names
from sitegrid.grid.workload import WantedChild, wanted_child

SITEGRID = "sitegrid"
"""The rule that pins the child to its unit, and leaves replicas to an autoscaler."""


@dataclass(frozen=True, slots=True)
class FieldRule:
    """Why one field of the child's spec is not as in the template."""

    path: str
    rule: str
    """An override, ``values of the unit``, or `SITEGRID`."""
    removed: bool = False
    instead_of: tuple[str, ...] = ()
    """Earlier overrides whose change of the field was lost."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One unit's child."""

    unit: str
    template: str
    """Where the template is, such as ``spec.templatePool.canary``, and which field of the grid says so."""
    fields: tuple[FieldRule, ...]
    child: Mapping[str, Any]


def explain(kind: WorkloadKind, grid: WorkloadGrid, unit: Unit, adopted: str = "") -> Explanation | Problem:
    """Return what the child of `grid` for `unit` is to be and why, or why there can be none.

    `adopted` is the mark of a child that was taken over (see `adoption`).
    """
    made = wanted_child(kind, grid, unit, [override_of(item) for item in grid.spec.overrides], adopted)
    if isinstance(made, Problem):
        return made
    found = [*_substituted(kind, made, unit), *_overridden(made), *_own(kind, made)]
    return Explanation(unit.value, _template(grid, made, unit), tuple(found), made.manifest)


def _substituted(kind: WorkloadKind, made: WantedChild, unit: Unit) -> list[FieldRule]:
    names = unit_names(unit.value, unit.key, unit.values)
    after = substitute(made.template.spec, names)
    changes = changed_fields(made.template.spec, after, kind.spec_type)
    replaced = (str(change.path) for change in changes)
    return [FieldRule(path, "values of the unit") for path in replaced if path not in made.origins]


def _overridden(made: WantedChild) -> list[FieldRule]:
    return [
        FieldRule(path, str(origin.override), origin.removed, tuple(str(lost) for lost in origin.superseded))
        for path, origin in made.origins.items()
    ]


def _own(kind: WorkloadKind, made: WantedChild) -> list[FieldRule]:
    changes = changed_fields(made.effective, made.manifest["spec"], kind.spec_type)
    return [FieldRule(str(change.path), SITEGRID, change.removed) for change in changes]


def _template(grid: WorkloadGrid, made: WantedChild, unit: Unit) -> str:
    spec = grid.spec
    if not isinstance(spec, ReplicatedGridSpec) or not (spec.templates or spec.default_template_name):
        return made.template.path
    if unit.value in spec.templates:
        return f"{made.template.path}, by spec.templates[{unit.value}]"
    if spec.default_template_name:
        return f"{made.template.path}, by spec.defaultTemplateName"
    return made.template.path
