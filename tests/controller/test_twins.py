"""A grid's Service behind an agent is what a plain Service would be if there were the unit's pods only.

Each case is a ServiceGrid's template and, in each unit's own namespace, a plain Service of the same name and spec
over copies of the unit's pods (`tests.support.twins`). Kubernetes' controllers make slices and Endpoints of both; the
sitegrid controller and one agent of each unit do their work in between.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.twins import MEDIA_TYPES, NOTHING, PATHS, UNITS, Answer, Manifest, Pod, Scene, in_order

pytestmark = pytest.mark.cluster

RBAC = Path(__file__).parents[2] / "deploy" / "rbac" / "agent.yaml"
AGENT = "system:serviceaccount:sitegrid-system:sitegrid-agent"
PATIENCE = 60.0
"""Seconds that agents may be behind the API server."""
NODE_PORT = 30007
"""Of those that the API server gives only to who asks for one."""

PODS = [
    Pod("plain", udp={"dns": 5353}),
    Pod("other-number", ports={"http": 9090, "admin": 9091}, udp={"dns": 53}, node=2),
    Pod("same-number", node=2, hostname="named"),
    Pod("no-such-port", ports={"admin": 9091}),
    Pod("unready", ready=False, node=2),
    Pod("ending", deleted=True),
    Pod("ending-unready", deleted=True, ready=False),
    Pod("ended", phase="Succeeded", ready=False),
    Pod("failed", phase="Failed", ready=False),
    Pod("starting", phase="Pending", ready=False, families=""),
    Pod("four", families="4"),
    Pod("six", families="6", node=2),
    Pod("six-first", families="64", node=2),
    Pod("hostname", hostname="db-0", subdomain="hosts"),
    Pod("hostname-headless", hostname="db-1", subdomain="headless-hosts", node=2),
    Pod("hostname-unready", hostname="db-2", subdomain="headless-hosts", ready=False),
    Pod("subdomain", subdomain="hosts"),
    # Named as by a controller, which is no reason for one to be as the other.
    *(Pod(f"made-*-{end}", hostname=f"db-{end}", subdomain="hosts") for end in ("bcdfg", "hjklm", "npqrs", "tvwxz")),
]
"""Of each unit; all Services but those of the last tests select them."""

SELECTOR = {"app": "web"}
PORT = {"port": 80, "targetPort": 8080}
NAMED = [
    {"name": "web", "port": 80, "targetPort": "http", "appProtocol": "kubernetes.io/h2c"},
    {"name": "admin", "port": 81, "targetPort": "admin"},
]
BOTH = {"ipFamilyPolicy": "RequireDualStack"}
LOCAL = {"externalTrafficPolicy": "Local"}
STICKY = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}}}
POLICIES: list[Manifest] = [
    {},
    {"ipFamilies": ["IPv6"]},
    {"ipFamilyPolicy": "SingleStack"},
    {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]},
    {"ipFamilyPolicy": "PreferDualStack"},
    {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]},
    {"ipFamilyPolicy": "RequireDualStack"},
    {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]},
]


def _families(prefix: str, spec: Manifest) -> dict[str, Manifest]:
    """Return a case for each way to ask for address families."""
    return {
        "-".join([prefix, *policy.get("ipFamilies", ()), policy.get("ipFamilyPolicy", "default")]).lower(): spec
        | policy
        for policy in POLICIES
    }


CASES: dict[str, Manifest] = {
    "number": {"ports": [PORT]},
    "named": {"ports": NAMED, **BOTH},
    "protocols": {
        "ports": [
            {"name": "tcp", "port": 53, "targetPort": 8080},
            {"name": "udp", "port": 53, "targetPort": "dns", "protocol": "UDP"},
            {"name": "sctp", "port": 53, "targetPort": 9999, "protocol": "SCTP"},
        ]
    },
    "unready": {"ports": NAMED, "publishNotReadyAddresses": True, **BOTH},
    "hosts": {"ports": NAMED, **BOTH},
    "headless-hosts": {"clusterIP": "None", "ports": NAMED, **BOTH},
    "headless-number": {"clusterIP": "None", "ports": [PORT]},
    "headless-no-ports": {"clusterIP": "None", **BOTH},
    "headless-unready": {"clusterIP": "None", "ports": NAMED, "publishNotReadyAddresses": True},
    "internal-local": {"ports": [PORT], "internalTrafficPolicy": "Local"},
    "sticky": {"ports": [PORT], **STICKY},
    "node-port": {"type": "NodePort", "ports": NAMED, **BOTH},
    "node-port-local": {"type": "NodePort", "ports": NAMED, **LOCAL, **STICKY},
    "balancer": {"type": "LoadBalancer", "ports": NAMED, "loadBalancerSourceRanges": ["192.0.2.0/24"]},
    "balancer-local": {"type": "LoadBalancer", "ports": NAMED, **LOCAL, **BOTH},
    "balancer-no-ports": {
        "type": "LoadBalancer",
        "ports": NAMED,
        "allocateLoadBalancerNodePorts": False,
        "loadBalancerClass": "example.com/none",
    },
    "external-addresses": {"ports": [PORT], "externalIPs": ["192.0.2.1"], **LOCAL},
    "external-name": {"type": "ExternalName", "externalName": "web.example.com"},
    "external-name-ports": {"type": "ExternalName", "externalName": "web.example.com", "ports": NAMED},
    "close": {"ports": NAMED, "trafficDistribution": "PreferClose", **BOTH},
    "same-zone": {"ports": NAMED, "trafficDistribution": "PreferSameZone"},
    "same-node": {"ports": NAMED, "trafficDistribution": "PreferSameNode", "publishNotReadyAddresses": True},
    "headless-same-node": {"clusterIP": "None", "ports": NAMED, "trafficDistribution": "PreferSameNode"},
    "nothing": {"ports": NAMED, "selector": {"app": "none"}, **BOTH},
    "headless-nothing": {"clusterIP": "None", "selector": {"app": "none"}},
    "no-selector": {"ports": NAMED, "selector": None},
    "empty-selector": {"ports": NAMED, "selector": {}},
    "headless-no-selector": {"clusterIP": "None", "ports": NAMED, "selector": None},
    **_families("cluster", {"ports": [PORT]}),
    **_families("headless", {"clusterIP": "None", "ports": [PORT]}),
}
"""What is not named selects `SELECTOR`; None takes a field out."""

_ASKED = {
    **_families("cluster", {"ports": [PORT]}),
    **_families("headless", {"clusterIP": "None", "ports": [PORT]}),
    **_families("headless-no-selector", {"clusterIP": "None", "ports": [PORT], "selector": None}),
}
REFUSED = {
    name: case
    for name, case in _ASKED.items()
    if "selector" not in case and ("ipFamilies" in case or case.get("ipFamilyPolicy") == "RequireDualStack")
}
"""What Kubernetes gives no Service for in a cluster without IPv6; without endpoints it may be headless."""
SINGLE_STACK = {name: case for name, case in _ASKED.items() if name not in REFUSED}


class Change(NamedTuple):
    """What changes: the Service's spec by a merge patch, or the pods that it selects."""

    patch: Manifest | None = None
    after: Sequence[Pod] | None = None
    before: Sequence[Pod] = (Pod("one"), Pod("two", node=2))
    spec: Manifest = {"ports": NAMED, **BOTH}  # noqa: RUF012 - no field of a class


