from __future__ import annotations

from pathlib import Path

import pytest

from sitegrid.lab.addresses import NodeAddresses
from sitegrid.lab.components import Components
from sitegrid.lab.config import LabConfig
from sitegrid.lab.layout import Layout
from sitegrid.lab.sites import Node

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns", "kubectl")


@pytest.fixture
def components(tmp_path: Path) -> Components:
    """Return the command lines of a lab without nodes."""
    binaries = {name: f"/bin/{name}" for name in PROGRAMS}
    return Components(LabConfig("x", binaries, 1, (), True, True, False), Layout(tmp_path))


def test_node_processes_run_in_their_node(components: Components) -> None:
    """Everything named process@node enters that node's network namespace, and keeps its process id by exec."""
    node = Node("node12", {"zone": "a"})
    specs = [
        components.kubelet(node, NodeAddresses(1)),
        components.agent("node12"),
        components.kube_proxy("node12"),
        components.coredns("node12"),
    ]
    for spec in specs:
        assert spec.name.endswith("@node12")
        assert list(spec.argv[:3]) == ["nsenter", "--net=/run/netns/node12", "--"]


def test_kubelet_gets_the_nodes_labels_and_addresses(components: Components) -> None:
    """The kubelet registers its Node with what the sites file says."""
    argv = components.kubelet(Node("a", {"zone": "x", "test": ""}), NodeAddresses(2)).argv
    assert {"--labels=zone=x,test=", "--node-ip=172.30.1.2", "--pod-cidr=10.244.2.0/24"} <= set(argv)


def test_api_server_refuses_what_real_ones_refuse(components: Components) -> None:
    """Authorization is RBAC and the Node authorizer, with NodeRestriction; database and keys are the lab's own."""
    argv = components.api_server().argv
    assert {"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"} <= set(argv)
    assert "--etcd-servers=http://127.0.0.1:2379" in argv


def test_dns_knows_nothing_of_the_outside(components: Components) -> None:
    """CoreDNS forwards nowhere: a lab touches nothing outside its namespaces."""
    corefile = components.corefile("a")
    assert "forward" not in corefile
    assert "NXDOMAIN" in corefile
    assert "coredns.kubeconfig" in corefile
