"""Changes of grids on a real API server: what Kubernetes takes, what it never takes, and what restarts no pod."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

PLURALS = {"DeploymentGrid": "deployments", "StatefulSetGrid": "statefulsets", "DaemonSetGrid": "daemonsets"}
SHORT = {"DeploymentGrid": "dg", "StatefulSetGrid": "ssg", "DaemonSetGrid": "dsg"}


def _spec(world: Any, resource: str, name: str = "grid-one") -> dict[str, Any]:
    """Return an object's spec, {} where there is none."""
    found: dict[str, Any] = (world.plane.get(resource, name, world.namespace) or {}).get("spec", {})
    return found


def _with_template(world: Any, kind: str, **fields: Any) -> dict[str, Any]:
    grid: dict[str, Any] = world.workload_grid(kind)
    grid["spec"]["template"] |= fields
    return grid


ROLLING = {"type": "RollingUpdate"}
STRATEGIES: dict[str, tuple[str, str, list[dict[str, Any] | None]]] = {
    "deployment": (
        "DeploymentGrid",
        "strategy",
        [None, {"type": "Recreate"}, {**ROLLING, "rollingUpdate": {"maxSurge": 1}}, {"type": "Recreate"}, None],
    ),
    "deployment, empty": ("DeploymentGrid", "strategy", [{}, {"type": "Recreate"}, ROLLING, {"type": "Recreate"}]),
    "stateful set": (
        "StatefulSetGrid",
        "updateStrategy",
        [None, {"type": "OnDelete"}, {**ROLLING, "rollingUpdate": {"partition": 1}}, {"type": "OnDelete"}, ROLLING],
    ),
    "daemon set": (
        "DaemonSetGrid",
        "updateStrategy",
        [None, {"type": "OnDelete"}, {**ROLLING, "rollingUpdate": {"maxUnavailable": 2}}, {"type": "OnDelete"}, None],
    ),
}


@pytest.mark.parametrize("case", STRATEGIES)
def test_strategy_goes_to_and_fro(world: Any, wait_for: Any, case: str) -> None:
    """Each strategy follows each other one in one write, and what belonged to the former one is gone."""
    kind, field, sequence = STRATEGIES[case]
    world.nodes("one")
    for count, strategy in enumerate(sequence, start=1):
        world.plane.apply(_with_template(world, kind, **({} if strategy is None else {field: strategy})))
        wanted = strategy or ROLLING

        def done(wanted: dict[str, Any] = wanted) -> bool:
            found = _spec(world, PLURALS[kind]).get(field, {})
            rolls = wanted.get("rollingUpdate", {})
            return (
                found.get("type") == wanted.get("type", "RollingUpdate")
                and ("rollingUpdate" in found) == (found["type"] == "RollingUpdate")
                and all(found["rollingUpdate"][name] == value for name, value in rolls.items())
            )

        wait_for(done, f"{strategy}", dump=world.dump)
        writes = [write for write in world.writes() if f" {PLURALS[kind]} " in write]
        assert writes == [f"patch {PLURALS[kind]} grid-one"] * count
        world.wait_condition("AsExpected", type="Degraded", kind=SHORT[kind])


def test_volume_gets_a_source(world: Any, wait_for: Any) -> None:
    """What Kubernetes made an emptyDir of becomes what the user says, and the service account goes again."""
    world.nodes("one")
    grid = world.deployment_grid()
    pod = grid["spec"]["template"]["template"]["spec"]
    pod |= {"volumes": [{"name": "data"}], "serviceAccountName": "site"}
    world.plane.apply(grid)
    world.wait_children("grid-one")
    pod["volumes"] = [{"name": "data", "configMap": {"name": "site"}}]
    del pod["serviceAccountName"]
    world.plane.apply(grid)

    def done() -> bool:
        found = _spec(world, "deployments")["template"]["spec"]
        (volume,) = found["volumes"]
        return "configMap" in volume and "emptyDir" not in volume and "serviceAccountName" not in found

    wait_for(done, "the change", dump=world.dump)


def test_budget_goes_from_one_limit_to_the_other(world: Any, wait_for: Any) -> None:
    """MinAvailable and maxUnavailable exclude each other."""
    world.nodes("one")
    for budget in ({"minAvailable": 1}, {"maxUnavailable": "50%"}, {"minAvailable": "10%"}):
        world.plane.apply(world.deployment_grid(podDisruptionBudget=budget))

        def done(budget: dict[str, Any] = budget) -> bool:
            found = _spec(world, "pdb", "grid-one-deployment")
            return {name: found[name] for name in ("minAvailable", "maxUnavailable") if name in found} == budget

        wait_for(done, f"{budget}", dump=world.dump)