_STAYS = Pod("two", node=2)
CHANGES: dict[str, Change] = {
    "gets-ready": Change(before=[Pod("one", ready=False), _STAYS], after=[Pod("one"), _STAYS]),
    "gets-unready": Change(after=[Pod("one", ready=False), _STAYS]),
    "is-deleted": Change(after=[Pod("one", deleted=True), _STAYS]),
    "ends-serving": Change(
        before=[Pod("one", deleted=True), _STAYS], after=[Pod("one", deleted=True, ready=False), _STAYS]
    ),
    "completes": Change(after=[Pod("one", phase="Succeeded", ready=False), _STAYS]),
    "is-gone": Change(after=[_STAYS]),
    "all-are-gone": Change(after=[]),
    "first-one-comes": Change(before=[], after=[Pod("one")]),
    "gets-an-address": Change(
        before=[Pod("one", families="4", ready=False), _STAYS], after=[Pod("one", ready=False), _STAYS]
    ),
    "gets-its-subdomain": Change(
        before=[Pod("one", hostname="db", subdomain="other"), _STAYS],
        after=[Pod("one", hostname="db", subdomain="gets-its-subdomain"), _STAYS],
    ),
    "loses-its-subdomain": Change(
        before=[Pod("one", hostname="db", subdomain="loses-its-subdomain"), _STAYS],
        after=[Pod("one", hostname="db", subdomain="other"), _STAYS],
        spec={"clusterIP": "None", "ports": NAMED, **BOTH},
    ),
    "gets-another-hostname": Change(
        before=[Pod("one", hostname="db-0", subdomain="gets-another-hostname"), _STAYS],
        after=[Pod("one", hostname="db-1", subdomain="gets-another-hostname"), _STAYS],
    ),
    "has-another-number": Change(after=[Pod("one", ports={"http": 8081}), _STAYS]),
    "port-renamed": Change({"ports": [{"name": "renamed", "port": 80, "targetPort": "http"}]}),
    "port-added": Change({"ports": [*NAMED, {"name": "third", "port": 82}]}),
    "target-changed": Change({"ports": [{"name": "web", "port": 80, "targetPort": 1234}]}),
    "protocol-changed": Change({"ports": [{"name": "web", "port": 80, "protocol": "SCTP"}]}),
    "selector-changed": Change({"selector": {"app": "web"}}),
    "unready-published": Change({"publishNotReadyAddresses": True}, before=[Pod("one", ready=False), _STAYS]),
    "unready-hidden": Change(
        {"publishNotReadyAddresses": None},
        before=[Pod("one", ready=False), _STAYS],
        spec={"ports": NAMED, "publishNotReadyAddresses": True},
    ),
    "gets-both-families": Change({"ipFamilyPolicy": "PreferDualStack"}, spec={"ports": NAMED}),
    "headless-gets-both-families": Change(
        {"ipFamilyPolicy": "RequireDualStack"}, spec={"clusterIP": "None", "ports": NAMED}
    ),
    "loses-a-family": Change({"ipFamilyPolicy": "SingleStack"}),
    "gets-close": Change({"trafficDistribution": "PreferSameNode"}),
    "gets-far": Change({"trafficDistribution": None}, spec={"ports": NAMED, "trafficDistribution": "PreferClose"}),
    "gets-a-node-port": Change({"type": "NodePort"}),
    "gets-a-balancer": Change({"type": "LoadBalancer", **LOCAL}),
    "gets-sticky": Change({"sessionAffinity": "ClientIP"}),
}
"""Each with pods of its own, in one unit; the other one has none."""


