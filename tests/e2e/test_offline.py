"""A site without its WAN: every part of it restarts, a node reboots, and no request is lost that was not in flight.

Clients in pods send requests by name all the while, each with a fresh DNS look-up and a new connection, to a grid's
Service and to a plain one whose Deployment runs on the site's nodes (the article's autonomy of a single site). What a
fault may cost is what it kills: requests in flight to it, and on the node itself those sent until it is there again.
The other node of the site loses none to a restart of a part, since each node has its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sitegrid.lab.clients import entered, wait_until
from sitegrid.lab.lab import Lab
from tests.support.faultsite import (
    FAULTY,
    NO_ENDPOINTS,
    NODES,
    OTHER,
    PLAIN_URL,
    SITE,
    URL,
    FaultSite,
    check_nothing_happened,
    compact,
    metrics,
    tell,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def offline(site: FaultSite, lab: Lab) -> Iterator[FaultSite]:
    """Cut the WAN of NodeUnit2 once its agents have written what they know; restore it afterwards."""
    site.settle()
    lab.cut_wan(SITE)
    try:
        yield site
    finally:
        site.restore()


@pytest.mark.parametrize(
    "faults",
    [
        ["agent kill"],
        ["agent restart"],
        ["kube-proxy kill"],
        ["kube-proxy restart"],
        ["kubelet kill"],
        ["agent kill", "kube-proxy kill", "kubelet kill"],
        ["agent stop", "kube-proxy kill", "agent start"],
    ],
    ids=", ".join,
)
def test_restarts_lose_nothing(offline: FaultSite, lab: Lab, faults: list[str]) -> None:
    """None of agent, kube-proxy and kubelet is in the way of a request: all are answered, in the site."""

    def do() -> None:
        for fault in faults:
            process, action = fault.split()
            lab.process(f"{process}@{FAULTY}", action)

    check_nothing_happened(offline.fault(", ".join(faults), do))


@pytest.mark.parametrize("options", ["ro", "nr_inodes=1"])
def test_a_disk_that_takes_nothing_is_told_and_survived(site: FaultSite, lab: Lab, options: str) -> None:
    """With a read-only or full disk the agent serves as ever, and counts what it could not write."""
    directory = str(lab.layout.agent_data(FAULTY))
    lab.process(f"agent@{FAULTY}", "stop")
    lab.run(FAULTY, ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        lab.process(f"agent@{FAULTY}", "start")
        failures = 'snapshot_failures_total{reason="unwritable"}'
        assert wait_until(lambda: metrics(lab, FAULTY).get(failures, 0) > 1)
        assert wait_until(lambda: site.answers(FAULTY, 100, (URL,)))
    finally:
        lab.process(f"agent@{FAULTY}", "stop")
        lab.run(FAULTY, ["umount", directory], check=True)
        lab.process(f"agent@{FAULTY}", "start")
    assert wait_until(lambda: metrics(lab, FAULTY).get("snapshots_unwritten") == 0)


def test_a_read_only_disk_is_read_from(offline: FaultSite, lab: Lab) -> None:
    """An agent that starts offline on a disk that nothing can be written to goes on with what is there."""
    directory = str(lab.layout.agent_data(FAULTY))
    copy = (
        f"mount -t tmpfs tmpfs {directory}.ro; cp -a {directory}/. {directory}.ro; mount -o remount,ro {directory}.ro"
    )
    script = f"mkdir {directory}.ro; {copy}; mount --move {directory}.ro {directory}"
    lab.run(FAULTY, ["sh", "-ec", script], check=True)

    def restart() -> None:
        lab.process(f"agent@{FAULTY}", "kill")
        lab.process(f"kube-proxy@{FAULTY}", "kill")
        assert wait_until(lambda: metrics(lab, FAULTY).get("units", 0) > 0)

    try:
        check_nothing_happened(offline.fault("agent kill, disk ro", restart))
    finally:
        lab.process(f"agent@{FAULTY}", "stop")
        lab.run(FAULTY, ["umount", directory], check=True)
        lab.process(f"agent@{FAULTY}", "start")
        assert wait_until(lambda: metrics(lab, FAULTY).get("units", 0) > 0)


@pytest.mark.parametrize("action", ["kill", "restart"])
def test_a_dns_server_that_restarts_is_missed_on_its_node_only(offline: FaultSite, lab: Lab, action: str) -> None:
    """CoreDNS comes back from what its agent knows; the other node has its own and loses nothing."""
    seen = offline.fault(f"coredns {action}", lambda: lab.process(f"coredns@{FAULTY}", action))
    for (node, url), matrix in seen.items():
        assert matrix.misplaced == 0, "\n" + matrix.render()
        assert matrix.lost == 0 or node == FAULTY, f"{url}\n{matrix.render()}"


def test_a_node_reboots_without_the_cloud(offline: FaultSite, lab: Lab) -> None:
    """All of a node comes back from its disk, pods of plain Deployments too; then the cloud learns of it.

    The pods that ran are the pods that run: none is replaced, and the restart is reported when the WAN is back.
    """
    before = offline.pods()
    seen = offline.fault("node reboot", lambda: lab.reboot_node(FAULTY), (OTHER,))
    assert [matrix.misplaced for matrix in seen.values()] == [0, 0]
    assert wait_until(lambda: metrics(lab, FAULTY).get("wan_down") == 1)
    members = offline.clients.members("zone")
    after = offline.clients.measure([(node, url) for node in NODES for url in (URL, PLAIN_URL)], members, 50)
    assert (after.misplaced, after.lost) == (0, 0), "\n" + after.render()
    heard = {uid: restarts for uid, (_, restarts, _) in offline.pods().items()}
    assert heard == {uid: restarts for uid, (_, restarts, _) in before.items()}, "the cloud has heard nothing yet"
    offline.restore()
    wanted = {uid: (node, count + (node == FAULTY), True) for uid, (node, count, _) in before.items()}
    assert wait_until(lambda: offline.pods() == wanted), offline.pods()
    assert wait_until(lambda: not lab.kubectl("wait", "--for=condition=Ready", f"node/{FAULTY}").returncode)


def test_the_wan_comes_back_unnoticed(offline: FaultSite, lab: Lab) -> None:
    """After restarts offline, the site's traffic goes on while its agents find the API server again; pods stay."""
    before = offline.pods()
    lab.process(f"agent@{FAULTY}", "stop")
    began = time.monotonic()
    lab.process(f"agent@{FAULTY}", "start")
    ready = ["curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:10351/sitegrid/readyz"]
    assert wait_until(lambda: not lab.run(FAULTY, ready).returncode)
    print(f"agent's process started offline until it serves: {time.monotonic() - began:.2f} s")
    for part in ("agent", "kube-proxy", "coredns", "kubelet"):
        lab.process(f"{part}@{FAULTY}", "kill")
    assert wait_until(lambda: offline.answers(FAULTY))
    check_nothing_happened(offline.fault("wan restored", offline.restore))
    assert wait_until(lambda: offline.pods() == before), offline.pods()


