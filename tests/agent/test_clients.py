"""Real clients behind the agent at the real API server: kubectl, CoreDNS, and kube-proxy in a network of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.coredns import Dns, coredns
from tests.support.processes import running

pytestmark = pytest.mark.cluster

NAMESPACE = "clients"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
GRID = {"tkeedge.io/grid-uniq-key": "zone", "service.kubernetes.io/service-proxy-name": "sitegrid"}
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
FOREIGN = b"10.66."


@pytest.fixture(scope="module", autouse=True)
def scene(cluster: Any, objects: Any) -> None:
    """A grid's Service with slices of an own and of a foreign unit, headless too, and an ordinary Service."""
    cluster.write("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    ports = [{"port": 80}]
    for name, labels, extra in (("web", GRID, {}), ("nohead", GRID, {"clusterIP": "None"}), ("plain", {}, {})):
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"ports": ports, "selector": {"a": "b"}, **extra},
        }
        cluster.write("POST", SERVICES, body)
    slices = [
        objects.unit("zone.u1", "10.1.0.1", "web"),
        objects.unit("zone.u2", "10.66.0.1", "web"),
        objects.raw("web-abc", "10.66.0.2"),
        objects.unit("zone.u1", "10.1.0.1", "nohead"),
        objects.unit("zone.u2", "10.66.0.1", "nohead"),
        objects.plain("plain-abc", "10.9.0.1"),
    ]
    for obj in slices:
        obj["metadata"]["namespace"] = NAMESPACE
        if obj["metadata"]["name"].startswith("nohead"):
            obj["metadata"]["labels"]["tkeedge.io/headless"] = ""
        cluster.write("POST", SLICES, obj)
    for name, labels in (("web", GRID), ("plain", {})):
        subsets = [{"addresses": [{"ip": "10.66.0.1" if labels else "10.9.0.1"}]}]
        cluster.write("POST", SLICES.replace("endpointslices", "endpoints").replace("/apis/discovery.k8s.io", "/api"),
                      {"metadata": {"name": name, "labels": labels}, "subsets": subsets})  # fmt: skip


def _kubectl(cluster: Any, agent: str, *arguments: str) -> bytes:
    argv = cluster.kubectl("-n", NAMESPACE, *arguments, server=agent)
    return bytes(subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout)


@pytest.mark.parametrize("output", ["wide", "json", "yaml", "name"])
def test_kubectl_lists(cluster: Any, cluster_agent: str, output: str) -> None:
    """`kubectl get` works in every format and shows the own unit only."""
    found = _kubectl(cluster, cluster_agent, "get", "services,endpointslices,endpoints", "-o", output)
    assert b"web-zone.u1" in found
    assert b"zone.u2" not in found
    assert FOREIGN not in found


def test_kubectl_watches(cluster: Any, cluster_agent: str, poll: Any, tmp_path: Path) -> None:
    """`kubectl get -w` hears of a change of the own unit, and not of a foreign one."""
    argv = cluster.kubectl("-n", NAMESPACE, "get", "endpointslices", "-w", "-o", "json", server=cluster_agent)
    out = tmp_path / "out"
    with running(argv, out):
        poll(lambda: b"web-zone.u1" in out.read_bytes())
        for unit, address in (("u2", "10.66.0.7"), ("u1", "10.1.0.7")):
            obj = cluster.write("GET", f"{SLICES}/web-zone.{unit}")
            obj["endpoints"][0]["addresses"] = [address]
            cluster.write("PUT", f"{SLICES}/web-zone.{unit}", obj)
        poll(lambda: b"10.1.0.7" in out.read_bytes())
    assert FOREIGN not in out.read_bytes()


def test_kubectl_describes_one_object(cluster: Any, cluster_agent: str) -> None:
    """Single objects: an own slice is there, a foreign one is not."""
    assert json.loads(_kubectl(cluster, cluster_agent, "get", "endpointslice", "web-zone.u1", "-o", "json"))
    argv = cluster.kubectl("-n", NAMESPACE, "get", "endpointslice", "web-zone.u2", server=cluster_agent)
    result = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert b"NotFound" in result.stderr


