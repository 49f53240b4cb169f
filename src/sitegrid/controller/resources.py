"""The grids' resource types, as the client addresses them."""

from __future__ import annotations

from typing import Final

from sitegrid.api.grids import VERSION
from sitegrid.kube.resources import Resource
from sitegrid.wire.labels import GROUP

DEPLOYMENTGRIDS: Final = Resource(GROUP, VERSION, "deploymentgrids", "DeploymentGrid", True)
SERVICEGRIDS: Final = Resource(GROUP, VERSION, "servicegrids", "ServiceGrid", True)
