"""The kubelet as a process against a real API server, both in namespaces of their own.

There is no scheduler: the tests bind pods themselves. Nothing of it is in the machine's network, and the end of the
namespaces' first process ends everything.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sitegrid.lab.binaries import ensure_binaries
from sitegrid.lab.kubelet.network import link_name
from sitegrid.lab.kubelet.sandbox import enter_argv
from sitegrid.lab.pki import Authority
from tests.support.processes import start

pytestmark = pytest.mark.cluster

NODE, NODE_IP, POD_CIDR = "node1", "172.30.0.1", "10.244.1.0/24"
PATIENCE = 120.0

# PID 1 of the namespaces: makes the node's address, then reaps what its kubelet leaves behind.
INIT = """
import os, subprocess, time
subprocess.run("mount -t tmpfs run /run && ip link set lo up && ip address add 172.30.0.1/32 dev lo",
               shell=True, check=True)
print("ready", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.05)
"""


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Return the first true value of `condition`; fail with `what` when it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


@dataclass
class Cluster:
    """An API server and one node's kubelet in namespaces of their own."""

    directory: Path
    programs: dict[str, Path]
    enter: list[str]
    kubelet: subprocess.Popen[bytes] | None = None
    others: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program in the namespaces, with its output in a file."""
        process = self.others[name] = start([*self.enter, *argv], self.directory / f"{name}.log")
        return process

    def run(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespaces to its end."""
        return subprocess.run([*self.enter, *argv], capture_output=True, text=True, **options)

    def start_etcd(self) -> None:
        """Start etcd."""
        self.start(
            "etcd", str(self.programs["etcd"]), "--data-dir", str(self.directory / "etcd"), "--unsafe-no-fsync"
        )

    def start_api_server(self) -> None:
        """Start the API server, with a kubelet's authorization and admission, and wait until it is ready."""
        self.start(
            "kube-apiserver",
            *(str(self.programs["kube-apiserver"]), "--etcd-servers=http://127.0.0.1:2379"),
            *(f"--advertise-address={NODE_IP}", "--secure-port=6443", f"--cert-dir={self.directory}/pki"),
            *("--authorization-mode=Node,RBAC", f"--token-auth-file={self.directory}/tokens.csv"),
            *("--enable-admission-plugins=NodeRestriction", "--disable-admission-plugins=ServiceAccount"),
            *("--service-account-issuer=https://lab", f"--service-account-key-file={self.directory}/sa.key"),
            f"--service-account-signing-key-file={self.directory}/sa.key",
            "--service-cluster-ip-range=10.96.0.0/16",
        )
        until("API server ready", lambda: self.kubectl("get", "--raw", "/readyz").returncode == 0)
        until("namespaces", lambda: self.kubectl("get", "ns", "default", "kube-node-lease").returncode == 0)

    def stop_api_server(self) -> None:
        """End the API server, at once: asked to, it would wait a minute for its watches to end."""
        self.stop(self.others["kube-apiserver"], kill=True)

    def start_kubelet(self, labels: str = "zone=NodeUnit1") -> None:
        """Start the kubelet and wait until its Node is there."""
        self.spawn_kubelet(labels)
        until("Node registered", lambda: self.kubectl("get", "node", NODE).returncode == 0)

    def spawn_kubelet(self, labels: str = "zone=NodeUnit1") -> None:
        """Start the kubelet."""
        self.kubelet = self.start(
            "kubelet",
            *(sys.executable, "-m", "sitegrid.lab.kubelet", f"--node-name={NODE}", f"--labels={labels}"),
            *(f"--node-ip={NODE_IP}", f"--pod-cidr={POD_CIDR}", "--cluster-dns=169.254.20.10"),
            *(f"--kubeconfig={self.directory}/node.kubeconfig", f"--pods-dir={self.directory}/pods"),
            *(f"--tls-cert-file={self.directory}/kubelet.crt", f"--client-ca-file={self.directory}/kubelet.crt"),
            f"--tls-private-key-file={self.directory}/kubelet.key",
        )

    def stop_kubelet(self, *, kill: bool = False) -> None:
        """End the kubelet and nothing else."""
        assert self.kubelet is not None
        self.stop(self.kubelet, kill=kill)

    def stop(self, process: subprocess.Popen[bytes], *, kill: bool = False) -> None:
        """End a process that `start` returned."""
        # nsenter has forked: the program is its child, and a signal to nsenter would not reach it.
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL if kill else signal.SIGTERM)
        process.wait(PATIENCE)

    def write_access(self) -> None:
        """Write credentials of an administrator and of the node."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = serialization.PrivateFormat.TraditionalOpenSSL
        (self.directory / "sa.key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        )
        (self.directory / "tokens.csv").write_text(
            f'admin-token,admin,admin,"system:masters"\nnode-token,system:node:{NODE},{NODE},"system:nodes"\n'
        )
        kubelet = Authority().server("kubelet", [], [NODE_IP])
        (self.directory / "kubelet.crt").write_bytes(kubelet.certificate)
        (self.directory / "kubelet.key").write_bytes(kubelet.key)
        for user, token in (("admin", "admin-token"), ("node", "node-token")):
            cluster = {"server": f"https://{NODE_IP}:6443", "certificate-authority": "pki/apiserver.crt"}
            document = {
                "clusters": [{"name": "lab", "cluster": cluster}],
                "users": [{"name": user, "user": {"token": token}}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
                "current-context": "lab",
            }
            (self.directory / f"{user}.kubeconfig").write_text(yaml.safe_dump(document))

    def kubectl(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator."""
        return self.run(
            str(self.programs["kubectl"]), f"--kubeconfig={self.directory}/admin.kubeconfig", *args, **options
        )

    def get(self, *args: str) -> dict[str, Any]:
        """Return an object, {} where it does not exist."""
        answer = self.kubectl("get", "-o", "json", "--ignore-not-found", *args, check=True).stdout
        return json.loads(answer) if answer else {}

    def create_pod(self, name: str, container: dict[str, Any] | None = None, **spec: Any) -> None:
        """Create a pod that is bound to the node."""
        container = {"name": "c", "image": "nginx", "ports": [{"containerPort": 80}], **(container or {})}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"nodeName": NODE, "containers": [container], "terminationGracePeriodSeconds": 10, **spec},
        }
        self.kubectl("create", "-f", "-", input=json.dumps(pod), check=True)

    def pod(self, name: str) -> dict[str, Any]:
        """Return a pod, {} where it does not exist."""
        return self.get("pod", name)

    def until_ready(self, name: str) -> dict[str, Any]:
        """Wait until a pod is Ready and return it."""
        until(f"{name} Ready", lambda: condition(self.pod(name), "Ready") == "True")
        return self.pod(name)

    def ask(self, address: str) -> dict[str, Any]:
        """Send an HTTP request from the node and return the answer."""
        done = self.run("curl", "--silent", "--show-error", "--max-time", "5", f"http://{address}/", check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def links(self) -> list[str]:
        """Return the names of the node's links to pods."""
        links = json.loads(self.run("ip", "-json", "link", check=True).stdout)
        return [link["ifname"] for link in links]


def condition(pod: dict[str, Any], kind: str) -> str:
    """Return the status of a pod's condition, "" where it has none."""
    conditions = pod.get("status", {}).get("conditions") or []
    return next((c["status"] for c in conditions if c["type"] == kind), "")


@pytest.fixture(scope="module", params=["root", "user-namespace"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a running cluster of one node; once with root's rights, once with those of a user namespace."""
    user = request.param == "user-namespace"
    if not user and os.geteuid():
        pytest.skip("needs root")
    directory = tmp_path_factory.mktemp("kubelet")
    programs = ensure_binaries(lambda line: print(line, file=sys.stderr))
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    unshare += ["--user", "--map-root-user"] if user else []
    init = start([*unshare, sys.executable, "-c", INIT], stdout=subprocess.PIPE)
    try:
        assert init.stdout is not None
        assert init.stdout.readline() == b"ready\n"
        first = Path(f"/proc/{init.pid}/task/{init.pid}/children").read_text().split()[0]
        enter = ["nsenter", f"--target={first}", "--mount", "--net", "--pid"]
        enter += ["--user", "--preserve-credentials"] if user else []
        found = Cluster(directory, programs, [*enter, "--"])
        found.write_access()
        found.start_etcd()
        found.start_api_server()
        found.start_kubelet()
        yield found
    finally:
        init.kill()
        init.wait()
        for process in found.others.values():
            process.wait()
        if init.stdout is not None:
            init.stdout.close()


def test_pod_becomes_ready_and_answers(cluster: Cluster) -> None:
    """A bound pod becomes Ready and answers with exactly the promised keys."""
    cluster.create_pod("plain")
    pod = cluster.until_ready("plain")
    answer = cluster.ask(pod["status"]["podIP"])
    labels = cluster.get("node", NODE)["metadata"]["labels"]
    who = {"namespace": "default", "pod": "plain", "node": NODE, "nodeLabels": labels, "image": "nginx", "port": 80}
    assert answer == who


def test_status_of_a_running_pod(cluster: Cluster) -> None:
    """Phase, addresses and container status are those of a real kubelet."""
    cluster.create_pod("status")
    status = cluster.until_ready("status")["status"]
    assert (status["phase"], status["hostIP"]) == ("Running", NODE_IP)
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    container = status["containerStatuses"][0]
    assert (container["ready"], container["started"], container["restartCount"]) == (True, True, 0)
    assert container["state"]["running"]["startedAt"] >= status["startTime"]


def test_nothing_is_written_at_rest(cluster: Cluster) -> None:
    """A pod that runs is not written again, whatever else happens to its object (I7)."""
    cluster.create_pod("rest")
    cluster.until_ready("rest")
    cluster.kubectl("annotate", "pod", "rest", "touched=yes", check=True)
    version = cluster.pod("rest")["metadata"]["resourceVersion"]
    cluster.create_pod("rest-after")  # when this one is Ready, the kubelet has seen the change of the other
    cluster.until_ready("rest-after")
    assert cluster.pod("rest")["metadata"]["resourceVersion"] == version


def test_failing_readiness_probe_keeps_pod_unready(cluster: Cluster) -> None:
    """A probe of a path that answers 503 is asked for real: the container runs and is not ready."""
    probe = {"httpGet": {"path": "/fail", "port": 80}, "periodSeconds": 1}
    cluster.create_pod("unready", {"readinessProbe": probe})
    cluster.create_pod("probed", {"readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1}})
    cluster.until_ready("probed")

    def started() -> bool:
        return any(c["started"] for c in cluster.pod("unready")["status"].get("containerStatuses", ()))

    until("unready started", started)
    assert condition(cluster.pod("unready"), "Ready") == "False"


def test_failing_liveness_probe_restarts(cluster: Cluster) -> None:
    """A liveness probe that fails ends the container; it starts again and the restart is counted."""
    probe = {"tcpSocket": {"port": 81}, "periodSeconds": 1, "failureThreshold": 1}
    cluster.create_pod("restarts", {"livenessProbe": probe})

    def restarts() -> bool:
        status = cluster.pod("restarts").get("status", {})
        return any(c["restartCount"] > 0 for c in status.get("containerStatuses", []))

    until("a restart", restarts)
    container = cluster.pod("restarts")["status"]["containerStatuses"][0]
    assert container["lastState"]["terminated"]["exitCode"] == 0
    cluster.kubectl("delete", "pod", "restarts", "--wait=false", check=True)


def test_killed_process_is_restarted(cluster: Cluster) -> None:
    """A container whose process dies starts again at once, at the same address."""
    cluster.create_pod("killed")
    before = cluster.until_ready("killed")["status"]
    pid = before["containerStatuses"][0]["containerID"].split("//")[1].split("-")[0]
    cluster.run("kill", "-9", pid, check=True)

    def again() -> bool:
        status = cluster.pod("killed")["status"]["containerStatuses"][0]
        return bool(status["restartCount"] == 1 and status["ready"])

    until("running again", again)
    after = cluster.pod("killed")["status"]
    assert after["podIP"] == before["podIP"]
    assert after["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137


def test_deletion_is_graceful_and_leaves_nothing(cluster: Cluster) -> None:
    """A deleted pod is not ready at once, still answers while it drains, then is gone with its link and namespace."""
    cluster.create_pod("deleted")
    pod = cluster.until_ready("deleted")
    uid, address = pod["metadata"]["uid"], pod["status"]["podIP"]
    assert link_name(uid) in cluster.links()
    cluster.kubectl("delete", "pod", "deleted", "--wait=false", check=True)
    assert cluster.ask(address)["pod"] == "deleted"
    until("not ready while it drains", lambda: condition(cluster.pod("deleted"), "Ready") != "True")
    until("object gone", lambda: not cluster.pod("deleted"))
    assert link_name(uid) not in cluster.links()
    assert f"pod-{uid}" not in cluster.run("ls", "/run/netns", check=True).stdout
    assert not (cluster.directory / "pods" / "default_deleted").exists()


def test_forced_deletion_and_same_name(cluster: Cluster) -> None:
    """A pod made again under the name of one that was removed by force runs after its namesake is gone."""
    cluster.create_pod("again")
    before = cluster.until_ready("again")
    cluster.kubectl("delete", "pod", "again", "--force", "--grace-period=0", check=True)
    cluster.create_pod("again")
    after = cluster.until_ready("again")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert f"pod-{before['metadata']['uid']}" not in cluster.run("ls", "/run/netns", check=True).stdout


def test_never_restarted_pod_that_is_deleted_ends_succeeded(cluster: Cluster) -> None:
    """A pod with `restartPolicy: Never` whose process is ended gets a terminal phase and stays as an object."""
    cluster.create_pod("once", restartPolicy="Never")
    status = cluster.until_ready("once")["status"]
    pid = status["containerStatuses"][0]["containerID"].split("//")[1].split("-")[0]
    cluster.run("kill", pid, check=True)
    until("terminal phase", lambda: cluster.pod("once")["status"]["phase"] == "Succeeded")
    assert cluster.pod("once")["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"


@pytest.mark.parametrize("kill", [False, True], ids=["terminated", "killed"])
def test_kubelet_restart_keeps_pods(cluster: Cluster, kill: bool) -> None:
    """Pods answer while the kubelet is away, and the next one changes neither process, address nor readiness (I8)."""
    name = f"kept-{kill}".lower()
    probe = {"httpGet": {"path": "/", "port": 80}, "initialDelaySeconds": 1}
    cluster.create_pod(name, {"readinessProbe": probe})
    before = cluster.until_ready(name)
    cluster.stop_kubelet(kill=kill)
    assert cluster.ask(before["status"]["podIP"])["pod"] == name
    cluster.start_kubelet()
    cluster.create_pod(f"{name}-after")  # when this is Ready, the kubelet has taken the other over
    cluster.until_ready(f"{name}-after")
    after = cluster.pod(name)
    assert after["status"] == before["status"]
    assert cluster.ask(after["status"]["podIP"])["pod"] == name


def test_pod_deleted_while_kubelet_is_away(cluster: Cluster) -> None:
    """A pod that was deleted, or removed by force, while the kubelet was away is ended by the next one."""
    cluster.create_pod("away-deleted")
    cluster.create_pod("away-forced")
    uids = [cluster.until_ready(name)["metadata"]["uid"] for name in ("away-deleted", "away-forced")]
    cluster.stop_kubelet()
    cluster.kubectl("delete", "pod", "away-deleted", "--wait=false", check=True)
    cluster.kubectl("delete", "pod", "away-forced", "--force", "--grace-period=0", check=True)
    cluster.start_kubelet()
    until("object gone", lambda: not cluster.pod("away-deleted"))
    until(
        "namespaces gone",
        lambda: not any(f"pod-{uid}" in cluster.run("ls", "/run/netns", check=True).stdout for uid in uids),
    )


def test_api_server_restart_changes_nothing(cluster: Cluster) -> None:
    """Pods go on without the API server, and its return neither restarts nor rewrites them (I8)."""
    cluster.create_pod("steady")
    before = cluster.until_ready("steady")
    cluster.stop_api_server()
    assert cluster.ask(before["status"]["podIP"])["pod"] == "steady"
    cluster.start_api_server()
    cluster.create_pod("steady-after")
    cluster.until_ready("steady-after")
    assert cluster.pod("steady")["status"] == before["status"]


def test_kubelet_starts_pods_from_disk_without_api_server(cluster: Cluster) -> None:
    """A kubelet that starts while the API server is away takes pods over, and restarts what has died."""
    cluster.create_pod("offline")
    before = cluster.until_ready("offline")["status"]
    pid = before["containerStatuses"][0]["containerID"].split("//")[1].split("-")[0]
    cluster.stop_kubelet()
    cluster.stop_api_server()
    cluster.run("kill", "-9", pid, check=True)
    cluster.spawn_kubelet()

    def answers() -> bool:
        return cluster.run("curl", "--silent", "--max-time", "1", f"http://{before['podIP']}/").returncode == 0

    until("answers again", answers)
    cluster.start_api_server()
    until("reported", lambda: cluster.pod("offline")["status"]["containerStatuses"][0]["restartCount"] == 1)
    assert cluster.pod("offline")["status"]["podIP"] == before["podIP"]


def test_host_network_pod_uses_node_address(cluster: Cluster) -> None:
    """A host-network pod answers at the node's own address."""
    cluster.create_pod("host", {"ports": [{"containerPort": 8099}]}, hostNetwork=True)
    pod = cluster.until_ready("host")
    assert pod["status"]["podIP"] == NODE_IP
    assert cluster.ask(f"{NODE_IP}:8099")["port"] == 8099
    cluster.kubectl("delete", "pod", "host", check=True)


def test_pods_of_one_node_reach_each_other(cluster: Cluster) -> None:
    """From inside a pod another pod of the node answers, and sees the pod's own name and resolver."""
    cluster.create_pod("client")
    cluster.create_pod("server")
    cluster.until_ready("client")
    address = cluster.until_ready("server")["status"]["podIP"]
    directory = cluster.directory / "pods" / "default_client"
    script = f"hostname; cat /etc/resolv.conf; getent hosts client; curl -s http://{address}/"
    lines = cluster.run(*enter_argv(directory, ["sh", "-c", script]), check=True).stdout.splitlines()
    assert lines[0] == "client"
    assert lines[1] == "nameserver 169.254.20.10"
    assert lines[-2].split() == [cluster.pod("client")["status"]["podIP"], "client"]
    assert json.loads(lines[-1])["pod"] == "server"


def test_node_keeps_its_users_labels(cluster: Cluster) -> None:
    """A restarted kubelet leaves labels on its Node alone, and answers carry the labels of now."""
    cluster.create_pod("labels")
    address = cluster.until_ready("labels")["status"]["podIP"]
    cluster.kubectl("label", "node", NODE, "zone=NodeUnit2", "--overwrite", check=True)
    until("new label", lambda: cluster.ask(address)["nodeLabels"]["zone"] == "NodeUnit2")
    cluster.stop_kubelet()
    cluster.start_kubelet(labels="zone=NodeUnit1")
    cluster.create_pod("labels-after")
    cluster.until_ready("labels-after")
    assert cluster.get("node", NODE)["metadata"]["labels"]["zone"] == "NodeUnit2"


def test_lease_is_the_nodes(cluster: Cluster) -> None:
    """The Lease has the node as its owner and holder."""
    until("lease", lambda: cluster.get("-n", "kube-node-lease", "lease", NODE))
    lease = cluster.get("-n", "kube-node-lease", "lease", NODE)
    owner = lease["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("Node", cluster.get("node", NODE)["metadata"]["uid"])
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == (NODE, 40)


def test_status_is_repaired(cluster: Cluster) -> None:
    """What others write while a node is out of reach (Node Unknown, pod not Ready) is set right."""
    cluster.create_pod("repaired")
    pod = cluster.until_ready("repaired")
    for target, kind in ((("node", NODE), "Unknown"), (("pod", "repaired"), "False")):
        conditions = cluster.get(*target)["status"]["conditions"]
        wrong = [{**c, "status": kind} if c["type"] == "Ready" else c for c in conditions]
        patch = json.dumps({"status": {"conditions": wrong}})
        cluster.kubectl("patch", *target, "--subresource=status", "--type=merge", "-p", patch, check=True)
    until("node Ready", lambda: condition(cluster.get("node", NODE), "Ready") == "True")
    assert cluster.until_ready("repaired")["metadata"]["uid"] == pod["metadata"]["uid"]


def test_udp_port_answers_datagrams(cluster: Cluster) -> None:
    """A datagram to a UDP port is answered with the same object as a request."""
    cluster.create_pod("udp", {"ports": [{"containerPort": 53, "protocol": "UDP"}]})
    address = cluster.until_ready("udp")["status"]["podIP"]
    ask = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5);"
        "s.sendto(b'?', (sys.argv[1], 53)); print(s.recv(65536).decode())"
    )
    answer = json.loads(cluster.run(sys.executable, "-c", ask, address, check=True).stdout)
    assert (answer["pod"], answer["port"]) == ("udp", 53)


def test_container_whose_port_is_taken_is_restarted_with_backoff(cluster: Cluster) -> None:
    """Two containers on one port: the second cannot start, as a real server could not."""
    containers = [{"name": name, "image": name, "ports": [{"containerPort": 80}]} for name in ("a", "b")]
    cluster.create_pod("clash", containers=containers)

    def waits() -> bool:
        statuses = cluster.pod("clash").get("status", {}).get("containerStatuses", [])
        return any(s["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff" for s in statuses)

    until("a container in CrashLoopBackOff", waits)
    assert condition(cluster.pod("clash"), "Ready") == "False"
