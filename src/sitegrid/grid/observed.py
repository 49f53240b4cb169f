"""Cluster objects as the controller holds them in memory: only the fields that planning reads.

The controller's reflectors decode into these; a node's heartbeat, for example, leaves an equal `Node` (invariant I7).
Field names and meanings are those of the Kubernetes API. `gc=False`: none of these can be part of a cycle, and the
cyclic collector is what decoding thousands of objects would otherwise wait for. Held by
``tests/controller/passes/test_reachability.py`` (heartbeats) and all tests of planning.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

from sitegrid.api.meta import ManagedMeta, ObjectMeta

HEARTBEAT_CONDITIONS: Final = frozenset({"Ready", "MemoryPressure", "DiskPressure", "PIDPressure"})
"""What a kubelet reports of its node, and what the node lifecycle controller sets to Unknown, all at once, when it no
longer does (nodeConditionTypes in pkg/controller/nodelifecycle)."""


class NodeCondition(Struct, rename="camel", gc=False, frozen=True):
    """One of a Node's status.conditions; its lastHeartbeatTime is left out, so that heartbeats change nothing."""

    type: str
    status: str
    last_transition_time: str | None = None


class NodeStatus(Struct, rename="camel", gc=False):
    """A Node's status: only what says whether its kubelet is heard of."""

    conditions: list[NodeCondition] | None = None

    def __post_init__(self) -> None:
        """Drop other parties' conditions, of which some clusters have many."""
        self.conditions = [item for item in self.conditions or () if item.type in HEARTBEAT_CONDITIONS]


class NodeSpec(Struct, rename="camel", gc=False, frozen=True):
    """A Node's spec. Taints stay as they are, since a list is written back whole."""

    taints: list[dict[str, str]] = field(default_factory=list)


class Node(Struct, rename="camel", gc=False):
    """A Node: its labels say which units it is in, its conditions whether the cloud hears of it."""

    metadata: ObjectMeta
    spec: NodeSpec = field(default_factory=NodeSpec)
    status: NodeStatus = field(default_factory=NodeStatus)

    @property
    def ready(self) -> bool:
        """Whether the node's kubelet reports it as ready."""
        conditions = self.status.conditions or ()
        return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


class PodSpec(Struct, rename="camel", gc=False, frozen=True):
    """A pod's spec: what gives its endpoints a host name."""

    hostname: str = ""
    subdomain: str = ""


class Pod(Struct, rename="camel", gc=False):
    """A pod: which one it is, and whose."""

    metadata: ObjectMeta
    spec: PodSpec = field(default_factory=PodSpec)

    def of_child(self, kind: str, name: str) -> bool:
        """Tell whether the pod is of the Deployment (by its ReplicaSet's name) or other workload `name`.

        A ReplicaSet's name is the Deployment's and the pod's template hash (pkg/controller/deployment,
        getNewReplicaSet).
        """
        owner = self.metadata.controller()
        if owner is None:
            return False
        if kind != "Deployment":
            return (owner.kind, owner.name) == (kind, name)
        template = self.metadata.labels.get("pod-template-hash", "")
        return (owner.kind, owner.name) == ("ReplicaSet", f"{name}-{template}")


class WorkloadCondition(Struct, rename="camel", gc=False, frozen=True):
    """One of a workload's status.conditions."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class RollingUpdate(Struct, rename="camel", gc=False, frozen=True):
    """A StatefulSet's spec.updateStrategy.rollingUpdate."""

    partition: int = 0


class UpdateStrategy(Struct, rename="camel", gc=False, frozen=True):
    """A StatefulSet's spec.updateStrategy."""

    rolling_update: RollingUpdate = field(default_factory=RollingUpdate)


class WorkloadSpec(Struct, rename="camel", gc=False, frozen=True):
    """The spec of a Deployment or StatefulSet, one pod where `replicas` is not given; of a DaemonSet nothing."""

    replicas: int = 1
    update_strategy: UpdateStrategy = field(default_factory=UpdateStrategy)


class WorkloadStatus(Struct, rename="camel", gc=False, frozen=True):
    """A workload's status: the fields of all kinds, those of other kinds 0."""

    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    desired_number_scheduled: int = 0
    current_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_ready: int = 0
    conditions: list[WorkloadCondition] = field(default_factory=list)


class Workload(Struct, rename="camel", gc=False):
    """The child of a workload grid, of whatever kind."""

    metadata: ManagedMeta
    spec: WorkloadSpec = field(default_factory=WorkloadSpec)
    status: WorkloadStatus = field(default_factory=WorkloadStatus)


class Companion(Struct, rename="camel", gc=False):
    """What a child has beside it: a PodDisruptionBudget or a HorizontalPodAutoscaler."""

    metadata: ManagedMeta


class ServicePort(Struct, rename="camel", gc=False, frozen=True):
    """One port of a Service; a `node_port` of 0 means that it has none."""

    name: str = ""
    protocol: str = "TCP"
    port: int = 0
    node_port: int = 0


class ServiceSpec(Struct, rename="camel", gc=False, frozen=True):
    """A Service's spec."""

    selector: dict[str, str] | None = None
    ip_families: list[str] | None = None
    ip_family_policy: str | None = None
    cluster_ip: str = field(name="clusterIP", default="")
    type: str = "ClusterIP"
    ports: list[ServicePort] = field(default_factory=list)
    health_check_node_port: int = 0
    traffic_distribution: str | None = None


class Service(Struct, rename="camel", gc=False):
    """A child of a ServiceGrid."""

    metadata: ManagedMeta
    spec: ServiceSpec = field(default_factory=ServiceSpec)

    @property
    def headless(self) -> bool:
        """Whether the Service has no cluster IP, so that its DNS name resolves to its endpoints."""
        return self.spec.cluster_ip == "None"


class AnyService(Struct, rename="camel", gc=False):
    """A Service of whoever: what it selects, and its node ports."""

    metadata: ObjectMeta
    spec: ServiceSpec = field(default_factory=ServiceSpec)


class EndpointConditions(Struct, rename="camel", gc=False, frozen=True, omit_defaults=True):
    """An endpoint's conditions; absent means unknown, and consumers take that as ready (discovery/v1)."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ObjectReference(Struct, rename="camel", gc=False, frozen=True, omit_defaults=True):
    """What an endpoint stands for, usually a Pod."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Hint(Struct, gc=False, frozen=True):
    """A zone or node that an endpoint is meant for."""

    name: str


class EndpointHints(Struct, rename="camel", gc=False, frozen=True, omit_defaults=True):
    """Whom an endpoint is meant for; consumers that are nobody's use them all (discovery/v1)."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class Endpoint(Struct, rename="camel", gc=False, frozen=True, omit_defaults=True):
    """One endpoint."""

    addresses: list[str]
    conditions: EndpointConditions = field(default_factory=EndpointConditions)
    hostname: str | None = None
    target_ref: ObjectReference | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None

    @property
    def ready(self) -> bool:
        """Whether consumers send it requests: absent means ready (discovery/v1)."""
        return self.conditions.ready is not False


class EndpointPort(Struct, rename="camel", gc=False, frozen=True, omit_defaults=True):
    """One port of a slice; an absent `port` means all ports."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    app_protocol: str | None = None


class EndpointSlice(Struct, rename="camel", gc=False):
    """A slice of a grid's Service: Kubernetes' own, or a unit slice of ours. An empty one has null for its lists."""

    metadata: ObjectMeta
    address_type: str = ""
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None
