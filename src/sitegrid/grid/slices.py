"""Regroups a grid Service's EndpointSlices by unit into unit slices.

Called by the controller on every change of Kubernetes' slices for it, of the nodes or of the Service. Kubernetes'
endpointslice controller has done readiness, ports and address families; here an endpoint only moves to the slice of
its node's unit. Invariants: an endpoint whose unit is not known for certain is in no slice (I1); the result depends
on the set of endpoints and not on their order, so that nothing is written for a reordering (I7).
Held by ``tests/grid/test_slices.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from sitegrid.api.meta import ObjectMeta, OwnerReference
from sitegrid.grid.aliases import FindSet, alias_of
from sitegrid.grid.endpointcounts import EndpointCount, count_endpoints
from sitegrid.grid.fallback import CLOSED, Falling
from sitegrid.grid.groups import Endpoints, Group, add_endpoint, group_by_unit, port_order
from sitegrid.grid.names import MAX_NAME
from sitegrid.grid.observed import Endpoint, EndpointSlice, Service
from sitegrid.wire.labels import (
    ALIASES,
    GRID_UNIQ_KEY,
    HEADLESS,
    HEADLESS_SERVICE,
    MANAGED_BY,
    SERVICE_PATCH,
    SERVICE_PROXY_NAME,
    SITEGRID,
    UNIT,
    UNIT_SERVICE_NAME,
    hashed_name,
    label_value,
    unit_id,
)

MAX_ENDPOINTS: Final = 1000
"""Most endpoints in one slice (discovery/v1, EndpointSlice.endpoints)."""


def is_unit_slice(item: EndpointSlice) -> bool:
    """Tell whether a slice is one of ours."""
    labels = item.metadata.labels
    return labels.get(MANAGED_BY) == SITEGRID and UNIT_SERVICE_NAME in labels


def _no_set(name: str) -> None:
    """Find no StatefulSet."""


class Projection(NamedTuple):
    """What is wanted of a grid Service's endpoints."""

    slices: list[EndpointSlice]
    fallbacks: dict[str, str]
    """By unit that uses another's endpoints: whose they are."""
    endpoints: dict[str, EndpointCount]
    """By unit that has any: its own endpoints."""


def wanted_slices(
    service: Service,
    key: str,
    sources: Iterable[EndpointSlice],
    unit_of_node: Mapping[str, str],
    *,
    find_set: FindSet = _no_set,
    falling: Falling = CLOSED,
) -> Projection:
    """Return the unit slices of `service` for the unique key `key`, from Kubernetes' slices and the nodes' units.

    `find_set` finds the StatefulSets of grids, whose pods get aliases behind a headless Service; behind another one
    kube-proxy would count an endpoint twice. `falling` says which units may use another's endpoints.
    """
    groups = group_by_unit(sources, unit_of_node, hints=service.spec.traffic_distribution is not None)
    endpoints = count_endpoints(groups)
    if service.headless:
        _add_aliases(key, groups, find_set)
    fallbacks = falling.apply(key, groups, unit_of_node)
    slices = [
        _unit_slice(service, key, group, index, ordered[start : start + MAX_ENDPOINTS])
        for group, found in sorted(groups.items(), key=_group_order)
        for ordered in [sorted(found.values(), key=_endpoint_order)]
        for index, start in enumerate(range(0, len(ordered), MAX_ENDPOINTS))
    ]
    return Projection(slices, fallbacks, endpoints)


def patch_slice(service: Service, key: str, value: str, text: str) -> EndpointSlice:
    """Return the slice that tells the nodes of the unit `value` what they are to see different of `service`."""
    name = hashed_name(f"{service.metadata.name}-{value}", service.metadata.name, key, value, max_length=MAX_NAME)
    metadata = _metadata(service, key, value, name)
    metadata.labels[SERVICE_PATCH] = ""
    metadata.annotations[SERVICE_PATCH] = text
    # Any address type would do, for there is no address.
    return EndpointSlice(metadata=metadata, address_type="IPv4", endpoints=[], ports=[])


def is_patch_slice(item: EndpointSlice) -> bool:
    """Tell whether a unit slice is a `patch_slice`."""
    return SERVICE_PATCH in item.metadata.labels


