"""Traefik, a real ingress controller, built for the tests that run one beside a site's agent.

Its module is pinned below ``modules/traefik`` and built as the control plane is, into the same cache. Beside its
go.mod are stand-ins for three packages that it imports: a folder of Traefik's repository that is no part of its
module, a fork that is not to be had everywhere, and lego's list of DNS vendors, whose hundred libraries would take
longer to build than all the rest. What it reads of Kubernetes, and what it makes of it, is Traefik's own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sitegrid.lab.binaries import Builder, Module, build_environment
from sitegrid.lab.cache import cache_directory, locked, replaced
from sitegrid.lab.errors import LabError
from sitegrid.lab.toolchain import find_go

MODULE: Final = Module("traefik", "3.7.13", {"traefik": "github.com/traefik/traefik/v3/cmd/traefik"})

_COMMITTED: Final = Path(__file__).parent / "modules" / MODULE.name
_LEGO: Final = "github.com/go-acme/lego/v5@v5.4.1"
_LEGO_SUM: Final = "h1:Jt6xAP9xQrJ3SLLGgxejfDDd3pzdrmuLCWe4oTqHHQc="
"""Of the module's content, as go.sum would have it: the build takes it from a folder."""


def ensure_traefik(progress: Callable[[str], None]) -> Path:
    """Return the program's path, building it where it is missing (4 minutes on 2 cores). Raises `LabError`."""
    cache = cache_directory()
    return Builder(cache, _source(cache, progress), progress).ensure(MODULE) / "traefik"


def _source(cache: Path, progress: Callable[[str], None]) -> Path:
    """Return the folder with the module's whole source: what is committed, and lego without its vendors."""
    hasher = hashlib.sha256(_LEGO_SUM.encode())
    for path in sorted(path for path in _COMMITTED.rglob("*") if path.is_file()):
        hasher.update(path.read_bytes())
    directory = cache / "src" / f"{MODULE.name}-{MODULE.version}-{hasher.hexdigest()[:12]}"
    with locked(directory, lambda: progress(f"waiting for another build of {MODULE}")):
        if not directory.is_dir():
            with replaced(directory) as temporary:
                tree = temporary / MODULE.name
                shutil.copytree(_COMMITTED, tree)
                _copy_lego(_download_lego(cache, progress), tree / "lego")
                shutil.move(tree / "dns", tree / "lego" / "providers" / "dns")
    return directory


def _download_lego(cache: Path, progress: Callable[[str], None]) -> Path:
    """Return where the Go module cache has lego, checked. Raises `LabError`."""
    go = find_go(cache, _COMMITTED / "go.mod", progress)
    # Its sum is compared here and needs no other authority.
    environment = {**build_environment(cache, go), "GOSUMDB": "off"}
    argv = [str(go), "mod", "download", "-json", _LEGO]
    done = subprocess.run(argv, cwd="/", env=environment, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout or "{}")
    if done.returncode or answer.get("Sum") != _LEGO_SUM:
        raise LabError(f"cannot have {_LEGO}: {answer.get('Error') or answer.get('Sum') or done.stderr.strip()}")
    return Path(answer["Dir"])


def _copy_lego(lego: Path, target: Path) -> None:
    shutil.copytree(lego, target, ignore=shutil.ignore_patterns("providers", "docs", "e2e", "testdata", "*_test.go"))
    # In the module cache all is read-only, as are its copies.
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    (target / "providers").mkdir()
