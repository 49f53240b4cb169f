"""The control plane's programs: found in $KUBEBUILDER_ASSETS or in the cache, else built from the pinned Go modules.

`Lab.up` and ``sitegrid lab build`` call `ensure_binaries`. Each module below ``modules/`` has its go.mod and go.sum
committed and is built with ``-mod=readonly``, so what is built is what was reviewed. The cache directory's name is
the version and a digest of everything that the result depends on; a build happens in a temporary directory that is
renamed when complete, under a lock, so that a reader sees a whole directory or none, and two builders do the work
once. Held by ``tests/lab/test_binaries.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sitegrid.lab.cache import cache_directory, locked, replaced
from sitegrid.lab.errors import LabError
from sitegrid.lab.toolchain import find_go

Progress = Callable[[str], None]

MODULES_DIRECTORY: Final = Path(__file__).parent / "modules"

_REPORT_EVERY: Final = 10.0
"""Seconds between two lines about a build that goes on."""


@dataclass(frozen=True, slots=True)
class Module:
    """One Go module and the programs that it is built for: name → package."""

    name: str
    version: str
    programs: Mapping[str, str]
    ldflags: str = "-s -w"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def digest(self, directory: Path) -> str:
        """Return a digest of everything that the programs depend on but the Go toolchain."""
        hasher = hashlib.sha256()
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            hasher.update(path.read_bytes())
        rest = [self.version, sorted(self.programs.items()), self.ldflags, platform.system(), platform.machine()]
        hasher.update(json.dumps(rest).encode())
        return hasher.hexdigest()[:12]


KUBERNETES_VERSION: Final = "1.36.3"

MODULES: Final = (
    Module(
        "kubernetes",
        KUBERNETES_VERSION,
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl")
        },
        # Clients see this version; without it the API server calls itself v0.0.0.
        ldflags=f"-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES_VERSION}",
    ),
    Module("etcd", "3.7.3", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Module("coredns", "1.15.0", {"coredns": "github.com/coredns/coredns"}),
)


def ensure_binaries(progress: Progress) -> dict[str, Path]:
    """Return the path of every program of the control plane, building what is missing (minutes, cold).

    Raises `LabError` where that fails.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    found = _in_assets(Path(assets)) if assets else {}
    builder = Builder(cache_directory(), MODULES_DIRECTORY, progress)
    needed = [module for module in MODULES if not module.programs.keys() <= found.keys()]
    for position, module in enumerate(needed, 1):
        directory = builder.ensure(module, f"{position}/{len(needed)}")
        for program in module.programs:
            found.setdefault(program, directory / program)
    return found


def _in_assets(directory: Path) -> dict[str, Path]:
    """Return the programs that the user's own directory has."""
    names = [program for module in MODULES for program in module.programs]
    return {name: directory / name for name in names if os.access(directory / name, os.X_OK)}


class Builder:
    """Builds modules (sources below `modules`) into `cache` once, and checks what is there."""

    def __init__(self, cache: Path, modules: Path, progress: Progress) -> None:
        self._cache = cache
        self._modules = modules
        self._progress = progress

    def ensure(self, module: Module, position: str = "1/1") -> Path:
        """Return the directory with the module's programs, whole; `position` is shown ("2/3"). Raises `LabError`."""
        source = self._modules / module.name
        name = f"{module.name}-{module.version}-{module.digest(source)}"
        directory = self._cache / "bin" / name
        if is_whole(directory, module.programs):
            return directory
        try:
            with locked(directory, lambda: self._progress(f"waiting for another build of {module}")):
                if is_whole(directory, module.programs):
                    return directory
                if directory.exists():
                    self._progress(f"{module} in the cache is damaged; building it again")
                with replaced(directory) as temporary:
                    self._build(module, source, temporary, position)
                    write_manifest(temporary, module.programs)
        except OSError as error:
            raise LabError(f"cannot use the cache {self._cache}: {error}") from error
        return directory

    def _build(self, module: Module, source: Path, output: Path, position: str) -> None:
        go = find_go(self._cache, source / "go.mod", self._progress)
        what = f"building {module} ({position})"
        argv = [str(go), "build", "-trimpath", "-ldflags", module.ldflags, "-o"]
        if len(module.programs) == 1:
            # Go would name it after the last word of its package, which is not always its name.
            ((program, package),) = module.programs.items()
            argv += [str(output / program), package]
        else:
            argv += [f"{output}{os.sep}", *module.programs.values()]
        self._progress(f"{what}: {', '.join(module.programs)} …")
        started = time.monotonic()
        self._run(argv, source, what, build_environment(self._cache, go))
        self._progress(f"{what}: done in {time.monotonic() - started:.0f} s")

    def _run(self, argv: Sequence[str], source: Path, what: str, environment: Mapping[str, str]) -> None:
        """Run the build in `source`, telling every few seconds that it goes on; no part of it outlives this call."""
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                argv,
                cwd=source,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                while True:
                    try:
                        code = process.wait(_REPORT_EVERY)
                        break
                    except subprocess.TimeoutExpired:
                        self._progress(f"{what} … {time.monotonic() - started:.0f} s")
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
        if code:
            raise LabError(f"{what} failed: {' | '.join(text.splitlines()[-3:])}")


def write_manifest(directory: Path, programs: Mapping[str, str]) -> None:
    """Record what was built, for `is_whole`."""
    entries = {}
    for program in programs:
        path = directory / program
        status = path.stat()
        entries[program] = {"sha256": _sha256(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    (directory / "manifest.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")


def is_whole(directory: Path, programs: Mapping[str, str]) -> bool:
    """Tell whether all `programs` are there as built: by size and time where these agree, else by content."""
    try:
        entries = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        for program in programs:
            path = directory / program
            entry, status = entries[program], path.stat()
            if status.st_size != entry["size"] or not os.access(path, os.X_OK):
                return False
            if status.st_mtime_ns != entry["mtime_ns"] and _sha256(path) != entry["sha256"]:
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_environment(cache: Path, go: Path) -> dict[str, str]:
    """Return the build's environment: the user's own (proxy settings count), with what decides the result fixed."""
    fixed = {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GO111MODULE": "on",
    }
    dropped = {"GOOS", "GOARCH"}
    if go.is_relative_to(cache):
        # It would send the toolchain from PyPI to another one's standard library.
        dropped.add("GOROOT")
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | fixed
    if "HOME" not in environment:
        environment.setdefault("GOCACHE", str(cache / "go-build"))
        environment.setdefault("GOPATH", str(cache / "go"))
    return environment
