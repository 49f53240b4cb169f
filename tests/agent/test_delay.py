"""What a change at the real API server is to a client of the agent: exactly its events, and how soon they come.

The delays, from the API server's answer to the event at the client, are printed (``pytest -rP``) and never judged.
"""

from __future__ import annotations

import json
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

NAMESPACE = "delay"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
KEY = "tkeedge.io/grid-uniq-key"
NODE = "/api/v1/nodes/n1"


class Stream:
    """A client's watch, from now on."""

    def __init__(self, cluster: Any, agent: str, path: str) -> None:
        rv = json.loads(cluster.request("GET", path, base=agent)[1])["metadata"]["resourceVersion"]
        request = urllib.request.Request(f"{agent}{path}?watch=true&resourceVersion={rv}")
        context = ssl.create_default_context(cafile=str(cluster.directory / "tls.crt"))
        self.response = urllib.request.urlopen(request, timeout=20, context=context)

    def next(self) -> tuple[str, str]:
        """Return type and name of the next event."""
        event = json.loads(self.response.readline())
        return event["type"], event["object"]["metadata"]["name"]


class Delays:
    """Measures changes."""

    def __init__(self) -> None:
        self.table: list[str] = []

    def hold(self, what: str, act: Callable[[], Any], stream: Stream, *events: tuple[str, str]) -> None:
        """Make a change; the stream's next events must be these."""
        act()
        done = time.perf_counter()
        assert [stream.next() for _ in events] == list(events), what
        self.table.append(f"{what:45} {(time.perf_counter() - done) * 1000:8.1f} ms")


@pytest.fixture
def patch(cluster: Any) -> Callable[[str, Any], None]:
    """Give the function that changes an object at the API server."""

    def send(path: str, body: Any) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        status, answer = cluster.request("PATCH", path, body, headers=headers)
        assert status == 200, answer

    return send


@pytest.fixture
def streams(cluster: Any, cluster_agent: str, objects: Any) -> Iterator[tuple[Stream, Stream]]:
    """Give watches of slices and of Services, of a grid with pods in two units, on a node in the first."""
    cluster.write("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    labels = {KEY: "zone", "service.kubernetes.io/service-proxy-name": "sitegrid"}
    for name in ("web", "other"):
        meta = {"name": name, "labels": labels}
        cluster.write("POST", SERVICES, {"metadata": meta, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}})
    for unit in ("u1", "u2"):
        obj = objects.unit(f"zone.{unit}", "10.1.0.1")
        obj["metadata"]["namespace"] = NAMESPACE
        cluster.write("POST", SLICES, obj)
    found = Stream(cluster, cluster_agent, SLICES), Stream(cluster, cluster_agent, SERVICES)
    yield found
    for stream in found:
        stream.response.close()


def test_every_change_is_told_as_what_it_is(
    cluster: Any, streams: tuple[Stream, Stream], patch: Callable[[str, Any], None]
) -> None:
    """A slice, a Service, its key, the node's unit, a deletion: the events of what changed and of nothing else."""
    slices, services = streams
    delays = Delays()

    def relabel(unit: str) -> None:
        patch(NODE, {"metadata": {"labels": {"zone": unit}}})

    def rekey(key: str) -> None:
        patch(f"{SERVICES}/web", {"metadata": {"labels": {KEY: key}}})

    own, other = "web-zone.u1", "web-zone.u2"
    endpoints = {"endpoints": [{"addresses": ["10.1.0.2"]}]}
    affinity = {"spec": {"sessionAffinity": "ClientIP"}}
    try:
        delays.hold("own slice changed", lambda: patch(f"{SLICES}/{own}", endpoints), slices, ("MODIFIED", own))
        delays.hold("Service changed", lambda: patch(f"{SERVICES}/web", affinity), services, ("MODIFIED", "web"))
        delays.hold("Service's key changed", lambda: rekey("rack"), services, ("DELETED", "web"))
        delays.hold("and back", lambda: rekey("zone"), services, ("ADDED", "web"))
        moved = (("DELETED", own), ("ADDED", other))
        delays.hold("node relabelled to another unit", lambda: relabel("u2"), slices, *moved)
        delays.hold("and back", lambda: relabel("u1"), slices, ("DELETED", other), ("ADDED", own))
    finally:
        relabel("u1")
    delays.hold("slice deleted", lambda: cluster.write("DELETE", f"{SLICES}/{own}"), slices, ("DELETED", own))
    delays.hold("Service deleted", lambda: cluster.write("DELETE", f"{SERVICES}/web"), services, ("DELETED", "web"))
    # Nothing else was told meanwhile: what comes next is the next change.
    delays.hold("marker", lambda: patch(f"{SERVICES}/other", affinity), services, ("MODIFIED", "other"))
    print("\n".join(delays.table))
