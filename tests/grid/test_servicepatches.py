"""What a Service has different in each unit: what wins, what is refused, and that all else goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ManagedMeta, ObjectMeta
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.grid.nodeunits import Declaration
from sitegrid.grid.observed import Service, ServicePort, ServiceSpec
from sitegrid.grid.servicepatches import (
    Claim,
    NodePorts,
    ServicePatches,
    claims_of,
    service_patches,
    wants_node_ports,
)
from sitegrid.grid.units import units_of
from sitegrid.wire.servicepatch import ServicePatch, parse_patch

NODES = [("n1", {"zone": "one"}), ("n2", {"zone": "two"}), ("n3", {"zone": "three"})]
DECLARED = {
    ("zone", "one"): Declaration({"tier": "gold"}, {"ip": "10.1.1.1"}),
    ("zone", "empty"): Declaration(),
}
UNITS = units_of("zone", NODES, DECLARED)
SERVICE = Service(
    metadata=ManagedMeta(name="web-svc", namespace="default"),
    spec=ServiceSpec(
        type="NodePort",
        ports=[
            ServicePort("http", "TCP", 80, 30080),
            ServicePort("dns", "UDP", 53, 30053),
            ServicePort("dns-tcp", "TCP", 53, 30054),
        ],
    ),
)


def _grid(*overrides: dict[str, Any]) -> ServiceGrid:
    spec = {"gridUniqKey": "zone", "template": {}, "overrides": [*overrides]}
    grid = msgspec.convert({"metadata": {}, "spec": spec}, ServiceGrid)
    grid.metadata = ObjectMeta(name="web", namespace="default")
    return grid


def _resolve(*overrides: dict[str, Any], service: Service | None = SERVICE, **ports: Any) -> ServicePatches:
    return service_patches(_grid(*overrides), UNITS, service, NodePorts(**ports))


def _for(*names: str, **patch: Any) -> dict[str, Any]:
    return {"units": {"names": [*names]}, "patch": patch}


def test_the_last_one_wins_field_by_field() -> None:
    """Addresses are replaced as a whole; annotations and ports by name."""
    found = _resolve(
        _for("one", "two", externalIPs=["10.9.9.1", "10.9.9.2"], annotations={"a": "1", "b": "2"}),
        {
            "units": {"selector": {"matchLabels": {"tier": "gold"}}},
            "patch": {"externalIPs": ["10.9.9.3"], "annotations": {"b": "3"}, "nodePorts": {"http": 31080}},
        },
        _for("one", nodePorts={"80": 31081}),
    )
    assert found == ServicePatches(
        {
            "one": ServicePatch(("10.9.9.3",), {"a": "1", "b": "3"}, {(80, "TCP"): 31081}),
            "two": ServicePatch(("10.9.9.1", "10.9.9.2"), {"a": "1", "b": "2"}),
        }
    )


def test_values_of_the_unit_are_put_in() -> None:
    """One override can be for all sites."""
    rule = {
        "units": {"names": ["one"]},
        "patch": {"externalIPs": ["$(unit.values.ip)"], "annotations": {"site": "$(unit.name)"}},
    }
    assert _resolve(rule).patches == {"one": ServicePatch(("10.1.1.1",), {"site": "one"})}


def test_a_port_is_found_by_name_or_number() -> None:
    """A number that two protocols share means both; a name comes first."""
    assert _resolve(_for("one", nodePorts={"53": 31053})).patches["one"].node_ports == {
        (53, "UDP"): 31053,
        (53, "TCP"): 31053,
    }
    assert _resolve(_for("one", nodePorts={"dns": 31053})).patches["one"].node_ports == {(53, "UDP"): 31053}


def test_units_that_do_not_exist_are_told() -> None:
    """They are no error; a unit that is only declared has nobody to show anything to."""
    found = _resolve(_for("nowhere", "empty", "one", externalIPs=[]))
    assert found.unknown == {"nowhere", "empty"}
    assert found.patches == {"one": ServicePatch(())}
    assert not found.problems


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"externalIPs": ["10.1.1"]}, "patch.externalIPs: '10.1.1' is not an IP address"),
        ({"externalIPs": ["10.0.0.1", "127.0.0.1"]}, "127.0.0.1 cannot be an external address"),
        ({"externalIPs": ["$(unit.values.none)"]}, "patch.externalIPs[0]: '$(unit.values.none)' is not known"),
        ({"annotations": {"a b": "1"}}, "'a b' is not a legal annotation name"),
        ({"annotations": {"tkeedge.io/unit": "1"}}, "is sitegrid's own"),
        ({"annotations": {"a": "$(unit.values.none)"}}, "patch.annotations.a: '$(unit.values.none)' is not known"),
        (
            {"nodePorts": {"htp": 31080}},
            "patch.nodePorts.htp: the Service has no such port (it has: http, dns, dns-tcp)",
        ),
        ({"nodePorts": {"http": 80}}, "80 is outside 30000-32767"),
        ({"nodePorts": {"http": 31000}}, "31000 is taken by Service other/db"),
        ({"nodePorts": {"http": 31001}}, "31001 is taken by an override of ServiceGrid other/old"),
        ({"nodePorts": {"http": 30054}}, "30054 is taken by port 53 of this Service"),
    ],
)
def test_what_is_wrong_is_left_out_of_its_unit_and_told(patch: dict[str, Any], words: str) -> None:
    """The rest of the unit's patch, and another unit's, are as they would be."""
    taken: dict[str, Any] = {
        "allocated": {31000: "other/db", 30080: "default/web-svc"},
        "claims": [Claim(31001, frozenset({"n1"}), "other/old"), Claim(31080, frozenset({"n9"}), "other/far")],
    }
    good = {"annotations": {"good": "1"}}
    found = _resolve(_for("one", "two", **good), {"name": "bad", **_for("one", **patch)}, **taken)
    assert found.patches == {value: ServicePatch(None, {"good": "1"}) for value in ("one", "two")}
    assert found.problems.keys() == {"one"}
    assert found.problems["one"].reason == "OverrideInvalid"
    assert found.problems["one"].message.startswith("overrides[1] (bad): patch.")
    assert words in found.problems["one"].message


def test_a_cluster_may_have_other_node_ports() -> None:
    """The range is the one that the API server is told: what is in the default's may be outside."""
    rule = _for("one", nodePorts={"http": 31080, "dns": 20053})
    found = _resolve(rule, numbers=range(20000, 22768))
    assert found.patches["one"].node_ports == {(53, "UDP"): 20053}
    assert "31080 is outside 20000-22767" in found.problems["one"].message


