"""What NodeUnits and NodeGroups may put on nodes: nothing that decides over the cluster's nodes or evicts pods.

Whoever may write NodeUnits would otherwise have the controller's right to every node. Keys of Kubernetes' own domains
say where system pods run, what a kubelet may not change, and which nodes a load balancer leaves out; a NoExecute
taint ends pods at once; sitegrid's own annotations say what is whose on a node. Administrators put such things on
nodes themselves, or tell the controller what NodeUnits may set. What is refused is left out and told, all else is
done. Held by ``tests/grid/test_nodelimits.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sitegrid.api.nodeunits import SetNode
from sitegrid.grid.problem import Problem
from sitegrid.wire.labels import GROUP

NODE_KEY_REFUSED: Final = "NodeKeyRefused"
"""A NodeUnit or NodeGroup wants something on nodes that none of them may put there."""
NO_EXECUTE: Final = "NoExecute"
"""The taint's effect that evicts (core/v1, TaintEffectNoExecute)."""

_KUBERNETES: Final = ("kubernetes.io", "k8s.io")
"""Kubernetes' own domains, with all below them (Reference, Well-Known Labels, Annotations and Taints)."""


_OWN_KEYS: Final = f"keys of {GROUP} are sitegrid's own: use keys of your own"
_RESERVED_KEYS: Final = (
    "keys of kubernetes.io and k8s.io are the administrators': set them with kubectl, or have the controller started "
    "with --allowed-node-keys"
)
_EVICTS: Final = (
    "NoExecute taints evict pods: use NoSchedule, or have the controller started with --allow-no-execute-taints"
)


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What is allowed although it is reserved."""

    keys: tuple[str, ...] = ()
    """Keys of Kubernetes' domains; one that ends in ``*`` stands for all that begin so."""
    no_execute: bool = False
    """Whether NoExecute taints may be set."""

    def is_reserved(self, key: str) -> bool:
        """Tell whether no label, annotation or taint of this key may be put on nodes, since it is Kubernetes'."""
        if not _below(key, _KUBERNETES):
            return False
        return not any(key == item or (item.endswith("*") and key.startswith(item[:-1])) for item in self.keys)

    def refused_unit(self, key: str, node: str) -> Problem | None:
        """Return the problem with putting the label of a unit of `key` on `node`, if there is any."""
        if not self.is_reserved(key):
            return None
        message = f"node {node} does not get the label {key}, by which it would be a member: {_RESERVED_KEYS}"
        return Problem(NODE_KEY_REFUSED, message)

    def within(self, sets: SetNode) -> tuple[SetNode, Problem | None]:
        """Return what of `sets` may be put on nodes, and the problem with all else, if there is any."""
        refused = {
            "labels": {key: why for key in sets.labels if (why := self._refused(key))},
            "annotations": {key: why for key in sets.annotations if (why := self._refused(key))},
            "taints": {
                f"{taint.key}:{taint.effect}": why
                for taint in sets.taints
                if (why := self._refused(taint.key, taint.effect))
            },
        }
        named = [f"{what} {', '.join(sorted(found))}" for what, found in refused.items() if found]
        if not named:
            return sets, None
        allowed = SetNode(
            {key: value for key, value in sets.labels.items() if key not in refused["labels"]},
            {key: value for key, value in sets.annotations.items() if key not in refused["annotations"]},
            [taint for taint in sets.taints if f"{taint.key}:{taint.effect}" not in refused["taints"]],
        )
        reasons = sorted({why for found in refused.values() for why in found.values()})
        return allowed, Problem(NODE_KEY_REFUSED, f"setNode without {'; '.join(named)}: {'; '.join(reasons)}")

    def _refused(self, key: str, effect: str = "") -> str:
        """Say why something of this key may not be set on nodes; empty where it may."""
        if _below(key, (GROUP,)):
            return _OWN_KEYS
        if self.is_reserved(key):
            return _RESERVED_KEYS
        return _EVICTS if effect == NO_EXECUTE and not self.no_execute else ""


STRICT: Final = NodeLimits()
"""Nothing reserved is allowed."""


def _below(key: str, domains: Iterable[str]) -> bool:
    """Tell whether the prefix of `key` is one of `domains`, or below one."""
    prefix, slash, _ = key.rpartition("/")
    return bool(slash) and any(f".{prefix.lower()}".endswith(f".{domain}") for domain in domains)