def _spec(case: Manifest, app: str = "web") -> Manifest:
    return {key: value for key, value in ({"selector": {"app": app}} | case).items() if value is not None}


def _of(app: str, pods: Iterable[Pod]) -> list[Pod]:
    """Return the pods as those of one Service alone, under names of their own."""
    return [pod._replace(name=f"{app}-{pod.name}", app=app) for pod in pods]


@contextlib.contextmanager
def _scene(
    running: Any, wait_for: Any, cases: Mapping[str, Manifest], changes: Mapping[str, Change]
) -> Iterator[Scene]:
    """Make all pods and Services at once; agents know their units then, and twins are what they should be."""
    plane = running.plane
    plane.kubectl("apply", "-f", str(RBAC))
    scene = Scene(plane, plane.kubeconfig(AGENT))
    try:
        for unit in UNITS:
            scene.add_pods(PODS, unit)
        for name, case in cases.items():
            scene.add(name, _spec(case))
        for name, change in changes.items():
            scene.add_pods(_of(name, change.before), "a")
            scene.add(name, _spec(change.spec, name))
        for unit in UNITS:
            wait_for(lambda unit=unit: scene.agent_ready(unit), f"the agent of {unit}", dump=scene.log)
        selected = {name: PODS if case.get("selector", SELECTOR) == SELECTOR else [] for name, case in cases.items()}
        before = {("a", name): [("a", pod) for pod in _of(name, change.before)] for name, change in changes.items()}
        _wait_settled(scene, _everywhere(selected) | before, wait_for)
        yield scene
    finally:
        scene.close()


@pytest.fixture(scope="module")
def scene(running: Any, wait_for: Any) -> Iterator[Scene]:
    """All cases and changes, in a cluster of both families."""
    with _scene(running, wait_for, CASES, CHANGES) as scene:
        yield scene


@pytest.fixture(scope="module")
def single(single_stack: Any, wait_for: Any) -> Iterator[Scene]:
    """The ways to ask for families, in a cluster of one."""
    with _scene(single_stack, wait_for, SINGLE_STACK, {}) as scene:
        yield scene


