"""The CRDs: fresh, structural, described, and free of defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sitegrid.api.grids import LABEL_KEY_PATTERN
from sitegrid.api.schema import (
    DEFINITIONS,
    SUPEREDGE_DEFINITIONS,
    Definition,
    custom_resource_definition,
    to_yaml,
)
from sitegrid.cli.main import main

DEPLOY = Path(__file__).parents[2] / "deploy"

every_definition = pytest.mark.parametrize(
    "definition",
    [*DEFINITIONS, *SUPEREDGE_DEFINITIONS],
    ids=lambda definition: f"{definition.kind}.{definition.group}",
)


def _schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema within `schema`, with its path."""
    yield path, schema
    for name, value in schema.get("properties", {}).items():
        yield from _schemas(value, f"{path}.{name}")
    for inner, end in (("items", "[]"), ("additionalProperties", "{}")):
        if inner in schema:
            yield from _schemas(schema[inner], f"{path}{end}")


def _root(definition: Definition) -> dict[str, Any]:
    schema: dict[str, Any] = custom_resource_definition(definition)["spec"]["versions"][0]["schema"][
        "openAPIV3Schema"
    ]
    return schema


def test_committed_files_are_fresh() -> None:
    """What is in deploy/crds and deploy/superedge is what the types say."""
    assert main(["crds", "--check", str(DEPLOY / "crds")]) == 0
    assert main(["crds", "--superedge", "--check", str(DEPLOY / "superedge")]) == 0


def test_stale_file_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--check fails for a changed, a missing and a left-over file, and says how to repair them."""
    assert main(["crds", "--write", str(tmp_path)]) == 0
    assert main(["crds", "--check", str(tmp_path)]) == 0
    with (tmp_path / "servicegrids.yaml").open("a") as file:
        file.write("# edited\n")
    (tmp_path / "deploymentgrids.yaml").unlink()
    (tmp_path / "old.yaml").write_text("")
    assert main(["crds", "--check", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "deploymentgrids.yaml, old.yaml, servicegrids.yaml" in message
    assert "sitegrid crds --write" in message


def test_printed_crds_are_one_yaml_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """`sitegrid crds` prints what `kubectl apply -f -` takes."""
    assert main(["crds"]) == 0
    documents = [*yaml.safe_load_all(capsys.readouterr().out)]
    assert documents == [custom_resource_definition(definition) for definition in DEFINITIONS]


def test_superedge_crds_are_printed_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """`sitegrid crds --superedge` prints SuperEdge's kinds, with the label that has the controller look at them."""
    assert main(["crds", "--superedge"]) == 0
    documents = [*yaml.safe_load_all(capsys.readouterr().out)]
    assert documents == [custom_resource_definition(definition) for definition in SUPEREDGE_DEFINITIONS]
    assert all(document["metadata"]["labels"] == {"tkeedge.io/optional-api": "superedge"} for document in documents)


def test_kubectl_takes_our_names_for_ours() -> None:
    """kubectl takes an ambiguous name for the group that comes first: SuperEdge's kinds share none with ours."""
    names = [custom_resource_definition(item)["spec"]["names"] for item in (*DEFINITIONS, *SUPEREDGE_DEFINITIONS)]
    spoken = [name for item in names for name in (item["singular"], *item["shortNames"])]
    assert len(spoken) == len(set(spoken))


@every_definition
def test_every_field_is_described(definition: Definition) -> None:
    """`kubectl explain` has words for every field."""
    undescribed = [path for path, schema in _schemas(_root(definition)) if not schema.get("description")]
    assert undescribed == [".metadata"]  # Kubernetes describes that one itself


@every_definition
def test_a_wide_list_tells_why(definition: Definition) -> None:
    """`kubectl get -o wide` has the reason of the condition Ready; the narrow list stays narrow."""
    columns = {column.name: column for column in definition.columns}
    assert columns["Reason"].priority == 1
    assert len([column for column in columns.values() if not column.priority]) <= 6
    assert [*columns][-1] == "Age"


@every_definition
def test_schema_is_structural(definition: Definition) -> None:
    """Every schema has a type, and none has what a structural schema may not have."""
    for path, schema in _schemas(_root(definition)):
        assert schema.get("type"), path
        assert not schema.keys() & {"$ref", "title", "anyOf", "definitions"}, path


@every_definition
def test_schema_has_no_defaults(definition: Definition) -> None:
    """A default would be written into the user's object (I3)."""
    assert [path for path, schema in _schemas(_root(definition)) if "default" in schema] == []


_WHOLE = {
    ".spec.template",
    ".spec.templatePool{}",
    ".spec.overrides[].patch",
    ".spec.podDisruptionBudget",
    ".spec.podDisruptionBudget.selector",
    ".spec.autoscaling",
    ".spec.autoscaling.scaleTargetRef",
}
"""Kubernetes' own specs, or parts of them."""
_SUPEREDGE = {".status.states{}", ".spec.unitCredentialConfigMapRef", ".spec.unitClusterInfo"}
"""What SuperEdge's manifests have and only SuperEdge reads."""


@every_definition
def test_only_kubernetes_specs_take_unknown_fields(definition: Definition) -> None:
    """Templates lose no field, statuses of other makers are let in; a misspelt field anywhere else is told."""
    key = "x-kubernetes-preserve-unknown-fields"
    whole = {path for path, schema in _schemas(_root(definition)) if key in schema}
    assert (".spec.template" in whole) == definition.kind.endswith("Grid")
    assert whole - {".status"} <= (_WHOLE if definition in DEFINITIONS else _WHOLE | _SUPEREDGE)
    assert (".status" in whole) == (definition.kind.endswith("Grid") or definition not in DEFINITIONS)


@every_definition
def test_crd_is_small_enough_for_a_plain_apply(definition: Definition) -> None:
    """kubectl apply keeps the object in an annotation, of at most 256 KiB."""
    assert len(to_yaml(definition)) < 64 * 1024


@pytest.mark.parametrize("key", ["zone", "topology.kubernetes.io/zone", "Zone_1.a", "a", "9/9"])
def test_legal_keys_match(key: str) -> None:
    """The pattern takes what a node can carry."""
    assert re.match(LABEL_KEY_PATTERN, key)


@pytest.mark.parametrize("key", ["", "-a", "a-", "a/b/c", "/a", "a/", "A/b", "a..b/c", "ä"])
def test_illegal_keys_do_not_match(key: str) -> None:
    """The pattern refuses what no node can carry."""
    assert not re.match(LABEL_KEY_PATTERN, key)
