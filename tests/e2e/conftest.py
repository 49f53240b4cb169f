"""The article's example, applied once to the shared lab; every test here asks it something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sitegrid.lab.clients import Clients
from sitegrid.lab.lab import Lab
from tests.support.faultsite import PLAIN, FaultSite

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return a lab of this folder's own, since its tests add nodes, which no test elsewhere would expect."""
    with Lab("e2e", directory=tmp_path_factory.mktemp("labs")) as lab:
        lab.up()
        yield lab


@pytest.fixture(scope="package")
def clients(lab: Lab) -> Clients:
    """Return a client pod on every node."""
    clients = Clients(lab)
    clients.deploy()
    return clients


@pytest.fixture(scope="package")
def walkthrough(lab: Lab, clients: Clients) -> Iterator[Clients]:
    """Apply the two files and the NodePort one; yield the clients once everything is ready."""
    files = [str(EXAMPLES / name) for name in ("deploymentgrid.yaml", "servicegrid.yaml", "nodeport.yaml")]
    flags = [word for file in files for word in ("-f", file)]
    lab.kubectl("apply", *flags)
    lab.kubectl(
        "wait", "--for=condition=Ready", "--timeout=120s",
        "dg/deploymentgrid-demo", "sg/servicegrid-demo", "sg/servicegrid-nodeport",
    )  # fmt: skip
    yield clients
    lab.kubectl("delete", "--wait=false", *flags)


@pytest.fixture(scope="module")
def site(walkthrough: Clients, lab: Lab) -> Iterator[FaultSite]:
    """Run a plain Deployment with a pod on each node of NodeUnit2, behind a plain Service."""
    lab.kubectl("apply", "-f", "-", input=PLAIN)
    lab.kubectl("rollout", "status", "deployment/kiosk", "--timeout=120s")
    yield FaultSite(lab, walkthrough)
    lab.kubectl("delete", "--wait=false", "-f", "-", input=PLAIN)


@pytest.fixture
def examples() -> str:
    """Return the folder of the example manifests."""
    return str(EXAMPLES)
