"""`sitegrid explain`: prints one unit's child, and which rule set each field that is not as in the template.

For a ServiceGrid, its Service as the unit's nodes see it (`sitegrid.cli.explainservice`).
Held by ``tests/controller/test_overrides.py``; the explanation itself by ``tests/grid/test_explain.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from sitegrid.cli.cluster import add_cluster_options, ask_cluster, get_named
from sitegrid.cli.errors import CommandError, nearest

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sitegrid.api.workloads import WorkloadGrid
    from sitegrid.cli.parser import Parser
    from sitegrid.grid.explain import Explanation
    from sitegrid.grid.kinds import ServiceKind, WorkloadKind
    from sitegrid.grid.units import Units
    from sitegrid.kube.client import Client
    from sitegrid.kube.config import Config


def add_parser(subparsers: _SubParsersAction[Parser]) -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "explain",
        help="print what a grid makes for one unit, and why",
        description="Print the workload that a grid makes for one unit, with the rule that set each field which is "
        "not as in the template. The YAML can be given to `kubectl diff --server-side -f -`. For a ServiceGrid, "
        "print its Service as the unit's nodes see it.",
    )
    parser.add_argument(
        "grid", metavar="GRID", help="[KIND/]NAME, such as dg/web, sg/web; a DeploymentGrid without KIND"
    )
    parser.add_argument("unit", metavar="UNIT", help="the value of the grid's unique key on the unit's nodes")
    parser.add_argument("more", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="the grid's namespace (default: as kubectl)")
    parser.add_argument(
        "-o", "--output", choices=("yaml", "json"), default="yaml", help="format (default: %(default)s)"
    )
    add_cluster_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain one unit of one grid.

    Raises:
        CommandError: There is no such grid or unit, the unit can have no child, or the cluster cannot be asked.
    """
    # As kubectl has it: `dg/web hz`, or `dg web hz`.
    grid, unit = (f"{args.grid}/{args.unit}", args.more) if args.more else (args.grid, args.unit)
    kind, name = _grid_argument(grid)

    async def explain(config: Config) -> str:
        return await _explain(config, kind, args.namespace or config.namespace, name, unit, args.output)

    sys.stdout.write(ask_cluster(args, explain))
    return 0


def _grid_argument(text: str) -> tuple[WorkloadKind | ServiceKind, str]:
    """Return kind and name of what ``[KIND/]NAME`` means; KIND is spelt in any way that kubectl takes."""
    from sitegrid.api.schema import DEFINITIONS, SUPEREDGE_DEFINITIONS
    from sitegrid.grid.kinds import SERVICE_KINDS, WORKLOAD_KINDS, qualified
    from sitegrid.wire.labels import GROUP

    word, _, name = text.rpartition("/")
    kinds: dict[str, WorkloadKind | ServiceKind] = {**WORKLOAD_KINDS, **SERVICE_KINDS}
    spellings = {
        qualified(item.group, spelling): kinds[qualified(item.group, item.kind)]
        for item in (*DEFINITIONS, *SUPEREDGE_DEFINITIONS)
        if qualified(item.group, item.kind) in kinds
        for spelling in (item.kind.lower(), item.plural, item.short_name)
    }
    spellings |= {
        item.short_name: spellings[qualified(item.group, item.short_name)]
        for item in SUPEREDGE_DEFINITIONS
        if qualified(item.group, item.kind) in kinds
    }
    kind = spellings.get((word or "dg").lower().removesuffix(f".{GROUP}"))
    if kind is None or not name:
        short = ", ".join(word for word in spellings if len(word) <= len("sessg"))
        raise CommandError(f"{text!r} is not [KIND/]NAME, with a kind of grid: {short}, or in full", 2)
    return kind, name


async def _explain(
    config: Config, kind: WorkloadKind | ServiceKind, namespace: str, name: str, unit: str, output: str
) -> str:
    from sitegrid.cli.explainservice import explain_service, service_grid
    from sitegrid.grid.kinds import ServiceKind
    from sitegrid.kube.client import Client

    async with Client(config) as client:
        if isinstance(kind, ServiceKind):
            found = await service_grid(client, kind, namespace, name)
            units = await _units(client, found.spec.grid_uniq_key, unit)
            return await explain_service(client, found, units, unit, output)
        grid = await _grid(client, kind, namespace, name)
        units = await _units(client, grid.spec.grid_uniq_key, unit)
        return await _child(client, kind, grid, units, unit, output)


