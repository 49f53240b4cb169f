"""The command lines of everything that runs in a lab.

Pure: from a `LabConfig` and the layout to `ProcessSpec`s; the supervisor runs them, `credentials.py` writes the files
they name. Flags that differ from a component's default have their reason beside them. Held by
``tests/lab/test_components.py`` and, for real, every cluster test.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import sitegrid
from sitegrid.lab import addresses, confine
from sitegrid.lab.addresses import NodeAddresses
from sitegrid.lab.config import LabConfig
from sitegrid.lab.layout import Layout
from sitegrid.lab.network import in_netns
from sitegrid.lab.processes import ProcessSpec
from sitegrid.lab.sites import Node
from sitegrid.lab.slowness import Slowness


class Components:
    """Command lines of one lab."""

    def __init__(self, config: LabConfig, layout: Layout) -> None:
        self._config = config
        self._layout = layout

    def etcd(self) -> ProcessSpec:
        """Return the database: reachable in the cloud's namespace only, and as short-lived as the lab."""
        return self._spec(
            "etcd",
            self._config.binaries["etcd"],
            f"--data-dir={self._layout.root / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
            "--unsafe-no-fsync",  # a lab does not outlive a power cut, and its writes need not wait for a disk
        )

    def api_server(self) -> ProcessSpec:
        """Return the API server, at the WAN's cloud end and at the cloud's loopback."""
        pki = self._layout.pki
        return self._spec(
            "kube-apiserver",
            self._config.binaries["kube-apiserver"],
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={addresses.API_SERVER}",
            f"--secure-port={addresses.API_SERVER_PORT}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--authentication-config={pki / 'authentication.json'}",
            f"--authentication-token-webhook-config-file={pki / 'node-tokens.kubeconfig'}",
            "--authentication-token-webhook-version=v1",
            f"--audit-policy-file={pki / 'audit-policy.json'}",
            f"--audit-log-path={self._layout.audit_log}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={addresses.SERVICE_CIDR}",
            f"--service-account-issuer=https://kubernetes.default.svc.{addresses.CLUSTER_DOMAIN}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            f"--service-account-key-file={pki / 'service-accounts.pub'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",  # nobody resolves the nodes' names here
            "--allow-privileged=true",  # as on most clusters, so that any manifest applies
            "--profiling=false",
        )

    def controller_manager(self) -> ProcessSpec:
        """Return the controller manager with all default controllers."""
        pki = self._layout.pki
        return self._spec(
            "kube-controller-manager",
            self._config.binaries["kube-controller-manager"],
            *self._control_plane_client("kube-controller-manager"),
            "--secure-port=10257",
            f"--service-account-private-key-file={pki / 'service-accounts.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            "--use-service-account-credentials",
        )

    def scheduler(self) -> ProcessSpec:
        """Return the scheduler."""
        return self._spec(
            "kube-scheduler",
            self._config.binaries["kube-scheduler"],
            *self._control_plane_client("kube-scheduler"),
            "--secure-port=10259",
        )

    def controller(self) -> ProcessSpec:
        """Return sitegrid's controller."""
        return self._spec(
            "controller",
            *self._sitegrid("controller"),
            f"--kubeconfig={self._layout.pki / 'controller.kubeconfig'}",
            "--identity=lab",  # a fixed one, so that after a crash it need not wait for its own Lease to run out
            f"--metrics-address={addresses.CONTROLLER_METRICS}",
            "-v",
        )

    def kubelet(self, node: Node, place: NodeAddresses) -> ProcessSpec:
        """Return the lab kubelet of `node`."""
        labels = ",".join(f"{key}={value}" for key, value in node.labels.items())
        directory = self._layout.node(node.name)
        return self._on_node(
            "kubelet",
            node.name,
            sys.executable,
            "-m",
            "sitegrid.lab.kubelet",
            f"--node-name={node.name}",
            f"--labels={labels}",
            f"--node-ip={place.lan}",
            f"--pod-cidr={place.pod_cidr}",
            f"--cluster-dns={addresses.CLUSTER_DNS}",
            f"--cluster-domain={addresses.CLUSTER_DOMAIN}",
            f"--kubeconfig={directory / 'kubelet.kubeconfig'}",
            f"--tls-cert-file={directory / 'kubelet.crt'}",
            f"--tls-private-key-file={directory / 'kubelet.key'}",
            f"--client-ca-file={self._layout.pki / 'ca.crt'}",
            f"--pods-dir={self._layout.pods(node.name)}",
        )

    def agent(self, node: str) -> ProcessSpec:
        """Return sitegrid's agent of `node`: not as root, and with nothing to write to but its data directory."""
        directory = self._layout.node(node)
        kubeconfig, certificate, key = (directory / f"agent.{suffix}" for suffix in ("kubeconfig", "crt", "key"))
        data = self._layout.agent_data(node)
        return self._on_node(
            "agent",
            node,
            *self.confined(data, kubeconfig, certificate, key),
            *self._sitegrid("agent"),
            f"--node-name={node}",
            f"--kubeconfig={kubeconfig}",
            f"--listen={addresses.AGENT}",
            f"--tls-listen={addresses.AGENT_TLS}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--data-dir={data}",
            "--cache=kube-proxy,coredns,kubelet",
        )

    def kube_proxy(self, node: str) -> ProcessSpec:
        """Return the real kube-proxy of `node`."""
        return self._on_node(
            "kube-proxy",
            node,
            self._config.binaries["kube-proxy"],
            f"--kubeconfig={self._layout.node(node) / 'kube-proxy.kubeconfig'}",
            f"--hostname-override={node}",
            "--proxy-mode=nftables",
            f"--cluster-cidr={addresses.POD_CIDR}",
            f"--nodeport-addresses={addresses.LAN_CIDR}",
            f"--healthz-bind-address=127.0.0.1:{addresses.KUBE_PROXY_HEALTH_PORT}",
            "--metrics-bind-address=127.0.0.1:10249",
            # The connection tracker's limits belong to the host and cannot be set from a namespace.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )

    def coredns(self, node: str) -> ProcessSpec:
        """Return the CoreDNS of `node`."""
        return self._on_node(
            "coredns", node, self._config.binaries["coredns"], "-conf", str(self._layout.node(node) / "Corefile")
        )

    def slow_link(self, node: str, place: NodeAddresses, slow: Slowness) -> ProcessSpec:
        """Return the relay of the node's slow WAN, which is the cloud's."""
        options = [f"--{name}={value}" for name, value in asdict(slow).items()]
        ports = (place.wan_port, place.relay_port)
        return self._spec(f"wan@{node}", sys.executable, "-m", "sitegrid.lab.slowlink", *ports, *options)

    def corefile(self, node: str) -> str:
        """Return the configuration of the node's CoreDNS: the cluster's names, and nothing of the outside world."""
        return f"""\
{addresses.CLUSTER_DOMAIN}:53 in-addr.arpa:53 ip6.arpa:53 {{
    bind {addresses.CLUSTER_DNS}
    errors
    ready 127.0.0.1:{addresses.COREDNS_READY_PORT}
    kubernetes {addresses.CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {self._layout.node(node) / "coredns.kubeconfig"}
        pods insecure
    }}
    loadbalance
}}
.:53 {{
    bind {addresses.CLUSTER_DNS}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""

    def _control_plane_client(self, name: str) -> list[str]:
        kubeconfig = self._layout.pki / f"{name}.kubeconfig"
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",  # there is one, and waiting for a Lease would cost seconds
            "--kube-api-qps=200",  # the defaults are meant for thousands of clients that share a server
            "--kube-api-burst=400",
            "--profiling=false",
        ]

    def confined(self, data: Path, *files: Path) -> list[str]:
        """Return the beginning of the command line of what may read `files` and write to `data`, and no more."""
        # A user namespace knows the user's account only, under the name of root.
        owner = [f"--owner={os.getuid()}"] if self._config.user_namespace else []
        trees = {sys.base_prefix, sys.prefix, str(Path(sitegrid.__file__).parent)}
        return [
            *(sys.executable, "-I", "-S", confine.__file__),
            *owner,
            *(f"--tree={tree}" for tree in sorted(trees)),
            *(f"--file={file}" for file in files),
            *(f"--data={data}", "--"),
        ]

    def _sitegrid(self, command: str) -> list[str]:
        return [sys.executable, "-m", "sitegrid", command]

    def _on_node(self, name: str, node: str, *argv: str) -> ProcessSpec:
        return self._spec(f"{name}@{node}", *in_netns(node, argv))

    def _spec(self, name: str, *argv: str) -> ProcessSpec:
        return ProcessSpec(name, argv, self._config.environment)