def _add_aliases(key: str, groups: dict[Group, Endpoints], find_set: FindSet) -> None:
    """Add a group of aliases for each unit and address type that has any."""
    names: dict[str, set[str]] = {}
    for group, endpoints in groups.items():
        names.setdefault(group.unit, set()).update(item.hostname for item in endpoints.values() if item.hostname)
    for group, endpoints in [*groups.items()]:
        taken = names[group.unit]
        if not taken:
            continue
        unit = unit_id(key, group.unit)
        for endpoint in endpoints.values():
            alias = alias_of(endpoint, unit, find_set, taken)
            if alias is not None:
                add_endpoint(groups.setdefault(Group(group.unit, group.address_type, (), aliases=True), {}), alias)


def unchanged(wanted: EndpointSlice, observed: EndpointSlice) -> bool:
    """Tell whether the observed slice has all that the wanted one says; labels that others added do not count."""
    labels, owners = observed.metadata.labels, observed.metadata.owner_references
    annotations = observed.metadata.annotations
    return (
        wanted.endpoints == observed.endpoints
        and wanted.ports == (observed.ports or [])
        and wanted.address_type == observed.address_type
        and all(labels.get(name) == value for name, value in wanted.metadata.labels.items())
        and all(annotations.get(name) == value for name, value in wanted.metadata.annotations.items())
        and all(owner in owners for owner in wanted.metadata.owner_references)
    )


def manifest(item: EndpointSlice) -> dict[str, Any]:
    """Return the wanted slice as an object."""
    owner = item.metadata.owner_references[0]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": item.metadata.name,
            "namespace": item.metadata.namespace,
            "labels": item.metadata.labels,
            **({"annotations": item.metadata.annotations} if item.metadata.annotations else {}),
            "ownerReferences": [
                {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
            ],
        },
        "addressType": item.address_type,
        "endpoints": msgspec.to_builtins(item.endpoints),
        "ports": msgspec.to_builtins(item.ports),
    }


def unselected(item: EndpointSlice) -> dict[str, Any]:
    """Return the slice as it is created: without unit and endpoints, so that no agent is sent it yet."""
    made = manifest(item)
    labels = {name: value for name, value in item.metadata.labels.items() if name != UNIT}
    return {**made, "metadata": {**made["metadata"], "labels": labels}, "endpoints": []}


def untracked(item: EndpointSlice) -> dict[str, Any]:
    """Return the slice as a change that takes its managedFields off; they stay off while nobody applies to it.

    One empty entry says so (Server-Side Apply, "Clearing managedFields"); a create is tracked in spite of it.
    """
    made = manifest(item)
    return {**made, "metadata": {**made["metadata"], "managedFields": [{}]}}


def _unit_slice(service: Service, key: str, group: Group, index: int, endpoints: list[Endpoint]) -> EndpointSlice:
    value, address_type, ports, aliases = group
    name = hashed_name(
        f"{service.metadata.name}-{value}",
        service.metadata.name,
        key,
        value,
        address_type,
        msgspec.json.encode(ports).decode(),
        str(index),
        *(["aliases"] if aliases else ()),
        max_length=MAX_NAME,
    )
    metadata = _metadata(service, key, value, name)
    if aliases:
        metadata.labels[ALIASES] = ""
    return EndpointSlice(metadata=metadata, address_type=address_type, endpoints=endpoints, ports=list(ports))


def _metadata(service: Service, key: str, value: str, name: str) -> ObjectMeta:
    meta = service.metadata
    labels = {
        UNIT: unit_id(key, value),
        UNIT_SERVICE_NAME: meta.name,
        GRID_UNIQ_KEY: label_value(key),
        SERVICE_PROXY_NAME: SITEGRID,
        # Keeps it out of the watch of every stock kube-proxy, which logs an error per slice without a Service.
        HEADLESS: "",
        MANAGED_BY: SITEGRID,
    }
    if service.headless:
        labels[HEADLESS_SERVICE] = ""
    owner = OwnerReference(api_version="v1", kind="Service", name=meta.name, uid=meta.uid)
    return ObjectMeta(name=name, namespace=meta.namespace, labels=labels, owner_references=[owner])


def _group_order(item: tuple[Group, object]) -> tuple[str, str, bool, list[tuple[str, str, int, str]]]:
    group = item[0]
    return (group.unit, group.address_type, group.aliases, [port_order(port) for port in group.ports])


def _endpoint_order(endpoint: Endpoint) -> list[str]:
    return endpoint.addresses
