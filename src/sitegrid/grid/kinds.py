"""The kinds of workload grid, one row each: a further kind is a row here, a type in `sitegrid.api` and its CRD.

Read by planning (names, children, status) and by the controller (what to watch and where to write). Held by
``tests/grid/test_kinds.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from sitegrid.api.grids import VERSION
from sitegrid.api.meta import OwnerReference
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.api.superedge import SuperEdgeDeploymentGrid, SuperEdgeServiceGrid, SuperEdgeStatefulSetGrid
from sitegrid.api.workloads import DaemonSetGrid, DeploymentGrid, StatefulSetGrid, WorkloadGrid
from sitegrid.grid.observed import Workload
from sitegrid.grid.patchfields import DAEMON_SET_SPEC, DEPLOYMENT_SPEC, STATEFUL_SET_SPEC
from sitegrid.wire.labels import GROUP


def qualified(group: str, kind: str) -> str:
    """Return what tells a kind from those of other groups: our own have no group."""
    return kind if group in ("", GROUP) else f"{kind}.{group}"


def owner_kind(owner: OwnerReference) -> str:
    """Return the `name` of the kind of grid that an owner is of."""
    return qualified(owner.api_version.rpartition("/")[0], owner.kind)


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of object that grids make."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}"


@dataclass(frozen=True, slots=True)
class PodCounts:
    """How many pods a child has; all of them zero until its controller has looked at it."""

    wanted: int
    """Pods that it is to have."""
    to_update: int
    """Pods that are to be of the current template."""
    total: int
    updated: int
    """Pods of the current template."""
    ready: int


@dataclass(frozen=True, slots=True)
class GridKind:
    """A kind of grid, of any group."""

    grid_type: type[WorkloadGrid | ServiceGrid]

    @property
    def name(self) -> str:
        """What tells it from all kinds of all groups."""
        return qualified(self.grid_type.GROUP, self.grid_type.KIND)

    @property
    def optional(self) -> bool:
        """Whether the grid's CustomResourceDefinition need not be there."""
        return self.grid_type.GROUP != GROUP


@dataclass(frozen=True, slots=True)
class WorkloadKind(GridKind):
    """What differs between the kinds of workload grid."""

    grid_type: type[WorkloadGrid]
    grid_plural: str
    child: ObjectKind
    max_name: int
    """Longest name of a child, in characters."""
    spec_type: str
    """The type of the child's spec, for patches (see `patchfields`)."""
    pods: Callable[[Workload], PodCounts]
    dotted_names: bool = True
    """Whether a child's name may have dots."""

    @property
    def grid_kind(self) -> str:
        """The kind of the grid, which kinds of other groups share."""
        return self.grid_type.KIND

    @property
    def api_version(self) -> str:
        """The `apiVersion` of the grids."""
        return f"{self.grid_type.GROUP}/{VERSION}"


def _replicas(child: Workload) -> PodCounts:
    wanted, status = child.spec.replicas, child.status
    return PodCounts(wanted, wanted, status.replicas, status.updated_replicas, status.ready_replicas)


def _ordinals(child: Workload) -> PodCounts:
    """Pods below the partition are meant to stay as they are (StatefulSet rollingUpdate.partition)."""
    wanted, status = child.spec.replicas, child.status
    to_update = max(0, wanted - child.spec.update_strategy.rolling_update.partition)
    total = status.replicas - (wanted - to_update)
    return PodCounts(wanted, to_update, total, status.updated_replicas, status.ready_replicas)


def _one_per_node(child: Workload) -> PodCounts:
    status = child.status
    wanted = status.desired_number_scheduled
    total = status.current_number_scheduled
    return PodCounts(wanted, wanted, total, status.updated_number_scheduled, status.number_ready)


DEPLOYMENT: Final = WorkloadKind(
    grid_type=DeploymentGrid,
    grid_plural="deploymentgrids",
    child=ObjectKind("apps", "v1", "Deployment", "deployments"),
    # Its ReplicaSets are named <name>-<hash of at most 10 characters>, in at most 253.
    max_name=242,
    spec_type=DEPLOYMENT_SPEC,
    pods=_replicas,
)
STATEFUL_SET: Final = WorkloadKind(
    grid_type=StatefulSetGrid,
    grid_plural="statefulsetgrids",
    child=ObjectKind("apps", "v1", "StatefulSet", "statefulsets"),
    # Its pods carry the label controller-revision-hash=<name>-<hash of 10 characters>, in at most 63.
    max_name=52,
    spec_type=STATEFUL_SET_SPEC,
    pods=_ordinals,
    # <name>-<ordinal> is the pods' host name, which is a DNS label.
    dotted_names=False,
)
DAEMON_SET: Final = WorkloadKind(
    grid_type=DaemonSetGrid,
    grid_plural="daemonsetgrids",
    child=ObjectKind("apps", "v1", "DaemonSet", "daemonsets"),
    # Its ControllerRevisions are named <name>-<hash of at most 10 characters>, in at most 253.
    max_name=242,
    spec_type=DAEMON_SET_SPEC,
    pods=_one_per_node,
)

SUPEREDGE_DEPLOYMENT: Final = replace(DEPLOYMENT, grid_type=SuperEdgeDeploymentGrid)
SUPEREDGE_STATEFUL_SET: Final = replace(STATEFUL_SET, grid_type=SuperEdgeStatefulSetGrid)

WORKLOAD_KINDS: Final = {
    kind.name: kind for kind in (DEPLOYMENT, STATEFUL_SET, DAEMON_SET, SUPEREDGE_DEPLOYMENT, SUPEREDGE_STATEFUL_SET)
}
"""By `WorkloadKind.name`."""


@dataclass(frozen=True, slots=True)
class ServiceKind(GridKind):
    """A kind of ServiceGrid: only the group differs."""

    grid_type: type[ServiceGrid]


SERVICE: Final = ServiceKind(ServiceGrid)
SERVICE_KINDS: Final = {kind.name: kind for kind in (SERVICE, ServiceKind(SuperEdgeServiceGrid))}
"""By `ServiceKind.name`."""

POD_DISRUPTION_BUDGET: Final = ObjectKind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
HORIZONTAL_POD_AUTOSCALER: Final = ObjectKind(
    "autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"
)
COMPANION_KINDS: Final = (POD_DISRUPTION_BUDGET, HORIZONTAL_POD_AUTOSCALER)
"""What a unit's child may have beside it."""
