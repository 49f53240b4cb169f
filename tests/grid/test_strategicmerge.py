"""Strategic merge patch: Kubernetes' meaning, clear refusals, and nothing changed that is not ours."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.grid.patchfields import DAEMON_SET_SPEC, DEPLOYMENT_SPEC, STATEFUL_SET_SPEC
from sitegrid.grid.strategicmerge import PatchError, strategic_merge
from sitegrid.lab.binaries import ensure_binaries

Json = dict[str, Any]

TEMPLATE: Json = {
    "replicas": 2,
    "paused": True,
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
    "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]},
    "template": {
        "metadata": {
            "labels": {"app": "web", "app.kubernetes.io/name": "web"},
            "finalizers": ["example.com/one", "example.com/two", "example.com/three"],
        },
        "spec": {
            "nodeSelector": {"disk": "ssd", "zone": "a"},
            "initContainers": [{"name": "wait", "image": "wait:1"}],
            "containers": [
                {
                    "name": "nginx",
                    "image": "nginx:1.25",
                    "args": ["--a", "--b"],
                    "env": [
                        {"name": "A", "value": "1"},
                        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                        {"name": "C", "value": "3"},
                    ],
                    "ports": [
                        {"containerPort": 53, "protocol": "TCP", "name": "dns-tcp"},
                        {"containerPort": 53, "protocol": "UDP", "name": "dns"},
                        {"containerPort": 80},
                    ],
                    "volumeMounts": [
                        {"mountPath": "/data", "name": "data"},
                        {"mountPath": "/etc/app", "name": "config"},
                    ],
                    "volumeDevices": [{"devicePath": "/dev/a", "name": "raw"}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "H", "value": "1"}]}},
                    "envFrom": [{"configMapRef": {"name": "one"}}],
                },
                {"name": "sidecar", "image": "sidecar:1"},
                {"name": "log", "image": "log:1"},
            ],
            "volumes": [
                {"name": "data", "hostPath": {"path": "/data"}},
                {"name": "config", "configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}},
                {"name": "all", "projected": {"sources": [{"secret": {"name": "s"}}]}},
            ],
            "tolerations": [{"key": "a", "operator": "Exists"}],
            "topologySpreadConstraints": [
                {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
            ],
            "imagePullSecrets": [{"name": "one"}, {"name": "two"}],
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a", "b"]}],
            "schedulingGates": [{"name": "example.com/g"}],
            "resourceClaims": [{"name": "gpu", "resourceClaimName": "g"}],
            "readinessGates": [{"conditionType": "example.com/r"}],
            "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]},
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "Exists"}]}]
                    }
                }
            },
        },
    },
}
STATEFUL_SET: Json = {
    "serviceName": "db",
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}},
    "volumeClaimTemplates": [
        {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}},
        {"metadata": {"name": "log"}, "spec": {"accessModes": ["ReadWriteOnce"]}},
    ],
    "template": {"spec": {"containers": [{"name": "db", "image": "db:1"}]}},
}
DAEMON_SET: Json = {
    "updateStrategy": {"type": "OnDelete"},
    "template": {"spec": {"containers": [{"name": "agent", "image": "agent:1"}]}},
}
SPECS: dict[str, tuple[str, str, Json]] = {
    DEPLOYMENT_SPEC: ("apps/v1", "Deployment", TEMPLATE),
    STATEFUL_SET_SPEC: ("apps/v1", "StatefulSet", STATEFUL_SET),
    DAEMON_SET_SPEC: ("apps/v1", "DaemonSet", DAEMON_SET),
}


def pod(**spec: Any) -> Json:
    """Return the patch of a pod spec."""
    return {"template": {"spec": spec}}


def nginx(**fields: Any) -> Json:
    """Return the patch of the container nginx."""
    return pod(containers=[{"name": "nginx", **fields}])


def merged(patch: Json, type_name: str = DEPLOYMENT_SPEC) -> Json:
    """Return the type's example with `patch` applied."""
    return strategic_merge(SPECS[type_name][2], patch, type_name)


def container(spec: Json, name: str = "nginx") -> Json:
    """Return the container `name`."""
    (found,) = [item for item in spec["template"]["spec"]["containers"] if item["name"] == name]
    assert isinstance(found, dict)
    return found


def names(items: list[Json], key: str = "name") -> list[Any]:
    """Return the merge keys of `items`."""
    return [item[key] for item in items]


