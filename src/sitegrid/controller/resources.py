"""The resource types of grids and of what they make, as the client addresses them; workloads' come from the table.

Held, on a real API server, by ``tests/controller/test_workload_grids.py`` and
``tests/controller/test_servicegrids.py``.
"""

from __future__ import annotations

from typing import Final

from sitegrid.api.grids import VERSION
from sitegrid.api.superedge import SITE, SITE_VERSIONS
from sitegrid.grid.kinds import COMPANION_KINDS, SERVICE, WORKLOAD_KINDS, ObjectKind, ServiceKind, WorkloadKind
from sitegrid.kube.resources import Resource
from sitegrid.wire.labels import GROUP

NODEUNITS: Final = Resource(GROUP, VERSION, "nodeunits", "NodeUnit", False)
NODEGROUPS: Final = Resource(GROUP, VERSION, "nodegroups", "NodeGroup", False)


def grid_resource(kind: WorkloadKind) -> Resource:
    """Return the resource type of the grids of `kind`."""
    return Resource(kind.grid_type.GROUP, VERSION, kind.grid_plural, kind.grid_kind, True)


def service_grid_resource(kind: ServiceKind) -> Resource:
    """Return the resource type of the ServiceGrids of `kind`."""
    return Resource(kind.grid_type.GROUP, VERSION, "servicegrids", kind.grid_type.KIND, True)


def child_resource(kind: ObjectKind) -> Resource:
    """Return the resource type of children or companions of `kind`."""
    return _CHILDREN[kind]


SERVICEGRIDS: Final = service_grid_resource(SERVICE)

SITE_NODEUNITS: Final = Resource(SITE, SITE_VERSIONS[0], "nodeunits", "NodeUnit", False)
SITE_NODEGROUPS: Final = Resource(SITE, SITE_VERSIONS[0], "nodegroups", "NodeGroup", False)

_CHILDREN: Final = {
    kind: Resource(kind.group, kind.version, kind.plural, kind.kind, True)
    for kind in (*(row.child for row in WORKLOAD_KINDS.values()), *COMPANION_KINDS)
}
