"""What users read of the API server's refusals, in its words of release 1.36 or in better ones."""

from __future__ import annotations

from typing import Any

import pytest

from sitegrid.controller.reporter import api_problem
from sitegrid.kube.errors import ApiError

TYPO = 'spec.template.spec.containers[name="web"].imagee'
REQUIRED = 'Deployment.apps "web-hz" is invalid: spec.selector: Required value'
TYPED = "failed to create typed patch object (shop/web-hz; apps/v1, Kind=Deployment): "
CONVERTED = (
    "failed to convert new object (shop/web-hz; apps/v1, Kind=Deployment) to proper version: unable to convert "
    "unstructured object to apps/v1, Kind=Deployment: "
)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            f"{TYPED}.{TYPO}: field not declared in schema",
            f"a Deployment has no field {TYPO}: correct its name in this grid, or leave it out",
        ),
        (
            TYPED
            + "errors:\n  .spec.metadata: field not declared in schema\n  .spec.spec: field not declared in schema",
            "a Deployment has no field spec.metadata: a template has what stands below `spec:` in a Deployment",
        ),
        (
            TYPED + ".spec.replicas: expected numeric (int or float), got string",
            "Kubernetes cannot read the Deployment: spec.replicas: expected numeric (int or float), got string; "
            "correct it in this grid",
        ),
        (
            CONVERTED + "quantities must match the regular expression '^([+-]?[0-9.]+)$'",
            "Kubernetes cannot read the Deployment: quantities must match the regular expression '^([+-]?[0-9.]+)$'; "
            "correct it in this grid",
        ),
    ],
    ids=["unknown field", "a Pod template in its place", "wrong type", "wrong quantity"],
)
def test_what_cannot_be_read_is_one_sentence(message: str, told: str) -> None:
    """It names kind and path and says what to do, without the API server's inner words."""
    problem = api_problem(ApiError(500, "", message))
    assert (problem.reason, problem.message) == ("Invalid", told)


def test_other_refusals_are_told_as_they_are() -> None:
    """Validation, quotas and admission speak for themselves."""
    told = api_problem(ApiError(422, "Invalid", REQUIRED))
    assert (told.reason, told.message) == ("Invalid", REQUIRED)
    assert api_problem(ApiError(500, "", "etcd is away")).reason == "ApplyFailed"


@pytest.mark.cluster
def test_a_misspelt_field_of_the_pod_template(world: Any) -> None:
    """The real API server's answer becomes that sentence, in the grid's condition, with its units."""
    world.nodes("one")
    grid = world.deployment_grid()
    grid["spec"]["template"]["template"]["spec"]["containers"][0]["imagee"] = "web:2"
    world.plane.apply(grid)
    condition = world.wait_degraded()
    assert f"a Deployment has no field {TYPO}: correct its name in this grid" in condition["message"]
    assert "typed patch" not in condition["message"]
