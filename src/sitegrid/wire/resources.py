"""The resources that the agent reads or answers for, and how Kubernetes names them.

The codecs render with these names, the agent's gate routes by them. Field labels are what the API server accepts in
a `fieldSelector` of the resource (k8s.io/kubernetes pkg/apis/core/v1/conversion.go, pkg/registry/core/service and
apimachinery's DefaultMetaV1FieldSelectorConversion); all others are refused with 400.
Held by ``tests/wire/test_codec.py`` and ``tests/agent/test_gate.py``.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Resource(NamedTuple):
    """One resource: `group` is empty for core; `bookmark_json` is what follows `metadata` in an empty JSON object."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    field_labels: frozenset[str]
    bookmark_json: bytes

    @property
    def api_version(self) -> str:
        """Return `group/version`, or the version alone for core."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "") -> str:
        """Return the path of the collection, in `namespace` or in all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" if namespace else f"{root}/{self.plural}"


_META: Final = frozenset({"metadata.name", "metadata.namespace"})

ENDPOINTSLICES: Final = Resource(
    "discovery.k8s.io",
    "v1",
    "endpointslices",
    "EndpointSlice",
    True,
    _META,
    b',"addressType":"","endpoints":null,"ports":null',
)
SERVICES: Final = Resource(
    "",
    "v1",
    "services",
    "Service",
    True,
    _META | {"spec.clusterIP", "spec.type"},
    b',"spec":{},"status":{"loadBalancer":{}}',
)
ENDPOINTS: Final = Resource("", "v1", "endpoints", "Endpoints", True, _META, b"")
NODES: Final = Resource("", "v1", "nodes", "Node", False, frozenset({"metadata.name"}), b"")

# What else the agent can answer from memory.
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", False, _META, b',"spec":{},"status":{}')
PODS: Final = Resource("", "v1", "pods", "Pod", True, _META, b',"spec":{"containers":null},"status":{}')
CONFIGMAPS: Final = Resource("", "v1", "configmaps", "ConfigMap", True, _META, b"")
SECRETS: Final = Resource("", "v1", "secrets", "Secret", True, _META, b"")
SERVICECIDRS: Final = Resource(
    "networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", False, _META, b',"spec":{"cidrs":null},"status":{}'
)
RUNTIMECLASSES: Final = Resource(
    "node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", False, _META, b',"handler":""'
)
CSIDRIVERS: Final = Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", False, _META, b',"spec":{}')
