"""What a ServiceGrid's Service has different in each unit: its overrides, resolved and checked.

Called by `sitegrid.controller.sitepatches`, which has them written beside the unit slices, and by
``sitegrid explain``. Of overrides for one unit the last wins, field by field: a list of addresses is replaced,
annotations and node ports are merged by name. What is wrong is left out of its unit's patch and told; the rest of it,
and all other units, go on (invariant I4). Held by ``tests/grid/test_servicepatches.py``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sitegrid.api.grids import LABEL_KEY_PATTERN
from sitegrid.api.servicegrids import ServiceGrid, ServiceOverride
from sitegrid.grid.observed import AnyService, Service, ServicePort
from sitegrid.grid.overrides import MatcherError
from sitegrid.grid.problem import OVERRIDE_INVALID, UNITS_INVALID, Problem
from sitegrid.grid.provenance import OverrideRef
from sitegrid.grid.substitution import SubstitutionError, substitute, unit_names
from sitegrid.grid.unitrules import UnitRules
from sitegrid.grid.units import UnitInfo, Units
from sitegrid.wire.labels import GROUP
from sitegrid.wire.servicepatch import Port, ServicePatch

NODE_PORTS: Final = range(30000, 32768)
"""The default of kube-apiserver's --service-node-port-range."""
NODE_PORT_TYPES: Final = ("NodePort", "LoadBalancer")
_ANNOTATION_KEY: Final = re.compile(LABEL_KEY_PATTERN)


class Claim(NamedTuple):
    """A node port that another ServiceGrid's override wants on some nodes."""

    port: int
    nodes: frozenset[str]
    grid: str


@dataclass(frozen=True, slots=True)
class NodePorts:
    """What is known of the cluster's node ports. The API server cannot check a patch: it is never sent there."""

    numbers: range = NODE_PORTS
    """All that there are: kube-apiserver's --service-node-port-range."""
    allocated: Mapping[int, str] = field(default_factory=dict)
    """By number: the Service (namespace/name) that the API server gave it to."""
    claims: Sequence[Claim] = ()
    """What older ServiceGrids' overrides want."""


@dataclass(frozen=True, slots=True)
class ServicePatches:
    """What a ServiceGrid's overrides come to."""

    patches: Mapping[str, ServicePatch] = field(default_factory=dict)
    """By unit, where anything differs."""
    problems: Mapping[str, Problem] = field(default_factory=dict)
    """By unit; the empty one stands for all."""
    unknown: frozenset[str] = frozenset()
    """Names that no unit has."""


def service_patches(
    grid: ServiceGrid, units: Units, service: Service | None, node_ports: NodePorts
) -> ServicePatches:
    """Return the patches of `grid` for `units`; without its `service` nothing is known of ports."""
    overrides = _Overrides(grid)
    patches: dict[str, ServicePatch] = {}
    problems: dict[str, Problem] = {}
    for value, info in units.items() if overrides.any else ():
        if not info.nodes:
            continue
        try:
            unit = _Unit(info, service, node_ports, overrides.of(info))
        except MatcherError as error:
            message = f"spec.overrides: {error}; no unit's Service is changed until it is repaired"
            return ServicePatches(problems={"": Problem(UNITS_INVALID, message)})
        if unit.patch:
            patches[value] = unit.patch
        if unit.problems:
            problems[value] = Problem(OVERRIDE_INVALID, "; ".join(dict.fromkeys(unit.problems)))
    unknown = frozenset(name for name in overrides.names if name not in units or not units[name].nodes)
    return ServicePatches(patches, problems, unknown)


def claims_of(grid: ServiceGrid, units: Units) -> list[Claim]:
    """Return the node ports that the overrides of `grid` want, whether they can be had or not."""
    overrides, name = _Overrides(grid), f"{grid.metadata.namespace}/{grid.metadata.name}"
    found = []
    for info in units.values() if wants_node_ports(grid) else ():
        try:
            matching = overrides.of(info) if info.nodes else []
        except MatcherError:
            return []
        ports = {key: port for _, override in matching for key, port in override.patch.node_ports.items()}
        found += [Claim(port, info.nodes, name) for port in sorted({*ports.values()})]
    return found


def wants_node_ports(grid: ServiceGrid) -> bool:
    """Tell whether an override of `grid` says anything about node ports."""
    return any(override.patch.node_ports for override in grid.spec.overrides)


def node_ports_of(service: Service | AnyService) -> set[int]:
    """Return the node ports that the API server gave to a Service."""
    numbers = (*(port.node_port for port in service.spec.ports), service.spec.health_check_node_port)
    return {number for number in numbers if number}


class _Overrides:
    """The overrides of one grid."""

    def __init__(self, grid: ServiceGrid) -> None:
        self._all = [(OverrideRef(index, item.name), item) for index, item in enumerate(grid.spec.overrides)]
        self._rules = UnitRules([item.units for item in grid.spec.overrides])
        self.any = bool(self._all)
        self.names = self._rules.names

    def of(self, info: UnitInfo) -> list[tuple[OverrideRef, ServiceOverride]]:
        """Return those for a unit, in order. Raises `MatcherError`."""
        return [self._all[index] for index in self._rules.of(info.unit)]