_Place = tuple[str, str]
"""A unit and a Service's name."""


def _everywhere(pods: Mapping[str, Sequence[Pod]]) -> dict[_Place, list[tuple[str, Pod]]]:
    """Return what the twins of all units select, where each unit has these pods of a Service: with their unit."""
    return {(unit, name): [(unit, pod) for pod in some] for unit in UNITS for name, some in pods.items()}


def _wait_settled(scene: Scene, selected: Mapping[_Place, Sequence[tuple[str, Pod]]], wait_for: Any) -> None:
    """Wait until each twin has the endpoints of the pods that it selects."""
    last: list[object] = []

    def settled() -> bool:
        for (unit, name), pods in selected.items():
            service = scene.twin(unit)[name]
            last[:] = [unit, name, _states(service), _expected(scene, service, name, pods)]
            if last[2] != last[3]:
                scene.twin(unit, again=True)
                return False
        return True

    wait_for(settled, "the twins' slices", dump=lambda: str(last))


def _states(answer: Answer) -> dict[str, tuple[bool, bool, str | None]]:
    return {
        endpoint["addresses"][0]: (
            endpoint["conditions"]["serving"],
            endpoint["conditions"]["terminating"],
            endpoint.get("hostname"),
        )
        for _, _, endpoints in answer.slices
        for endpoint in endpoints
    }


def _expected(
    scene: Scene, answer: Answer, name: str, pods: Iterable[tuple[str, Pod]]
) -> dict[str, tuple[bool, bool, str | None]]:
    assert answer.service is not None
    families = answer.service["spec"].get("ipFamilies", ())
    return {
        address: (pod.ready, pod.deleted, pod.hostname if pod.hostname and pod.subdomain == name else None)
        for unit, pod in pods
        if pod.phase not in ("Succeeded", "Failed")
        for family, address in scene.addresses(pod, unit).items()
        if family in families
    }


def _as_it_is(unit: str, twin: Answer) -> Answer:
    return twin


def _compare(scene: Scene, name: str, wait_for: Any, wanted: Callable[[str, Answer], Answer] = _as_it_is) -> None:
    """Wait until each unit's agent tells of a Service what the API server tells of its twin, in both languages.

    `wanted` is what the agent of a unit is to tell where the twin is told so.
    """
    for unit, media_type in product(UNITS, MEDIA_TYPES):

        def pair(unit: str = unit, media_type: str = media_type, *, again: bool) -> list[Manifest]:
            shown, twin = (read(unit, media_type, again=again) for read in (scene.shown, scene.twin))
            return [shown.get(name, NOTHING)._asdict(), wanted(unit, twin.get(name, NOTHING))._asdict()]

        def equal(pair: Callable[..., list[Manifest]] = pair) -> bool:
            pairs = (pair(again=again) for again in (False, True))
            return any(shown == twin and twin["service"] is not None for shown, twin in pairs)

        with contextlib.suppress(pytest.fail.Exception):
            wait_for(equal, name, timeout=PATIENCE)
        shown, twin = pair(again=False)
        assert shown == twin, (unit, media_type)


@pytest.mark.parametrize("name", CASES)
def test_a_service_is_as_its_twin(scene: Scene, wait_for: Any, name: str) -> None:
    """Service, EndpointSlices and Endpoints, as JSON and protobuf."""
    _compare(scene, name, wait_for)


@pytest.fixture(scope="module")
def changed(scene: Scene, wait_for: Any) -> dict[str, Answer]:
    """All changes at once, once agents tell what was before them, which is returned."""
    for name in CHANGES:
        _compare(scene, name, wait_for)
    before = {name: scene.twin("a")[name] for name in CHANGES}
    after = {}
    for name, change in CHANGES.items():
        if change.patch is not None:
            scene.change(name, change.patch)
        pods = change.before if change.after is None else change.after
        scene.change_pods(_of(name, change.before), _of(name, pods), "a")
        selected = PODS if "selector" in (change.patch or {}) else _of(name, pods)
        after["a", name] = [("a", pod) for pod in selected]
    _wait_settled(scene, after, wait_for)
    return before


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_as_its_twins(scene: Scene, changed: dict[str, Answer], wait_for: Any, name: str) -> None:
    """Of pods or of the Service: after it nothing is left of what was before."""

    def moved() -> bool:
        return any(scene.twin("a", again=again)[name] != changed[name] for again in (False, True))

    wait_for(moved, f"the change of {name}'s twin", timeout=PATIENCE)
    _compare(scene, name, wait_for)


