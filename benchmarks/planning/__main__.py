"""``python -m benchmarks.planning``: runs the benchmark and prints its table."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.report import Figure, Report, add_output_argument, fewer, publish
from benchmarks.timing import best
from sitegrid.api.meta import ManagedMeta, ObjectMeta
from sitegrid.api.workloads import DeploymentGrid, DeploymentGridSpec
from sitegrid.grid.applied import Verdicts
from sitegrid.grid.blueprint import Blueprint
from sitegrid.grid.kinds import DEPLOYMENT
from sitegrid.grid.observed import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    ObjectReference,
    Service,
    Workload,
)
from sitegrid.grid.plan import Create, Observed, Plan, plan_workloads
from sitegrid.grid.slices import manifest, unchanged, wanted_slices
from sitegrid.grid.units import Units, units_of

KEY: Final = "site"
UNITS: Final = 1000
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_TEMPLATE: Final[dict[str, Any]] = {
    "replicas": 2,
    "selector": {"matchLabels": {"app": "shop"}},
    "template": {
        "metadata": {"labels": {"app": "shop"}},
        "spec": {
            "containers": [
                {
                    "name": "web",
                    "image": "registry.example/shop:1.2.3",
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "env": [{"name": f"SETTING_{number}", "value": str(number)} for number in range(10)],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                }
            ]
        },
    },
}


class Grid:
    """A DeploymentGrid over `count` units, before and after its children were made."""

    def __init__(self, count: int) -> None:
        self._grid = DeploymentGrid(
            metadata=ObjectMeta(name="shop", namespace="default", uid="grid", generation=1),
            spec=DeploymentGridSpec(grid_uniq_key=KEY, template=_TEMPLATE),
        )
        self._units: Units = units_of(KEY, ((f"node-{n:04d}", {KEY: f"site-{n:04d}"}) for n in range(count)))
        self._blueprint = Blueprint(DEPLOYMENT, self._grid)
        self._verdicts = Verdicts()
        self._children: dict[str, Workload] = {}

    def first(self) -> Plan:
        """Plan from nothing, with nothing remembered."""
        return self._plan({}, Verdicts(), Blueprint(DEPLOYMENT, self._grid))

    def second(self) -> Plan:
        """Plan again when all is as wanted."""
        return self._plan(self._children, self._verdicts, self._blueprint)

    def carry_out(self, plan: Plan) -> list[dict[str, Any]]:
        """Make the children that `plan` wants, as the API server would answer; return what was sent."""
        self._plan({}, self._verdicts, self._blueprint)
        sent = []
        for number, action in enumerate(plan.actions):
            if not isinstance(action, Create):
                raise AssertionError(f"a first plan creates and does nothing else, not {action}")
            metadata = ManagedMeta(
                name=action.manifest["metadata"]["name"],
                namespace="default",
                uid=str(number),
                labels=action.manifest["metadata"]["labels"],
                annotations=action.manifest["metadata"]["annotations"],
            )
            self._children[metadata.name] = Workload(metadata=metadata)
            self._verdicts.settle(metadata, action.digest)
            sent.append(action.manifest)
        return sent

    def _plan(self, children: dict[str, Workload], verdicts: Verdicts, blueprint: Blueprint) -> Plan:
        return plan_workloads(
            blueprint,
            self._grid,
            self._units,
            Observed(children.values(), lambda kind, name: children.get(name), lambda kind, uid: ()),
            now=_NOW,
            verdicts=verdicts,
        )


class Slices:
    """The endpoints of one grid Service, two in each of `units` units."""

    def __init__(self, units: int) -> None:
        self._service = Service(metadata=ManagedMeta(name="shop-svc", namespace="default", uid="service"))
        self._unit_of_node = {f"node-{number:04d}": f"site-{number:04d}" for number in range(units)}
        endpoints = [_endpoint(number, index) for number in range(units) for index in range(2)]
        self._sources = [
            EndpointSlice(
                metadata=ObjectMeta(name=f"shop-svc-{start}", namespace="default"),
                address_type="IPv4",
                endpoints=endpoints[start : start + 100],
                ports=[EndpointPort(name="http", protocol="TCP", port=8080)],
            )
            for start in range(0, len(endpoints), 100)
        ]

    def project(self) -> list[EndpointSlice]:
        """Regroup them by unit."""
        return wanted_slices(self._service, KEY, self._sources, self._unit_of_node).slices


def _endpoint(number: int, index: int) -> Endpoint:
    return Endpoint(
        addresses=[f"10.{128 + (number >> 7)}.{number & 127}.{index}"],
        conditions=EndpointConditions(ready=True, serving=True, terminating=False),
        target_ref=ObjectReference(kind="Pod", namespace="default", name=f"shop-{number}-{index}", uid=str(number)),
        node_name=f"node-{number:04d}",
    )


def run(units: int = UNITS) -> Report:
    """Return the report for grids over `units` units."""
    workload = Grid(units)
    sent = workload.carry_out(workload.first())
    if workload.second().actions:
        raise AssertionError("the second plan is not empty: what is compared would not be what is meant")
    slices = Slices(units)
    projected = slices.project()
    manifests = [manifest(item) for item in projected]
    children_json = best(lambda: json.dumps(sent)) / units
    slices_json = best(lambda: json.dumps(manifests)) / units
    figures = [
        Figure("first pass, per unit", "s", children_json, best(workload.first) / units),
        Figure("second pass, nothing to do, per unit", "s", children_json, best(workload.second) / units, fewer(5)),
        Figure("unit slices of a Service, per unit", "s", slices_json, best(slices.project) / units),
        Figure(
            "unit slices compared, none changed, per unit",
            "s",
            slices_json,
            best(lambda: [unchanged(item, item) for item in projected]) / units,
            fewer(5),
        ),
    ]
    return Report(
        f"Planning: {units} units, one DeploymentGrid, one ServiceGrid with {2 * units} endpoints",
        "json.dumps",
        figures,
        ("The reference is json.dumps of the same wanted children, or unit slices, in the same run.",),
    )


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    add_output_argument(parser)
    return publish([run()], parser.parse_args().output)


if __name__ == "__main__":
    sys.exit(main())