class _Unit:
    """One unit's patch, and what is wrong with it."""

    def __init__(
        self,
        info: UnitInfo,
        service: Service | None,
        node_ports: NodePorts,
        overrides: Iterable[tuple[OverrideRef, ServiceOverride]],
    ) -> None:
        self.problems: list[str] = []
        self._info = info
        self._service = service
        self._node_ports = node_ports
        self._names = unit_names(info.unit.value, info.unit.key, info.unit.values)
        ips: tuple[str, ...] | None = None
        annotations: dict[str, str] = {}
        ports: dict[Port, tuple[int, str]] = {}
        for ref, override in overrides:
            if override.patch.external_ips is not None:
                given = self._external_ips(f"{ref}: patch.externalIPs", override.patch.external_ips)
                ips = ips if given is None else given
            annotations.update(self._annotations(f"{ref}: patch.annotations", override.patch.annotations))
            for key, number in override.patch.node_ports.items():
                where = f"{ref}: patch.nodePorts.{key}"
                ports.update(dict.fromkeys(self._ports(where, key), (number, where)))
        self.patch = ServicePatch(ips, annotations, self._free(ports))

    def _external_ips(self, where: str, addresses: list[str]) -> tuple[str, ...] | None:
        found = []
        try:
            for text in substitute(addresses, self._names):
                address = ipaddress.ip_address(text)
                # As the API server's ValidateNonSpecialIP (pkg/apis/core/validation).
                if address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast:
                    self.problems.append(f"{where}: {text} cannot be an external address: give another one")
                    return None
                found.append(str(address))
        except SubstitutionError as error:
            self.problems.append(f"{where}{error}")
            return None
        except ValueError:
            self.problems.append(f"{where}: {text!r} is not an IP address: correct it")
            return None
        return tuple(dict.fromkeys(found))

    def _annotations(self, where: str, annotations: Mapping[str, str]) -> Mapping[str, str]:
        found = {}
        for name, value in annotations.items():
            prefix, slash, rest = name.rpartition("/")
            legal = _ANNOTATION_KEY.fullmatch(name) and len(rest) <= 63 and len(prefix) <= 253
            if not legal or (slash and (prefix == GROUP or prefix.endswith(f".{GROUP}"))):
                what = (
                    "sitegrid's own: use a name of your own" if legal else "not a legal annotation name: correct it"
                )
                self.problems.append(f"{where}: {name!r} is {what}")
                continue
            try:
                found[name] = substitute(value, self._names)
            except SubstitutionError as error:
                self.problems.append(f"{where}.{name}: {error.message}")
        return found

    def _ports(self, where: str, key: str) -> list[Port]:
        """Return the Service's ports that `key` means, a name or a number."""
        if self._service is None:
            return []
        spec = self._service.spec
        if spec.type not in NODE_PORT_TYPES:
            self.problems.append(
                f"{where}: the Service's type is {spec.type}, which has no node ports: set type NodePort or "
                "LoadBalancer in the template"
            )
            return []
        named = [_port(port) for port in spec.ports if port.name == key]
        ports = named or [_port(port) for port in spec.ports if str(port.port) == key]
        if not ports:
            has = ", ".join(port.name or str(port.port) for port in spec.ports) or "none"
            self.problems.append(f"{where}: the Service has no such port (it has: {has}): correct the name or number")
        return ports

    def _free(self, wanted: dict[Port, tuple[int, str]]) -> dict[Port, int]:
        """Return those of the wanted node ports that can be had."""
        if self._service is None or not wanted:
            return {}
        own = {_port(port): port.node_port for port in self._service.spec.ports}
        final = {**own, **{port: number for port, (number, _) in wanted.items()}}
        found = {}
        for port, (number, where) in wanted.items():
            twins = [other for other in final if other != port and (final[other], other[1]) == (number, port[1])]
            holder = f"port {twins[0][0]} of this Service" if twins else self._holder(number)
            numbers = self._node_ports.numbers
            if number not in numbers:
                ports = f"{numbers.start}-{numbers.stop - 1}"
                self.problems.append(f"{where}: {number} is outside {ports}, where node ports are: give one inside")
            elif holder:
                self.problems.append(f"{where}: {number} is taken by {holder}: give another one")
            else:
                found[port] = number
        return found

    def _holder(self, number: int) -> str:
        """Return in words who has a node port on the unit's nodes; empty where it is free."""
        assert self._service is not None
        meta = self._service.metadata
        name = self._node_ports.allocated.get(number, "")
        if name and name != f"{meta.namespace}/{meta.name}":
            return f"Service {name}"
        for claim in self._node_ports.claims:
            if claim.port == number and claim.nodes & self._info.nodes:
                return f"an override of ServiceGrid {claim.grid}"
        return ""


def _port(port: ServicePort) -> Port:
    return (port.port, port.protocol)
