from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitegrid.lab import binaries
from sitegrid.lab.binaries import MODULES, MODULES_DIRECTORY, Builder, Module, ensure_binaries
from sitegrid.lab.cache import cache_directory
from sitegrid.lab.errors import LabError
from sitegrid.lab.toolchain import find_go

MODULE = Module("hello", "1.0", {"hello": "."})


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Return a directory with one tiny Go module that needs nothing."""
    source = tmp_path / "modules" / "hello"
    source.mkdir(parents=True)
    (source / "go.mod").write_text("module sitegrid.invalid/hello\n\ngo 1.26\n")
    (source / "go.sum").write_text("")
    (source / "main.go").write_text('package main\n\nfunc main() { println("hello") }\n')
    return source.parent


@pytest.fixture(autouse=True, scope="module")
def go() -> Iterator[None]:
    """Put on PATH the Go that the control plane is built with, so that it is not installed per test."""
    found = find_go(cache_directory(), MODULES_DIRECTORY / "etcd" / "go.mod", lambda _: None)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PATH", str(found.parent), prepend=os.pathsep)
        yield


def _builder(tmp_path: Path, modules: Path, said: list[str]) -> Builder:
    return Builder(tmp_path / "cache", modules, said.append)


def _hello(directory: Path) -> str:
    return subprocess.run([directory / "hello"], capture_output=True, text=True, check=True).stderr


def test_module_is_built_once(tmp_path: Path, modules: Path) -> None:
    """The first call builds and says so, the second finds it and says nothing."""
    said: list[str] = []
    directory = _builder(tmp_path, modules, said).ensure(MODULE, "1/3")
    assert _hello(directory) == "hello\n"
    assert said[0] == "building hello 1.0 (1/3): hello …"
    said.clear()
    assert _builder(tmp_path, modules, said).ensure(MODULE) == directory
    assert said == []


@pytest.mark.parametrize("damage", ["truncated", "rewritten", "removed", "not executable", "no manifest"])
def test_damaged_program_is_built_again(tmp_path: Path, modules: Path, damage: str) -> None:
    """Whatever happened to the cached file, the result is whole again."""
    said: list[str] = []
    builder = _builder(tmp_path, modules, said)
    directory = builder.ensure(MODULE)
    program = directory / "hello"
    match damage:
        case "truncated":
            os.truncate(program, 100)
        case "rewritten":
            program.write_bytes(b"\0" * program.stat().st_size)
        case "removed":
            program.unlink()
        case "not executable":
            program.chmod(0o644)
        case "no manifest":
            (directory / "manifest.json").unlink()
    said.clear()
    assert _hello(builder.ensure(MODULE)) == "hello\n"
    assert "hello 1.0 in the cache is damaged; building it again" in said


def test_copied_cache_is_accepted_by_content(tmp_path: Path, modules: Path) -> None:
    """Another time stamp alone (a restored cache) does not cost a build."""
    said: list[str] = []
    builder = _builder(tmp_path, modules, said)
    directory = builder.ensure(MODULE)
    os.utime(directory / "hello", ns=(0, 0))
    said.clear()
    builder.ensure(MODULE)
    assert said == []


def test_changed_pins_are_another_directory(modules: Path) -> None:
    """Version, go.mod, go.sum, flags and what source lies beside them decide the name."""
    source = modules / "hello"
    names = {MODULE.digest(source), Module("hello", "1.1", MODULE.programs).digest(source)}
    names.add(Module("hello", "1.0", MODULE.programs, "-s").digest(source))
    (source / "go.sum").write_text("x y z\n")
    names.add(MODULE.digest(source))
    (source / "main.go").write_text("package main\n\nfunc main() {}\n")
    names.add(MODULE.digest(source))
    assert len(names) == 5


def test_two_builders_work_once(tmp_path: Path, modules: Path) -> None:
    """The second waits for the first, says so, and finds the result."""
    said: list[list[str]] = [[], []]
    inside, waiting = threading.Event(), threading.Event()

    def first_says(text: str) -> None:
        said[0].append(text)
        inside.set()
        # The first is now inside the lock; it goes on when the second has met it.
        assert waiting.wait(60)

    def second_says(text: str) -> None:
        said[1].append(text)
        waiting.set()

    first = threading.Thread(target=Builder(tmp_path / "cache", modules, first_says).ensure, args=(MODULE,))
    first.start()
    assert inside.wait(60)
    directory = Builder(tmp_path / "cache", modules, second_says).ensure(MODULE)
    first.join()
    assert _hello(directory) == "hello\n"
    assert said[1] == ["waiting for another build of hello 1.0"]
    assert sum("building" in line for line in said[0] + said[1] if line.endswith("…")) == 1


def test_failed_build_says_why_and_leaves_nothing(tmp_path: Path, modules: Path) -> None:
    """The compiler's words are in the error; no directory looks like a result."""
    (modules / "hello" / "main.go").write_text("package main\n\nfunc main() { nosuch() }\n")
    with pytest.raises(LabError, match=r"building hello 1\.0 .* failed: .*nosuch"):
        _builder(tmp_path, modules, []).ensure(MODULE)
    assert [path.suffix for path in (tmp_path / "cache" / "bin").iterdir()] == [".lock"]


