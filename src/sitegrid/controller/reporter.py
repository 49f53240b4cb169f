"""Tells users what happened: events on the grid, and the causes of API errors in words for conditions.

Called by all passes. Whatever the API server answers, a condition's message is a sentence that says what is wrong and
where. Held by ``tests/controller/test_reporter.py``.
"""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

from sitegrid.api.meta import ObjectMeta
from sitegrid.grid.problem import IMMUTABLE, Problem
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import Resource

_IMMUTABLE: Final = (
    "field is immutable",
    "updates to statefulset spec for fields other than",
    "may not change once set",
)
"""How the API server refuses a change of what it never changes (apimachinery's FieldImmutableErrorMsg; validation of
StatefulSets and Services)."""
_UNREADABLE: Final = re.compile(
    r"failed to (?:create typed patch object|convert new object) \([^)]*Kind=(?P<kind>\w+)\)(?: to proper version)?: "
    r"(?:unable to convert unstructured object to [^:]*: )?(?P<what>.+)",
    re.DOTALL,
)
"""How the API server refuses to apply what is no object of the kind, with 500 and no reason (apiserver's
managedfields/internal/structuredmerge.go; the rest is structured-merge-diff's)."""
_BESIDE_THE_SPEC: Final = re.compile(r"\.(?P<path>spec\.(spec|metadata|containers)): field not declared in schema.*")
"""A Pod's template, a Pod's spec, or a whole object, where a spec is to be."""
_UNKNOWN_FIELD: Final = re.compile(r"\.(?P<path>.+): field not declared in schema")


class Recorder(Protocol):
    """The part of `sitegrid.kube.events.EventRecorder` that is used."""

    def event(self, regarding: dict[str, Any], *, type: str, reason: str, action: str, note: str) -> None:
        """Record an event; never blocks."""


class Reporter:
    """Records events about grids."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def normal(self, resource: Resource, grid: ObjectMeta, *, reason: str, action: str, note: str) -> None:
        """Record something that went well."""
        self._recorder.event(_reference(resource, grid), type="Normal", reason=reason, action=action, note=note)

    def warning(self, resource: Resource, grid: ObjectMeta, *, reason: str, action: str, note: str) -> None:
        """Record something that the user should look at."""
        self._recorder.event(_reference(resource, grid), type="Warning", reason=reason, action=action, note=note)


def api_problem(error: ApiError) -> Problem:
    """Return the API server's refusal as a problem, in its own words where they are for users."""
    unreadable = _UNREADABLE.fullmatch(error.message)
    if unreadable is None:
        return Problem(error.reason or "ApplyFailed", error.message or str(error))
    # Several mistakes are several lines.
    kind, what = unreadable["kind"], " ".join(unreadable["what"].removeprefix("errors:").split())
    if (beside := _BESIDE_THE_SPEC.fullmatch(what)) is not None:
        text = f"a {kind} has no field {beside['path']}: a template has what stands below `spec:` in a {kind}"
    elif (unknown := _UNKNOWN_FIELD.fullmatch(what)) is not None:
        text = f"a {kind} has no field {unknown['path']}: correct its name in this grid, or leave it out"
    else:
        text = f"Kubernetes cannot read the {kind}: {what.removeprefix('.')}; correct it in this grid"
    return Problem("Invalid", text)


def refused_change(error: ApiError, resource: Resource, name: str) -> Problem:
    """Return the refusal of a change of an existing child as a problem, with what to do where it will never do."""
    problem = api_problem(error)
    if error.status != 422 or not any(words in problem.message for words in _IMMUTABLE):
        return problem
    loses = "its address changes" if resource.kind == "Service" else "its pods restart, volume claims stay"
    return Problem(
        IMMUTABLE,
        f"Kubernetes does not let this change in an existing {resource.kind}: take the change back, or have it made "
        f"anew by kubectl delete {resource.kind.lower()} {name} ({loses}). {problem.message}",
    )


def _reference(resource: Resource, metadata: ObjectMeta) -> dict[str, Any]:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
    }
