"""The resource types that sitegrid talks about, and their paths.

Everybody who names a resource to the client uses these constants (or makes a `Resource`). Held by
``tests/kube/test_resources.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource type of one API version, as discovery describes it."""

    group: str
    """"" for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of the collection or, with `name`, of one object or its `subresource`.

        Without `namespace` a namespaced resource's path is that of all namespaces; a name there is a ValueError
        (Namespaces themselves take `name`). Cluster-scoped resources ignore `namespace`.
        """
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        elif self.namespaced and name:
            raise ValueError(f"{self.kind} {name!r} needs a namespace")
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", False)
NODES: Final = Resource("", "v1", "nodes", "Node", False)
PODS: Final = Resource("", "v1", "pods", "Pod", True)
SERVICES: Final = Resource("", "v1", "services", "Service", True)
ENDPOINTS: Final = Resource("", "v1", "endpoints", "Endpoints", True)
CONFIGMAPS: Final = Resource("", "v1", "configmaps", "ConfigMap", True)
SECRETS: Final = Resource("", "v1", "secrets", "Secret", True)
SERVICEACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount", True)
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment", True)
STATEFULSETS: Final = Resource("apps", "v1", "statefulsets", "StatefulSet", True)
ENDPOINTSLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True)
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease", True)
EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event", True)
CRDS: Final = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
ADMISSIONPOLICIES: Final = Resource(
    "admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", False
)
ADMISSIONPOLICYBINDINGS: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicybindings",
    "ValidatingAdmissionPolicyBinding",
    False,
)
CLUSTERROLES: Final = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False)
CLUSTERROLEBINDINGS: Final = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False
)
ROLES: Final = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role", True)
ROLEBINDINGS: Final = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", True)