async def _child(client: Client, kind: WorkloadKind, grid: WorkloadGrid, units: Units, unit: str, output: str) -> str:
    from sitegrid.grid.blueprint import Blueprint
    from sitegrid.grid.explain import explain
    from sitegrid.grid.problem import Problem

    mark = await _mark(client, kind, grid.metadata.namespace, Blueprint(kind, grid).child_name(unit))
    explanation = explain(kind, grid, units[unit].unit, mark)
    notes = ["this child was taken over from SuperEdge and keeps its shape"] if mark else []
    chosen = Blueprint(kind, grid).choose(units)
    if isinstance(chosen, Problem):
        notes.append(chosen.message)
    elif unit not in chosen:
        left_out = "spec.units leaves this unit out" if units[unit].nodes else "this unit has no nodes"
        notes.append(f"{left_out}: the child is not made")
    if isinstance(explanation, Problem):
        told = f"{'; '.join(notes)}; it could not be" if notes else f"unit {unit} can have no child"
        raise CommandError(f"{told}: {explanation.reason}: {explanation.message}")
    if units[unit].suspended:
        notes.append("this unit is suspended by its NodeUnit: nothing is changed")
    return _json(explanation, notes) if output == "json" else _yaml(grid, explanation, notes)


async def _grid(client: Client, kind: WorkloadKind, namespace: str, name: str) -> WorkloadGrid:
    import msgspec

    from sitegrid.controller.resources import grid_resource

    found = await get_named(client, grid_resource(kind), kind.name, namespace, name)
    return msgspec.convert(found, kind.grid_type)


async def _mark(client: Client, kind: WorkloadKind, namespace: str, name: str) -> str:
    """Return the mark of a child that was taken over from SuperEdge, empty for all others."""
    from sitegrid.controller.resources import child_resource
    from sitegrid.grid.adoption import ADOPTED
    from sitegrid.kube.errors import ApiError

    try:
        found = await client.get(child_resource(kind.child), name, namespace)
    except ApiError as error:
        if not error.not_found:
            raise
        return ""
    return str((found["metadata"].get("annotations") or {}).get(ADOPTED, ""))


async def _units(client: Client, key: str, wanted: str) -> Units:
    """Return the units of `key`. Raises CommandError where `wanted` is none of them."""
    from sitegrid.api.grids import VERSION
    from sitegrid.api.nodeunits import NodeUnit
    from sitegrid.grid.nodeunits import declared
    from sitegrid.grid.observed import Node
    from sitegrid.grid.units import units_of
    from sitegrid.kube.errors import ApiError
    from sitegrid.kube.resources import NODES, Resource
    from sitegrid.wire.labels import GROUP

    nodes = await client.list_as(Node, NODES)
    try:
        node_units = (
            await client.list_as(NodeUnit, Resource(GROUP, VERSION, "nodeunits", NodeUnit.KIND, False))
        ).items
    except ApiError as error:
        if not error.not_found:
            raise
        node_units = []  # the CustomResourceDefinition is not installed
    labels = ((node.metadata.name, node.metadata.labels) for node in nodes.items)
    units = units_of(key, labels, declared(node_units))
    if wanted not in units:
        known = ", ".join([*units][:20]) or "none"
        more = f" and {len(units) - 20} more" if len(units) > 20 else ""
        raise CommandError(f"{key} has no unit {wanted}{nearest(wanted, units) or ';'} it has: {known}{more}")
    return units


def _yaml(grid: WorkloadGrid, explanation: Explanation, notes: list[str]) -> str:
    import yaml

    child, meta = explanation.child, grid.metadata
    head = [
        f"{child['kind']} {meta.namespace}/{child['metadata']['name']} of {grid.KIND} {meta.name}, "
        f"unit {explanation.unit} ({grid.spec.grid_uniq_key}={explanation.unit})",
        *notes,
        f"template: {explanation.template}",
    ]
    if explanation.fields:
        head.append("not as in the template:")
    width = max((len(item.path) for item in explanation.fields), default=0)
    for item in explanation.fields:
        removed = " took it away" if item.removed else ""
        instead = f", instead of {', '.join(item.instead_of)}" if item.instead_of else ""
        head.append(f"  {item.path:<{width}}  {item.rule}{removed}{instead}")
    body: str = yaml.safe_dump(dict(child), sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}\n" for line in head) + body


def _json(explanation: Explanation, notes: list[str]) -> str:
    fields = [
        {"path": item.path, "rule": item.rule, "removed": item.removed, "insteadOf": list(item.instead_of)}
        for item in explanation.fields
    ]
    result = {
        "unit": explanation.unit,
        "template": explanation.template,
        "notes": notes,
        "fields": fields,
        "child": explanation.child,
    }
    return json.dumps(result, indent=2, ensure_ascii=False) + "\n"
