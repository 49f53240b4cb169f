from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sitegrid.lab import requirements
from sitegrid.lab.errors import LabError
from sitegrid.lab.readiness import last_words


def test_missing_tools_are_named_with_their_packages() -> None:
    """The message has the tools and the command that installs them."""
    with pytest.raises(LabError) as caught:
        requirements.check_requirements(which=lambda tool: None if tool in ("ip", "nft") else f"/bin/{tool}")
    assert "the lab needs ip, nft" in str(caught.value)
    assert "apt-get install iproute2 nftables" in str(caught.value)


def test_user_namespace_where_root_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where plain namespaces are refused, a user namespace is used."""
    monkeypatch.setattr(requirements, "probe", lambda user: None if user else "Operation not permitted")
    assert requirements.check_requirements(which=lambda tool: tool) is True


def test_kernel_that_refuses_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing works, the kernel's reason and a remedy are given."""
    monkeypatch.setattr(requirements, "probe", lambda user: "Operation not permitted")
    with pytest.raises(LabError, match=r"\(Operation not permitted\); run it"):
        requirements.check_requirements(which=lambda tool: tool)


def test_a_full_disk_is_told_before_anything_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd would end with a stack trace; the message says how much is needed, and where there may be more."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 << 20))
    with pytest.raises(LabError, match=r"^a lab needs 256 MB of disk, and .* has 2 MB: make room, or set SITE"):
        requirements.check_space(tmp_path)


def test_a_programs_last_words_are_not_its_stack(tmp_path: Path) -> None:
    """A Go program that panics says why before the stack, which names nothing that a user knows."""
    log = tmp_path / "etcd.log"
    log.write_text("begin\npanic: no space left\n\ngoroutine 1 [running]:\nmain.main()\n\tmain.go:31\n[lab] ended\n")
    assert last_words(log) == "panic: no space left"
    log.write_text("begin\nport is taken\n[lab] ended\n")
    assert last_words(log) == "port is taken"