def test_kubectl_writes_with_its_own_account(cluster: Any, cluster_agent: str) -> None:
    """Other resources are passed through, with what the client may do and no more."""
    _kubectl(cluster, cluster_agent, "create", "configmap", "made-through-the-agent")
    status, _ = cluster.request("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps", base=cluster_agent, token=None)
    assert status in (401, 403)
    status, _ = cluster.request(
        "GET", f"/api/v1/namespaces/{NAMESPACE}/secrets", base=cluster_agent, token="reader-token"
    )
    assert status == 403


def test_endpoints_cannot_be_written_through_the_agent(cluster: Any, cluster_agent: str) -> None:
    """The answer of a write would show what it wrote to."""
    argv = cluster.kubectl("-n", NAMESPACE, "annotate", "endpointslice", "web-zone.u1", "a=b", server=cluster_agent)
    result = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert result.returncode != 0
    assert b"for reading only" in result.stderr


@pytest.mark.parametrize("subresource", ["", "/status"])
def test_a_grids_service_is_not_put_back_as_it_was_seen(cluster: Any, cluster_agent: str, subresource: str) -> None:
    """Without the label that is taken off, every other kube-proxy would serve it; a PATCH keeps the label."""
    name = f"kept-closed{subresource.replace('/', '-')}"
    path = f"{SERVICES}/{name}"
    cluster.write("POST", SERVICES, {"metadata": {"name": name, "labels": GRID}, "spec": {"ports": [{"port": 80}]}})
    seen = json.loads(cluster.request("GET", path, base=cluster_agent)[1])
    assert PROXY_NAME not in seen["metadata"]["labels"]
    status, body = cluster.request("PUT", path + subresource, seen, base=cluster_agent)
    assert (status, json.loads(body)["reason"]) == (405, "MethodNotAllowed")
    assert "change the ServiceGrid" in json.loads(body)["message"]
    patch = {"Content-Type": "application/merge-patch+json"}
    change = {"metadata": {"annotations": {"a": "b"}}}
    assert cluster.request("PATCH", path + subresource, change, base=cluster_agent, headers=patch)[0] == 200
    assert cluster.write("GET", path)["metadata"]["labels"][PROXY_NAME] == "sitegrid"


