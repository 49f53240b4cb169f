"""The shared lab, asked from outside and inside."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sitegrid.lab.lab import Lab, LabError, LabRunning, ProcessStatus
from sitegrid.lab.sites import default_sites

NODES = [node.name for node in default_sites().nodes]
Until = Callable[[Callable[[], bool], str], None]


def _curl(lab: Lab, target: str, url: str, *options: str) -> str:
    return lab.run(target, ["curl", "-sS", "-m", "60", *options, url], capture_output=True, check=True).stdout


def _pod(lab: Lab, node: str) -> str:
    flags = [
        "-l",
        "app=everywhere",
        f"--field-selector=spec.nodeName={node}",
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ]
    return "default/" + lab.kubectl("get", "pods", *flags).stdout


def test_nodes_are_ready_with_their_labels(lab: Lab) -> None:
    """`up` has returned, so every node is ready, connected and has the labels of the sites file."""
    nodes = {node.name: node for node in lab.status().nodes}
    assert list(nodes) == NODES
    assert all(node.ready and node.wan and node.agent for node in nodes.values())
    assert nodes["node12"].labels == {"zone": "NodeUnit1", "test": "a1"}


def test_every_process_runs(lab: Lab) -> None:
    """The control plane runs once, the node's parts once per node, none has crashed, and pids are the host's."""
    processes = {process.name: process for process in lab.status().processes}
    parts = ("kubelet", "agent", "kube-proxy", "coredns")
    assert processes.keys() == {
        *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "controller"),
        *(f"{part}@{node}" for part in parts for node in NODES),
    }
    for process in processes.values():
        assert process.running
        assert process.restarts == 0
    assert "etcd" in Path(f"/proc/{processes['etcd'].pid}/cmdline").read_text()


def test_second_up_is_refused(lab: Lab) -> None:
    """`up` of a running lab says so and leaves it alone."""
    pid = lab.supervisor_pid
    with pytest.raises(LabRunning, match="already running"):
        Lab(lab.name, directory=lab.layout.root.parent).up()
    assert lab.supervisor_pid == pid


def test_pods_of_all_sites_reach_each_other(lab: Lab, pods: dict[str, str]) -> None:
    """A request that leaves its site is answered by the pod that it names: leaks are counted, not lost."""
    for node, source in ((node, _pod(lab, node)) for node in NODES):
        for target, address in pods.items():
            assert json.loads(_curl(lab, source, f"http://{address}:8080"))["node"] == target, f"from {node}"


def test_answer_has_the_responders_keys(lab: Lab, pods: dict[str, str]) -> None:
    """The stand-in answers with what the tests and the demo count by."""
    answer = json.loads(_curl(lab, "node21", f"http://{pods['node12']}:8080"))
    assert answer["nodeLabels"]["zone"] == "NodeUnit1"
    assert answer.keys() == {"namespace", "pod", "node", "nodeLabels", "image", "port"}


def test_pod_that_is_gone_is_refused_at_once(lab: Lab, pods: dict[str, str]) -> None:
    """An address without a pod gives an error, not a time-out."""
    address = pods["node21"].rpartition(".")[0] + ".250"
    done = lab.run("node12", ["curl", "-sS", "-m", "20", f"http://{address}:8080"], capture_output=True)
    assert done.returncode == 7, done.stderr


def test_services_have_names(lab: Lab, pods: dict[str, str], until: Until) -> None:
    """In a pod a Service is reached by its short name, by way of the node's CoreDNS and kube-proxy."""
    argv = ["curl", "-sf", "-o", "/dev/null", "-m", "5", "http://everywhere"]
    until(lambda: not lab.run(_pod(lab, "node14"), argv).returncode, "node14 has heard of the Service")
    assert "everywhere" in json.loads(_curl(lab, _pod(lab, "node14"), "http://everywhere"))["pod"]


def test_api_server_is_reached_from_pods(lab: Lab, pods: dict[str, str]) -> None:
    """The `kubernetes` Service works in every pod: clients in the user's own images find the API server."""
    assert _curl(lab, _pod(lab, "node23"), "https://kubernetes/livez", "-k") == "ok"


def test_outside_names_do_not_exist(lab: Lab, pods: dict[str, str]) -> None:
    """A name of the outside world is unknown at once; nothing is asked outside."""
    done = lab.run(_pod(lab, "node12"), ["curl", "-sS", "http://www.example.com"], capture_output=True)
    assert done.returncode == 6, done.stderr


def test_nodes_have_no_way_out(lab: Lab) -> None:
    """A node knows the LAN, the WAN and pods; there is no default route to the host or the world."""
    routes = lab.run("node12", ["ip", "route", "show", "default"], capture_output=True, check=True).stdout
    assert routes == ""


def test_wan_joins_nodes_with_the_cloud_only(lab: Lab) -> None:
    """Over the WAN one node cannot reach another: what leaves a site otherwise goes over the LAN and is seen."""
    argv = [
        "sh",
        "-c",
        "ip neigh add 172.31.1.2 lladdr 02:53:47:01:00:02 dev wan0; curl -sS -m 1 http://172.31.1.2:10249",
    ]
    done = lab.run("node12", argv, capture_output=True)
    lab.run("node12", ["ip", "neigh", "del", "172.31.1.2", "dev", "wan0"], check=True)
    assert done.returncode == 28, done.stderr


