from __future__ import annotations

import pytest

from sitegrid.kube.resources import DEPLOYMENTS, NAMESPACES, NODES, PODS


def test_paths_are_the_api_s() -> None:
    """Core and named groups, collections and objects, with and without namespace."""
    assert NODES.path() == "/api/v1/nodes"
    assert NODES.path("ignored", "n", "status") == "/api/v1/nodes/n/status"
    assert NAMESPACES.path(name="ns") == "/api/v1/namespaces/ns"
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("ns") == "/api/v1/namespaces/ns/pods"
    assert DEPLOYMENTS.path("ns", "d", "scale") == "/apis/apps/v1/namespaces/ns/deployments/d/scale"


def test_api_versions() -> None:
    """The core group has no name."""
    assert PODS.api_version == "v1"
    assert DEPLOYMENTS.api_version == "apps/v1"


def test_names_cannot_leave_their_place() -> None:
    """A name with a slash does not become another path."""
    assert PODS.path("a/b", "../c") == "/api/v1/namespaces/a%2Fb/pods/..%2Fc"


def test_a_namespaced_object_needs_its_namespace() -> None:
    """Without one the path would be another resource's."""
    with pytest.raises(ValueError, match="namespace"):
        PODS.path(None, "p")
