"""Who is who in a lab: every component's kubeconfig.

The control plane presents client certificates; sitegrid's controller and agents, kube-proxy and CoreDNS present
tokens of their own ServiceAccounts, as they do on real clusters, and kubelets those of `nodetokens`. The cluster
calls `write_control_plane` before anything starts, `write_node_servers` per node, and `write_node_clients` for a new
node and when one is switched between agent and API server. Held by ``tests/lab/test_credentials.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from sitegrid.lab import addresses
from sitegrid.lab.kubelet.listener import API_SERVER
from sitegrid.lab.layout import Layout
from sitegrid.lab.pki import (
    Authority,
    KeyPair,
    client_user,
    service_account_keys,
    write_kubeconfig,
    write_private,
)

ADMIN_GROUP: Final = "system:masters"
"""Past every authorization check (k8s.io/apiserver/pkg/authentication/user)."""

NODE_CLIENTS: Final = ("kubelet", "kube-proxy", "coredns")
"""The clients of a node that ask its agent, or the API server itself where the node has none."""

_AUTHENTICATION: Final = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "AuthenticationConfiguration",
    "jwt": [],
    # Nobody is let in without credentials but for the question whether the server is up.
    "anonymous": {"enabled": True, "conditions": [{"path": path} for path in ("/livez", "/readyz", "/healthz")]},
}


_AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts:sitegrid-system"]},
        {"level": "None"},
    ],
}
"""What sitegrid itself writes is noted, and nothing else."""


class Credentials:
    """Writes the kubeconfigs of one lab, from one certificate authority."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._authority = Authority()

    def write_control_plane(self, port: int) -> None:
        """Write what the control plane reads, and the user's kubeconfig for the host's `port`."""
        pki = self._layout.pki
        self._write_pair("pki/ca", self._authority.pair)
        self._write_pair(
            "pki/apiserver",
            self._authority.server(
                "kube-apiserver",
                [
                    "localhost",
                    "kubernetes",
                    "kubernetes.default",
                    "kubernetes.default.svc",
                    f"kubernetes.default.svc.{addresses.CLUSTER_DOMAIN}",
                ],
                ["127.0.0.1", addresses.API_SERVER, addresses.KUBERNETES_SERVICE],
            ),
        )
        self._write_pair("pki/kubelet-client", self._authority.client(API_SERVER))
        tokens = service_account_keys()
        write_private(pki / "service-accounts.pub", tokens.certificate)
        write_private(pki / "service-accounts.key", tokens.key)
        write_private(pki / "authentication.json", json.dumps(_AUTHENTICATION).encode())
        write_private(pki / "audit-policy.json", json.dumps(_AUDIT_POLICY).encode())
        write_kubeconfig(
            pki / "node-tokens.kubeconfig", server=f"http://{addresses.NODE_TOKENS}", user={}, ca=b"", name="nodes"
        )
        for component in ("kube-controller-manager", "kube-scheduler"):
            self._write(
                f"pki/{component}.kubeconfig",
                addresses.API_SERVER_LOCAL_URL,
                client_user(self._authority.client(f"system:{component}")),
            )
        admin = client_user(self._authority.client("sitegrid-lab-admin", [ADMIN_GROUP]))
        self._write("pki/admin.kubeconfig", addresses.API_SERVER_LOCAL_URL, admin)
        self._write("kubeconfig", f"https://127.0.0.1:{port}", admin)

    def write_controller(self, token: str) -> None:
        """Write the kubeconfig of sitegrid's controller."""
        self._write("pki/controller.kubeconfig", addresses.API_SERVER_LOCAL_URL, {"token": token})

    def write_node_clients(self, node: str, tokens: Mapping[str, str], *, through_agent: bool) -> None:
        """Write the kubeconfigs of the node's agent and of its clients, these through the agent or not."""
        self._write(f"nodes/{node}/agent.kubeconfig", addresses.API_SERVER_URL, {"token": tokens["agent"]})
        for client in NODE_CLIENTS:
            server = addresses.AGENT_URL if through_agent else addresses.API_SERVER_URL
            self._write(f"nodes/{node}/{client}.kubeconfig", server, {"token": tokens[client]})

    def write_node_servers(self, node: str, address: str) -> None:
        """Write the certificates that the node's agent shows to its clients, its kubelet to the API server."""
        self._write_pair(f"nodes/{node}/agent", self._authority.server(f"agent@{node}", ["localhost"], ["127.0.0.1"]))
        self._write_pair(f"nodes/{node}/kubelet", self._authority.server(f"system:node:{node}", [], [address]))

    def _write(self, path: str, server: str, user: dict[str, str]) -> None:
        write_kubeconfig(self._layout.root / path, server=server, user=user, ca=self._authority.pair.certificate)

    def _write_pair(self, path: str, pair: KeyPair) -> None:
        write_private(self._layout.root / f"{path}.crt", pair.certificate)
        write_private(self._layout.root / f"{path}.key", pair.key)
