"""Whether a child still is what was applied."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest

from sitegrid.api.meta import ManagedMeta
from sitegrid.grid.applied import APPLIED_HASH, Verdicts, annotated, applied_hash, covers

WANTED: dict[str, Any] = {
    "metadata": {"name": "child", "labels": {"tkeedge.io/grid": "g"}, "ownerReferences": [{"uid": "u", "name": "g"}]},
    "spec": {
        "replicas": 2,
        "strategy": {},
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"creationTimestamp": None, "labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}], "args": ["-v"]}],
                "nodeSelector": {"zone": "one"},
            },
        },
    },
}
# As Kubernetes 1.36 writes it: atomic selector, nodeSelector and args; ports keyed with the defaulted protocol.
OWNED: dict[str, Any] = {
    "f:metadata": {"f:labels": {"f:tkeedge.io/grid": {}}, "f:ownerReferences": {'k:{"uid":"u"}': {}}},
    "f:spec": {
        "f:replicas": {},
        "f:selector": {},
        "f:template": {
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {
                "f:containers": {
                    'k:{"name":"web"}': {
                        ".": {},
                        "f:name": {},
                        "f:image": {},
                        "f:args": {},
                        "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
                    }
                },
                "f:nodeSelector": {},
            },
        },
    },
}


def _without(*path: str) -> bytes:
    """Return the owned fields but one, as after somebody else changed it; what becomes empty goes as well."""

    def pruned(fields: dict[str, Any], steps: tuple[str, ...]) -> dict[str, Any]:
        rest = pruned(fields[steps[0]], steps[1:]) if len(steps) > 1 else {}
        others = {name: value for name, value in fields.items() if name != steps[0]}
        return {**others, steps[0]: rest} if rest else others

    return json.dumps(pruned(OWNED, path)).encode()


def _meta(fields: bytes, digest: str, version: str = "1") -> ManagedMeta:
    entry = {"manager": "sitegrid", "operation": "Apply", "fieldsV1": msgspec.Raw(fields)}
    data = {
        "name": "child",
        "uid": "u1",
        "resourceVersion": version,
        "annotations": {APPLIED_HASH: digest},
        "managedFields": [entry] if fields else [],
    }
    return msgspec.json.decode(msgspec.json.encode(data), type=ManagedMeta)


def test_whole_field_set_covers_the_wanted_object() -> None:
    """What we applied and nobody changed is covered; nulls and empty structs set nothing."""
    assert covers(WANTED, json.dumps(OWNED).encode())


@pytest.mark.parametrize(
    "path",
    [
        ("f:metadata", "f:labels", "f:tkeedge.io/grid"),
        ("f:metadata", "f:labels"),
        ("f:metadata", "f:ownerReferences", 'k:{"uid":"u"}'),
        ("f:spec", "f:replicas"),
        ("f:spec", "f:selector"),
        ("f:spec", "f:template", "f:spec", "f:nodeSelector"),
        ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"web"}'),
        ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"web"}', "f:image"),
        ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"web"}', "f:args"),
        ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"web"}', "f:ports"),
    ],
    ids=lambda path: path[-1],
)
def test_lost_path_is_drift(path: tuple[str, ...]) -> None:
    """A path that somebody else took or removed is missed."""
    assert not covers(WANTED, _without(*path))


def test_item_with_another_key_does_not_count() -> None:
    """A container of another name is not the one that we want."""
    text = json.dumps(OWNED).replace('{\\"name\\":\\"web\\"}', '{\\"name\\":\\"sidecar\\"}')
    assert not covers(WANTED, text.encode())


def test_set_items_are_compared() -> None:
    """Items of a set are told by their values."""
    wanted = {"metadata": {}, "spec": {"finalizers": ["a", "b"]}}
    assert covers(wanted, b'{"f:spec":{"f:finalizers":{"v:\\"a\\"":{},"v:\\"b\\"":{}}}}')
    assert not covers(wanted, b'{"f:spec":{"f:finalizers":{"v:\\"a\\"":{}}}}')


def test_object_that_we_never_applied_is_not_covered() -> None:
    """No entry of ours covers nothing."""
    assert not covers(WANTED, b"")


def test_hash_does_not_depend_on_order() -> None:
    """Two spellings of one object have one hash, two objects have two."""
    turned = {"spec": {**dict(reversed([*WANTED["spec"].items()]))}, "metadata": WANTED["metadata"]}
    assert applied_hash(WANTED) == applied_hash(turned)
    assert applied_hash(WANTED) != applied_hash({**WANTED, "spec": {**WANTED["spec"], "replicas": 3}})


def test_annotating_changes_no_original() -> None:
    """The hash is put on a copy."""
    before = copy.deepcopy(WANTED)
    assert annotated(WANTED, "h")["metadata"]["annotations"] == {APPLIED_HASH: "h"}
    assert before == WANTED


def test_other_hash_is_out_of_sync() -> None:
    """A changed template is to be applied."""
    assert not Verdicts().in_sync(_meta(json.dumps(OWNED).encode(), "old"), WANTED, "new")


def test_status_change_keeps_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """While our field set stays as it is, it is not walked again."""
    verdicts, fields = Verdicts(), json.dumps(OWNED).encode()
    assert verdicts.in_sync(_meta(fields, "h"), WANTED, "h")
    monkeypatch.setattr("sitegrid.grid.applied.covers", lambda *_: pytest.fail("walked again"))
    assert verdicts.in_sync(_meta(fields, "h", "2"), WANTED, "h")


def test_answer_to_an_apply_is_in_sync_whatever_it_lacks() -> None:
    """A path that the API server never gives us is not applied for ever; a further loss is drift."""
    verdicts = Verdicts()
    lacking = _without("f:spec", "f:replicas")
    assert not verdicts.in_sync(_meta(lacking, "h"), WANTED, "h")
    verdicts.settle(_meta(lacking, "h"), "h")
    assert verdicts.in_sync(_meta(lacking, "h"), WANTED, "h")
    assert not verdicts.in_sync(_meta(_without("f:spec", "f:selector"), "h"), WANTED, "h")
