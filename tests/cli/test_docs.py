"""The pages name what there is, and all of it."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from sitegrid.agent.metrics import Metrics as AgentMetrics
from sitegrid.cli.main import build_parser
from sitegrid.controller.metrics import Metrics as ControllerMetrics

_ROOT = Path(__file__).parents[2]
_PAGES = [_ROOT / "README.md", _ROOT / "README.zh-CN.md", *sorted((_ROOT / "docs").glob("*.md"))]


def _section(page: str, title: str) -> str:
    """Return a section of a page, up to the next one."""
    text = (_ROOT / "docs" / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _subcommand(*words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = build_parser()
    for word in words:
        places = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
        parser = places[0][word]
    return parser


def _commands() -> Iterator[tuple[str, str]]:
    """Yield each command of ours in the pages' examples."""
    for page in _PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            found = re.search(r"^\$ .*?(?:\$\()?(?:\.venv/bin/|kubectl (?=grid))?(sitegrid|grid) ([^#|)]*)", line)
            if found:
                yield page.name, found[2].strip()


@pytest.mark.parametrize(("page", "command"), [*_commands()])
def test_every_command_of_the_pages_is_understood(page: str, command: str) -> None:
    """What a reader copies is not refused."""
    build_parser().parse_args(shlex.split(command))


@pytest.mark.parametrize(
    ("command", "page", "section"),
    [
        ("agent", "agent.md", "Options"),
        ("controller", "controller.md", "Options"),
        ("connections", "agent.md", "Open connections"),
    ],
)
def test_the_options_are_described(command: str, page: str, section: str) -> None:
    """The section of a command has every option of it, and none that there is not."""
    options = {word for action in _subcommand(command)._actions for word in action.option_strings}
    described = set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", _section(page, section)))
    assert described - {"--raw", "--minify", "--flatten", "-o"} == options - {"-h", "--help"}


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("agent.md", AgentMetrics().render()),
        ("controller.md", generate_latest(ControllerMetrics().registry)),
    ],
)
def test_the_metrics_are_described(page: str, text: bytes) -> None:
    """The page has every metric, and none that there is not."""
    shown = set(re.findall(r"# TYPE sitegrid_(?:agent_)?(\w+) ", text.decode()))
    rows = [row.split("|")[1] for row in _section(page, "Metrics").splitlines() if row.startswith("| `")]
    assert {name for row in rows[1:] for name in re.findall(r"`(\w+)", row)} == shown


def test_the_labs_verbs_are_described() -> None:
    """docs/lab.md has every verb of `sitegrid lab`, and none that there is not."""
    verbs = next(action.choices for action in _subcommand("lab")._actions if isinstance(action.choices, dict))
    assert set(re.findall(r"`lab (\w+)", _section("lab.md", "Commands"))) == set(verbs)


def test_every_reason_is_described() -> None:
    """docs/api.md has each reason of conditions and events that the code can give."""
    before = (r"^[A-Z_]+(?:: Final)? = ", r'\((?:"(?:True|False)"|True|False), ', "reason=", r"_tell\(\w+, ")
    given = re.compile(f'(?:{"|".join(before)})"((?:[A-Z][a-z]+){{2,}})"', re.MULTILINE)
    sources = [path for part in ("grid", "controller") for path in (_ROOT / "src" / "sitegrid" / part).glob("*.py")]
    reasons = {reason for path in sources for reason in given.findall(path.read_text(encoding="utf-8"))}
    reasons = {reason for reason in reasons if not reason.endswith(("Spec", "Grid", "EndpointSlice"))}
    others = {"NodeUnit", "NodeGroup", "ExternalName", "ReplicaFailure"}  # kinds, and Kubernetes' own words
    described = set(re.findall(r"`([A-Z]\w+)`", (_ROOT / "docs" / "api.md").read_text(encoding="utf-8")))
    assert len(reasons) > 30
    assert reasons - others <= described
