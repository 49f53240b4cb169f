"""Chooses a unit's template: SuperEdge's canary fields, read and never written.

Called by planning for each unit. `templates` says which entry of `templatePool` a unit uses, `defaultTemplateName` is
for all others, and `spec.template` is where neither says anything. A missing entry is a problem of the units that are
to use it and of no other (invariant I4). Held by ``tests/grid/test_templates.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sitegrid.api.workloads import DEFAULT_TEMPLATE, ReplicatedGridSpec, WorkloadGridSpec
from sitegrid.grid.fieldpath import FieldPath
from sitegrid.grid.problem import TEMPLATE_MISSING, Problem


class Template(NamedTuple):
    """One of a grid's templates."""

    name: str
    """The entry of templatePool, empty for `spec.template`."""
    spec: dict[str, Any]

    @property
    def path(self) -> str:
        """Where the user wrote it, such as ``spec.templatePool.canary``."""
        spec = FieldPath().field("spec")
        return str(spec.field("templatePool").field(self.name) if self.name else spec.field("template"))


def template_of(spec: WorkloadGridSpec, value: str) -> Template | Problem:
    """Return the template of the unit `value`, or the problem that there is no such entry."""
    if not isinstance(spec, ReplicatedGridSpec):
        return Template("", spec.template)
    where, name = f"templates[{value}]", spec.templates.get(value)
    if name is None:
        where, name = "defaultTemplateName", spec.default_template_name
    if name in ("", DEFAULT_TEMPLATE):
        return Template("", spec.template)
    if name in spec.template_pool:
        return Template(name, spec.template_pool[name])
    return Problem(
        TEMPLATE_MISSING,
        f"spec.{where} is {name!r}, which spec.templatePool does not have (it has: "
        f"{', '.join(sorted(spec.template_pool)) or 'nothing'}); add it, or name another one",
    )


def unused_templates(spec: WorkloadGridSpec) -> list[str]:
    """Return the entries of templatePool that nothing names; a unit that is named need not exist yet."""
    if not isinstance(spec, ReplicatedGridSpec):
        return []
    used = {spec.default_template_name, *spec.templates.values()} - {DEFAULT_TEMPLATE}
    return sorted(spec.template_pool.keys() - used)
