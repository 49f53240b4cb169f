"""What a lab's API server is given before anything else runs: CRDs, ServiceAccounts, RBAC, admission policies.

The supervisor calls `apply` once the API server is ready, then `tokens`. sitegrid's own objects are the very
manifests of ``deploy/`` that a user applies to a real cluster. Everything is written by server-side apply, so a
second run changes nothing. Held by ``tests/lab/test_lab.py``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import (
    ADMISSIONPOLICIES,
    ADMISSIONPOLICYBINDINGS,
    CLUSTERROLEBINDINGS,
    CLUSTERROLES,
    CRDS,
    ENDPOINTSLICES,
    NAMESPACES,
    ROLEBINDINGS,
    ROLES,
    SERVICEACCOUNTS,
)
from sitegrid.lab.manifests import load_manifests
from sitegrid.wire.labels import UNIT

FIELD_MANAGER: Final = "sitegrid-lab"
TOKEN_SECONDS: Final = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Account:
    """A component's ServiceAccount."""

    namespace: str
    name: str


ACCOUNTS: Final = {
    "controller": Account("sitegrid-system", "sitegrid-controller"),
    "agent": Account("sitegrid-system", "sitegrid-agent"),
    "kube-proxy": Account("kube-system", "kube-proxy"),
    "coredns": Account("kube-system", "coredns"),
}
"""Who presents a token, by the component's name."""

_RESOURCES: Final = {
    resource.kind: resource
    for resource in (
        NAMESPACES,
        SERVICEACCOUNTS,
        CRDS,
        CLUSTERROLES,
        CLUSTERROLEBINDINGS,
        ROLES,
        ROLEBINDINGS,
        ADMISSIONPOLICIES,
        ADMISSIONPOLICYBINDINGS,
    )
}


async def apply(client: Client) -> None:
    """Create CRDs, accounts, permissions and policies of all that runs in a lab; raises what `Client.apply` does."""
    folders = ("rbac", "admission", "crds", "superedge")
    objects = [*_system_objects(), *(entry for folder in folders for entry in load_manifests(folder))]
    for namespaces in (True, False):
        batch = [entry for entry in objects if (entry["kind"] == "Namespace") is namespaces]
        await asyncio.gather(
            *(
                client.apply(_RESOURCES[entry["kind"]], entry, field_manager=FIELD_MANAGER, force=True)
                for entry in batch
            )
        )


async def lift_admission(client: Client) -> None:
    """Have the API server take sitegrid's labels from anybody: for who stands in for the controllers and measures.

    Returns once it does. Raises what `Client.delete` and `Client.apply` do.
    """
    for entry in load_manifests("admission"):
        if entry["kind"] == ADMISSIONPOLICYBINDINGS.kind:
            await client.delete(ADMISSIONPOLICYBINDINGS, entry["metadata"]["name"])
    metadata = {"name": "probe", "namespace": "default", "labels": {UNIT: "probe"}}
    probe = {"apiVersion": ENDPOINTSLICES.api_version, "kind": ENDPOINTSLICES.kind, "metadata": metadata}
    probe |= {"addressType": "IPv4", "endpoints": []}
    while True:
        try:
            await client.apply(ENDPOINTSLICES, probe, field_manager=FIELD_MANAGER, dry_run=True)
        except ApiError as error:
            if error.status != HTTPStatus.FORBIDDEN:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def tokens(client: Client) -> dict[str, str]:
    """Return a token of each of `ACCOUNTS` that outlives any lab; raises what `Client.request` does."""
    return dict(zip(ACCOUNTS, await asyncio.gather(*(_token(client, a) for a in ACCOUNTS.values())), strict=True))


async def _token(client: Client, account: Account) -> str:
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    path = SERVICEACCOUNTS.path(account.namespace, account.name, "token")
    token: str = (await client.request("POST", path, body=request))["status"]["token"]
    return token


def _system_objects() -> list[dict[str, Any]]:
    """Return the accounts and permissions of kube-proxy and CoreDNS; sitegrid's own come from ``deploy/rbac``."""
    coredns = {
        "apiVersion": CLUSTERROLES.api_version,
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
        "apiVersion": CLUSTERROLEBINDINGS.api_version,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"sitegrid-lab:{account.name}"},
        "roleRef": {"apiGroup": CLUSTERROLES.group, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}],
    }
