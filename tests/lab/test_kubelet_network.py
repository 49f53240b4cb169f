"""Pod networks, made for real in a network namespace of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sitegrid

pytestmark = pytest.mark.skipif(
    subprocess.run(["unshare", "--user", "--map-root-user", "--net", "true"], capture_output=True).returncode != 0,
    reason="needs user namespaces",
)

PREPARE = """
import json, subprocess, sys
from sitegrid.lab.kubelet import network

def ip(*args):
    done = subprocess.run(["ip", "-json", *args], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")

def links():
    return [link["ifname"] for link in ip("link") if link["ifname"] != "lo"]

subprocess.run("mount -t tmpfs run /run; ip link set lo up; ip address add 172.30.0.1/32 dev lo",
               shell=True, check=True)
network.prepare_node()
"""


def run(body: str) -> None:
    """Run Python code as root of fresh namespaces, after `PREPARE`; fail with what it says where it fails."""
    argv = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc"]
    environment = {**os.environ, "PYTHONPATH": str(Path(sitegrid.__file__).parent.parent)}
    code = PREPARE + textwrap.dedent(body)
    done = subprocess.run([*argv, sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_pod_and_node_reach_each_other() -> None:
    """The node reaches the pod's address, and the pod the node's, by routes alone."""
    run("""
        network.create("u1", "10.244.1.2", "172.30.0.1")
        serve = "import socket; s = socket.create_server(('', 80)); s.accept()[0].send(b'x')"
        pod = ["nsenter", f"--net={network.netns_path('u1')}", "--"]
        server = subprocess.Popen([*pod, sys.executable, "-c", serve])
        import socket, time
        while True:
            try:
                with socket.create_connection(("10.244.1.2", 80), 5) as connection:
                    assert connection.getsockname()[0] == "172.30.0.1"
                    assert connection.recv(1) == b"x"
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        server.wait()
        with socket.create_server(("172.30.0.1", 81)) as listener:
            ask = "import socket; socket.create_connection(('172.30.0.1', 81), 5)"
            subprocess.run([*pod, sys.executable, "-c", ask], check=True)
            assert listener.accept()[1][0] == "10.244.1.2"
    """)


def test_two_pods_reach_each_other_through_the_node() -> None:
    """Traffic between pods of one node is forwarded by the node, not bridged beside its rules."""
    run("""
        for uid, address in (("u1", "10.244.1.2"), ("u2", "10.244.1.3")):
            network.create(uid, address, "172.30.0.1")
        ask = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5);"
               "s.connect(('10.244.1.3', 9)); s.send(b'x')\\ntry: s.recv(1)\\nexcept ConnectionRefusedError: pass")
        pod = ["nsenter", f"--net={network.netns_path('u1')}", "--", sys.executable, "-c"]
        subprocess.run([*pod, ask], check=True)
        from pathlib import Path
        forwarded = dict(zip(*[line.split() for line in Path("/proc/net/snmp").read_text().splitlines()[:2]]))
        assert int(forwarded["ForwDatagrams"]) >= 2, forwarded
    """)


def test_remove_leaves_nothing() -> None:
    """Link, route and namespace are gone, and removing again is no fault."""
    run("""
        network.create("u1", "10.244.1.2", "172.30.0.1")
        assert network.exists("u1") and ip("route", "show", "10.244.1.2")
        network.remove("u1")
        network.remove("u1")
        assert not network.exists("u1") and not links() and not ip("route")
        assert not network.netns_path("u1").exists()
    """)


def test_create_replaces_what_is_half_made() -> None:
    """A network that a killed kubelet left without its link, or without its namespace, is made anew."""
    run("""
        network.create("u1", "10.244.1.2", "172.30.0.1")
        subprocess.run(["ip", "link", "delete", network.link_name("u1")], check=True)
        assert not network.exists("u1")
        network.create("u1", "10.244.1.2", "172.30.0.1")
        subprocess.run(["ip", "netns", "delete", "pod-u1"], check=True)
        network.create("u1", "10.244.1.2", "172.30.0.1")
        assert network.exists("u1") and links() == [network.link_name("u1")]
    """)


def test_failure_tells_what_iproute_said() -> None:
    """An address that is none is a NetworkError with iproute2's own words."""
    run("""
        try:
            network.create("u1", "not-an-address", "172.30.0.1")
        except network.NetworkError as error:
            assert "not-an-address" in str(error), error
        else:
            raise AssertionError("no error")
    """)