# What users write, case by case.


def test_a_container_is_patched_by_name() -> None:
    """The image of one container changes; its other fields, and the other containers, stay."""
    spec = merged(nginx(image="nginx:1.27"))
    assert container(spec) == {**container(TEMPLATE), "image": "nginx:1.27"}
    assert container(spec, "sidecar") == container(TEMPLATE, "sidecar")


def test_an_environment_variable_is_patched_by_name() -> None:
    """One value changes, the others stay."""
    env = container(merged(nginx(env=[{"name": "A", "value": "9"}])))["env"]
    assert env[0] == {"name": "A", "value": "9"}
    assert env[1:] == container(TEMPLATE)["env"][1:]


def test_a_new_item_comes_before_those_that_only_the_template_has() -> None:
    """Kubernetes puts it there; a pod's containers would otherwise be in another order than by kubectl patch."""
    spec = merged(pod(containers=[{"name": "new", "image": "new:1"}]))
    assert names(spec["template"]["spec"]["containers"]) == ["new", "nginx", "sidecar", "log"]


def test_null_deletes() -> None:
    """A field of a map goes; a field that is not there may be deleted as well."""
    spec = merged({"paused": None, "minReadySeconds": None, **pod(nodeSelector={"disk": None})})
    assert "paused" not in spec
    assert "minReadySeconds" not in spec
    assert spec["template"]["spec"]["nodeSelector"] == {"zone": "a"}


def test_patch_delete_takes_an_item_out() -> None:
    """By its merge key; all of those that share it."""
    spec = merged(nginx(ports=[{"$patch": "delete", "containerPort": 53}]))
    assert container(spec)["ports"] == [{"containerPort": 80}]


def test_patch_replace_in_a_list_replaces_it() -> None:
    """Only the patch's items remain, in their order."""
    patch = [{"$patch": "replace"}, {"name": "z", "image": "z"}, {"name": "nginx", "image": "y"}]
    spec = merged(pod(containers=patch))
    assert spec["template"]["spec"]["containers"] == [{"name": "z", "image": "z"}, {"name": "nginx", "image": "y"}]


def test_patch_replace_in_a_map_replaces_it() -> None:
    """Nothing of the template's map remains, and no directive."""
    spec = merged({"strategy": {"$patch": "replace", "type": "Recreate"}})
    assert spec["strategy"] == {"type": "Recreate"}


def test_patch_delete_in_a_map_empties_it() -> None:
    """As in Kubernetes, the empty map stays; where there is none, none is made."""
    spec = merged(pod(nodeSelector={"$patch": "delete"}, securityContext={"$patch": "delete"}))
    assert spec["template"]["spec"]["nodeSelector"] == {}
    assert "securityContext" not in spec["template"]["spec"]


