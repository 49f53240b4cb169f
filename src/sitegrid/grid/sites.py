"""Turns SuperEdge's NodeUnits and NodeGroups into ours, which then do what they do for everybody.

SuperEdge labels the nodes of a NodeUnit U with ``U=nodeunits.superedge.io``, and where U is in a NodeGroup G with
``G=U``, so that G's name is a gridUniqKey whose units are its NodeUnits. Each of these labels is one NodeUnit of
ours; what `setNode` says is with the first. A NodeGroup with `autoFindNodeKeys` is a NodeGroup of ours. What has no
counterpart is a problem, told in a condition. Called by the controller; held by ``tests/grid/test_sites.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from sitegrid.api.grids import API_VERSION
from sitegrid.api.nodeunits import NodeGroup, NodeUnit
from sitegrid.api.superedge import (
    MEMBER_OF_GROUP,
    MEMBER_OF_UNIT,
    SITE,
    SITE_VERSIONS,
    Selector,
    SiteNodeGroup,
    SiteNodeUnit,
)
from sitegrid.grid.labelselector import parse_label_selector
from sitegrid.grid.membership import INVALID_SELECTOR
from sitegrid.grid.names import MAX_NAME
from sitegrid.grid.problem import Problem
from sitegrid.wire.labels import GROUP, MAX_LABEL_VALUE, hashed_name
from sitegrid.wire.selectors import SelectorError

Manifest = dict[str, Any]
Site = SiteNodeUnit | SiteNodeGroup

FROM_SITE: Final = f"{GROUP}/from-{SITE}"
"""Label of what is made here: ``NodeUnit`` or ``NodeGroup``, the kind of what it was made from."""
NOT_SUPPORTED: Final = "NotSupported"
"""Something is declared that has no counterpart here."""
UNKNOWN_NODE_UNITS: Final = "UnknownNodeUnits"
"""A NodeGroup names NodeUnits that do not exist (yet)."""
NAME_TOO_LONG: Final = "NameTooLong"
"""A name is to be a label, and is too long for one."""


@dataclass(slots=True)
class Sites:
    """What SuperEdge's NodeUnits and NodeGroups come to."""

    wanted: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    """Our objects, by kind and name."""
    made_from: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    """By kind and name of SuperEdge's object: kinds and names of ours."""
    problems: dict[tuple[str, str], list[Problem]] = field(default_factory=dict)
    """By kind and name of SuperEdge's object."""
    units_of: dict[str, list[str]] = field(default_factory=dict)
    """By NodeGroup: its NodeUnits."""


def translate(units: Iterable[SiteNodeUnit], groups: Iterable[SiteNodeGroup]) -> Sites:
    """Return what `units` and `groups` together come to."""
    sites = Sites()
    known = {unit.metadata.name: unit for unit in units if not unit.metadata.deletion_timestamp}
    alive = [group for group in groups if not group.metadata.deletion_timestamp]
    for group in alive:
        sites.units_of[group.metadata.name] = _members(sites, group, known)
    for name, unit in sorted(known.items()):
        inside = sorted(group for group, members in sites.units_of.items() if name in members)
        _add_unit(sites, unit, inside)
    for group in alive:
        _add_group(sites, group)
    return sites


def _members(sites: Sites, group: SiteNodeGroup, known: Mapping[str, SiteNodeUnit]) -> list[str]:
    spec = group.spec
    named = {*spec.node_units, *spec.old_node_units}
    missing = sorted(named - known.keys())
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        _problem(sites, group, UNKNOWN_NODE_UNITS, f"there is no NodeUnit {names}; it joins when it comes")
    found = named & known.keys()
    # What SuperEdge made for autoFindNodeKeys it has labelled so.
    if spec.auto_find_node_keys or spec.old_auto_find_node_keys:
        label = (group.metadata.name, MEMBER_OF_GROUP)
        found |= {name for name, unit in known.items() if label in unit.metadata.labels.items()}
    selector = _selector(sites, group, spec.selector)
    if selector:
        try:
            parsed = parse_label_selector(selector)
        except SelectorError as error:
            _problem(sites, group, INVALID_SELECTOR, f"spec.selector: {error}")
        else:
            found |= {name for name, unit in known.items() if parsed.matches(unit.metadata.labels)}
    return sorted(found)


def _add_unit(sites: Sites, unit: SiteNodeUnit, groups: list[str]) -> None:
    name, spec = unit.metadata.name, unit.spec
    members: Manifest = {"nodes": sorted({*spec.nodes})} if spec.nodes else {}
    selector = _selector(sites, unit, spec.selector)
    if selector:
        members["selector"] = selector
    for text in _unsupported(unit):
        _problem(sites, unit, NOT_SUPPORTED, text)
    if len(name) > MAX_LABEL_VALUE:
        _problem(sites, unit, NAME_TOO_LONG, f"{name} is no label of at most {MAX_LABEL_VALUE} characters")
        return
    set_node = _set_node(unit, {name, *groups})
    _declare(sites, unit, name, MEMBER_OF_UNIT, {**members, **({"setNode": set_node} if set_node else {})})
    # Without members it would be about whoever carries the label, which SuperEdge does not mean.
    for group in groups if members else ():
        _declare(sites, unit, group, name, members)


