"""`sitegrid migrate`: takes over what SuperEdge's controller made, or gives it back, without restarting a pod.

Without --apply it only tells what would happen. What happens to each object is decided by `sitegrid.grid.migration`;
whether a pod would restart is asked of the API server, by a dry run of what the controller will apply. Every object
is one write, so the command may be ended anywhere and run again. Held by ``tests/controller/superedge``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sitegrid.cli.cluster import add_cluster_options, ask_cluster
from sitegrid.cli.errors import CommandError

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Iterable

    from sitegrid.cli.parser import Parser
    from sitegrid.grid.migration import Row
    from sitegrid.kube.client import Client
    from sitegrid.kube.resources import Resource

T = TypeVar("T")

SUPEREDGE_CONTROLLER: Final = "application-grid-controller"
"""The Deployment, and the Lease, of SuperEdge's controller; its manifests have it in the namespace edge-system."""
ROUNDS: Final = 5
"""How often an object that changed while it was written is read anew: a workload's status changes all the time."""
STALE_LEASE: Final = 60.0
"""Seconds after which a Lease that nobody renewed means that nobody runs."""


def add_parser(subparsers: _SubParsersAction[Parser]) -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "migrate",
        help="take over what SuperEdge's controller made, without restarting a pod, or give it back",
        description=(
            "List what SuperEdge's controller made and what will happen to it: sitegrid takes it over as it is, and "
            "no pod restarts. Nothing is changed without --apply. See docs/superedge.md."
        ),
    )
    parser.add_argument("--apply", action="store_true", help="do it; may be ended at any time and run again")
    parser.add_argument("--back", action="store_true", help="give everything back to SuperEdge's controller")
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="only this namespace (default: all)")
    parser.add_argument(
        "--allow-restarts",
        action="store_true",
        help="also take over what differs from what its grid says, so that its pods are rolled",
    )
    parser.add_argument("-o", "--output", choices=["table", "json", "yaml"], default="table", help="format")
    add_cluster_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, and with --apply do it.

    Raises:
        CommandError: SuperEdge's controller runs, its kinds are not there, an object could not be taken over or
            given back, or the cluster cannot be asked.
    """
    ask_cluster(args, lambda config: _migrate(config, args))
    return 0


async def _migrate(config: Any, args: argparse.Namespace) -> None:
    from sitegrid.grid.migration import DONE_BY_US
    from sitegrid.kube.client import Client

    async with Client(config) as client:
        migration = _Migration(client, args.namespace or None, args.back, args.allow_restarts)
        await migration.find_kinds(wanted=args.apply and not args.back)
        running = await migration.superedge_controller()
        if args.apply and running:
            raise CommandError(running)
        rows = await migration.rows()
        failed: dict[tuple[str, str, str], str] = {}
        for _ in range(ROUNDS if args.apply else 0):
            todo = [row for row in rows if row.action in DONE_BY_US]
            if not todo:
                break
            refused = await migration.write(todo)
            rows = await migration.rows()
            failed = {row.key: refused[row.key] for row in rows if row.action in DONE_BY_US and row.key in refused}
        if args.apply and args.back and not failed and args.namespace is None:
            await migration.unlabel_kinds()
    _print(rows, failed, args.output)
    if args.output == "table":
        _hint(rows, args, running)
    if failed:
        raise CommandError(f"{len(failed)} objects could not be written: {next(iter(failed.values()))}")


@dataclass
class _Migration:
    """Reads and writes."""

    client: Client
    namespace: str | None
    back: bool
    allow_restarts: bool

    async def find_kinds(self, *, wanted: bool) -> None:
        """Raise CommandError where SuperEdge's kinds are not there; `wanted`: where they are not sitegrid's."""
        from sitegrid.api.superedge import OPTIONAL_API, SUPEREDGE
        from sitegrid.kube.errors import ApiError
        from sitegrid.kube.resources import CRDS

        for plural in ("deploymentgrids", "statefulsetgrids", "servicegrids"):
            name = f"{plural}.{SUPEREDGE}"
            try:
                found = await self.client.get(CRDS, name)
            except ApiError as error:
                if not error.not_found:
                    raise
                raise CommandError(
                    f"there is no CustomResourceDefinition {name}: nothing of SuperEdge is here"
                ) from error
            if wanted and OPTIONAL_API not in (found["metadata"].get("labels") or {}):
                raise CommandError(
                    f"the CustomResourceDefinition {name} is not sitegrid's, so that its controller would not work "
                    "on these grids: run `sitegrid crds --superedge | kubectl apply -f -`, then this again"
                )

    async def superedge_controller(self) -> str:
        """Return the sentence that SuperEdge's controller runs, empty where it does not."""
        from sitegrid.kube.resources import DEPLOYMENTS, LEASES

        named = f"metadata.name={SUPEREDGE_CONTROLLER}"
        for item in (await self.client.list(DEPLOYMENTS, field_selector=named)).items:
            if item.get("status", {}).get("replicas"):
                namespace = item["metadata"]["namespace"]
                return (
                    f"SuperEdge's controller is running (Deployment {namespace}/{SUPEREDGE_CONTROLLER}), and two "
                    "controllers would undo each other's work: stop it first, `kubectl scale deployment "
                    f"{SUPEREDGE_CONTROLLER} -n {namespace} --replicas=0`; pods and traffic go on without it"
                )
        for item in (await self.client.list(LEASES, field_selector=named)).items:
            renewed = _age(item.get("spec", {}).get("renewTime"))
            if renewed is not None and renewed < STALE_LEASE:
                lease = f"{item['metadata']['namespace']}/{SUPEREDGE_CONTROLLER}"
                return (
                    f"SuperEdge's controller is running (Lease {lease} was renewed {renewed:.0f} s ago), and two "
                    "controllers would undo each other's work: stop it first"
                )
        return ""

    async def rows(self) -> list[Row]:
        """Return what there is, and what will happen to it."""
        import asyncio

        from sitegrid.grid.migration import TAKE

        found = await (self._back_rows() if self.back else self._rows())
        checks = {row.key: self._checked(row) for row in found if row.action == TAKE}
        checked = dict(zip(checks, await asyncio.gather(*checks.values()), strict=True))
        return [checked.get(row.key, row) for row in found]

    async def _rows(self) -> list[Row]:
        from sitegrid.api.nodeunits import NodeUnit
        from sitegrid.api.superedge import SiteNodeGroup, SiteNodeUnit
        from sitegrid.controller.resources import (
            NODEUNITS,
            SITE_NODEGROUPS,
            SITE_NODEUNITS,
            child_resource,
            grid_resource,
            service_grid_resource,
        )
        from sitegrid.grid.kinds import SERVICE_KINDS, WORKLOAD_KINDS
        from sitegrid.grid.migration import take_services, take_sites, take_workloads
        from sitegrid.grid.nodeunits import declared
        from sitegrid.grid.observed import Node
        from sitegrid.grid.units import units_of
        from sitegrid.kube.resources import NODES, SERVICES

        nodes = (await self.client.list_as(Node, NODES)).items
        said = declared(await self._optional(NodeUnit, NODEUNITS))
        labels = [(node.metadata.name, node.metadata.labels) for node in nodes]
        rows: list[Row] = []
        for kind in WORKLOAD_KINDS.values():
            if kind.optional:
                grids = (await self.client.list_as(kind.grid_type, grid_resource(kind), self.namespace)).items
                children = await self._children(child_resource(kind.child))
                rows += take_workloads(kind, grids, lambda key: units_of(key, labels, said), children)
        for service_kind in SERVICE_KINDS.values():
            if service_kind.optional:
                resource = service_grid_resource(service_kind)
                service_grids = (await self.client.list_as(service_kind.grid_type, resource, self.namespace)).items
                rows += take_services(service_grids, await self._children(SERVICES))
        units = await self._optional(SiteNodeUnit, SITE_NODEUNITS)
        groups = await self._optional(SiteNodeGroup, SITE_NODEGROUPS)
        return [*rows, *take_sites(units, groups)]

    async def _back_rows(self) -> list[Row]:
        from sitegrid.grid.migration import give_back
        from sitegrid.kube.resources import DEPLOYMENTS, SERVICES, STATEFULSETS

        rows: list[Row] = []
        for resource in (SERVICES, DEPLOYMENTS, STATEFULSETS):
            rows += give_back(await self._children(resource))
        return rows

    async def _children(self, resource: Resource) -> list[dict[str, Any]]:
        """Return all that SuperEdge's controller made, and what sitegrid made for SuperEdge's grids."""
        from sitegrid.api.superedge import GRID_SELECTOR, SUPEREDGE
        from sitegrid.wire.labels import GRID

        found: dict[str, dict[str, Any]] = {}
        for label in (GRID_SELECTOR, GRID):
            for item in (await self.client.list(resource, self.namespace, label_selector=label)).items:
                owners = item["metadata"].get("ownerReferences") or ()
                theirs = any(owner["apiVersion"].startswith(f"{SUPEREDGE}/") for owner in owners)
                if theirs or label == GRID_SELECTOR:
                    found[item["metadata"]["uid"]] = item
        return list(found.values())

    async def _optional(self, object_type: type[T], resource: Resource) -> list[T]:
        """Return all objects of a type that need not be served."""
        from sitegrid.kube.errors import ApiError

        try:
            return (await self.client.list_as(object_type, resource)).items
        except ApiError as error:
            if not error.not_found:
                raise
            return []

    async def _checked(self, row: Row) -> Row:
        """Ask the API server what would change if the row's object were taken over."""
        from sitegrid.api.meta import FIELD_MANAGER
        from sitegrid.grid.migration import LEAVE
        from sitegrid.kube.errors import ApiError

        resource = _resource(row.kind)
        try:
            present = await self.client.get(resource, row.name, row.namespace)
            assert row.wanted is not None
            after = await self.client.apply(
                resource, row.wanted, field_manager=FIELD_MANAGER, force=True, dry_run=True
            )
        except ApiError as error:
            return replace(row, action=LEAVE, why=error.message or str(error), patch=None)
        restarting = _changes(present["spec"].get("template"), after["spec"].get("template"))
        if restarting and not self.allow_restarts:
            why = f"its pods would restart, since it is not as its grid says: {restarting} (see --allow-restarts)"
            return replace(row, action=LEAVE, why=why, patch=None)
        if restarting:
            return replace(row, why=f"its pods are rolled, to be as its grid says: {restarting}")
        others = _changes(present["spec"], after["spec"])
        return replace(row, why=f"{row.why}; set back to what its grid says: {others}") if others else row

    async def write(self, rows: Iterable[Row]) -> dict[tuple[str, str, str], str]:
        """Write what is to be done; return what failed, by object."""
        from sitegrid.kube.errors import ApiError

        refused: dict[tuple[str, str, str], str] = {}
        for row in rows:
            assert row.patch is not None
            try:
                await self._write(row, row.patch)
            except ApiError as error:
                # A conflict: it changed since it was read, and is read again.
                refused[row.key] = f"{row.kind} {row.namespace}/{row.name}: {error.message}"
        return refused

    async def _write(self, row: Row, patch: dict[str, Any]) -> None:
        from sitegrid.grid.migration import DELETE

        if row.action != DELETE:
            await self.client.patch(_resource(row.kind), row.name, patch, row.namespace)
            return
        observed = patch["metadata"]
        await self.client.delete(
            _resource(row.kind),
            row.name,
            row.namespace,
            uid=observed["uid"],
            resource_version=observed["resourceVersion"],
            propagation_policy="Background",
        )

    async def unlabel_kinds(self) -> None:
        """Have sitegrid's controller work on SuperEdge's kinds no more."""
        from sitegrid.api.superedge import OPTIONAL_API
        from sitegrid.kube.resources import CRDS

        for item in (await self.client.list(CRDS, label_selector=OPTIONAL_API)).items:
            await self.client.patch(CRDS, item["metadata"]["name"], {"metadata": {"labels": {OPTIONAL_API: None}}})