def test_retain_keys_takes_out_what_it_does_not_name() -> None:
    """So a volume changes its kind."""
    spec = merged(pod(volumes=[{"name": "data", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]))
    assert spec["template"]["spec"]["volumes"][0] == {"name": "data", "emptyDir": {}}


def test_without_retain_keys_a_volume_keeps_its_old_kind() -> None:
    """Kubernetes merges the item; the API server then says that there may be one kind only."""
    spec = merged(pod(volumes=[{"name": "data", "emptyDir": {}}]))
    assert spec["template"]["spec"]["volumes"][0] == {"name": "data", "hostPath": {"path": "/data"}, "emptyDir": {}}


def test_lists_without_merge_key_are_replaced() -> None:
    """Tolerations, arguments, envFrom and claim templates have none."""
    spec = merged(pod(tolerations=[{"key": "b"}]))
    assert spec["template"]["spec"]["tolerations"] == [{"key": "b"}]
    assert container(merged(nginx(args=["--c"])))["args"] == ["--c"]
    spec = merged(pod(tolerations=[{"key": "b", "value": None}]))
    assert spec["template"]["spec"]["tolerations"] == [{"key": "b"}]
    claims = merged({"volumeClaimTemplates": [{"metadata": {"name": "log"}}]}, STATEFUL_SET_SPEC)
    assert claims["volumeClaimTemplates"] == [{"metadata": {"name": "log"}}]


def test_a_set_of_strings_is_united() -> None:
    """Finalizers are merged as a set; `$deleteFromPrimitiveList` takes some out."""
    patch = {"finalizers": ["new"], "$deleteFromPrimitiveList/finalizers": ["example.com/one"]}
    spec = merged({"template": {"metadata": patch}})
    assert spec["template"]["metadata"]["finalizers"] == ["new", "example.com/two", "example.com/three"]


def test_set_element_order_orders() -> None:
    """The items that it names stand in its order."""
    order = [{"name": "log"}, {"name": "sidecar"}, {"name": "nginx"}]
    spec = merged(pod(**{"$setElementOrder/containers": order}))
    assert names(spec["template"]["spec"]["containers"]) == ["log", "sidecar", "nginx"]


def test_a_field_that_is_newer_than_the_table_is_merged_by_its_shape() -> None:
    """No field is lost because sitegrid is older than the cluster."""
    original = {"futureMap": {"a": 1}, "futureList": [{"name": "a"}]}
    spec = strategic_merge(original, {"futureMap": {"b": 2}, "futureList": [{"name": "b"}]}, DEPLOYMENT_SPEC)
    assert spec == {"futureMap": {"a": 1, "b": 2}, "futureList": [{"name": "b"}]}


def test_numbers_and_strings_stand_for_each_other() -> None:
    """Percentages and ports are both; only maps and lists are told apart."""
    spec = merged({"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "10%"}}})
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": "10%"}


def test_true_is_not_one() -> None:
    """A merge key that is the boolean true does not meet the number 1."""
    original = {"template": {"spec": {"containers": [{"name": "x", "ports": [{"containerPort": 1}]}]}}}
    patch = pod(containers=[{"name": "x", "ports": [{"containerPort": True}]}])
    spec = strategic_merge(original, patch, DEPLOYMENT_SPEC)
    assert len(spec["template"]["spec"]["containers"][0]["ports"]) == 2


# Where this departs from Kubernetes, so that no word of the user is lost or left over.


def test_patch_merge_means_merge() -> None:
    """The third value of the directive is what happens anyway."""
    assert merged(nginx(**{"$patch": "merge"}, image="n")) == merged(nginx(image="n"))
    assert merged({"strategy": {"$patch": "merge", "type": "Recreate"}}) == merged({"strategy": {"type": "Recreate"}})


def test_replacing_a_map_that_is_not_there_sets_it() -> None:
    """Kubectl would drop the whole map."""
    spec = merged(pod(securityContext={"$patch": "replace", "runAsUser": 1}))
    assert spec["template"]["spec"]["securityContext"] == {"runAsUser": 1}


def test_a_new_item_has_no_nulls_and_no_directives() -> None:
    """Kubectl would leave both in the object."""
    new = {"name": "new", "image": "i", "command": None, "env": [{"$patch": "delete", "name": "A"}]}
    assert container(merged(pod(containers=[new])), "new") == {"name": "new", "image": "i", "env": []}


# Refusals.


@pytest.mark.parametrize(
    ("patch", "path", "words"),
    [
        (nginx(resources="1Gi"), "template.spec.containers[nginx].resources", "the string '1Gi' where a map"),
        (pod(containers={"name": "nginx"}), "template.spec.containers", "a map where a list"),
        (pod(nodeSelector=["a"]), "template.spec.nodeSelector", "a list where a map"),
        (pod(securityContext=1), "template.spec.securityContext", "the number '1' where a map"),
        ({"replicas": {"a": 1}}, "replicas", "a map where a string, number or boolean"),
        ({"template": True}, "template", "the boolean true where a map"),
        (pod(containers=[{"image": "x"}]), "template.spec.containers[0]", "lacks 'name'"),
        (pod(containers=[{"name": None}]), "template.spec.containers[0]", "lacks 'name'"),
        (pod(containers=["nginx"]), "template.spec.containers[0]", "the string 'nginx' is an item where maps"),
        (pod(containers=[{"name": {}}]), "template.spec.containers[0]", "the merge key 'name' is a map"),
        (pod(containers=[{"$patch": "delete"}]), "template.spec.containers[0]", "lacks 'name'"),
        (nginx(env=[{"$patch": "remove", "name": "A"}]), "template.spec.containers[nginx].env[0].$patch", "'remove'"),
        ({"strategy": {"$patch": 1}}, "strategy.$patch", "is not known; use delete, replace or merge"),
        (pod(**{"$setElementsOrder/containers": []}), "template.spec", "'$setElementsOrder/containers' is not known"),
        (pod(**{"$setElementOrder/": []}), "template.spec", "'$setElementOrder/' is not known"),
        (
            pod(**{"$setElementOrder/containers": [{"name": "log"}]}, containers=[{"name": "nginx"}]),
            "template.spec.containers",
            "not in $setElementOrder",
        ),
        (
            pod(**{"$setElementOrder/containers": {}}),
            "template.spec.$setElementOrder/containers",
            "a map is not a list",
        ),
        (
            pod(**{"$setElementOrder/containers": ["nginx"]}),
            "template.spec.containers",
            "is an item where maps with the merge key 'name' belong",
        ),
        (
            pod(**{"$deleteFromPrimitiveList/containers": ["nginx"]}),
            "template.spec.containers",
            "only a string or a number",
        ),
        (
            {"template": {"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}},
            "template.metadata.$deleteFromPrimitiveList/finalizers",
            "is not a list",
        ),
        ({"strategy": {"$retainKeys": "type"}}, "strategy.$retainKeys", "is not a list of field names"),
        ({"strategy": {"$retainKeys": [], "type": "Recreate"}}, "strategy.$retainKeys", "sets 'type'"),
        (
            pod(tolerations=[{"$patch": "replace"}, {"key": "b"}]),
            "template.spec.tolerations[0].$patch",
            "no merge key",
        ),
        (
            pod(containers=[{"$patch": "replace", "name": "a", "image": "i"}]),
            "template.spec.containers[0]",
            "stands alone",
        ),
        ({"template": {"metadata": {"finalizers": [{"name": "a"}]}}}, "template.metadata.finalizers", "a map"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_path(patch: Json, path: str, words: str) -> None:
    """The message says where and what."""
    with pytest.raises(PatchError) as caught:
        merged(patch)
    assert caught.value.path == path
    assert words in caught.value.message
    assert str(caught.value) == f"{path}: {caught.value.message}"


def test_a_patch_that_is_no_map_is_refused() -> None:
    """It has no path."""
    with pytest.raises(PatchError, match="the patch is a list, but it must be a map"):
        strategic_merge(TEMPLATE, [], DEPLOYMENT_SPEC)  # type: ignore[arg-type]


def test_a_template_of_the_wrong_shape_is_named() -> None:
    """The fault is the template's, and the message says so."""
    with pytest.raises(PatchError, match=r"^template\.spec\.containers: the template has a map where a list belongs"):
        strategic_merge(pod(containers={}), pod(containers=[]), DEPLOYMENT_SPEC)


@pytest.mark.parametrize("nested", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_endless_nesting_is_refused(nested: Callable[[Any], Any]) -> None:
    """Instead of ending the process's stack."""
    patch: Any = "x"
    for _ in range(5000):
        patch = nested(patch)
    with pytest.raises(PatchError, match="nested deeper than"):
        strategic_merge({}, {"a": patch}, DEPLOYMENT_SPEC)


# Properties.

SCALARS = st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", "a", "b"])
SMALL_MAPS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["1", "2"]), max_size=3)
ENV = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("ABCD")}, optional={"value": st.sampled_from(["1", "2"])}),
    max_size=4,
    unique_by=lambda item: str(item["name"]),
)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b", "c", "d"])},
        optional={
            "image": st.sampled_from(["i:1", "i:2"]),
            "env": ENV,
            "args": st.lists(st.sampled_from("xy"), max_size=2),
            "resources": st.fixed_dictionaries({}, optional={"limits": SMALL_MAPS}),
        },
    ),
    max_size=4,
    unique_by=lambda item: str(item["name"]),
)
SPEC_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(0, 3),
        "strategy": SMALL_MAPS,
        "template": st.fixed_dictionaries(
            {},
            optional={
                "metadata": st.fixed_dictionaries(
                    {}, optional={"labels": SMALL_MAPS, "finalizers": st.lists(st.sampled_from("fgh"), unique=True)}
                ),
                "spec": st.fixed_dictionaries({}, optional={"containers": CONTAINERS, "nodeSelector": SMALL_MAPS}),
            },
        ),
    },
)


