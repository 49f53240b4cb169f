from __future__ import annotations

from pathlib import Path

import pytest

from sitegrid.lab.errors import LabError
from sitegrid.lab.manifests import example, load_manifests


def test_crds_are_found() -> None:
    """The lab applies the CRDs that users apply."""
    names = {entry["metadata"]["name"] for entry in load_manifests("crds")}
    assert {"deploymentgrids.tkeedge.io", "servicegrids.tkeedge.io"} <= names


def test_superedge_crds_are_found() -> None:
    """The lab has SuperEdge's kinds too."""
    names = {entry["metadata"]["name"] for entry in load_manifests("superedge")}
    assert {"deploymentgrids.superedge.io", "nodeunits.site.superedge.io"} <= names


def test_example_is_a_path() -> None:
    """An example is given as a path for kubectl."""
    assert Path(example("servicegrid.yaml")).is_file()


def test_unknown_example_is_named() -> None:
    """A missing example is a sentence, not an empty apply."""
    with pytest.raises(LabError, match=r"no example 'nosuch\.yaml'"):
        example("nosuch.yaml")
