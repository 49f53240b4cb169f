"""The wanted Service."""

from __future__ import annotations

import copy

import msgspec

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.servicegrids import ServiceGrid
from sitegrid.grid.service import wanted_service


def test_service_is_the_template_closed() -> None:
    """The user's spec unchanged, with the label that makes a stock kube-proxy ignore the Service (I2, I3)."""
    template = {"selector": {"app": "web"}, "ports": [{"port": 80}], "sessionAffinity": "ClientIP"}
    spec = {"gridUniqKey": "topology.kubernetes.io/zone", "template": copy.deepcopy(template)}
    grid = msgspec.convert({"metadata": {}, "spec": spec}, ServiceGrid)
    grid.metadata = ObjectMeta(name="demo", namespace="default", uid="u")
    service = wanted_service(grid)
    assert service["spec"] == template
    assert service["metadata"]["name"] == "demo-svc"
    assert service["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] == "sitegrid"
    assert service["metadata"]["labels"]["tkeedge.io/grid"] == "demo"
    assert "/" not in service["metadata"]["labels"]["tkeedge.io/grid-uniq-key"]
    assert service["metadata"]["ownerReferences"][0]["uid"] == "u"