def test_killed_build_is_swept_up(tmp_path: Path, modules: Path) -> None:
    """What a killed builder left is removed by the next one."""
    code = (
        "import os, signal, sys; from pathlib import Path; from sitegrid.lab.binaries import Builder, Module\n"
        "def say(text): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"builder = Builder(Path({str(tmp_path / 'cache')!r}), Path({str(modules)!r}), say)\n"
        "builder.ensure(Module('hello', '1.0', {'hello': '.'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len([path for path in (tmp_path / "cache" / "bin").iterdir() if path.is_dir()]) == 1
    directory = _builder(tmp_path, modules, []).ensure(MODULE)
    assert [path for path in directory.parent.iterdir() if path.is_dir()] == [directory]


def test_committed_sums_are_enough(tmp_path: Path, modules: Path) -> None:
    """A build never changes its pins: a module that go.sum does not know is refused."""
    (modules / "hello" / "go.mod").write_text(
        "module sitegrid.invalid/hello\n\ngo 1.26\n\nrequire example.invalid/x v1.0.0\n"
    )
    (modules / "hello" / "main.go").write_text('package main\n\nimport _ "example.invalid/x"\n\nfunc main() {}\n')
    with pytest.raises(LabError, match=r"go\.sum"):
        _builder(tmp_path, modules, []).ensure(MODULE)


def test_own_programs_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every program in $KUBEBUILDER_ASSETS nothing is built."""
    for program in (program for module in MODULES for program in module.programs):
        (tmp_path / program).write_text("")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert {path.parent for path in ensure_binaries(progress=pytest.fail).values()} == {tmp_path}


def test_what_own_programs_lack_is_built(tmp_path: Path, modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that $KUBEBUILDER_ASSETS has is used, its module's others are built."""
    (modules / "hello" / "go.mod").write_text("module sitegrid.invalid/hello\n\ngo 1.26\n")
    (modules / "hello" / "other").mkdir()
    (modules / "hello" / "other" / "main.go").write_text("package main\n\nfunc main() {}\n")
    module = Module("hello", "1.0", {"hello": ".", "other": "./other"})
    monkeypatch.setattr(binaries, "MODULES", (module,))
    monkeypatch.setattr(binaries, "MODULES_DIRECTORY", modules)
    monkeypatch.setenv("SITEGRID_CACHE", str(tmp_path / "cache"))
    assets = tmp_path / "assets"
    assets.mkdir()
    (assets / "hello").write_text("")
    (assets / "hello").chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    found = ensure_binaries(progress=lambda _: None)
    assert found["hello"] == assets / "hello"
    assert found["other"].parent.parent == tmp_path / "cache" / "bin"


def test_no_home_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home directory the user is told which variable helps."""
    for name in ("SITEGRID_CACHE", "XDG_CACHE_HOME", "KUBEBUILDER_ASSETS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", _no_home)
    with pytest.raises(LabError, match="set SITEGRID_CACHE"):
        ensure_binaries(progress=pytest.fail)


def _no_home(path: Path) -> Path:
    raise RuntimeError("Could not determine home directory.")
