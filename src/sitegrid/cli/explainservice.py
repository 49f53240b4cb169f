"""`sitegrid explain sg/NAME UNIT`: prints a ServiceGrid's Service and its endpoints as the unit's nodes see them.

That is the Service as it is, with the patch that the controller has written for the unit, and the endpoints in the
unit's slices, so that it is what agents show and not what they might. Called by `sitegrid.cli.explain`; held by
``tests/controller/test_servicegrids.py``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sitegrid.cli.cluster import get_named
from sitegrid.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sitegrid.api.servicegrids import ServiceGrid
    from sitegrid.grid.kinds import ServiceKind
    from sitegrid.grid.observed import EndpointSlice
    from sitegrid.grid.units import Units
    from sitegrid.kube.client import Client


async def service_grid(client: Client, kind: ServiceKind, namespace: str, name: str) -> ServiceGrid:
    """Return a ServiceGrid. Raises CommandError where there is none, ApiError and Unreachable."""
    import msgspec

    from sitegrid.controller.resources import service_grid_resource

    found = await get_named(client, service_grid_resource(kind), kind.name, namespace, name)
    return msgspec.convert(found, kind.grid_type)


async def explain_service(client: Client, grid: ServiceGrid, units: Units, unit: str, output: str) -> str:
    """Return the text. Raises CommandError where there is no Service yet, ApiError and Unreachable."""
    import msgspec

    from sitegrid.grid.observed import Service
    from sitegrid.grid.servicepatches import NodePorts, service_patches
    from sitegrid.grid.sidedoors import side_doors
    from sitegrid.kube.resources import SERVICES
    from sitegrid.wire.labels import label_value
    from sitegrid.wire.rewrite import grid_service_labels
    from sitegrid.wire.servicepatch import ServicePatch, parse_patch, patch_json

    namespace, name = grid.metadata.namespace, grid.wanted_service_name()
    service = await _get(client, SERVICES, name, namespace)
    if service is None:
        raise CommandError(
            f"there is no Service {namespace}/{name} yet; see kubectl describe sg {grid.metadata.name}"
        )
    version = int(service["metadata"]["resourceVersion"])
    service["metadata"].pop("managedFields", None)
    slices = await _unit_slices(client, namespace, name, grid.spec.grid_uniq_key, unit)
    patch = parse_patch(_written(slices)) or ServicePatch()
    observed = msgspec.json.decode(msgspec.json.encode(service), type=Service)
    # Which node ports the cluster has is told to the controller alone; what it refuses is in the grid's condition.
    problem = service_patches(grid, units, observed, NodePorts(range(1, 65536))).problems.get(unit)
    notes = [f"unit {unit}: {problem.reason}: {problem.message}"] if problem is not None else []
    notes += [
        f"this unit has no ready endpoint and uses those of unit {state.to}"
        for state in grid.status.fallbacks
        if state.unit == unit
    ]
    if not units[unit].nodes:
        notes.append("this unit has no nodes: nobody sees it")
    if grid.status.sites_service:
        selector = f"kubernetes.io/service-name={grid.status.sites_service}"
        notes.append(f"the endpoints of all units: kubectl get endpointslices -n {namespace} -l {selector}")
    services = (await client.list_as(Service, SERVICES, namespace)).items
    notes += [
        f"Service {door} selects these pods and is closed to nobody: who uses it reaches all units"
        for door in side_doors(grid, services)
    ]
    endpoints = _endpoints(slices)
    labels = service["metadata"].get("labels", {})
    service["metadata"]["labels"] = grid_service_labels(labels, {label_value(grid.spec.grid_uniq_key)})
    seen = patch_json(service, patch, version)
    differs = json.loads(patch.text())
    if output == "json":
        found = {"unit": unit, "notes": notes, "differs": differs, "endpoints": endpoints, "service": seen}
        return json.dumps(found, indent=2) + "\n"
    return _yaml(grid, unit, [*_told(endpoints), *notes], differs, seen)


def _yaml(grid: ServiceGrid, unit: str, notes: list[str], differs: dict[str, Any], service: dict[str, Any]) -> str:
    import yaml

    head = [
        f"Service {grid.metadata.namespace}/{service['metadata']['name']} of ServiceGrid {grid.metadata.name}, "
        f"as the nodes of unit {unit} see it ({grid.spec.grid_uniq_key}={unit})",
        *notes,
        f"different here: {json.dumps(differs)}" if differs else "nothing is different here",
    ]
    body: str = yaml.safe_dump(service, sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}\n" for line in head) + body


async def _unit_slices(client: Client, namespace: str, service: str, key: str, unit: str) -> list[EndpointSlice]:
    from sitegrid.grid.observed import EndpointSlice
    from sitegrid.kube.resources import ENDPOINTSLICES
    from sitegrid.wire.labels import MANAGED_BY, SITEGRID, UNIT, UNIT_SERVICE_NAME, unit_id

    labels = f"{MANAGED_BY}={SITEGRID},{UNIT}={unit_id(key, unit)},{UNIT_SERVICE_NAME}={service}"
    return (await client.list_as(EndpointSlice, ENDPOINTSLICES, namespace, label_selector=labels)).items


def _written(slices: Iterable[EndpointSlice]) -> str:
    """Return the patch that is written for a unit, empty where there is none."""
    from sitegrid.grid.slices import is_patch_slice
    from sitegrid.wire.labels import SERVICE_PATCH

    found = [item.metadata.annotations.get(SERVICE_PATCH, "") for item in slices if is_patch_slice(item)]
    return found[0] if len(found) == 1 else ""


def _endpoints(slices: Iterable[EndpointSlice]) -> list[dict[str, Any]]:
    """Return the endpoints that the unit's nodes see, but for those that are names only."""
    from sitegrid.grid.sources import as_sources

    found = [
        {
            "address": endpoint.addresses[0],
            "ports": [f"{port.port}/{port.protocol}" for port in item.ports or ()],
            "ready": endpoint.ready,
            "node": endpoint.node_name or "",
            "pod": endpoint.target_ref.name if endpoint.target_ref is not None else "",
        }
        for item in as_sources(slices)
        for endpoint in item.endpoints or ()
    ]
    return sorted(found, key=lambda item: (item["address"], item["ports"]))


def _told(endpoints: list[dict[str, Any]]) -> list[str]:
    """Return the endpoints as lines for people."""
    ready = sum(1 for item in endpoints if item["ready"])
    head = f"endpoints here: {ready} of {len(endpoints)} ready" if endpoints else "endpoints here: none"
    return [
        head,
        *(
            f"  {item['address']} {','.join(item['ports'])} {'ready' if item['ready'] else 'not ready'}: "
            f"pod {item['pod'] or '-'} on {item['node']}"
            for item in endpoints
        ),
    ]


async def _get(client: Client, resource: Any, name: str, namespace: str) -> dict[str, Any] | None:
    from sitegrid.kube.errors import ApiError

    try:
        return await client.get(resource, name, namespace)
    except ApiError as error:
        if error.not_found:
            return None
        raise
