"""The files that make a pod's view, and entering it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab.kubelet import sandbox
from sitegrid.lab.kubelet.sandbox import DnsSettings

DNS = DnsSettings("169.254.20.10", "cluster.local")
CLUSTER_FIRST = (
    "nameserver 169.254.20.10\n"
    "search shop.svc.cluster.local svc.cluster.local cluster.local\n"
    "options ndots:5\n"
)  # fmt: skip
DEFAULT = "nameserver 169.254.20.10\n"


def pod(**spec: Any) -> dict[str, Any]:
    """Return a pod in the namespace ``shop``."""
    return {"metadata": {"name": "web-1", "namespace": "shop", "uid": "u"}, "spec": {"containers": [], **spec}}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, CLUSTER_FIRST),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, DEFAULT),
        ({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}, CLUSTER_FIRST),
        ({"dnsPolicy": "Default"}, DEFAULT),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"]}}, "nameserver 1.2.3.4\n"),
    ],
)
def test_dns_policies(spec: dict[str, Any], text: str) -> None:
    """Each dnsPolicy gives the resolv.conf that Kubernetes documents for it."""
    assert sandbox.resolv_conf(pod(**spec), DNS) == text


def test_dns_config_is_merged() -> None:
    """dnsConfig adds servers and searches, and replaces options of the same name."""
    options = [{"name": "ndots", "value": "2"}, {"name": "edns0"}]
    config = {"nameservers": ["1.2.3.4", DNS.server], "searches": ["corp", "cluster.local"], "options": options}
    lines = sandbox.resolv_conf(pod(dnsConfig=config), DNS).splitlines()
    assert lines == [
        "nameserver 169.254.20.10",
        "nameserver 1.2.3.4",
        "search shop.svc.cluster.local svc.cluster.local cluster.local corp",
        "options ndots:2 edns0",
    ]


def test_hosts_of_a_pod_with_subdomain() -> None:
    """A pod with host name and subdomain (as a StatefulSet's) knows its own full name, and its aliases."""
    aliases = [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]
    text = sandbox.hosts(pod(subdomain="db", hostAliases=aliases), "10.0.0.2", "web-1", "cluster.local")
    assert text.splitlines()[2:] == ["10.0.0.2\tweb-1.db.shop.svc.cluster.local\tweb-1", "1.2.3.4\ta\tb"]


@pytest.mark.parametrize(
    ("spec", "hostname"),
    [({}, "web-1"), ({"hostname": "own"}, "own"), ({"hostNetwork": True}, "node1")],
)
def test_host_name(tmp_path: Path, spec: dict[str, Any], hostname: str) -> None:
    """The host name is the pod's own, its name, or the node's."""
    sandbox.write(tmp_path, pod(**spec), netns=Path("/run/netns/x"), address="10.0.0.2", dns=DNS, node="node1")
    assert (tmp_path / "hostname").read_text() == f"{hostname}\n"


def test_entering_needs_the_pod(tmp_path: Path) -> None:
    """There is no command line for a pod that is not there."""
    with pytest.raises(FileNotFoundError):
        sandbox.enter_argv(tmp_path / "shop_none", ["true"])


def test_entering_keeps_arguments_apart(tmp_path: Path) -> None:
    """The command comes last, word for word."""
    (tmp_path / "netns").write_text("/run/netns/pod-u\n")
    argv = sandbox.enter_argv(tmp_path, ["sh", "-c", "echo 'a b'; $x"])
    assert argv[:2] == ["nsenter", "--net=/run/netns/pod-u"]
    assert argv[-3:] == ["sh", "-c", "echo 'a b'; $x"]
