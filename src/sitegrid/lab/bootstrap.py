"""What a lab's API server is given before anything else runs: CRDs, ServiceAccounts, RBAC.

The supervisor calls `Bootstrap.apply` once the API server answers, then takes each component's token from it.
Everything is written by server-side apply, so a second run changes nothing. Held by ``tests/lab/test_lab.py``.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiohttp

from sitegrid.lab import addresses
from sitegrid.lab.errors import LabError
from sitegrid.lab.manifests import load_manifests

SYSTEM_NAMESPACE: Final = "sitegrid-system"
FIELD_MANAGER: Final = "sitegrid-lab"
TOKEN_SECONDS: Final = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Account:
    """A component's ServiceAccount."""

    namespace: str
    name: str


ACCOUNTS: Final = {
    "controller": Account(SYSTEM_NAMESPACE, "sitegrid-controller"),
    "agent": Account(SYSTEM_NAMESPACE, "sitegrid-agent"),
    "kube-proxy": Account("kube-system", "kube-proxy"),
    "coredns": Account("kube-system", "coredns"),
}

_PLURALS: Final = {
    "Namespace": ("api/v1", "namespaces"),
    "ServiceAccount": ("api/v1", "serviceaccounts"),
    "ClusterRole": ("apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "Role": ("apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "CustomResourceDefinition": ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
}


class Bootstrap:
    """The administrator's few requests to the API server, from the cloud's loopback."""

    def __init__(self, pki: Path) -> None:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self._session = aiohttp.ClientSession(
            addresses.API_SERVER_LOCAL_URL, connector=aiohttp.TCPConnector(ssl=context)
        )

    async def __aenter__(self) -> Bootstrap:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ready(self) -> bool:
        """Tell whether the API server says that it is ready."""
        try:
            async with self._session.get("/readyz", timeout=aiohttp.ClientTimeout(5)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def nodes(self) -> dict[str, dict[str, Any]]:
        """Return all Nodes by name; raises `LabError` where the API server does not answer."""
        answer = await self._request("GET", "/api/v1/nodes")
        return {node["metadata"]["name"]: node for node in answer["items"]}

    async def apply(self) -> None:
        """Create the CRDs, accounts and permissions of everything that runs in a lab."""
        objects = [*_system_objects(), *load_manifests("rbac"), *load_manifests("crds")]
        await asyncio.gather(*(self._apply(entry) for entry in objects if entry["kind"] == "Namespace"))
        await asyncio.gather(*(self._apply(entry) for entry in objects if entry["kind"] != "Namespace"))

    async def token(self, account: Account) -> str:
        """Return a token of `account` (TokenRequest API) that outlives the lab."""
        answer = await self._request(
            "POST",
            f"/api/v1/namespaces/{account.namespace}/serviceaccounts/{account.name}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": TOKEN_SECONDS},
            },
        )
        token: str = answer["status"]["token"]
        return token

    async def _apply(self, entry: dict[str, Any]) -> None:
        prefix, plural = _PLURALS[entry["kind"]]
        metadata = entry["metadata"]
        scope = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
        await self._request(
            "PATCH",
            f"/{prefix}{scope}/{plural}/{metadata['name']}?fieldManager={FIELD_MANAGER}&force=true",
            entry,
            {"Content-Type": "application/apply-patch+yaml"},
        )

    async def _request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        try:
            async with self._session.request(
                method, path, json=body, headers=headers, timeout=aiohttp.ClientTimeout(10)
            ) as response:
                answer: dict[str, Any] = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise LabError(f"the API server does not answer: {error or type(error).__name__}") from error
        if response.status >= 300:
            raise LabError(f"{method} {path}: {answer.get('message', response.status)}")
        return answer


def _system_objects() -> list[dict[str, Any]]:
    """Return the accounts and permissions of kube-proxy and CoreDNS; sitegrid's own come from ``deploy/rbac``."""
    coredns = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "sitegrid-lab:coredns"},
        # What CoreDNS's kubernetes plug-in lists and watches.
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }
    objects: list[dict[str, Any]] = [coredns]
    for component, role in (("kube-proxy", "system:node-proxier"), ("coredns", "sitegrid-lab:coredns")):
        account = ACCOUNTS[component]
        metadata = {"name": account.name, "namespace": account.namespace}
        objects += [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}, _binding(account, role)]
    return objects


def _binding(account: Account, role: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"sitegrid-lab:{account.name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}],
    }
