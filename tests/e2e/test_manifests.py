"""Manifests as users write them: each gets ready on the lab, or fails with one clear sentence where the user looks.

The first line of each file in ``manifests`` says what is to come: ``# Ready``, ``# refused: PATTERN`` (kubectl's
error when it is applied) or ``# told: PATTERN`` (the message of a grid that does not get ready).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab.clients import wait_until
from sitegrid.lab.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "manifests").glob("*.yaml"))}
LABEL = "manifests.example.com/Rack_No.1"


@pytest.fixture(scope="module")
def applied(lab: Lab) -> Iterator[dict[str, str]]:
    """Apply every file in a namespace of its own; yield kubectl's errors by file."""
    lab.kubectl("label", "node", "node12", f"{LABEL}=Berlin_1.a")
    lab.kubectl("label", "node", "node23", f"{LABEL}=2")
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in FILES]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": spaces})
    lab.kubectl("apply", "-f", "-", input=listed)
    # Pods' admission wants the namespace's account; kube-controller-manager makes it a moment later.
    for name in FILES:
        assert wait_until(lambda name=name: account_exists(lab, name))  # type: ignore[misc]
    yield {
        name: lab.kubectl("apply", "-n", name, "-f", str(path), check=False).stderr for name, path in FILES.items()
    }
    lab.kubectl("delete", "--wait=false", "-f", "-", input=listed)
    for kind in ("persistentvolumes/manifest-claims-1", "persistentvolumes/manifest-claims-2"):
        lab.kubectl("delete", "--wait=false", kind)
    lab.kubectl("delete", "priorityclasses/manifest-edge")
    lab.kubectl("label", "node", "node12", "node23", f"{LABEL}-")


def account_exists(lab: Lab, namespace: str) -> bool:
    """Tell whether pods can be made in `namespace`."""
    return not lab.kubectl("get", "serviceaccount", "default", "-n", namespace, check=False).returncode


def ready(lab: Lab, namespace: str) -> dict[str, dict[str, Any]]:
    """Return the Ready condition of every grid in `namespace`."""
    items = json.loads(lab.kubectl("get", "grids", "-n", namespace, "-o", "json").stdout)["items"]
    return {
        f"{item['kind']}/{item['metadata']['name']}": condition
        for item in items
        if "namespace" in item["metadata"]  # NodeUnits and NodeGroups are listed as well
        for condition in (item.get("status", {}).get("conditions") or [{}])
        if condition.get("type", "Ready") == "Ready"
    }


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_gets_ready_or_says_why_not(lab: Lab, applied: dict[str, str], name: str) -> None:
    """What its first line says comes true: nothing is left undecided, and the sentence is one of the manifest."""
    expectation, _, pattern = FILES[name].read_text().splitlines()[0].removeprefix("# ").partition(": ")
    if expectation == "refused":
        assert re.search(pattern, applied[name]), applied[name]
        return
    assert "rror" not in applied[name], applied[name]

    def decided() -> bool:
        conditions = ready(lab, name).values()
        if expectation == "Ready":
            return bool(conditions) and all(condition.get("status") == "True" for condition in conditions)
        return any(c.get("status") == "False" and re.search(pattern, c["message"]) for c in conditions)

    assert wait_until(decided), json.dumps(ready(lab, name), indent=1)
    print(name, *{condition["message"] for condition in ready(lab, name).values()}, sep=": ")
