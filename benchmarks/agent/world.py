"""The objects of the benchmark's cluster, as Kubernetes and sitegrid would have written them.

Pure but for random uids; `stage.py` sends them. Each Service has its endpoints of all
units in slices of a hundred, with everything that the endpointslice controller puts there. The unit slices come from
`sitegrid.grid.slices`, the function that the controller runs. Invariant: an address is used once, so that a rule for
it can only come from the change that brought it.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.servicegrids import ServiceGrid, ServiceGridSpec
from sitegrid.grid.applied import annotated, applied_hash
from sitegrid.grid.observed import EndpointSlice, Service
from sitegrid.grid.service import sites_names, wanted_service, wanted_sites_service
from sitegrid.grid.slices import wanted_slices
from sitegrid.wire.labels import ENDPOINTSLICE_CONTROLLER, MANAGED_BY, SERVICE_NAME

Manifest = dict[str, Any]

NAMESPACE: Final = "default"
KEY: Final = "site"
"""The unique key."""
SOURCE_SIZE: Final = 100
"""Endpoints per slice (kube-controller-manager --max-endpoints-per-slice)."""
_LAST_CHANGE: Final = "endpoints.kubernetes.io/last-change-trigger-time"
_PORTS: Final = [{"name": "http", "protocol": "TCP", "port": 8080}]
_FIRST_ADDRESS: Final = int(ipaddress.IPv4Address("10.128.0.0"))


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the cluster is."""

    units: int = 1000
    services: int = 20
    endpoints: int = 2
    """Of one Service in one unit."""

    @classmethod
    def parse(cls, text: str) -> Scale:
        """Return the scale that ``UNITSxSERVICES`` says; raises ValueError."""
        units, _, services = text.partition("x")
        scale = cls(int(units), int(services))
        if scale.units < 2 or scale.services < 1:
            raise ValueError("at least 2 units and 1 service")
        return scale

    def __str__(self) -> str:
        return f"{self.units} units x {self.services} Services x {self.endpoints} endpoints"


@dataclass(frozen=True, slots=True)
class Change:
    """One pod replaced by another: what the control plane writes, and the new pod's address."""

    source: Manifest
    """The Service's own slice, without a resourceVersion."""
    unit_slice: EndpointSlice
    address: str


class World:
    """All Services and slices of one cluster; with `closed` they are a grid's."""

    def __init__(self, scale: Scale, *, closed: bool) -> None:
        self.scale = scale
        self._closed = closed
        self._addresses = (str(ipaddress.IPv4Address(number)) for number in _numbers(_FIRST_ADDRESS))
        self._units: dict[str, int] = {}
        self._services: dict[str, Service] = {}
        self._grids: dict[str, ServiceGrid] = {}
        self._endpoints: dict[str, list[Manifest]] = {}
        self._sources: dict[str, list[Manifest]] = {}
        self._unit_of_node = {
            self.node(unit, index): self.unit(unit) for unit in range(scale.units) for index in range(scale.endpoints)
        }

    @staticmethod
    def unit(index: int) -> str:
        """Return the name of a unit."""
        return f"site-{index:04d}"

    @classmethod
    def node(cls, unit: int, index: int) -> str:
        """Return the name of a unit's node."""
        return f"{cls.unit(unit)}-{index}"

    @property
    def names(self) -> list[str]:
        """The Services' names."""
        return [f"shop-{index:02d}-svc" for index in range(self.scale.services)]

    def services(self) -> list[Manifest]:
        """Return the Services."""
        return [self._service(name) for name in self.names]

    def _service(self, name: str) -> Manifest:
        app = name.removesuffix("-svc")
        spec = {"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
        if not self._closed:
            metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app": app}}
            return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
        grid = self._grids[name] = ServiceGrid(
            metadata=ObjectMeta(name=app, namespace=NAMESPACE, uid=str(uuid.uuid4())),
            spec=ServiceGridSpec(grid_uniq_key=KEY, template=spec),
        )
        return _applied(wanted_service(grid, sites_names(name)[0]))

    def sites_service(self, service: Manifest) -> Manifest | None:
        """Return the Service with the selector beside a grid's, which is as the API server has it."""
        grid = self._grids.get(service["metadata"]["name"])
        if grid is None:
            return None
        name = sites_names(grid.wanted_service_name())[0]
        return _applied(wanted_sites_service(grid, name, _observed(service)))

    def sources(self, service: Manifest, selecting: Manifest) -> list[Manifest]:
        """Return the slices that Kubernetes makes for the Service with the selector, `service` itself or another."""
        name = service["metadata"]["name"]
        self._services[name] = _observed(service)
        endpoints = self._endpoints[name] = [
            self._endpoint(name, unit, index)
            for unit in range(self.scale.units)
            for index in range(self.scale.endpoints)
        ]
        slices = self._sources[name] = [
            _source(selecting, number, endpoints[start : start + SOURCE_SIZE])
            for number, start in enumerate(range(0, len(endpoints), SOURCE_SIZE))
        ]
        return slices

    def _endpoint(self, service: str, unit: int, index: int) -> Manifest:
        uid = str(uuid.uuid4())
        name = f"{service.removesuffix('-svc')}-{self.unit(unit)}-{uid[:8]}9-{uid[-5:]}"
        address = next(self._addresses)
        self._units[address] = unit
        return {
            "addresses": [address],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": self.node(unit, index),
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": name, "uid": uid},
        }

    def foreign(self, addresses: Iterable[str], unit: int) -> list[str]:
        """Return those of `addresses` that are not, and never were, of an endpoint in `unit`."""
        return [address for address in addresses if self._units.get(address) != unit]

    def unit_slices(self, service: str) -> list[EndpointSlice]:
        """Return the unit slices of a Service whose `sources` were made."""
        return self._regroup(service, self._sources[service])

    def _regroup(self, service: str, sources: list[Manifest]) -> list[EndpointSlice]:
        observed = msgspec.convert(sources, list[EndpointSlice])
        return wanted_slices(self._services[service], KEY, observed, self._unit_of_node).slices

    def replace_pod(self, service: str, unit: int) -> Change:
        """Replace the first of the unit's pods."""
        first = unit * self.scale.endpoints
        endpoints = self._endpoints[service]
        endpoints[first] = self._endpoint(service, unit, 0)
        number, place = divmod(first, SOURCE_SIZE)
        source = self._sources[service][number]
        source["endpoints"][place] = endpoints[first]
        of_unit = {**source, "endpoints": endpoints[first : first + self.scale.endpoints]}
        (unit_slice,) = self._regroup(service, [of_unit])
        return Change(source, unit_slice, endpoints[first]["addresses"][0])


def _applied(wanted: Manifest) -> Manifest:
    return annotated(wanted, applied_hash(wanted))


def _observed(service: Manifest) -> Service:
    return msgspec.json.decode(msgspec.json.encode(service), type=Service)


def _source(service: Manifest, number: int, endpoints: list[Manifest]) -> Manifest:
    name = service["metadata"]["name"]
    labels: Mapping[str, str] = service["metadata"].get("labels", {})
    owner = {"apiVersion": "v1", "kind": "Service", "name": name, "uid": service["metadata"]["uid"]}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{number:05d}",
            "namespace": NAMESPACE,
            "labels": {**labels, SERVICE_NAME: name, MANAGED_BY: ENDPOINTSLICE_CONTROLLER},
            "annotations": {_LAST_CHANGE: "2026-01-01T00:00:00Z"},
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": _PORTS,
    }


def _numbers(number: int) -> Iterator[int]:
    while True:
        number += 1
        yield number
