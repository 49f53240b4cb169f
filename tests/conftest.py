"""Labs for tests: one that the whole run shares, and a factory for tests that break theirs.

A test that uses either is marked `cluster` by itself. The programs are built before the first test, so that a cold
cache (minutes) does not count against a test's time limit. Nothing is skipped: a machine that cannot run a lab fails
the tests with the sentence that says what it lacks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sitegrid.lab.binaries import ensure_binaries
from sitegrid.lab.errors import LabError
from sitegrid.lab.interruption import interrupt_on
from sitegrid.lab.lab import Lab
from tests.support.traefik import ensure_traefik

# A change is judged by the same examples as the one before it, however slow the machine is. A search for new ones:
# `pytest --hypothesis-profile=search`.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")

_LAB_FIXTURES = {"lab", "new_lab"}
_failure = pytest.StashKey[str]()
_built = pytest.StashKey[Mapping[str, Path]]()
_traefik = pytest.StashKey[Path]()


def pytest_configure() -> None:
    """End all that tests have started also where SIGTERM ends the run; pytest knows Ctrl-C only."""
    interrupt_on(signal.SIGTERM)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what needs a lab."""
    if isinstance(item, pytest.Function) and _LAB_FIXTURES & set(item.fixturenames):
        item.add_marker(pytest.mark.cluster)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane, and what else tests run, before the first test's clock runs."""
    if session.config.option.collectonly or not any(item.get_closest_marker("cluster") for item in session.items):
        return
    try:
        session.config.stash[_built] = ensure_binaries(progress=_say)
        if any("traefik" in getattr(item, "fixturenames", ()) for item in session.items):
            session.config.stash[_traefik] = ensure_traefik(progress=_say)
    except LabError as error:
        session.config.stash[_failure] = str(error)


@pytest.fixture(scope="session", autouse=True)
def _programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put links to all programs into one folder and name it, for tests that run single parts of the control plane."""
    programs = request.config.stash.get(_built, None)
    with pytest.MonkeyPatch.context() as patch:
        if programs is not None:
            folder = tmp_path_factory.mktemp("programs")
            for name, path in programs.items():
                (folder / name).symlink_to(path)
            patch.setenv("KUBEBUILDER_ASSETS", str(folder))
        yield


@pytest.fixture(scope="session")
def traefik(request: pytest.FixtureRequest) -> Path:
    """Return the path of Traefik, an ingress controller."""
    failure = request.config.stash.get(_failure, None)
    if failure is not None:
        pytest.fail(failure, pytrace=False)
    return request.config.stash[_traefik]


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return a running lab with the article's nodes, controller and agents. Tests leave it as they found it."""
    with Lab(f"test-{os.getpid()}", directory=tmp_path_factory.mktemp("labs")) as lab:
        _up(request, lab)
        yield lab


@pytest.fixture
def new_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Return a function that makes a lab of one's own (``new_lab(name)``, not started), ended after the test."""
    failure = request.config.stash.get(_failure, None)
    if failure is not None:
        pytest.fail(failure, pytrace=False)
    with ExitStack() as labs:
        yield lambda name="own": labs.enter_context(Lab(name, directory=tmp_path / "labs"))


def _up(request: pytest.FixtureRequest, lab: Lab) -> None:
    failure = request.config.stash.get(_failure, None)
    try:
        if failure is None:
            lab.up()
    except LabError as error:
        failure = str(error)
    if failure is not None:
        pytest.fail(f"the lab cannot start: {failure}", pytrace=False)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
