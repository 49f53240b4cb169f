"""A reason why a unit's child, or a grid's Service, is not as wanted; it ends up in conditions and events.

Made by planning and by the controller's writes. Held by ``tests/grid/test_status.py``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One cause, in one word for programs and in a sentence for people."""

    reason: str
    message: str


NAME_CONFLICT = "NameConflict"
"""The wanted name is taken by an object that is not ours."""
NODE_SELECTOR_CONFLICT = "NodeSelectorConflict"
"""The template pins pods to another value of the unique key."""


OVERRIDE_INVALID = "OverrideInvalid"
"""An override of the unit cannot be applied."""
TEMPLATE_INVALID = "TemplateInvalid"
"""The template asks for a value that the unit does not have."""
TEMPLATE_MISSING = "TemplateMissing"
"""The unit is to use an entry of templatePool that does not exist."""
IMMUTABLE = "Immutable"
"""The change is one that Kubernetes makes in no existing object."""
NOT_MIGRATED = "NotMigrated"
"""The child is SuperEdge's, and nobody has asked to take it over."""
SHARED_SELECTOR = "SharedSelector"
"""A child that was taken over selects the pods of all units, so that nothing can be said of its own alone."""
UNITS_INVALID = "UnitsInvalid"
"""`spec.units` cannot be understood, so that nobody can tell which units are meant."""


def not_migrated(kind: str, namespace: str, name: str) -> Problem:
    """Return the problem that a `kind` named `name` was made by SuperEdge's controller for the same grid."""
    return Problem(
        NOT_MIGRATED,
        f"{kind} {namespace}/{name} was made by SuperEdge's controller; it is left untouched until "
        "`sitegrid migrate` takes it over, without restarting a pod",
    )


def name_conflict(kind: str, namespace: str, name: str, owner: str) -> Problem:
    """Return the problem that a `kind` named `name` exists and is not ours; `owner` is who controls it, if anyone."""
    whose = f"is controlled by {owner}" if owner else "was not made by this grid"
    return Problem(
        NAME_CONFLICT,
        f"{kind} {namespace}/{name} already exists and {whose}; it is left untouched. Delete or rename it, or give "
        "the grid another name.",
    )
