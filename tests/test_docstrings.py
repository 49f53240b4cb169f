"""Whoever opens a module finds in its first lines which test holds it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_TEST = re.compile(r"``(tests/[^`]+)``")


def test_every_module_names_the_test_that_holds_it() -> None:
    """Its docstring has the path of a test, or of a folder of tests, and every such path exists."""
    wrong: list[str] = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        module = ast.parse(path.read_text())
        if path.name == "__init__.py" and len(module.body) == 1:
            continue  # a package's docstring alone
        named = _TEST.findall(ast.get_docstring(module) or "")
        missing = [name for name in named if not (ROOT / name).exists()]
        if missing or not named:
            wrong.append(f"{path.relative_to(ROOT)}: {', '.join(missing) or 'names no test'}")
    assert wrong == []
