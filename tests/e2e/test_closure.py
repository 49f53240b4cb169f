"""Traffic of the article's example stays in its site: behind real kube-proxies, counted request by request."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sitegrid.lab.clients import Clients, Target, wait_until
from sitegrid.lab.lab import Lab
from sitegrid.lab.matrix import Matrix

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "http://servicegrid-demo-svc/"
PORT = 30080

PLAIN_SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: plain}
spec:
  selector: {appGrid: nginx}
  ports: [{port: 80}]
"""


def both_ways(clients: Clients, nodes: Sequence[str]) -> list[Target]:
    """Return the Service's name and the node's own NodePort for each of `nodes`, once they all answer."""
    targets = [(node, url) for node in nodes for url in (NAME, clients.node_url(node, PORT))]
    clients.until_answered(targets)
    return targets


def check_closed(matrix: Matrix, at_least: int) -> None:
    """Fail unless at least that many requests were sent, all answered by their own site."""
    assert matrix.requests >= at_least, matrix.render()
    assert (matrix.misplaced, matrix.lost) == (0, 0), "\n" + matrix.render()


def test_two_thousand_requests_by_name_and_node_port_stay_in_their_site(walkthrough: Clients) -> None:
    """No request of 2,000 is answered outside its site or not at all."""
    members = walkthrough.members("zone")
    matrix = walkthrough.measure(both_ways(walkthrough, list(members)), members, 250)
    check_closed(matrix, 2_000)


def test_the_measure_sees_a_leak(walkthrough: Clients, lab: Lab) -> None:
    """A plain Service over the same pods is answered by other sites as well: the matrix can fail."""
    lab.kubectl("apply", "-f", "-", input=PLAIN_SERVICE)
    try:
        members = walkthrough.members("zone")
        targets = [(node, "http://plain/") for node in members]
        walkthrough.until_answered(targets)
        assert walkthrough.measure(targets, members, 50).misplaced > 0
    finally:
        lab.kubectl("delete", "service", "plain")


def test_closure_check_fails_with_kube_proxy_off_the_agent(walkthrough: Clients, lab: Lab) -> None:
    """The same count over a node whose kube-proxy asks the API server straight is not clean: nothing is reached."""
    members = walkthrough.members("zone")
    targets = both_ways(walkthrough, ["node14"])
    lab.set_agent("node14", False)
    try:
        assert wait_until(lambda: not any(walkthrough.ask(target, 1)["answers"] for target in targets))
        matrix = walkthrough.measure(targets, members, 3)
        with pytest.raises(AssertionError):
            check_closed(matrix, 6)
        assert matrix.lost == matrix.requests
    finally:
        lab.set_agent("node14", True)
    check_closed(walkthrough.measure(both_ways(walkthrough, ["node14"]), members, 20), 40)


def test_a_second_group_divides_the_nodes_by_its_own_key(walkthrough: Clients, lab: Lab, examples: str) -> None:
    """Only the node labelled `test` is served by the group on key `test`; all others reach nothing of it."""
    lab.kubectl("apply", "-f", f"{examples}/second-group.yaml")
    try:
        url = "http://probe-svc/"
        walkthrough.until_answered([("node12", url)])
        sites = walkthrough.sites("test")
        matrix = walkthrough.measure([(node, url) for node in sites], sites, 3)
        assert matrix.answers == {("a1", "a1"): 3}, "\n" + matrix.render()
    finally:
        lab.kubectl("delete", "--wait=false", "-f", f"{examples}/second-group.yaml")


def test_traffic_goes_on_while_the_wan_is_cut(walkthrough: Clients, lab: Lab) -> None:
    """A site without its API server answers its own requests, by name and by NodePort."""
    members = walkthrough.members("zone")
    nodes = [node for node, site in members.items() if site == "NodeUnit2"]
    targets = both_ways(walkthrough, nodes)
    lab.cut_wan("zone=NodeUnit2")
    try:
        matrix = walkthrough.measure(targets, members, 50)
    finally:
        lab.restore_wan("zone=NodeUnit2")
    check_closed(matrix, 200)


def test_a_new_site_is_served_without_any_further_step(walkthrough: Clients, lab: Lab) -> None:
    """A node that gets a new value of the key has pods, a Service by name, and its own traffic only."""
    lab.add_node("node31", {})
    walkthrough.pod("node31")
    lab.kubectl("label", "node", "node31", "zone=NodeUnit3")
    try:
        targets = both_ways(walkthrough, ["node31"])
        check_closed(walkthrough.measure(targets, walkthrough.members("zone"), 50), 100)
    finally:
        lab.kubectl("label", "node", "node31", "zone-")


def test_a_node_that_leaves_its_unit_reaches_nothing(walkthrough: Clients, lab: Lab) -> None:
    """Taking the label off closes the node at once, though it ran in that unit before."""
    both_ways(walkthrough, ["node21"])
    lab.kubectl("label", "node", "node21", "zone-")
    try:
        assert wait_until(lambda: not walkthrough.ask(("node21", NAME), 1)["answers"])
    finally:
        lab.kubectl("label", "node", "node21", "zone=NodeUnit2")
    members = walkthrough.members("zone")
    check_closed(walkthrough.measure(both_ways(walkthrough, ["node21"]), members, 20), 40)


@pytest.mark.parametrize("process", ["agent", "kube-proxy", "coredns"])
def test_a_killed_part_of_a_node_comes_back_without_a_leak(walkthrough: Clients, lab: Lab, process: str) -> None:
    """After kill -9 of one part, the node's requests are answered by its own site again."""
    members = walkthrough.members("zone")
    both_ways(walkthrough, ["node12"])
    lab.process(f"{process}@node12", "kill")
    matrix = walkthrough.measure([("node12", NAME)] * 2, members, 50)
    assert matrix.misplaced == 0, "\n" + matrix.render()
    check_closed(walkthrough.measure(both_ways(walkthrough, ["node12"]), members, 20), 40)