def test_a_service_without_node_ports_cannot_have_others() -> None:
    """The type is the template's; before there is a Service nothing is known, and nothing is said."""
    plain = Service(metadata=SERVICE.metadata, spec=ServiceSpec(ports=SERVICE.spec.ports))
    rule = _for("one", nodePorts={"http": 31080})
    assert "type is ClusterIP" in _resolve(rule, service=plain).problems["one"].message
    assert _resolve(rule, service=None) == ServicePatches()


def test_its_own_present_port_is_no_conflict() -> None:
    """What the API server gave to this very Service may be named; ports may also be swapped."""
    own: dict[str, Any] = {"allocated": {30080: "default/web-svc", 30054: "default/web-svc"}}
    rule = _for("one", nodePorts={"http": 30054, "dns-tcp": 30080})
    found = _resolve(rule, **own)
    assert found.patches["one"].node_ports == {(80, "TCP"): 30054, (53, "TCP"): 30080}
    assert not found.problems


def test_a_port_that_a_later_override_replaces_is_not_looked_at() -> None:
    """Nobody gets it, so it is nobody's problem."""
    found = _resolve(
        _for("one", "two", nodePorts={"http": 31000}),
        _for("two", nodePorts={"80": 31002}),
        allocated={31000: "other/db"},
    )
    assert found.problems.keys() == {"one"}
    assert found.patches["two"].node_ports == {(80, "TCP"): 31002}


def test_claims_are_what_is_wanted_by_unit() -> None:
    """Those of a grid, on the nodes of the units that they are for."""
    grid = _grid(_for("one", "two", nodePorts={"http": 31080}), _for("two", nodePorts={"http": 31081}))
    assert claims_of(grid, UNITS) == [
        Claim(31080, frozenset({"n1"}), "default/web"),
        Claim(31081, frozenset({"n2"}), "default/web"),
    ]
    assert wants_node_ports(grid)
    assert not wants_node_ports(_grid(_for("one", externalIPs=["10.1.1.1"])))


def test_a_matcher_that_cannot_be_understood_changes_no_unit() -> None:
    """Nobody can tell whose last override it would be."""
    odd = {
        "units": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        "patch": {"externalIPs": []},
    }
    found = _resolve(_for("one", externalIPs=["10.1.1.1"]), odd)
    assert not found.patches
    assert found.problems.keys() == {""}
    assert claims_of(_grid(_for("one", nodePorts={"http": 31080}), odd), UNITS) == []


_RULES = st.lists(
    st.fixed_dictionaries(
        {
            "units": st.fixed_dictionaries(
                {"names": st.lists(st.sampled_from(["one", "two", "three", "none"]), min_size=1, max_size=3)}
            ),
            "patch": st.fixed_dictionaries(
                {},
                optional={
                    "externalIPs": st.lists(st.sampled_from(["10.1.1.1", "fd00::1", "odd", "$(unit.values.ip)"])),
                    "annotations": st.dictionaries(
                        st.sampled_from(["a", "b", "x y", "tkeedge.io/c"]),
                        st.sampled_from(["1", "$(unit.values.ip)"]),
                    ),
                    "nodePorts": st.dictionaries(
                        st.sampled_from(["http", "80", "53", "none"]), st.sampled_from([80, 30053, 31080, 31081])
                    ),
                },
            ),
        }
    ),
    max_size=5,
)


@given(_RULES, st.sampled_from(["one", "two", "three"]))
def test_an_override_of_other_units_changes_nothing_here(rules: list[dict[str, Any]], value: str) -> None:
    """A unit's patch depends on the overrides that name it and on no other (I4); what comes out is well formed."""
    found = _resolve(*rules)
    alone = _resolve(*(rule for rule in rules if value in rule["units"]["names"]))
    assert found.patches.get(value) == alone.patches.get(value)
    assert (value in found.problems) == (value in alone.problems)
    for patch in found.patches.values():
        assert parse_patch(patch.text()) == patch
        ports = {(port.port, port.protocol): port.node_port for port in SERVICE.spec.ports} | dict(patch.node_ports)
        assert len({(number, protocol) for (_, protocol), number in ports.items()}) == len(ports)
        assert not any(name.startswith("tkeedge.io/") or " " in name for name in patch.annotations)
