"""Which object one is."""

from __future__ import annotations

import msgspec

from sitegrid.api.meta import ObjectMeta
from sitegrid.kube.objects import identity, is_older


class PartialObject(msgspec.Struct):
    """Any object, metadata only."""

    metadata: ObjectMeta


POD = b"""{"metadata":{"name":"p","namespace":"ns","uid":"u","resourceVersion":"12","managedFields":[{}],
"ownerReferences":[{"apiVersion":"v1","kind":"A","name":"a","uid":"1"},
{"apiVersion":"v1","kind":"B","name":"b","uid":"2","controller":true,"blockOwnerDeletion":true}]},"spec":{}}"""


def test_dicts_and_structs_have_the_same_identity() -> None:
    """Both forms of one object are the same object."""
    assert identity(msgspec.json.decode(POD)) == identity(msgspec.json.decode(POD, type=PartialObject))
    assert identity(msgspec.json.decode(POD)) == ("ns", "p", "u", "12")


def test_cluster_scoped_objects_have_no_namespace() -> None:
    """A missing namespace is the empty one."""
    assert identity({"metadata": {"name": "n"}}).key == ("", "n")
    assert identity(PartialObject(metadata=ObjectMeta(name="n"))).key == ("", "n")


def test_versions_are_compared_as_numbers() -> None:
    """9 is older than 10, whatever their length; what is no number has no order."""
    assert is_older("9", than="10")
    assert not is_older("10", than="9")
    assert not is_older("10", than="10")
    assert is_older("9", than=str(2**70))
    assert not is_older("a", than="b")
    assert not is_older("", than="1")