def _add_group(sites: Sites, group: SiteNodeGroup) -> None:
    name = group.metadata.name
    if len(name) > MAX_LABEL_VALUE:
        _problem(sites, group, NAME_TOO_LONG, f"{name} is no label of at most {MAX_LABEL_VALUE} characters")
        return
    # SuperEdge joins the values in the order of the keys' names.
    keys = sorted({*group.spec.auto_find_node_keys, *group.spec.old_auto_find_node_keys})
    if keys:
        ours = _name(name, NodeGroup.KIND, name)
        _add(sites, group, NodeGroup.KIND, ours, {"gridUniqKey": name, "autoFindNodeKeys": keys})


def _declare(sites: Sites, unit: SiteNodeUnit, key: str, value: str, spec: Manifest) -> None:
    ours = _name(f"{key}-{value}", NodeUnit.KIND, key, value)
    _add(sites, unit, NodeUnit.KIND, ours, {"gridUniqKey": key, "unit": value, **spec})


def _add(sites: Sites, origin: Site, kind: str, name: str, spec: Manifest) -> None:
    meta = origin.metadata
    sites.made_from.setdefault((origin.KIND, meta.name), []).append((kind, name))
    sites.wanted[kind, name] = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            # Its labels too, by which grids select units; but for SuperEdge's own and kubectl's.
            "labels": {**_own_labels(origin), FROM_SITE: origin.KIND},
            # No blockOwnerDeletion: it would take the right to write the owner's finalizers, for nothing.
            "ownerReferences": [
                {
                    "apiVersion": f"{SITE}/{SITE_VERSIONS[0]}",
                    "kind": origin.KIND,
                    "name": meta.name,
                    "uid": meta.uid,
                }
            ],
        },
        "spec": spec,
    }


def _own_labels(origin: Site) -> dict[str, str]:
    labels = origin.metadata.labels.items()
    return {key: value for key, value in labels if value != MEMBER_OF_GROUP and not key.startswith(f"{SITE}/")}


def _set_node(unit: SiteNodeUnit, own: set[str]) -> Manifest:
    """Return what members carry besides the labels of membership, which SuperEdge writes into setNode itself."""
    found: Manifest = {}
    for each in (unit.spec.old_set_node, unit.spec.set_node):
        labels = {key: value for key, value in each.labels.items() if key not in own and value != unit.metadata.name}
        if labels:
            found["labels"] = {**found.get("labels", {}), **labels}
        if each.annotations:
            found["annotations"] = {**found.get("annotations", {}), **each.annotations}
    every = (*unit.spec.taints, *unit.spec.old_set_node.taints, *unit.spec.set_node.taints)
    taints = {
        (taint.key, taint.effect): {
            "key": taint.key,
            "effect": taint.effect,
            **({"value": taint.value} if taint.value else {}),
        }
        for taint in every
    }
    return {**found, **({"taints": list(taints.values())} if taints else {})}


def _selector(sites: Sites, origin: Site, selector: Selector | None) -> Manifest:
    """Return a label selector as ours are written; an empty one selects nothing in SuperEdge, and is left out."""
    if selector is None:
        return {}
    if selector.annotations:
        text = "spec.selector.annotations selects nothing, as in SuperEdge: use labels"
        _problem(sites, origin, NOT_SUPPORTED, text)
    found: Manifest = {}
    if selector.match_labels:
        found["matchLabels"] = selector.match_labels
    if selector.match_expressions:
        found["matchExpressions"] = [
            {name: value for name, value in msgspec.to_builtins(item).items() if value}
            for item in selector.match_expressions
        ]
    return found


def _unsupported(unit: SiteNodeUnit) -> list[str]:
    spec = unit.spec
    found = []
    if spec.unschedulable:
        found.append("spec.unschedulable has no effect, as in SuperEdge: set a taint in setNode, or cordon the nodes")
    if spec.autonomy_level not in ("", "L3"):
        found.append(f"spec.autonomyLevel {spec.autonomy_level} is not done: no control plane is set up in the unit")
    if spec.unit_cluster_info or spec.unit_credential_config_map_ref:
        found.append("spec.unitClusterInfo and unitCredentialConfigMapRef have no effect here")
    return found


def _problem(sites: Sites, origin: Site, reason: str, message: str) -> None:
    sites.problems.setdefault((origin.KIND, origin.metadata.name), []).append(Problem(reason, message))


def _name(text: str, *parts: str) -> str:
    return hashed_name(text, SITE, *parts, max_length=MAX_NAME)