@pytest.mark.parametrize("subresource", ["", "/status"])
def test_other_services_are_replaced(cluster: Any, cluster_agent: str, subresource: str) -> None:
    """What is no grid's, and what does not exist, is the API server's affair."""
    name = f"no-grids{subresource.replace('/', '-')}"
    path = f"{SERVICES}/{name}"
    cluster.write("POST", SERVICES, {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
    seen = json.loads(cluster.request("GET", path, base=cluster_agent)[1])
    seen["metadata"]["labels"] = {"a": "b"}
    assert cluster.request("PUT", path + subresource, seen, base=cluster_agent)[0] == 200
    assert cluster.write("GET", path)["metadata"]["labels"] == {"a": "b"}
    assert cluster.request("PUT", f"{path}-none{subresource}", seen, base=cluster_agent)[0] in (400, 404)


@pytest.fixture
def dns(cluster: Any, cluster_agent: str, tmp_path: Path) -> Iterator[Dns]:
    """Run the real CoreDNS behind the agent."""
    kubeconfig = cluster.kubeconfig("admin-token", cluster_agent)
    # What has an answer once both Services and EndpointSlices are there.
    name = f"nohead.{NAMESPACE}.svc.cluster.local"
    with coredns(cluster.binaries / "coredns", kubeconfig, tmp_path, name) as client:
        yield client


def test_coredns_resolves_the_own_unit(cluster: Any, dns: Dns, poll: Any) -> None:
    """A headless grid Service gives the own unit's pods, others their cluster address; changes are followed."""
    headless = f"nohead.{NAMESPACE}.svc.cluster.local"
    assert dns.ask("A", headless) == ["10.1.0.1"]
    address = cluster.write("GET", f"{SERVICES}/web")["spec"]["clusterIP"]
    assert dns.ask("A", f"web.{NAMESPACE}.svc.cluster.local") == [address]
    for unit, changed in (("u2", "10.66.0.8"), ("u1", "10.1.0.8")):
        obj = cluster.write("GET", f"{SLICES}/nohead-zone.{unit}")
        obj["endpoints"][0]["addresses"] = [changed]
        cluster.write("PUT", f"{SLICES}/nohead-zone.{unit}", obj)
    poll(lambda: dns.ask("A", headless) == ["10.1.0.8"])


def _bridge(listen_at: str, target: int) -> list[str]:
    """Return a program that connects a Unix socket to a TCP port of this network namespace (or back)."""
    code = """
import asyncio, sys
async def pump(r, w):
    try:
        while d := await r.read(65536):
            w.write(d); await w.drain()
    except OSError: pass
    w.close()
async def main():
    path, port, inside = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "inside"
    async def client(r, w):
        ur, uw = await (asyncio.open_unix_connection(path) if inside else asyncio.open_connection("127.0.0.1", port))
        await asyncio.gather(pump(r, uw), pump(ur, w))
    start = asyncio.start_server(client, "127.0.0.1", port) if inside else asyncio.start_unix_server(client, path)
    async with await start as server: await server.serve_forever()
asyncio.run(main())
"""
    return ["-c", code, listen_at, str(target)]


@pytest.mark.skipif(os.geteuid() != 0, reason="kube-proxy needs root in a network namespace of its own")
def test_kube_proxy_programs_the_own_unit(cluster: Any, cluster_agent: str, poll: Any, tmp_path: Path) -> None:
    """The real kube-proxy behind the agent has rules to the own unit's endpoints and to no others.

    It runs in a network namespace that nothing else is in, so that no rule reaches this machine; a Unix socket
    leads from there to the agent.
    """
    for tool in ("unshare", "nft", "ip"):
        assert shutil.which(tool), f"{tool} is needed"
    status = {"status": {"addresses": [{"type": "InternalIP", "address": "172.20.0.1"}]}}
    node = json.loads(cluster.request("GET", "/api/v1/nodes/n1")[1])
    cluster.write("PUT", "/api/v1/nodes/n1/status", {**node, **status})
    python = shutil.which("python3") or "python3"
    port = int(cluster_agent.rpartition(":")[2])
    path = str(tmp_path / "agent.sock")
    kubeconfig = cluster.kubeconfig("admin-token", cluster_agent)
    script = (
        "set -e; ip link set lo up; ip link add d0 type veth peer name d1; ip addr add 172.20.0.1/16 dev d0; "
        "ip link set d0 up; ip link set d1 up; ip route add default via 172.20.0.2; "
        '"$PYTHON" "$@" inside & '
        f"{cluster.binaries}/kube-proxy --proxy-mode=nftables --kubeconfig={kubeconfig} --hostname-override=n1 "
        "--conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 & "
        f"while sleep 0.2; do nft list ruleset > {tmp_path}/rules.new; mv {tmp_path}/rules.new {tmp_path}/rules; done"
    )
    bridge = _bridge(path, port)
    own_network = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    argv = [*own_network, "sh", "-c", script, "sh", *bridge]
    rules_file = tmp_path / "rules"

    def rules() -> bytes:
        return rules_file.read_bytes() if rules_file.exists() else b""

    with running([python, *bridge, "outside"]):
        poll(lambda: Path(path).exists())
        with running(argv, tmp_path / "log", env={**os.environ, "PYTHON": python}):
            own = cluster.write("GET", f"{SLICES}/web-zone.u1")["endpoints"][0]["addresses"][0].encode()
            poll(lambda: own in rules() and b"10.9.0.1" in rules(), 60, "kube-proxy's rules")
            assert FOREIGN not in rules()
