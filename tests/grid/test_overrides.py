"""Overrides: which units they are for, what they make of the template, who set what, and what they may not touch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.grid.overrides import (
    Override,
    OverrideError,
    Unit,
    UnitMatcher,
    effective_spec,
    unknown_units,
)
from sitegrid.grid.patchfields import DAEMON_SET_SPEC, STATEFUL_SET_SPEC
from sitegrid.grid.provenance import Origin, OverrideRef
from sitegrid.grid.substitution import SubstitutionError

Json = dict[str, Any]

TEMPLATE: Json = {
    "replicas": 1,
    "selector": {"matchLabels": {"app": "web"}},
    "template": {
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [
                {"name": "nginx", "image": "nginx:1.25", "env": [{"name": "SITE", "value": "$(unit.name)"}]},
                {
                    "name": "log",
                    "image": "log:1",
                    "ports": [{"containerPort": 53}, {"containerPort": 53, "name": "u"}],
                },
            ],
        },
    },
}
A = Unit("zone", "a", labels={"size": "big", "env": "prod"}, values={"mirror": "registry.a"})
B = Unit("zone", "b", labels={"size": "small"})


def override(patch: Json | None = None, *names: str, name: str = "", **fields: Any) -> Override:
    """Return an override for the units `names`, for unit a where there is none."""
    return Override(UnitMatcher(names=names or ("a",)), patch=patch, name=name, **fields)


def selecting(selector: Json | None, *names: str) -> Override:
    """Return an override of the replicas with a selector."""
    return Override(UnitMatcher(names=names, selector=selector), replicas=7)


def nginx(**fields: Any) -> Json:
    """Return the patch of the container nginx."""
    return pod(containers=[{"name": "nginx", **fields}])


def pod(**spec: Any) -> Json:
    """Return the patch of a pod spec."""
    return {"template": {"spec": spec}}


def applied(*overrides: Override, unit: Unit = A) -> tuple[Json, dict[str, Origin]]:
    """Return spec and provenance of the unit."""
    return effective_spec(TEMPLATE, overrides, unit)


def origins(*overrides: Override) -> dict[str, tuple[int, tuple[int, ...], bool]]:
    """Return for each changed field of unit a: the override's index, the superseded ones' and whether it is gone."""
    return {
        path: (origin.override.index, tuple(ref.index for ref in origin.superseded), origin.removed)
        for path, origin in applied(*overrides)[1].items()
    }


# Units.


def test_an_override_is_for_the_units_it_names() -> None:
    """And for no other."""
    rule = override({"replicas": 5})
    assert applied(rule)[0]["replicas"] == 5
    assert applied(rule, unit=B)[0]["replicas"] == 1


@pytest.mark.parametrize(
    ("selector", "for_a", "for_b"),
    [
        ({"matchLabels": {"size": "big"}}, True, False),
        ({"matchLabels": {"size": "big", "env": "test"}}, False, False),
        ({"matchExpressions": [{"key": "size", "operator": "In", "values": ["big", "small"]}]}, True, True),
        ({"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}]}, False, True),
        ({"matchExpressions": [{"key": "env", "operator": "Exists"}]}, True, False),
        ({"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]}, False, True),
        (
            {"matchLabels": {"size": "big"}, "matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]},
            False,
            False,
        ),
    ],
)
def test_a_selector_chooses_units_by_their_labels(selector: Json, for_a: bool, for_b: bool) -> None:
    """With the meaning that it has in Kubernetes."""
    assert (applied(selecting(selector))[0]["replicas"] == 7) is for_a
    assert (applied(selecting(selector), unit=B)[0]["replicas"] == 7) is for_b


def test_names_and_selector_are_united() -> None:
    """An override is for those that are named and for those that are selected."""
    rule = selecting({"matchLabels": {"size": "small"}}, "a")
    assert applied(rule)[0]["replicas"] == 7
    assert applied(rule, unit=B)[0]["replicas"] == 7


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (selecting(None), "units: it names no unit and has no selector: say which units are meant"),
        (selecting({}), "units: it has an empty selector"),
        (selecting({"matchLabels": {}}), "units: it has an empty selector"),
        (selecting({}, "a"), "units: it has an empty selector"),
        (selecting({"matchNames": {}}), r"units\.selector: .* and no 'matchNames'"),
        (selecting({"matchLabels": []}), "units: it has an empty selector"),
        (selecting({"matchLabels": ["x"]}), "matchLabels must be a map"),
        (selecting({"matchLabels": {"size": 1}}), r"matchLabels\[size\]: 1 is not a label value"),
        (selecting({"matchLabels": {"-": "x"}}), "'-' is not a label key"),
        (selecting({"matchExpressions": {"a": "b"}}), "matchExpressions must be a list"),
        (selecting({"matchExpressions": ["a"]}), r"matchExpressions\[0\] must be a map"),
        (selecting({"matchExpressions": [{"key": "a", "operator": "in"}]}), "operator 'in' is not one of In, NotIn"),
        (selecting({"matchExpressions": [{"key": "a", "operator": "In"}]}), "In needs at least one value"),
        (
            selecting({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
            "Exists takes no values",
        ),
        (selecting({"matchExpressions": [{"key": "a", "operator": "In", "values": "x"}]}), "values must be a list"),
    ],
)
def test_a_matcher_that_is_empty_or_wrong_is_refused(rule: Override, words: str) -> None:
    """Nobody means all units by writing nothing."""
    with pytest.raises(OverrideError, match=words):
        applied(rule)


def test_unknown_units_are_told_and_are_no_error() -> None:
    """The site may come later."""
    rules = [override({}, "a"), override({}, "a", "c", "d", name="later")]
    assert unknown_units(rules, {"a", "b"}) == {OverrideRef(1, "later"): ("c", "d")}


# What comes out.


def test_overrides_are_applied_in_their_order() -> None:
    """The later one wins, and patches what the earlier ones left."""
    spec, _ = applied(override(nginx(image="one", command=["x"])), override(nginx(image="two")))
    container = spec["template"]["spec"]["containers"][0]
    assert (container["image"], container["command"]) == ("two", ["x"])


def test_replicas_have_a_short_form() -> None:
    """It is the same as the patch."""
    assert applied(override(replicas=3)) == applied(override({"replicas": 3}))
    assert applied(override(nginx(image="x"), replicas=0))[0]["replicas"] == 0


def test_the_units_values_are_usable_in_template_and_patch() -> None:
    """Both are read for the unit before they are merged."""
    spec, _ = applied(override(nginx(image="$(unit.values.mirror)/nginx")))
    container = spec["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.a/nginx"
    assert container["env"] == [{"name": "SITE", "value": "a"}]


def test_a_value_that_one_unit_lacks_hits_only_that_unit() -> None:
    """Unit b has no mirror; the message says where."""
    rule = override(nginx(image="$(unit.values.mirror)/nginx"), "a", "b")
    applied(rule)
    with pytest.raises(OverrideError) as caught:
        applied(rule, unit=B)
    assert caught.value.path == "patch.template.spec.containers[0].image"
    assert str(caught.value).startswith(
        "overrides[0]: patch.template.spec.containers[0].image: '$(unit.values.mirror)' is not known"
    )


def test_an_unknown_name_in_the_template_is_not_an_overrides_fault() -> None:
    """The path is that in the template."""
    with pytest.raises(SubstitutionError, match=r"^template\.x: "):
        effective_spec({"template": {"x": "$(unit.no)"}}, [], A)


def test_other_types_of_spec_are_merged_by_their_own_keys() -> None:
    """A StatefulSet's containers by name, its volume claims as one."""
    claims = {"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}
    spec, _ = effective_spec({**TEMPLATE, **claims}, [override(replicas=2)], A, STATEFUL_SET_SPEC)
    assert (spec["replicas"], spec["volumeClaimTemplates"]) == (2, claims["volumeClaimTemplates"])


# Who set what.


def test_provenance_names_each_changed_field() -> None:
    """Scalars by their path, what is new field by field, what is gone in one piece."""
    patch = {
        "paused": True,
        "replicas": None,
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/name": "x"}},
            "spec": {
                "containers": [
                    {"name": "nginx", "image": "nginx:1.27", "args": ["--x"]},
                    {"name": "new", "image": "n", "ports": [{"containerPort": 80}], "securityContext": {}},
                    {"$patch": "delete", "name": "log"},
                ]
            },
        },
    }
    assert origins(override(patch)) == {
        "paused": (0, (), False),
        "replicas": (0, (), True),
        'template.metadata.labels["app.kubernetes.io/name"]': (0, (), False),
        "template.spec.containers[log]": (0, (), True),
        "template.spec.containers[new].image": (0, (), False),
        "template.spec.containers[new].name": (0, (), False),
        "template.spec.containers[new].ports[80].containerPort": (0, (), False),
        "template.spec.containers[new].securityContext": (0, (), False),
        "template.spec.containers[nginx].args": (0, (), False),
        "template.spec.containers[nginx].image": (0, (), False),
    }