@given(spec=SPEC_VALUES)
def test_the_empty_patch_changes_nothing(spec: Json) -> None:
    """The identity."""
    assert strategic_merge(spec, {}, DEPLOYMENT_SPEC) == spec


@given(spec=SPEC_VALUES)
def test_a_spec_patched_by_itself_stays(spec: Json) -> None:
    """Merging adds nothing that is there."""
    assert strategic_merge(spec, spec, DEPLOYMENT_SPEC) == spec


@given(spec=SPEC_VALUES, patch=SPEC_VALUES)
def test_a_patch_applied_twice_is_a_patch_applied_once(spec: Json, patch: Json) -> None:
    """Idempotence."""
    once = strategic_merge(spec, patch, DEPLOYMENT_SPEC)
    assert strategic_merge(once, patch, DEPLOYMENT_SPEC) == once


@given(spec=SPEC_VALUES, patch=SPEC_VALUES)
def test_inputs_stay_as_they_are(spec: Json, patch: Json) -> None:
    """Neither the template nor the patch is changed."""
    before = copy.deepcopy((spec, patch))
    strategic_merge(spec, patch, DEPLOYMENT_SPEC)
    assert (spec, patch) == before


@given(spec=SPEC_VALUES, patch=SPEC_VALUES)
def test_what_the_patch_says_is_so_afterwards(spec: Json, patch: Json) -> None:
    """Every scalar of the patch is in the result."""
    result = strategic_merge(spec, patch, DEPLOYMENT_SPEC)
    assert_contains(result, patch)