def test_host_proxies_are_not_asked(lab: Lab, pods: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the host means nothing in a lab: `curl` in a pod must not try it."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert json.loads(_curl(lab, "node12", f"http://{pods['node21']}:8080"))["node"] == "node21"


@pytest.mark.parametrize("target", ["node", "pod"])
def test_exit_code_is_the_commands(lab: Lab, pods: dict[str, str], target: str) -> None:
    """`exec` gives the command's own exit code, input and output."""
    where = "node12" if target == "node" else _pod(lab, "node12")
    done = lab.run(where, ["sh", "-c", "cat; exit 7"], input="through", capture_output=True)
    assert (done.returncode, done.stdout) == (7, "through")


@pytest.mark.parametrize(
    "target", ["nosuch", "default/nosuch", "../../etc", "default/../x", "default/*", "*/*", "/", "node12/"]
)
def test_unknown_target_is_named(lab: Lab, target: str) -> None:
    """What is neither node nor pod is a sentence."""
    with pytest.raises(LabError, match=r"no (node|pod) "):
        lab.command(target, ["true"])


def test_nobody_is_let_in_without_credentials(lab: Lab) -> None:
    """Anonymous requests get the health endpoints and nothing else."""
    server = "https://172.31.0.1:6443"
    code = ["-o", "/dev/null", "-w", "%{http_code}"]
    assert _curl(lab, "node12", f"{server}/readyz", "-k", *code) == "200"
    assert _curl(lab, "node12", f"{server}/api", "-k", *code) == "401"
    assert _curl(lab, "node12", f"{server}/version", "-k", *code) == "401"


def _kubectl_as(lab: Lab, part: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run kubectl on node12 with the credentials that `part` has there, straight at the API server."""
    program = json.loads(lab.layout.config.read_text())["binaries"]["kubectl"]
    kubeconfig = lab.layout.node("node12") / f"{part}.kubeconfig"
    argv = [program, f"--kubeconfig={kubeconfig}", "--server=https://172.31.0.1:6443", *args]
    return lab.run("node12", argv, capture_output=True)


@pytest.mark.parametrize(
    ("part", "allowed", "forbidden"),
    [
        ("kubelet", ("update", "leases/node12", "-n", "kube-node-lease"), ("create", "deployments")),
        ("kube-proxy", ("watch", "services"), ("list", "secrets")),
        ("coredns", ("watch", "services"), ("list", "secrets")),
        ("agent", ("watch", "endpointslices"), ("list", "pods")),
    ],
)
def test_components_have_their_own_rights(
    lab: Lab, part: str, allowed: tuple[str, ...], forbidden: tuple[str, ...]
) -> None:
    """Each component may do what it must and not what it need not, so a missing rule is found before a user does."""
    assert _kubectl_as(lab, part, "auth", "can-i", *allowed).stdout == "yes\n"
    assert _kubectl_as(lab, part, "auth", "can-i", *forbidden).stdout == "no\n"


@pytest.mark.parametrize("label", ["node-restriction.kubernetes.io/x=y", "node-role.kubernetes.io/edge=y"])
def test_kubelet_cannot_set_every_label(lab: Lab, label: str) -> None:
    """NodeRestriction holds, even for a kubelet's own Node."""
    done = _kubectl_as(lab, "kubelet", "label", "node", "node12", label)
    assert "is not allowed to modify labels" in done.stderr


def test_kubelet_cannot_see_another_node(lab: Lab) -> None:
    """The Node authorizer holds: credentials of one site are of no use against another."""
    assert "only its own Node object" in _kubectl_as(lab, "kubelet", "get", "node", "node14").stderr


def test_host_kubectl_works(lab: Lab) -> None:
    """The kubeconfig works on the host, by its loopback."""
    server = json.loads(lab.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    assert server.startswith("https://127.0.0.1:")
    assert lab.kubectl("get", "--raw", "/readyz").stdout == "ok"


def test_kubectl_failure_is_an_error(lab: Lab) -> None:
    """kubectl's own words are in the error, unless the caller wants to look himself."""
    with pytest.raises(LabError, match="nosuch"):
        lab.kubectl("get", "nosuch")
    assert lab.kubectl("get", "nosuch", check=False).returncode == 1


def _process(lab: Lab, name: str) -> ProcessStatus:
    return next(process for process in lab.status().processes if process.name == name)


def test_killed_process_comes_back(lab: Lab, until: Until) -> None:
    """`kill` is a crash: the process is there again, under another id, and the crash is counted."""
    before = _process(lab, "coredns@node23")
    lab.process("coredns@node23", "kill")
    until(lambda: _process(lab, "coredns@node23").pid not in (None, before.pid), "CoreDNS runs again")
    assert _process(lab, "coredns@node23").restarts == before.restarts + 1


def test_stopped_process_stays_away(lab: Lab, until: Until) -> None:
    """`stop` is obeyed until `start`."""
    lab.process("coredns@node23", "stop")
    assert not _process(lab, "coredns@node23").running
    lab.process("coredns@node23", "start")
    until(lambda: _process(lab, "coredns@node23").running, "CoreDNS runs again")


@pytest.mark.parametrize(
    ("name", "action", "message"),
    [("nosuch", "stop", "no process 'nosuch'"), ("etcd", "tickle", "unknown action 'tickle'")],
)
def test_wrong_process_verbs_are_named(lab: Lab, name: str, action: str, message: str) -> None:
    """Unknown names and actions are sentences."""
    with pytest.raises(LabError, match=message):
        lab.process(name, action)


def test_orphans_are_reaped(lab: Lab, until: Until) -> None:
    """Process 1 leaves no zombies of processes whose parent has gone."""
    supervisor = lab.supervisor_pid
    lab.run("node12", ["sh", "-c", "sh -c 'sleep 0.01' & exit 0"], check=True)

    def zombies() -> list[str]:
        """Return the states of process 1's children that wait to be reaped (proc(5), stat)."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, parent, *_ = path.read_text().rpartition(")")[2].split()
                found += [state] if state == "Z" and int(parent) == supervisor else []
        return found

    until(lambda: not zombies(), "no zombie is left")