def test_what_an_override_says_without_changing_it_is_not_its_own() -> None:
    """The template, or the override before, has set it."""
    assert origins(override({"replicas": 1})) == {}
    assert origins(override({"replicas": 2}), override({"replicas": 2})) == {"replicas": (0, (), False)}


def test_provenance_shows_who_lost() -> None:
    """The conflict is told with the field."""
    rules = [override({"replicas": 2}), override(replicas=3), override({"replicas": 4})]
    assert origins(*rules) == {"replicas": (2, (0, 1), False)}


def test_removing_a_container_supersedes_what_was_set_in_it() -> None:
    """Its fields are gone, and whose they were is told."""
    rules = [
        override(pod(containers=[{"name": "log", "image": "log:2"}])),
        override(pod(containers=[{"$patch": "delete", "name": "log"}])),
    ]
    assert origins(*rules) == {"template.spec.containers[log]": (1, (0,), True)}


def test_setting_below_what_was_removed_supersedes_the_removal_there() -> None:
    """The removal still says why the rest is gone."""
    rules = [override(pod(nodeSelector=None)), override(pod(nodeSelector={"disk": "hdd"}))]
    assert origins(*rules) == {
        "template.spec.nodeSelector": (0, (), True),
        "template.spec.nodeSelector.disk": (1, (0,), False),
    }