def test_a_borrower_has_its_neighbours_ready_pods_too(scene: Scene, wait_for: Any) -> None:
    """By `fallback`: as a Service would be that selects them; with the first own pod that is ready they are gone."""
    lent, *kept = _of("borrowed", [Pod("one"), Pod("two", ready=False), Pod("three", deleted=True, node=2)])
    unready = _of("borrowed", [Pod("own", ready=False)])
    ready = _of("borrowed", [Pod("own")])
    fallback = [{"units": {"names": ["b"]}, "to": ["a"]}]
    scene.add("borrowed", _spec({"ports": NAMED, **BOTH}, "borrowed"), fallback=fallback)
    scene.add_pods([lent, *kept], "a")
    scene.add_pods(unready, "b")
    scene.add_pod(lent, "a", scene.twins["b"])
    for unit in UNITS:
        scene.twin(unit, again=True)
    _wait_settled(scene, {("b", "borrowed"): [("a", lent), ("b", unready[0])]}, wait_for)
    _compare(scene, "borrowed", wait_for)
    scene.change_pods(unready, ready, "b")
    scene.remove_pod(lent, "a", [scene.twins["b"]])
    _wait_settled(scene, {("b", "borrowed"): [("b", ready[0])]}, wait_for)
    _compare(scene, "borrowed", wait_for)


def test_what_a_site_has_different_is_as_if_its_service_had(scene: Scene, wait_for: Any) -> None:
    """By `overrides`, for one of the units."""
    notes, addresses = {"example.com/note": "here"}, {"externalIPs": ["192.0.2.9"]}
    patch = {**addresses, "annotations": notes, "nodePorts": {"web": NODE_PORT}}
    template = _spec({"type": "NodePort", "ports": NAMED, "externalIPs": ["192.0.2.1"], **LOCAL})
    twins = {"a": {"spec": addresses, "metadata": {"annotations": notes}}}
    scene.add("different", template, twins, overrides=[{"units": {"names": ["a"]}, "patch": patch}])
    for unit in UNITS:
        scene.twin(unit, again=True)
    _wait_settled(scene, _everywhere({"different": PODS}), wait_for)
    _compare(scene, "different", wait_for)


def test_pods_of_sets_have_another_name_besides(scene: Scene, wait_for: Any) -> None:
    """A StatefulSet's pods have the names that its twin's have, and the grid's beside them, without a port."""
    pods = [Pod("set-*-0", "set"), Pod("set-*-1", "set", node=2, ready=False)]
    scene.add("sets", _spec({"clusterIP": "None", "ports": NAMED, **BOTH}, "set"))
    scene.add_set("set", "sets", len(pods))
    for unit, pod in product(UNITS, pods):
        for namespace in (scene.namespace, scene.twins[unit]):
            wait_for(lambda at=(pod, unit, namespace): scene.has_pod(*at), f"the pod {pod.named(unit)}")
            scene.bind(pod, unit, namespace)
            scene.report(pod, unit, namespace)
    for unit in UNITS:
        hosts = [(unit, pod._replace(hostname=pod.named(unit), subdomain="sets")) for pod in pods]
        scene.twin(unit, again=True)
        _wait_settled(scene, {(unit, "sets"): hosts}, wait_for)
    _compare(scene, "sets", wait_for, _with_aliases)


def _with_aliases(unit: str, twin: Answer) -> Answer:
    """Return what an agent tells where `twin` is what the API server tells of a StatefulSet's Service."""
    aliases: dict[str, list[Manifest]] = {}
    for family, _, endpoints in twin.slices:
        for endpoint in endpoints:
            alias = endpoint | {"hostname": endpoint["hostname"].replace(f"set-{unit}-", "set-")}
            aliases.setdefault(family, []).append(alias)
    groups = [*twin.slices, *((family, [], in_order(found)) for family, found in aliases.items())]
    return twin._replace(slices=in_order(groups))


