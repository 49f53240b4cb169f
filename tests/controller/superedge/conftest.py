"""SuperEdge's kinds in the shared cluster, and manifests as SuperEdge's users have them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sitegrid.api.superedge import OPTIONAL_API

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def superedge(running: Any) -> Any:
    """The shared cluster, to which SuperEdge's kinds come while the controller runs."""
    running.plane.kubectl("apply", "-f", str(ROOT / "deploy" / "superedge"))
    running.plane.kubectl("wait", "--for=condition=Established", "crd", "-l", OPTIONAL_API)
    return running


class Grids:
    """Applies texts in which NAMESPACE and KEY stand for the test's own."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.plane = world.plane

    def apply(self, text: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Apply a manifest with `kubectl apply`, as it is."""
        path = self.plane.directory / f"{self.world.namespace}.yaml"
        path.write_text(text.replace("NAMESPACE", self.world.namespace).replace("KEY", self.world.key))
        result: subprocess.CompletedProcess[str] = self.plane.kubectl("apply", "-f", str(path), check=check)
        return result

    def kubectl(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl in the test's namespace."""
        result: subprocess.CompletedProcess[str] = self.plane.kubectl("-n", self.world.namespace, *args, **options)
        return result

    def get(self, kind: str, name: str) -> Any:
        """Return one object of the test's namespace."""
        return self.plane.get(kind, name, self.world.namespace)

    def names(self, kind: str) -> set[str]:
        """Return the names of the objects of a kind."""
        return {item["metadata"]["name"] for item in self.plane.objects(kind, self.world.namespace)}


@pytest.fixture
def grids(superedge: Any, world: Any) -> Iterator[Grids]:
    """Manifests as SuperEdge's users have them, in one's own namespace."""
    yield Grids(world)