def test_a_wan_that_flaps_is_not_noticed(offline: FaultSite, lab: Lab) -> None:
    """Five times there and gone again: no request is lost or misplaced, no pod replaced."""
    before = offline.pods()

    def flap() -> None:
        for _ in range(5):
            offline.restore()
            lab.cut_wan(SITE)

    check_nothing_happened(offline.fault("wan flaps", flap))
    offline.restore()
    assert wait_until(lambda: offline.pods() == before), offline.pods()


@pytest.fixture
def told(site: FaultSite, lab: Lab, tmp_path: Path) -> Iterator[Callable[[], list[tuple[str, str]]]]:
    """Watch EndpointSlices through the faulty node's agent, from before any cut; yield what gives types and names.

    The API server's own slice is left out.
    """
    record = tmp_path / "events"
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?watch=true"

    def events() -> list[tuple[str, str]]:
        found = [json.loads(line) for line in record.read_text().splitlines(keepends=True) if line.endswith("\n")]
        names = [(event["type"], event["object"]["metadata"]["name"]) for event in found]
        return [(kind, name) for kind, name in names if name != "kubernetes"]

    argv = lab.command(FAULTY, ["curl", "-sN", "-m", "300", f"http://127.0.0.1:10351{path}"])
    with record.open("wb") as file, subprocess.Popen(argv, stdout=file) as process:
        try:
            assert wait_until(lambda: len(events()) >= 2)
            yield events
        finally:
            if process.poll() is None:
                os.kill(entered(process), signal.SIGKILL)