@pytest.mark.parametrize("addresses", [["fd00:96::1%d"], ["fd00:96::2%d", "10.96.0.2%d"]], ids=["one", "both"])
def test_a_family_that_follows_from_an_address_is_as_its_twins(
    scene: Scene, wait_for: Any, addresses: list[str]
) -> None:
    """By `clusterIP` and `clusterIPs` alone, the second family first."""
    policy = BOTH if len(addresses) == 2 else {}
    name, specs = f"address-{len(addresses)}", []
    for number in range(1 + len(UNITS)):
        own = [address % number for address in addresses]
        specs.append(_spec({"ports": [PORT], "clusterIP": own[0], "clusterIPs": own, **policy}))
    scene.add(name, specs[0], {unit: {"spec": spec} for unit, spec in zip(UNITS, specs[1:], strict=True)})
    for unit in UNITS:
        scene.twin(unit, again=True)
    _wait_settled(scene, _everywhere({name: PODS}), wait_for)
    _compare(scene, name, wait_for)


def test_one_object_is_as_in_the_list(scene: Scene) -> None:
    """A GET by name, of whatever a list has."""
    for kind in PATHS:
        path = scene.path("agent", "a", kind)
        for item in json.loads(scene.get("agent", "a", path))["items"]:
            single = json.loads(scene.get("agent", "a", f"{path}/{item['metadata']['name']}"))
            assert (single.pop("kind"), single.pop("apiVersion").rpartition("/")[2]) == (kind, "v1")
            if kind == "Endpoints":
                # There it is of their latest change, here of what they are made of.
                del single["metadata"]["resourceVersion"], item["metadata"]["resourceVersion"]
            assert single == item


def test_endpoints_that_somebody_writes_change_nothing(scene: Scene, wait_for: Any) -> None:
    """Kubernetes makes none of a grid's Service's name, so anybody can, and has a slice made of them."""
    path = scene.path("agent", "a", "Endpoints")
    subsets = [{"addresses": [{"ip": "10.66.0.1"}], "ports": [{"port": 80}]}]
    scene.plane.write("POST", path, {"metadata": {"name": "number"}, "subsets": subsets})
    mirrored = "kubernetes.io/service-name=number,endpointslice.kubernetes.io/managed-by!=sitegrid"
    try:
        wait_for(lambda: scene.plane.objects("endpointslices", scene.namespace, mirrored), "the mirrored slice")
        for unit in UNITS:
            scene.shown(unit, again=True)
        _compare(scene, "number", wait_for)
        made = json.loads(scene.get("agent", "a", f"{path}/number"))
        assert made["subsets"]
        assert "10.66.0.1" not in json.dumps(made)
    finally:
        scene.plane.write("DELETE", f"{path}/number")


def test_nothing_else_is_shown(scene: Scene) -> None:
    """No Service, no slice and no Endpoints that no twin has."""
    for unit in UNITS:
        assert scene.shown(unit, again=True).keys() == scene.twin(unit, again=True).keys()


@pytest.mark.parametrize("name", SINGLE_STACK)
def test_a_service_is_as_its_twin_in_a_cluster_of_one_family(single: Scene, wait_for: Any, name: str) -> None:
    """What the API server gives of what is asked for follows from the cluster too."""
    _compare(single, name, wait_for, _prefers_both if name == "headless-preferdualstack" else _as_it_is)


def _prefers_both(unit: str, twin: Answer) -> Answer:
    """Return what an agent tells of a headless Service without selector that prefers two families.

    It is given both in every cluster (initIPFamilyFields in pkg/registry/core/service/storage/alloc.go), and no field
    says otherwise. Its endpoints are of the families that there are.
    """
    assert twin.service is not None
    assert twin.service["spec"]["ipFamilies"] == ["IPv4"]
    spec = twin.service["spec"] | {"ipFamilies": ["IPv4", "IPv6"]}
    return twin._replace(service=twin.service | {"spec": spec})


def test_what_is_refused_to_its_twin_has_no_endpoints(single: Scene, wait_for: Any) -> None:
    """A grid whose template Kubernetes would refuse to a plain Service says so; a headless one may be there."""
    for name, case in REFUSED.items():
        assert single.refuses(name, _spec(case)), name
        single.add_grid(name, _spec(case))
    for name in REFUSED:
        wait_for(lambda name=name: single.is_degraded(name), f"{name} to be degraded", dump=single.log)
    for unit in UNITS:
        shown = single.shown(unit, again=True)
        assert {name for name in shown if not name.startswith("headless")} == {
            name for name in SINGLE_STACK if not name.startswith("headless")
        }
        assert [shown[name].slices for name in REFUSED if name in shown] == [[]] * len(REFUSED.keys() & shown)
