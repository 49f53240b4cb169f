"""What becomes of each object that SuperEdge's controller made, when sitegrid takes over, and when it gives back.

Pure: `sitegrid migrate` reads the cluster, asks here, and writes. Each object is one write, right for the object as
it was read, so that the work may end anywhere and be begun again: what was done is seen on the object. Taking over is
our labels, the mark of `sitegrid.grid.adoption`, and the end of SuperEdge's ownership of fields (else what a grid no
longer says would stay for ever); the controller does the rest. An object with SuperEdge's label and none of ours is
SuperEdge's, so giving back is taking ours off. Held by ``tests/grid/test_migration.py`` and, with running pods,
``tests/controller/superedge``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sitegrid.api.grids import VERSION
from sitegrid.api.meta import FIELD_MANAGER, owner_reference
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.superedge import GRID_SELECTOR, SiteNodeGroup, SiteNodeUnit
from sitegrid.api.workloads import WorkloadGrid
from sitegrid.grid.adoption import ADOPTED, SERVICE_MARK, template_mark
from sitegrid.grid.applied import APPLIED_HASH
from sitegrid.grid.blueprint import Blueprint, override_of
from sitegrid.grid.kinds import WorkloadKind
from sitegrid.grid.overrides import Unit
from sitegrid.grid.problem import Problem
from sitegrid.grid.removal import UNIT_GONE_SINCE
from sitegrid.grid.service import wanted_service
from sitegrid.grid.sites import translate
from sitegrid.grid.units import Units
from sitegrid.grid.workload import WantedChild, child_labels, wanted_child
from sitegrid.wire.labels import GRID, GRID_UNIQ_KEY, SERVICE_PROXY_NAME, SITES, SITES_OF, UNIT, label_value

Manifest = dict[str, Any]

TAKE: Final = "take over"
TAKEN: Final = "taken over"
GIVE: Final = "give back"
GIVEN: Final = "given back"
DELETE: Final = "delete"
MAKE: Final = "make"
KEEP: Final = "keep"
LEAVE: Final = "leave"

DONE_BY_US: Final = (TAKE, GIVE, DELETE)
"""What is a write."""

_OURS: Final = (GRID, UNIT, GRID_UNIQ_KEY, SERVICE_PROXY_NAME, SITES)
_NOTES: Final = (ADOPTED, APPLIED_HASH, UNIT_GONE_SINCE)
_OTHER_CONTROLLERS: Final = frozenset({"kube-controller-manager", "cloud-controller-manager"})
"""Who changes children besides SuperEdge and us, and goes on doing so."""


@dataclass(frozen=True, slots=True)
class Row:
    """One object, and what will happen to it."""

    kind: str
    namespace: str
    name: str
    action: str
    why: str = ""
    grid: str = ""
    unit: str = ""
    patch: Manifest | None = field(default=None, compare=False)
    """The merge patch that does it; of a deletion, the object's uid and resourceVersion."""
    wanted: Manifest | None = field(default=None, compare=False)
    """What the controller will apply to it after that."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells the object from others."""
        return (self.kind, self.namespace, self.name)


def take_workloads(
    kind: WorkloadKind,
    grids: Iterable[WorkloadGrid],
    units: Callable[[str], Units],
    children: Iterable[Manifest],
) -> Iterator[Row]:
    """Yield what becomes of the `grids` of `kind`, and of `children`: SuperEdge's and ours of its child kind."""
    left = {(child["metadata"]["namespace"], child["metadata"]["name"]): child for child in children}
    uids = set()
    for grid in grids:
        meta = grid.metadata
        uids.add(meta.uid)
        yield Row(kind.grid_kind, meta.namespace, meta.name, KEEP, "as it is; sitegrid's controller works on it")
        blueprint = Blueprint(kind, grid)
        chosen = blueprint.choose(units(grid.spec.grid_uniq_key))
        for value, info in {} if isinstance(chosen, Problem) else chosen.items():
            name = blueprint.child_name(value)
            for found in {f"{meta.name}-{value}", name}:
                child = left.pop((meta.namespace, found), None)
                if child is not None:
                    yield _take_child(kind, grid, info.unit, name, child)
                elif found == name:
                    why = "sitegrid's controller makes it"
                    yield Row(kind.child.kind, meta.namespace, name, MAKE, why, meta.name, value)
    for child in left.values():
        owner = _controller(child)
        if _is_superedges(child) and owner is not None and owner["kind"] == kind.grid_kind:
            gone = "its unit has no nodes" if owner["uid"] in uids else "its grid is gone"
            yield _row(child, LEAVE, f"{gone}; delete it when its pods may end", owner["name"])


