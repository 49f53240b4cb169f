"""Host names of endpoints, from pods that were read: each its own, or its ReplicaSet's."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ObjectMeta, OwnerReference
from sitegrid.grid.hostnames import Hostnames
from sitegrid.grid.observed import Endpoint, EndpointSlice, ObjectReference, Pod, PodSpec

SUFFIX = st.text(alphabet="bcdfghjklmnpqrstvwxz2456789", min_size=5, max_size=5)


def _pod(
    name: str, kind: str = "", owner: str = "", *, hostname: str = "h", subdomain: str = "web", uid: str = ""
) -> Pod:
    owners = [OwnerReference(kind=kind, name=owner, uid="o", controller=True)] if kind else []
    labels = {"pod-template-hash": "7d4b9"} if kind == "ReplicaSet" else {}
    metadata = ObjectMeta(name=name, uid=uid or f"uid-{name}", labels=labels, owner_references=owners)
    return Pod(metadata, PodSpec(hostname, subdomain))


def _slice(*pods: Pod, hostname: str | None = None) -> EndpointSlice:
    refs = [ObjectReference(kind="Pod", name=pod.metadata.name, uid=pod.metadata.uid) for pod in pods]
    endpoints = [Endpoint(addresses=["10.0.0.1"], target_ref=ref, hostname=hostname) for ref in refs]
    return EndpointSlice(metadata=ObjectMeta(name="s"), endpoints=endpoints)


def _noted(*pods: Pod) -> Hostnames:
    known = Hostnames()
    for pod in pods:
        known.note(pod, "web")
    return known


def _names(known: Hostnames, item: EndpointSlice) -> list[str | None]:
    (named,) = known.named([item])
    return [endpoint.hostname for endpoint in named.endpoints or ()]


@pytest.mark.parametrize(
    ("hostname", "subdomain", "wanted"),
    [("h", "web", "h"), ("h", "web-sites", None), ("h", "", None), ("", "web", None), ("", "", None)],
)
@pytest.mark.parametrize("kind", ["", "StatefulSet"])
def test_a_pod_has_it_where_its_subdomain_is_the_service(
    hostname: str, subdomain: str, wanted: str | None, kind: str
) -> None:
    """And not where that is the name of the Service with the selector."""
    pod = _pod("web-0", kind, "web", hostname=hostname, subdomain=subdomain)
    known = _noted(pod)
    assert _names(known, _slice(pod)) == [wanted]
    assert known.unknown([_slice(pod)]) == []


@given(SUFFIX, SUFFIX)
def test_a_replica_sets_pods_have_it_by_their_names(one: str, two: str) -> None:
    """One was read, another one is known, also if what is read later says that it has none."""
    first, second = (_pod(f"web-7d4b9-{suffix}", "ReplicaSet", "web-7d4b9") for suffix in (one, two))
    known = _noted(first)
    assert _names(known, _slice(first, second)) == ["h", "h"]
    assert known.unknown([_slice(second)]) == []


@pytest.mark.parametrize(
    "first",
    [
        _pod("web-bbbbb", "DaemonSet", "web"),
        _pod("web-bbbbb", "ReplicationController", "web"),
        _pod("web-bbbbb"),
        # A generated name is cut to 63 characters, and so is what it begins with.
        _pod("w" * 57 + "-bbbbb", "ReplicaSet", "w" * 60),
        _pod("web-7d4b9-bbbbb", "ReplicaSet", "other"),
        msgspec.structs.replace(
            _pod("web-bbbbb", "ReplicaSet", "web"),
            metadata=ObjectMeta(
                name="web-bbbbb",
                uid="u",
                owner_references=[OwnerReference(kind="ReplicaSet", name="web", uid="o", controller=True)],
            ),
        ),
    ],
    ids=["DaemonSet", "ReplicationController", "plain", "truncated", "other owner", "no Deployment's"],
)
def test_only_a_deployments_pods_answer_for_others(first: Pod) -> None:
    """Pods with like names may have been made of another template, and are asked for each."""
    second = _pod(first.metadata.name[:-1] + "c")
    known = _noted(first)
    item = _slice(first, second)
    assert _names(known, item) == ["h", None]
    assert known.unknown([item]) == [second.metadata.name]


def test_a_pod_that_is_made_again_is_another_one() -> None:
    """A StatefulSet's pod of the same name has another uid, and perhaps another subdomain."""
    former, present = _pod("web-0", "StatefulSet", "web"), _pod("web-0", "StatefulSet", "web", uid="2", subdomain="x")
    known = _noted(former).only([_slice(present)])
    assert known.pods == {}
    assert known.unknown([_slice(present)]) == ["web-0"]
    known.note(present, "web")
    assert _names(known, _slice(present)) == [None]


def test_who_is_asked_for() -> None:
    """One of those with like names at first, then each; endpoints that are no pod never."""
    pods = [_pod(name) for name in ("web-bbbbb", "web-ccccc", "web-0", "web-1")]
    node = EndpointSlice(metadata=ObjectMeta(), endpoints=[Endpoint(addresses=["10.0.0.1"])])
    items = [_slice(*pods), node]
    assert Hostnames().unknown(items) == ["web-bbbbb", "web-0", "web-1"]
    assert Hostnames().unknown(items, alike=False) == [pod.metadata.name for pod in pods]


def test_what_is_unknown_or_named_already_stays() -> None:
    """A pod that is gone has no host name; one that an endpoint has is Kubernetes' own."""
    gone, known = _pod("web-0"), _noted(_pod("web-1"))
    assert _names(known, _slice(gone)) == [None]
    assert _names(known, _slice(_pod("web-1"), hostname="theirs")) == ["theirs"]
    assert _noted().named([_slice(gone)]) == [_slice(gone)]


def test_a_replica_set_without_endpoints_is_forgotten() -> None:
    """Memory is of what is there."""
    pod = _pod("web-7d4b9-bbbbb", "ReplicaSet", "web-7d4b9")
    other = _pod("web-0")
    known = _noted(pod, other)
    assert known.only([_slice(other)]) == Hostnames({"uid-web-0": "h"}, {})
    assert known.only([_slice(pod)]).replica_sets == {"web-7d4b9-": "h"}
