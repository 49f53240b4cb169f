from __future__ import annotations

import gc

import msgspec

from sitegrid.kube.objects import ObjectMeta, OwnerReference, PartialObject, controller_of, identity, is_older

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


def test_the_managing_owner_is_found() -> None:
    """Of several owners only the one marked as controller counts."""
    metadata = msgspec.json.decode(POD, type=PartialObject).metadata
    assert controller_of(metadata) == OwnerReference(
        api_version="v1", kind="B", name="b", uid="2", controller=True, block_owner_deletion=True
    )
    assert controller_of(ObjectMeta(name="p")) is None


def test_decoded_objects_cost_the_collector_nothing() -> None:
    """Partial objects are not tracked by the cyclic garbage collector, the main cost of a large list."""
    found = msgspec.json.decode(POD, type=PartialObject)
    assert not gc.is_tracked(found)
    assert not gc.is_tracked(found.metadata)