def take_services(grids: Iterable[ServiceGrid], services: Iterable[Manifest]) -> Iterator[Row]:
    """Yield what becomes of ServiceGrids, and of `services`: SuperEdge's and ours."""
    left = {(service["metadata"]["namespace"], service["metadata"]["name"]): service for service in services}
    for grid in grids:
        meta, name = grid.metadata, grid.wanted_service_name()
        yield Row(grid.KIND, meta.namespace, meta.name, KEEP, "as it is; sitegrid's controller works on it")
        service = left.pop((meta.namespace, name), None)
        if service is None:
            yield Row("Service", meta.namespace, name, MAKE, "sitegrid's controller makes it, closed", meta.name)
            continue
        owner = _controller(service)
        wanted = wanted_service(grid)
        if owner is not None and owner["uid"] != meta.uid:
            yield _row(service, LEAVE, f"it is controlled by {owner['kind']} {owner['name']}", meta.name)
        elif GRID in _labels(service):
            yield _row(service, TAKEN, "", meta.name)
        else:
            labels = {GRID: label_value(meta.name), GRID_UNIQ_KEY: label_value(grid.spec.grid_uniq_key)}
            reference = owner_reference(f"{grid.GROUP}/{VERSION}", grid.KIND, meta.name, meta.uid)
            patch = _taking(service, labels, SERVICE_MARK, None if owner else reference)
            why = "each node reaches its own unit's pods only; a node without an agent none"
            yield _row(service, TAKE, why, meta.name, patch=patch, wanted=wanted)
    for service in left.values():
        if _is_superedges(service):
            yield _row(service, LEAVE, "no ServiceGrid wants it", _labels(service)[GRID_SELECTOR])


def take_sites(units: Sequence[SiteNodeUnit], groups: Sequence[SiteNodeGroup]) -> Iterator[Row]:
    """Yield what becomes of SuperEdge's NodeUnits and NodeGroups: they stay, and what is not done is told."""
    problems = translate(units, groups).problems
    items: list[SiteNodeUnit | SiteNodeGroup] = [*units, *groups]
    for item in items:
        told = [problem.message for problem in problems.get((item.KIND, item.metadata.name), ())]
        why = "; ".join(["as it is; sitegrid's controller labels its nodes as SuperEdge does", *told])
        yield Row(item.KIND, "", item.metadata.name, KEEP, why)


def give_back(children: Iterable[Manifest]) -> Iterator[Row]:
    """Yield what becomes of objects with SuperEdge's or our label, made for SuperEdge's grids, if given back.

    A Service gets its selector back, which the one beside it has; that goes when it is not needed any more.
    """
    children = [*children]
    by_name = {(child["metadata"]["namespace"], child["metadata"]["name"]): child for child in children}
    beside = {(child["metadata"]["namespace"], _labels(child).get(SITES_OF)): child for child in children}
    for child in children:
        namespace, name = child["metadata"]["namespace"], child["metadata"]["name"]
        if (other := _labels(child).get(SITES_OF)) is not None and not _is_superedges(child):
            yield _sites_row(child, by_name.get((namespace, other)))
            continue
        grid = _labels(child).get(GRID_SELECTOR) or (_controller(child) or {}).get("name", "")
        if not _is_superedges(child):
            why = (
                "sitegrid made it, and its selector has the unit, which SuperEdge cannot change: delete it when its "
                "pods may restart"
                if "template" in child.get("spec", {})
                else "sitegrid made it: delete it, and SuperEdge makes its own"
            )
            yield _row(child, LEAVE, why, grid)
        elif GRID in _labels(child) or ADOPTED in _annotations(child):
            selecting = beside.get((namespace, name))
            if SITES in _labels(child) and selecting is None:
                why = f"its selector was on the Service {_labels(child)[SITES]}, which is gone: put it back first"
                yield _row(child, LEAVE, why, grid)
                continue
            yield _row(child, GIVE, "", grid, patch=_giving(child, selecting))
        else:
            yield _row(child, GIVEN, "", grid)


def _sites_row(child: Manifest, service: Manifest | None) -> Row:
    """Return what becomes of the Service with the selector of `service`."""
    grid = (_controller(child) or {}).get("name", "")
    if service is not None and GRID in _labels(service):
        return _row(child, KEEP, "until the Service that it is for is given back", grid)
    return _row(child, DELETE, "sitegrid made it, and needs it no more", grid, patch=_patch(child, {}))


