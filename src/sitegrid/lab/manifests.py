"""The manifests under ``deploy/`` and ``examples/``, found in an installed package and in a checkout alike.

The lab applies the very files that a user applies to a real cluster: CRDs, RBAC and admission policies. A wheel
carries them as package data (``sitegrid/deploy``); an editable installation reads the checkout's. Held by
``tests/lab/test_manifests.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

import sitegrid
from sitegrid.lab.errors import LabError

_PACKAGE: Final = Path(sitegrid.__file__).parent


def deploy_directory() -> Path:
    """Return the directory with the CRDs, RBAC and further manifests; raises `LabError` where there is none."""
    return _directory("deploy")


def example(name: str) -> str:
    """Return the path of the example manifest `name`, for kubectl; raises `LabError` where there is none."""
    path = _directory("examples") / name
    if not path.is_file():
        raise LabError(f"there is no example {name!r} in {path.parent}")
    return str(path)


def _directory(name: str) -> Path:
    for candidate in (_PACKAGE / name, _PACKAGE.parent.parent / name):
        if candidate.is_dir():
            return candidate
    raise LabError(f"this installation of sitegrid has no {name}/; install it from its wheel or checkout")


def load_manifests(folder: str) -> list[dict[str, Any]]:
    """Return all objects of the YAML files in ``deploy/<folder>``, in the order of the files' names."""
    objects: list[dict[str, Any]] = []
    for path in sorted((deploy_directory() / folder).glob("*.yaml")):
        objects += [entry for entry in yaml.safe_load_all(path.read_text(encoding="utf-8")) if entry]
    return objects