def _resource(kind: str) -> Resource:
    from sitegrid.kube.resources import DEPLOYMENTS, SERVICES, STATEFULSETS

    return next(resource for resource in (DEPLOYMENTS, STATEFULSETS, SERVICES) if resource.kind == kind)


def _changes(before: Any, after: Any) -> str:
    """Return the fields that differ, a few of them, as people read them; empty where none does."""
    from sitegrid.grid.fieldchanges import changed_fields
    from sitegrid.grid.patchfields import FREE

    names = [".".join(change.path.segments()) for change in changed_fields(before or {}, after or {}, FREE)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _age(text: str | None) -> float | None:
    from sitegrid.api.meta import parse_timestamp

    moment = parse_timestamp(text) if text else None
    return None if moment is None else (datetime.now(UTC) - moment).total_seconds()


def _print(rows: list[Row], failed: dict[tuple[str, str, str], str], output: str) -> None:
    items = [
        {
            "kind": row.kind,
            "namespace": row.namespace,
            "name": row.name,
            "grid": row.grid,
            "unit": row.unit,
            "action": row.action,
            "why": failed.get(row.key, row.why),
        }
        for row in rows
    ]
    if output == "json":
        sys.stdout.write(json.dumps({"objects": items}, indent=2, ensure_ascii=False) + "\n")
    elif output == "yaml":
        import yaml

        sys.stdout.write(yaml.safe_dump({"objects": items}, sort_keys=False, allow_unicode=True))
    elif not items:
        print("SuperEdge's controller has made nothing here", file=sys.stderr)
    else:
        cells = [["KIND", "NAMESPACE", "NAME", "UNIT", "ACTION", "WHY"]]
        cells += [[item[name] for name in ("kind", "namespace", "name", "unit", "action", "why")] for item in items]
        widths = [max(len(row[column]) for row in cells) for column in range(5)]
        for row in cells:
            line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            print(f"{line}   {row[5]}".rstrip())


def _hint(rows: list[Row], args: argparse.Namespace, running: str) -> None:
    from sitegrid.grid.migration import DONE_BY_US

    todo = sum(1 for row in rows if row.action in DONE_BY_US)
    if not args.apply and todo:
        print(f"\nNothing was changed. Do it for {todo} objects with --apply.", file=sys.stderr)
    if not args.apply and running:
        print(f"Before that: {running}.", file=sys.stderr)