def _take_child(kind: WorkloadKind, grid: WorkloadGrid, unit: Unit, name: str, child: Manifest) -> Row:
    about = (grid.metadata.name, unit.value)
    owner = _controller(child)
    if owner is None or owner["uid"] != grid.metadata.uid:
        whose = f"controlled by {owner['kind']} {owner['name']}" if owner else "controlled by nobody"
        return _row(child, LEAVE, f"it is {whose}", *about)
    if child["metadata"]["name"] != name:
        return _row(child, LEAVE, f"sitegrid calls it {name} and makes that; delete this one after that", *about)
    if GRID in _labels(child):
        waits = ADOPTED in _annotations(child) and APPLIED_HASH not in _annotations(child)
        return _row(child, TAKEN, "the controller has not looked at it yet" if waits else "", *about)
    overrides = [override_of(item) for item in grid.spec.overrides]
    made = wanted_child(kind, grid, unit, overrides)
    if isinstance(made, WantedChild):
        mark = template_mark(made.effective)
        made = wanted_child(kind, grid, unit, overrides, mark)
    if isinstance(made, Problem):
        return _row(child, LEAVE, f"{made.reason}: {made.message}", *about)
    patch = _taking(child, child_labels(grid, unit.value), mark)
    return _row(child, TAKE, "its pods go on as they are", *about, patch=patch, wanted=made.manifest)


def _taking(child: Manifest, labels: dict[str, str], mark: str, owner: Manifest | None = None) -> Manifest:
    """Return the patch that makes `child` ours: from then on the controller sees it, and owns what SuperEdge set."""
    metadata = child["metadata"]
    others = [entry for entry in metadata.get("managedFields") or () if not _is_spec_writers(entry)]
    # Never empty: server-side apply takes an object without entries for somebody else's as a whole.
    ours = {
        "manager": FIELD_MANAGER,
        "operation": "Apply",
        "apiVersion": child["apiVersion"],
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {f"f:{name}": {} for name in labels}}},
    }
    changes = {
        "labels": labels,
        "annotations": {ADOPTED: mark},
        "managedFields": [*others, ours],
        **({"ownerReferences": [*(metadata.get("ownerReferences") or ()), owner]} if owner else {}),
    }
    return _patch(child, changes)


def _giving(child: Manifest, selecting: Manifest | None) -> Manifest:
    """Return the patch that makes `child` SuperEdge's again.

    Its spec stays as it is, but for the selector that a Service gets back from the one that is `selecting` for it.
    """
    metadata = child["metadata"]
    others = [
        entry
        for entry in metadata.get("managedFields") or ()
        if entry.get("subresource") or not entry["manager"].startswith(FIELD_MANAGER)
    ]
    changes = {
        "labels": dict.fromkeys(name for name in _OURS if name in _labels(child)),
        "annotations": dict.fromkeys(name for name in _NOTES if name in _annotations(child)),
        # One empty entry takes all off, an empty list none (API reference, ObjectMeta.managedFields).
        "managedFields": others or [{}],
    }
    patch = _patch(child, changes)
    return patch if selecting is None else {**patch, "spec": {"selector": selecting["spec"]["selector"]}}


def _patch(child: Manifest, changes: Manifest) -> Manifest:
    observed = {name: child["metadata"][name] for name in ("uid", "resourceVersion")}
    return {"metadata": {**observed, **changes}}


def _is_spec_writers(entry: Manifest) -> bool:
    """Tell whether an entry of managedFields is that of a controller or client which wrote the object as a whole."""
    return (
        entry["operation"] == "Update" and not entry.get("subresource") and entry["manager"] not in _OTHER_CONTROLLERS
    )


def _row(child: Manifest, action: str, why: str, grid: str = "", unit: str = "", **rest: Any) -> Row:
    metadata = child["metadata"]
    return Row(child["kind"], metadata["namespace"], metadata["name"], action, why, grid, unit, **rest)


def _is_superedges(child: Manifest) -> bool:
    return GRID_SELECTOR in _labels(child)


def _labels(child: Manifest) -> dict[str, str]:
    return child["metadata"].get("labels") or {}


def _annotations(child: Manifest) -> dict[str, str]:
    return child["metadata"].get("annotations") or {}


def _controller(child: Manifest) -> Manifest | None:
    return next((owner for owner in child["metadata"].get("ownerReferences") or () if owner.get("controller")), None)