def assert_contains(result: Any, patch: Any) -> None:
    """Fail unless `result` has all that `patch`, which has neither nulls nor directives, says."""
    if isinstance(patch, dict):
        for name, value in patch.items():
            assert_contains(result[name], value)
    elif isinstance(patch, list) and patch and isinstance(patch[0], dict):
        by_name = {item["name"]: item for item in result}
        for item in patch:
            assert_contains(by_name[item["name"]], item)
    elif isinstance(patch, list):
        assert all(item in result for item in patch)
    else:
        assert result == patch


ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *["a", "name", "template", "spec", "containers", "env", "$patch", "$retainKeys", "$x"],
                    *["$setElementOrder/containers", "$deleteFromPrimitiveList/a"],
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(spec=ANYTHING, patch=ANYTHING)
def test_any_json_is_merged_or_refused(spec: Any, patch: Any) -> None:
    """No other error comes out, whatever users write; and no directive is left."""
    before = copy.deepcopy((spec, patch))
    try:
        result = strategic_merge(spec if isinstance(spec, dict) else {}, patch, DEPLOYMENT_SPEC)
    except PatchError:
        pass
    else:
        json.dumps(result)
    assert (spec, patch) == before


# The oracle.

ORACLE_CASES: dict[str, tuple[str, Json]] = {
    "nothing": (DEPLOYMENT_SPEC, {}),
    "scalars": (DEPLOYMENT_SPEC, {"replicas": 9, "paused": None, "minReadySeconds": 4, "absent": None}),
    "container": (DEPLOYMENT_SPEC, nginx(image="n:2", args=["--c"], command=["x"])),
    "new container": (DEPLOYMENT_SPEC, pod(containers=[{"name": "new", "image": "i", "command": ["a"]}])),
    "new between": (
        DEPLOYMENT_SPEC,
        pod(containers=[{"name": "log", "image": "l:2"}, {"name": "new", "image": "i"}, {"name": "nginx"}]),
    ),
    "reordered": (DEPLOYMENT_SPEC, pod(containers=[{"name": "sidecar"}, {"name": "nginx"}])),
    "second first": (DEPLOYMENT_SPEC, pod(containers=[{"name": "sidecar", "image": "s:2"}])),
    "delete container": (DEPLOYMENT_SPEC, pod(containers=[{"$patch": "delete", "name": "sidecar"}])),
    "delete unknown": (DEPLOYMENT_SPEC, pod(containers=[{"$patch": "delete", "name": "no"}])),
    "delete and add": (
        DEPLOYMENT_SPEC,
        pod(containers=[{"name": "new", "image": "i"}, {"$patch": "delete", "name": "nginx"}, {"name": "log"}]),
    ),
    "delete in absent list": (DEPLOYMENT_SPEC, pod(ephemeralContainers=[{"$patch": "delete", "name": "x"}])),
    "replace containers": (
        DEPLOYMENT_SPEC,
        pod(containers=[{"name": "z", "image": "z"}, {"$patch": "replace"}, {"name": "a", "image": "a"}]),
    ),
    "replace by nothing": (DEPLOYMENT_SPEC, pod(initContainers=[{"$patch": "replace"}])),
    "replace in absent list": (
        DEPLOYMENT_SPEC,
        pod(ephemeralContainers=[{"$patch": "replace"}, {"name": "x", "image": "i"}]),
    ),
    "null list": (DEPLOYMENT_SPEC, pod(initContainers=None, tolerations=None, volumes=None)),
    "empty list": (DEPLOYMENT_SPEC, pod(initContainers=[], tolerations=[], readinessGates=[])),
    "null map": (DEPLOYMENT_SPEC, pod(nodeSelector=None, affinity=None, securityContext=None)),
    "null in map": (DEPLOYMENT_SPEC, pod(nodeSelector={"disk": None, "new": "x", "absent": None})),
    "null in new map": (
        DEPLOYMENT_SPEC,
        pod(securityContext={"runAsUser": None, "fsGroup": 1}, overhead={"a": None}),
    ),
    "empty map": (DEPLOYMENT_SPEC, pod(nodeSelector={}, securityContext={})),
    "map delete": (DEPLOYMENT_SPEC, pod(nodeSelector={"$patch": "delete"}, securityContext={"$patch": "delete"})),
    "map replace": (DEPLOYMENT_SPEC, {"strategy": {"$patch": "replace", "type": "Recreate"}}),
    "map replace in item": (DEPLOYMENT_SPEC, nginx(resources={"$patch": "replace", "requests": {"cpu": "1"}})),
    "strategy without retained keys": (DEPLOYMENT_SPEC, {"strategy": {"type": "Recreate"}}),
    "retain keys": (DEPLOYMENT_SPEC, {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
    "retain keys of volume": (
        DEPLOYMENT_SPEC,
        pod(volumes=[{"name": "data", "$retainKeys": ["name", "emptyDir"], "emptyDir": {"medium": "Memory"}}]),
    ),
    "retain keys and null": (
        DEPLOYMENT_SPEC,
        {"strategy": {"$retainKeys": ["type"], "type": "Recreate", "rollingUpdate": None}},
    ),
    "volumes": (
        DEPLOYMENT_SPEC,
        pod(volumes=[{"name": "config", "configMap": {"items": [{"key": "z", "path": "z"}]}}, {"name": "new"}]),
    ),
    "projected sources are replaced": (
        DEPLOYMENT_SPEC,
        pod(volumes=[{"name": "all", "projected": {"sources": [{"configMap": {"name": "m"}}], "defaultMode": 256}}]),
    ),
    "env": (
        DEPLOYMENT_SPEC,
        nginx(
            env=[
                {"name": "C", "value": "33"},
                {"name": "B", "value": "2", "valueFrom": None},
                {"name": "N", "value": "n"},
                {"$patch": "delete", "name": "A"},
            ]
        ),
    ),
    "env replace": (DEPLOYMENT_SPEC, nginx(env=[{"$patch": "replace"}, {"name": "N", "value": "n"}])),
    "ports with shared key": (DEPLOYMENT_SPEC, nginx(ports=[{"containerPort": 53, "hostPort": 53}])),
    "ports delete shared key": (
        DEPLOYMENT_SPEC,
        nginx(ports=[{"$patch": "delete", "containerPort": 53}, {"containerPort": 8080}]),
    ),
    "mounts": (
        DEPLOYMENT_SPEC,
        nginx(volumeMounts=[{"mountPath": "/etc/app", "readOnly": True}, {"mountPath": "/new", "name": "data"}]),
    ),
    "devices": (DEPLOYMENT_SPEC, nginx(volumeDevices=[{"devicePath": "/dev/b", "name": "raw"}])),
    "resources": (DEPLOYMENT_SPEC, nginx(resources={"limits": {"cpu": "2", "memory": None}, "requests": {"cpu": 1}})),
    "probe": (DEPLOYMENT_SPEC, nginx(livenessProbe={"httpGet": None, "tcpSocket": {"port": "http"}})),
    "headers are replaced": (DEPLOYMENT_SPEC, nginx(livenessProbe={"httpGet": {"httpHeaders": []}})),
    "envFrom is replaced": (DEPLOYMENT_SPEC, nginx(envFrom=[{"secretRef": {"name": "two"}}])),
    "tolerations are replaced": (DEPLOYMENT_SPEC, pod(tolerations=[{"key": "b", "operator": "Exists"}])),
    "spread": (
        DEPLOYMENT_SPEC,
        pod(
            topologySpreadConstraints=[
                {"topologyKey": "zone", "maxSkew": 2},
                {"topologyKey": "kubernetes.io/hostname", "maxSkew": 5, "labelSelector": {"matchLabels": {"a": "b"}}},
            ]
        ),
    ),
    "pull secrets": (
        DEPLOYMENT_SPEC,
        pod(imagePullSecrets=[{"name": "three"}, {"$patch": "delete", "name": "one"}]),
    ),
    "host aliases": (
        DEPLOYMENT_SPEC,
        pod(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["c"]}, {"ip": "10.0.0.2", "hostnames": ["d"]}]),
    ),
    "gates and claims": (
        DEPLOYMENT_SPEC,
        pod(
            schedulingGates=[{"name": "example.com/h"}],
            resourceClaims=[{"name": "gpu", "resourceClaimName": "h"}],
            readinessGates=[{"conditionType": "example.com/s"}],
        ),
    ),
    "dns": (DEPLOYMENT_SPEC, pod(dnsConfig={"nameservers": ["8.8.8.8"], "options": [{"name": "o"}]})),
    "affinity terms are replaced": (
        DEPLOYMENT_SPEC,
        pod(
            affinity={
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}},
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "z"}]},
            }
        ),
    ),
    "labels": (DEPLOYMENT_SPEC, {"template": {"metadata": {"labels": {"app": None, "b": "c"}, "annotations": {}}}}),
    "finalizers": (
        DEPLOYMENT_SPEC,
        {"template": {"metadata": {"finalizers": ["example.com/three", "new", "example.com/one"]}}},
    ),
    "finalizers taken out": (
        DEPLOYMENT_SPEC,
        {
            "template": {
                "metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/one", "no"], "finalizers": ["new"]}
            }
        },
    ),
    "finalizers ordered": (
        DEPLOYMENT_SPEC,
        {
            "template": {
                "metadata": {
                    "$setElementOrder/finalizers": ["new", "example.com/three", "example.com/one"],
                    "$deleteFromPrimitiveList/finalizers": ["example.com/two"],
                    "finalizers": ["new"],
                }
            }
        },
    ),
    "arguments taken out": (DEPLOYMENT_SPEC, nginx(**{"$deleteFromPrimitiveList/args": ["--a"]})),
    "taken out of an absent list": (DEPLOYMENT_SPEC, nginx(**{"$deleteFromPrimitiveList/command": ["x"]})),
    "order": (
        DEPLOYMENT_SPEC,
        pod(
            **{"$setElementOrder/containers": [{"name": "log"}, {"name": "new"}, {"name": "nginx"}]},
            containers=[{"name": "new", "image": "i"}, {"name": "nginx", "image": "n:2"}],
        ),
    ),
    "order without list": (
        DEPLOYMENT_SPEC,
        pod(**{"$setElementOrder/containers": [{"name": "sidecar"}, {"name": "nginx"}]}),
    ),
    "order with deletion": (
        DEPLOYMENT_SPEC,
        pod(
            **{"$setElementOrder/containers": [{"name": "log"}, {"name": "sidecar"}]},
            containers=[{"$patch": "delete", "name": "nginx"}, {"name": "sidecar", "image": "s:2"}],
        ),
    ),
    "order with deletion and addition": (
        DEPLOYMENT_SPEC,
        pod(
            **{"$setElementOrder/containers": [{"name": "new"}, {"name": "log"}]},
            containers=[{"$patch": "delete", "name": "sidecar"}, {"name": "new", "image": "i"}, {"name": "log"}],
        ),
    ),
    "order with replacement": (
        DEPLOYMENT_SPEC,
        pod(
            **{"$setElementOrder/containers": [{"name": "log"}, {"name": "new"}]},
            containers=[{"$patch": "replace"}, {"name": "log", "image": "l"}, {"name": "new", "image": "i"}],
        ),
    ),
    "order of a new list": (
        DEPLOYMENT_SPEC,
        pod(
            **{"$setElementOrder/ephemeralContainers": [{"name": "b"}, {"name": "a"}]},
            ephemeralContainers=[{"name": "b"}, {"name": "a"}],
        ),
    ),
    "order of nothing": (DEPLOYMENT_SPEC, pod(**{"$setElementOrder/ephemeralContainers": [{"name": "b"}]})),
    "order of environment": (
        DEPLOYMENT_SPEC,
        nginx(**{"$setElementOrder/env": [{"name": "C"}, {"name": "B"}]}, env=[{"name": "B", "value": "2"}]),
    ),
    "claim templates are replaced": (
        STATEFUL_SET_SPEC,
        {"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"storageClassName": "fast"}}]},
    ),
    "stateful set": (
        STATEFUL_SET_SPEC,
        {
            "updateStrategy": {"rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
            "ordinals": {"start": 1},
            **pod(containers=[{"name": "db", "image": "db:2"}]),
        },
    ),
    "daemon set": (
        DAEMON_SET_SPEC,
        {
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
            **pod(hostNetwork=True, containers=[{"name": "agent", "args": ["-v"]}]),
        },
    ),
}


@pytest.fixture(scope="session")
def kubectl() -> Path:
    """Return the real kubectl."""
    return ensure_binaries(lambda _: None)["kubectl"]


def kubectl_patch(kubectl: Path, directory: Path, type_name: str, patch: Json) -> subprocess.CompletedProcess[str]:
    """Run the patch by kubectl, without a server."""
    api_version, kind, spec = SPECS[type_name]
    file = directory / "object.json"
    file.write_text(json.dumps({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}))
    return subprocess.run(
        [
            kubectl,
            "patch",
            "--local",
            "--type=strategic",
            "-f",
            file,
            "-p",
            json.dumps({"spec": patch}),
            "-o",
            "json",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(directory)},
    )


@pytest.mark.cluster
@pytest.mark.parametrize("case", ORACLE_CASES)
def test_the_result_is_that_of_kubectl(case: str, kubectl: Path, tmp_path: Path) -> None:
    """Field by field and in the same order."""
    type_name, patch = ORACLE_CASES[case]
    answer = kubectl_patch(kubectl, tmp_path, type_name, patch)
    assert answer.returncode == 0, answer.stderr
    assert merged(patch, type_name) == json.loads(answer.stdout)["spec"]


@pytest.mark.cluster
@pytest.mark.parametrize(
    "patch",
    [
        pod(containers=[{"image": "x"}]),
        pod(containers=[{"$patch": "delete"}]),
        pod(containers=[{"$patch": "remove", "name": "nginx"}]),
        {"strategy": {"$patch": "remove"}},
        {"strategy": {"$retainKeys": [], "type": "Recreate"}},
        {"strategy": {"$retainKeys": "type"}},
        pod(**{"$setElementOrder/containers": [{"name": "log"}]}, containers=[{"name": "nginx"}]),
        pod(**{"$setElementOrder/containers": {}}),
        pod(containers=["nginx"]),
    ],
)
def test_what_kubectl_refuses_is_refused(patch: Json, kubectl: Path, tmp_path: Path) -> None:
    """Nothing passes here that Kubernetes holds for a mistake."""
    assert kubectl_patch(kubectl, tmp_path, DEPLOYMENT_SPEC, patch).returncode != 0
    with pytest.raises(PatchError):
        merged(patch)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("patch", "left"),
    [
        (pod(securityContext={"$patch": "replace", "runAsUser": 1}), {}),
        ({"strategy": {"$patch": "merge", "type": "Recreate"}}, None),
        (pod(containers=[{"name": "new", "command": None}]), {"name": "new", "command": None}),
        (
            pod(containers=[{"name": "new", "env": [{"$patch": "delete", "name": "A"}]}]),
            {"name": "new", "env": [{"$patch": "delete", "name": "A"}]},
        ),
        (pod(containers=[{"$patch": "replace", "name": "new", "image": "i"}]), {}),
        ({"replicas": {"a": 1}}, {}),
    ],
)
def test_departures_from_kubectl_are_still_departures(
    patch: Json, left: Json | None, kubectl: Path, tmp_path: Path
) -> None:
    """Should kubectl learn one of them, this says so: then it is no departure any more."""
    answer = kubectl_patch(kubectl, tmp_path, DEPLOYMENT_SPEC, patch)
    if left is None:
        assert answer.returncode != 0
        return
    theirs = json.loads(answer.stdout)["spec"]
    if left:
        assert left in theirs["template"]["spec"]["containers"]
    with contextlib.suppress(PatchError):
        assert merged(patch) != theirs
