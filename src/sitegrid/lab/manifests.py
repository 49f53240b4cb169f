"""The manifests under ``deploy/``, found in an installed package and in a checkout alike.

The lab applies the very files that a user applies to a real cluster: CRDs and RBAC. A wheel carries them as package data
(``sitegrid/deploy``); an editable installation reads the checkout's. Held by ``tests/lab/test_manifests.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

import sitegrid
from sitegrid.lab.errors import LabError

_PACKAGE: Final = Path(sitegrid.__file__).parent


def deploy_directory() -> Path:
    """Return the directory with the manifests; raises `LabError` where the installation has none."""
    for candidate in (_PACKAGE / "deploy", _PACKAGE.parent.parent / "deploy"):
        if (candidate / "crds").is_dir():
            return candidate
    raise LabError("this installation of sitegrid has no deploy/ directory; install it from its wheel or checkout")


def load_manifests(folder: str) -> list[dict[str, Any]]:
    """Return all objects of the YAML files in ``deploy/<folder>``, in the order of the files' names."""
    objects: list[dict[str, Any]] = []
    for path in sorted((deploy_directory() / folder).glob("*.yaml")):
        objects += [entry for entry in yaml.safe_load_all(path.read_text(encoding="utf-8")) if entry]
    return objects
