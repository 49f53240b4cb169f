"""Endpoints by the slice that they belong into: one group for each unit, address type and set of ports.

The form in which the projection (`sitegrid.grid.slices`) works on them, step by step. Held by
``tests/grid/test_slices.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from sitegrid.grid.observed import Endpoint, EndpointPort, EndpointSlice


class Group(NamedTuple):
    """What the endpoints of one slice have in common."""

    unit: str
    """The unit's value."""
    address_type: str
    ports: tuple[EndpointPort, ...]
    """In the order of `sorted_ports`."""
    aliases: bool = False
    """Whether they are pods under their aliases."""


Endpoints = dict[tuple[str, ...], Endpoint]
"""Endpoints by their addresses."""


def group_by_unit(
    sources: Iterable[EndpointSlice], unit_of_node: Mapping[str, str], *, hints: bool
) -> dict[Group, Endpoints]:
    """Return the endpoints of slices by the unit of their node; those of nodes in no unit are left out (I1).

    Their `hints` are kept where they follow from the endpoint alone, which is when the Service has a
    trafficDistribution. Others share all units' endpoints out among zones, so a unit's own may be meant for none of
    its nodes.
    """
    groups: dict[Group, Endpoints] = {}
    for source in sources:
        ports = sorted_ports(source)
        found: dict[str, Endpoints] = {}
        for endpoint in source.endpoints or ():
            value = unit_of_node.get(endpoint.node_name or "")
            if value is None:
                continue  # no node, an unknown one, or one outside every unit: nobody is to see it
            if value not in found:
                found[value] = groups.setdefault(Group(value, source.address_type, ports), {})
            add_endpoint(found[value], endpoint if hints else msgspec.structs.replace(endpoint, hints=None))
    return groups


def add_endpoint(group: Endpoints, endpoint: Endpoint) -> None:
    """Add an endpoint once: while Kubernetes moves one between slices it is in two of them (KEP-752).

    Of two states of it the ready one counts, then the one that is first in order, whichever slice came first.
    """
    addresses = tuple(endpoint.addresses)
    known = group.get(addresses)
    if known is None or _preference(endpoint) < _preference(known):
        group[addresses] = endpoint


def sorted_ports(item: EndpointSlice) -> tuple[EndpointPort, ...]:
    """Return the ports of a slice in an order that does not depend on how they were written."""
    return tuple(sorted(item.ports or (), key=port_order))


def port_order(port: EndpointPort) -> tuple[str, str, int, str]:
    """Return by what ports are sorted."""
    return (port.name or "", port.protocol or "", port.port or 0, port.app_protocol or "")


def _preference(endpoint: Endpoint) -> tuple[bool, bytes]:
    return (endpoint.conditions.ready is not True, msgspec.json.encode(endpoint))
