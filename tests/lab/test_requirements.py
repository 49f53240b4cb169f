from __future__ import annotations

import pytest

from sitegrid.lab import requirements
from sitegrid.lab.errors import LabError


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