def test_an_items_second_occurrence_is_told_apart() -> None:
    """TCP and UDP of one port share their merge key."""
    patch = pod(containers=[{"name": "log", "ports": [{"$patch": "replace"}, {"containerPort": 53}]}])
    assert origins(override(patch)) == {"template.spec.containers[log].ports[53#2]": (0, (), True)}


def test_another_order_is_a_change_of_its_own() -> None:
    """And does not hide what changes in the items."""
    order = pod(**{"$setElementOrder/containers": [{"name": "log"}, {"name": "nginx"}]})
    assert origins(override(order), override(pod(containers=[{"name": "log", "image": "l:2"}]))) == {
        "template.spec.$setElementOrder/containers": (0, (), False),
        "template.spec.containers[log].image": (1, (), False),
    }


def test_an_override_is_shown_by_its_name() -> None:
    """As users know it."""
    _, provenance = applied(override({"replicas": 2}, name="canary"))
    assert str(provenance["replicas"].override) == "overrides[0] (canary)"


# Refusals.


@pytest.mark.parametrize(
    ("patch", "path", "words"),
    [
        ({"selector": {"matchLabels": {"x": "y"}}}, "patch.selector", "cannot change the selector"),
        ({"selector": None}, "patch.selector", "cannot change the selector"),
        ({"$retainKeys": ["template"]}, "patch.selector", "cannot change the selector"),
        ({"template": None}, "patch.template", "cannot take the pod template away"),
        ({"template": {"$patch": "delete"}}, "patch.template", "cannot take the pod template away"),
        ({"template": {"spec": None}}, "patch.template", "cannot take the pod template away"),
        ({"metadata": {"name": "x"}}, "patch.metadata", "cannot change the object around it, such as its name"),
        ({"spec": {"replicas": 2}}, "patch.spec", "without 'spec:' around them"),
        ({"kind": "Pod"}, "patch.kind", "cannot change the object around it"),
        ({"template": {"metadata": {"name": "x"}}}, "patch.template.metadata.name", "cannot set name"),
        ({"template": {"metadata": {"namespace": "x"}}}, "patch.template.metadata.namespace", "cannot set namespace"),
        (
            {"template": {"metadata": {"labels": {"tkeedge.io/unit": "x"}}}},
            'patch.template.metadata.labels["tkeedge.io/unit"]',
            "tells the units' pods apart by it",
        ),
        (
            {"template": {"metadata": {"labels": {"tkeedge.io/unit": None}}}},
            'patch.template.metadata.labels["tkeedge.io/unit"]',
            "cannot change this label",
        ),
        (pod(nodeSelector={"zone": "b"}), "patch.template.spec.nodeSelector.zone", "pins them to zone=a"),
        (pod(nodeSelector={"zone": None}), "patch.template.spec.nodeSelector.zone", "leave zone out"),
        (
            pod(containers=[{"name": "ngnix", "env": []}]),
            "patch.template.spec.containers[ngnix]",
            "no such container (it has: nginx, log)",
        ),
        (
            pod(initContainers=[{"name": "wait"}]),
            "patch.template.spec.initContainers[wait]",
            "no such container (it has: none)",
        ),
        (nginx(resources="x"), "patch.template.spec.containers[nginx].resources", "the string 'x' where a map"),
        ([], "patch", "must be a map"),
        ({"$nope": 1}, "patch", "'$nope' is not known"),
    ],
)
def test_what_is_not_the_overrides_to_change_is_refused(patch: Any, path: str, words: str) -> None:
    """With the override, the path and a sentence."""
    with pytest.raises(OverrideError) as caught:
        applied(override(), override(patch, name="bad"))
    assert caught.value.override == OverrideRef(1, "bad")
    assert caught.value.path == path
    assert words in caught.value.message
    assert str(caught.value) == f"overrides[1] (bad): {path}: {caught.value.message}"


