"""Objects for the planning tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings

from sitegrid.api.meta import ObjectMeta
from sitegrid.api.workloads import DeploymentGrid, WorkloadGrid
from sitegrid.grid.observed import Workload

# A loaded machine is slow now and then; a test that measures time finds that and nothing else.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

MakeGrid = Callable[..., WorkloadGrid]


def _template() -> dict[str, Any]:
    return {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
        },
    }


@pytest.fixture(scope="session")
def make_grid() -> MakeGrid:
    """Make a workload grid, a DeploymentGrid by default; further arguments are fields of its spec."""

    def make(
        name: str = "grid",
        key: str = "zone",
        template: dict[str, Any] | None = None,
        kind: type[WorkloadGrid] = DeploymentGrid,
        **fields: Any,
    ) -> WorkloadGrid:
        spec = {"gridUniqKey": key, "template": _template() if template is None else template, **fields}
        grid = msgspec.convert({"metadata": {}, "spec": spec}, kind)
        grid.metadata = ObjectMeta(name=name, namespace="default", uid=f"uid-{name}", generation=1)
        return grid

    return make


@pytest.fixture(scope="session")
def observe() -> Callable[..., Workload]:
    """Turn an applied manifest into the child that is then observed, its fields all owned by us."""

    def fields(value: Any) -> Any:
        return {f"f:{name}": fields(item) for name, item in value.items()} if isinstance(value, dict) else {}

    def make(manifest: dict[str, Any], uid: str = "", **status: Any) -> Workload:
        owned = {
            "f:metadata": {"f:labels": fields(manifest["metadata"]["labels"]), "f:ownerReferences": {}},
            "f:spec": fields(manifest["spec"]),
        }
        observed = {
            "metadata": {
                **manifest["metadata"],
                "uid": uid or f"uid-{manifest['metadata']['name']}",
                "resourceVersion": "1",
                "generation": 1,
                "managedFields": [{"manager": "sitegrid", "operation": "Apply", "fieldsV1": owned}],
            },
            "spec": manifest["spec"],
            "status": status,
        }
        return msgspec.json.decode(msgspec.json.encode(observed), type=Workload)

    return make