def test_an_api_server_that_has_forgotten_costs_a_list_and_no_more(
    told: Callable[[], list[tuple[str, str]]], offline: FaultSite, lab: Lab
) -> None:
    """It restarts while the site is cut off, its history compacted: agents list anew, and clients lose nothing.

    They are told of the one slice that changed meanwhile, and of no other.
    """

    def expired() -> float:
        found = metrics(lab, FAULTY)
        reasons = ("expired", "refused 410", "refused 504")
        return sum(found.get(f'upstream_failures_total{{reason="{reason}"}}', 0) for reason in reasons)

    pods, before, heard = offline.pods(), expired(), told()
    (kiosk,) = {name for _, name in heard if name.startswith("kiosk-")}
    lab.kubectl("label", "--overwrite", "service", "kiosk", "history=long")  # which Kubernetes copies to its slices

    def restart() -> None:
        compact(lab)
        lab.process("kube-apiserver", "restart")
        assert wait_until(lambda: not lab.kubectl("get", "--raw", "/readyz", check=False).returncode)
        offline.restore()
        assert wait_until(lambda: expired() > before)
        assert wait_until(lambda: told() != heard)

    check_nothing_happened(offline.fault("history lost", restart))
    assert told() == [*heard, ("MODIFIED", kiosk)]
    assert wait_until(lambda: offline.pods() == pods), offline.pods()


def test_a_node_relabelled_while_cut_off_moves_when_it_hears_of_it(offline: FaultSite, lab: Lab) -> None:
    """Until then it is served as before, by its own site; afterwards by the new one alone; in between by nobody.

    Its agent takes the former unit's endpoints away at once, and those of the new one come one list later (closed
    before open, I1). kube-proxy writes the former at once and the latter at most a second later (minSyncPeriod): what
    is asked for by name in between is refused. Its site's other node loses nothing.
    """
    old, targets = offline.clients.members("zone"), [(node, URL) for node in NODES]
    lab.kubectl("label", "--overwrite", "node", FAULTY, "zone=NodeUnit1")
    try:
        new = offline.clients.members("zone")
        assert new[FAULTY] == "NodeUnit1"
        with offline.clients.sending(targets, old) as seen:
            cut = offline.clients.measure(targets, old, 50)
            assert (cut.misplaced, cut.lost) == (0, 0), "\n" + cut.render()
            offline.restore()
            # Requests do not tell: affinity may have kept the client on its own node's pod all the time.
            assert wait_until(lambda: offline.in_rules(FAULTY) >= {f"{FAULTY}:80", "node12:80"})
            after = offline.clients.measure(targets, new, 100)
        tell("relabelled while cut", seen)
        assert (after.misplaced, after.lost) == (0, 0), "\n" + after.render()
        check_nothing_happened({(OTHER, URL): seen[OTHER, URL]})
        assert {reason for _, reason in seen[FAULTY, URL].losses} <= NO_ENDPOINTS, "\n" + seen[FAULTY, URL].render()
    finally:
        lab.kubectl("label", "--overwrite", "node", FAULTY, "zone=NodeUnit2")
    assert wait_until(lambda: f"{OTHER}:80" in offline.in_rules(FAULTY))


def test_writes_fail_at_once(offline: FaultSite, lab: Lab) -> None:
    """What needs the API server is a 503 Status with Retry-After, and no wait for TCP."""
    lab.process(f"agent@{FAULTY}", "kill")
    assert wait_until(lambda: metrics(lab, FAULTY).get("wan_down") == 1)
    argv = ["curl", "-si", "-m", "5", "-X", "POST", "-d", "{}", "-w", "\nseconds: %{time_total}"]
    answer = lab.run(FAULTY, [*argv, "http://127.0.0.1:10351/api/v1/namespaces"], capture_output=True).stdout
    print(f"write while the WAN is cut: {answer.splitlines()[-1]}")
    assert answer.startswith("HTTP/1.1 503 ")
    assert "retry-after:" in answer.lower()
    assert '"reason":"ServiceUnavailable"' in answer


def test_a_corrupt_snapshot_is_never_shown(offline: FaultSite, lab: Lab) -> None:
    """With every file torn, an offline start knows nothing, says so, and goes on when the WAN is back."""
    lab.process(f"agent@{FAULTY}", "stop")
    for file in lab.layout.agent_data(FAULTY).glob("*.snapshot"):
        os.truncate(file, file.stat().st_size // 2)
    members = offline.clients.members("zone")
    lab.process(f"agent@{FAULTY}", "start")
    assert wait_until(lambda: metrics(lab, FAULTY).get('snapshot_failures_total{reason="damaged"}', 0) > 0)
    status = ["curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}"]
    assert lab.run(FAULTY, [*status, "http://127.0.0.1:10351/sitegrid/readyz"], capture_output=True).stdout == "503"
    # kube-proxy has its rules: what it knew before goes on.
    matrix = offline.clients.measure([(FAULTY, URL), (OTHER, URL)], members, 20)
    assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()