@pytest.mark.parametrize(
    "patch",
    [
        {"selector": {"matchLabels": {"app": "web"}}},
        pod(nodeSelector={"zone": "a"}),
        pod(nodeSelector={"zone": "$(unit.name)"}),
        pod(nodeSelector={"disk": "hdd"}),
        pod(nodeSelector=None),
        {"template": {"metadata": {"labels": {"tier": "x"}}}},
        pod(containers=[{"name": "side", "image": "s"}]),
        pod(containers=[{"$patch": "delete", "name": "no-such"}]),
    ],
)
def test_what_changes_nothing_of_sitegrids_is_allowed(patch: Json) -> None:
    """Repeating what is so anyway is no fault."""
    applied(override(patch))


@pytest.mark.parametrize(
    ("rule", "type_name", "words"),
    [
        (override({"replicas": 1}, replicas=2), "DeploymentSpec", "replicas: replicas is given twice"),
        (override(replicas=-1), "DeploymentSpec", "-1 is not a whole number"),
        (override(replicas=True), "DeploymentSpec", "True is not a whole number"),
        (override(replicas=2), DAEMON_SET_SPEC, "only Deployments and StatefulSets have replicas"),
    ],
)
def test_what_the_kind_does_not_allow_is_refused(rule: Override, type_name: str, words: str) -> None:
    """Replicas twice or where there are none."""
    with pytest.raises(OverrideError, match=words):
        effective_spec(TEMPLATE, [rule], A, type_name)


@given(
    template=st.dictionaries(
        st.sampled_from(["template", "selector", "ports"]), st.sampled_from([None, 1, "x", [], {}])
    )
)
def test_a_broken_template_is_patched_or_refused(template: Json) -> None:
    """What the user's template lacks or has wrong is the API server's to say, or a refusal with its path."""
    rule = override({"template": {"metadata": {"labels": {"x": "y"}}}})
    try:
        spec, _ = effective_spec(template, [rule], A)
    except OverrideError as error:
        assert "the template has" in error.message
    else:
        assert spec["template"]["metadata"] == {"labels": {"x": "y"}}


def test_a_bad_override_hits_only_its_units() -> None:
    """Unit b gets its child."""
    rules = [override({"selector": None}), override({"replicas": 2}, "b")]
    assert applied(*rules, unit=B)[0]["replicas"] == 2
    with pytest.raises(OverrideError):
        applied(*rules)


# Properties.

PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(0, 3),
        "paused": st.none() | st.booleans(),
        "template": st.fixed_dictionaries(
            {},
            optional={
                "metadata": st.fixed_dictionaries(
                    {}, optional={"labels": st.dictionaries(st.sampled_from("xy"), st.none() | st.sampled_from("12"))}
                ),
                "spec": st.fixed_dictionaries(
                    {},
                    optional={
                        "nodeSelector": st.none() | st.dictionaries(st.sampled_from(["disk", "x"]), st.just("1")),
                        "containers": st.lists(
                            st.fixed_dictionaries(
                                {"name": st.sampled_from(["nginx", "log", "new"]), "image": st.sampled_from("ij")},
                                optional={"$patch": st.just("delete"), "args": st.lists(st.just("x"), max_size=2)},
                            ),
                            max_size=3,
                        ),
                    },
                ),
            },
        ),
    },
)
RULES = st.lists(
    st.builds(
        Override,
        units=st.builds(UnitMatcher, names=st.sampled_from([("a",), ("b",), ("a", "b"), ("c",)])),
        patch=PATCHES,
        name=st.sampled_from(["", "n"]),
    ),
    max_size=4,
)


@given(rules=RULES)
def test_overrides_of_other_units_change_nothing(rules: list[Override]) -> None:
    """A unit's spec is the same with and without the overrides of others (invariant I4)."""
    own = [rule for rule in rules if "a" in rule.units.names]
    assert applied(*rules)[0] == applied(*own)[0]


@given(rules=RULES)
def test_inputs_stay_as_they_are(rules: list[Override]) -> None:
    """Template and patches belong to the user; one template serves all units (invariant I3)."""
    before = copy.deepcopy((TEMPLATE, rules))
    applied(*rules)
    applied(*rules, unit=B)
    assert (TEMPLATE, rules) == before


@given(rules=RULES)
def test_what_sitegrid_owns_is_never_changed(rules: list[Override]) -> None:
    """The selector stays."""
    assert applied(*rules)[0]["selector"] == TEMPLATE["selector"]


@given(rules=RULES)
def test_a_changed_spec_has_provenance(rules: list[Override]) -> None:
    """Where nothing is recorded, the spec is the template; what is recorded names an override of the unit."""
    spec, provenance = applied(*rules)
    if not provenance:
        assert spec == applied()[0]
    for origin in provenance.values():
        assert "a" in rules[origin.override.index].units.names
        assert all(ref.index < origin.override.index for ref in origin.superseded)