def test_autoscaler_changes_its_metrics(world: Any, wait_for: Any) -> None:
    """From Kubernetes' default to CPU, to memory, and back to none."""
    world.nodes("one")

    def metric(resource: str) -> dict[str, Any]:
        target = {"type": "Utilization", "averageUtilization": 50}
        return {"type": "Resource", "resource": {"name": resource, "target": target}}

    for names in ([], ["cpu"], ["memory", "cpu"], []):
        fields = {"metrics": [metric(name) for name in names]} if names else {}
        world.plane.apply(world.deployment_grid(autoscaling={"maxReplicas": 3 + len(names), **fields}))

        def done(names: list[str] = names) -> bool:
            found = _spec(world, "hpa", "grid-one-deployment")
            present = [item["resource"]["name"] for item in found.get("metrics", [])]
            return found.get("maxReplicas") == 3 + len(names) and present == (names or ["cpu"])

        wait_for(done, f"{names}", dump=world.dump)


def test_service_changes_its_type(world: Any, wait_for: Any) -> None:
    """To a NodePort, a chosen one, with local traffic only, to an affinity, and back to a plain Service."""
    ports = [{"port": 80, "targetPort": 80}]
    steps: list[dict[str, Any]] = [
        {},
        {"type": "NodePort"},
        {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
        {"sessionAffinity": "ClientIP"},
        {},
    ]
    for step in steps:
        world.plane.apply(world.service_grid(template={"selector": {"app": "grid"}, "ports": ports, **step}))

        def done(step: dict[str, Any] = step) -> bool:
            found = _spec(world, "services", "grid-svc")
            wanted = {"type": "ClusterIP", "sessionAffinity": "None", **step}
            outside = wanted["type"] != "ClusterIP"
            return (
                all(found.get(name) == value for name, value in wanted.items())
                and ("nodePort" in found["ports"][0]) == outside
                and ("externalTrafficPolicy" in found) == outside
            )

        wait_for(done, f"{step}", dump=world.dump)
    world.wait_condition("ServiceApplied", kind="sg")


CLAIM = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
FORBIDDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "claims": ("StatefulSetGrid", {"volumeClaimTemplates": [CLAIM]}),
    "service name": ("StatefulSetGrid", {"serviceName": "other"}),
    "pod management": ("StatefulSetGrid", {"podManagementPolicy": "Parallel"}),
    "selector": ("DeploymentGrid", {"selector": {"matchLabels": {"app": "grid", "tier": "web"}}}),
    "daemon set selector": ("DaemonSetGrid", {"selector": {"matchLabels": {"app": "grid", "tier": "web"}}}),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_change_that_kubernetes_never_makes(world: Any, wait_for: Any, case: str) -> None:
    """The reason names the unit and what to do, new units have it already, and doing it helps."""
    kind, change = FORBIDDEN[case]
    plural, short = PLURALS[kind], SHORT[kind]
    world.nodes("one")
    world.plane.apply(_with_template(world, kind))
    wait_for(lambda: _spec(world, plural), "the child", dump=world.dump)
    uid = world.plane.get(plural, "grid-one", world.namespace)["metadata"]["uid"]
    grid = _with_template(world, kind, **change)
    grid["spec"]["template"]["template"]["metadata"]["labels"] = {"app": "grid", "tier": "web"}
    world.plane.apply(grid)
    message = world.wait_condition("Immutable", type="Degraded", kind=short)["message"]
    world.nodes("two")  # only now: the controller may hear of a node before it hears of the change
    kind_of_child = kind.removesuffix("Grid")
    assert message.startswith(f"unit one: Kubernetes does not let this change in an existing {kind_of_child}")
    assert f"kubectl delete {kind_of_child.lower()} grid-one" in message
    wait_for(lambda: _spec(world, plural, "grid-two"), "the other unit", dump=world.dump)
    assert world.plane.get(plural, "grid-one", world.namespace)["metadata"]["uid"] == uid
    world.plane.kubectl("delete", plural, "grid-one", "-n", world.namespace)

    def made_anew() -> bool:
        child = world.plane.get(plural, "grid-one", world.namespace)
        return child is not None and child["metadata"]["uid"] != uid

    wait_for(made_anew, "another child", dump=world.dump)
    world.wait_condition("AsExpected", type="Degraded", kind=short)


def test_service_that_is_to_lose_its_address(world: Any, wait_for: Any) -> None:
    """ClusterIP to None is never taken: the reason says what to do, and doing it helps."""
    world.plane.apply(world.service_grid())
    world.wait_condition("ServiceApplied", kind="sg")
    template = world.service_grid()["spec"]["template"]
    world.plane.apply(world.service_grid(template={**template, "clusterIP": "None"}))
    message = world.wait_condition("Immutable", kind="sg")["message"]
    assert "kubectl delete service grid-svc (its address changes)" in message
    world.plane.kubectl("delete", "service", "grid-svc", "-n", world.namespace)
    wait_for(lambda: _spec(world, "services", "grid-svc").get("clusterIP") == "None", "the new one", dump=world.dump)
    world.wait_condition("ServiceApplied", kind="sg")


def _templates(world: Any, kind: str) -> list[dict[str, Any]]:
    """Return the pod templates that there have been: another one would have restarted the pods."""
    if kind == "DeploymentGrid":
        return [item["spec"]["template"] for item in world.plane.objects("replicasets", world.namespace)]
    return [item["data"] for item in world.plane.objects("controllerrevisions", world.namespace)]


@pytest.mark.parametrize("kind", PLURALS)
def test_edits_that_are_not_about_pods_restart_none(world: Any, wait_for: Any, kind: str) -> None:
    """Everything beside the pod template, in the grid's spec and in the workload's, changes under running pods."""
    world.nodes("one")
    world.plane.apply(world.workload_grid(kind))
    wait_for(lambda: len(_templates(world, kind)) == 1, "the pods' template", dump=world.dump)
    field = "strategy" if kind == "DeploymentGrid" else "updateStrategy"
    other = "Recreate" if kind == "DeploymentGrid" else "OnDelete"
    changes: list[dict[str, Any]] = [
        {field: {"type": other}},
        {"minReadySeconds": 7},
        {"revisionHistoryLimit": 3},
        *([{"replicas": 3}] if kind != "DaemonSetGrid" else []),
    ]
    grid = world.workload_grid(kind)
    for change in changes:
        grid["spec"]["template"] |= change
        world.plane.apply(grid)
        ((name, value),) = change.items()
        wait_for(lambda name=name, value=value: _spec(world, PLURALS[kind]).get(name) == value, name, dump=world.dump)
    grid["spec"] |= {"podDisruptionBudget": {"maxUnavailable": 1}, "removal": {"gracePeriodSeconds": 60}}
    grid["spec"]["overrides"] = [{"units": {"names": ["one"]}, "patch": {"minReadySeconds": 8}}]
    world.plane.apply(grid)
    wait_for(lambda: _spec(world, PLURALS[kind]).get("minReadySeconds") == 8, "the override", dump=world.dump)
    world.wait_quiet()
    assert len(_templates(world, kind)) == 1


@pytest.mark.parametrize("kind", PLURALS)
def test_another_version_of_sitegrid_restarts_no_pod(world: Any, wait_for: Any, kind: str) -> None:
    """A version that makes children otherwise writes each once; the pods' template stays what it was."""
    world.nodes("one")
    world.plane.apply(world.workload_grid(kind))
    wait_for(lambda: len(_templates(world, kind)) == 1, "the pods' template", dump=world.dump)
    world.wait_quiet()
    # What the former version applied had another hash, and did not name what this one names.
    patch = json.dumps({"metadata": {"annotations": {"tkeedge.io/applied-hash": "of another version"}}})
    world.plane.kubectl("annotate", PLURALS[kind], "grid-one", "-n", world.namespace, "theirs=kept")
    before = world.writes()
    world.plane.kubectl("patch", PLURALS[kind], "grid-one", "-n", world.namespace, "--type=merge", "-p", patch)
    wait_for(lambda: len(world.writes()) > len(before), "the write", dump=world.dump)
    world.wait_quiet()
    new = [write for write in world.writes()[len(before) :] if "/status" not in write]
    assert new == [f"patch {PLURALS[kind]} grid-one"]
    assert len(_templates(world, kind)) == 1
    child = world.plane.get(PLURALS[kind], "grid-one", world.namespace)
    assert child["metadata"]["annotations"]["theirs"] == "kept"
