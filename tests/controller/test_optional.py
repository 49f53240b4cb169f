"""Optional kinds: a controller that may not look for them works all the same."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from sitegrid.controller import optional
from sitegrid.controller.optional import Definition, Optional
from sitegrid.kube.client import Client


async def test_without_the_right_to_look_our_own_kinds_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the ClusterRole of an older version nothing waits for ever, and the log says what to apply."""
    monkeypatch.setattr(optional, "PATIENCE", 0.01)
    kinds = Optional()
    kinds.reflect(cast(Client, object()))
    await kinds.wait_synced()
    assert "apply deploy/rbac/controller.yaml" in caplog.text


@pytest.mark.parametrize(
    ("status", "established"),
    [
        ({}, False),
        ({"conditions": None}, False),
        ({"conditions": [{"type": "Established", "status": "False"}]}, False),
        ({"conditions": [{"type": "Established", "status": "True"}]}, True),
    ],
)
def test_definition_is_served_once_it_is_established(status: dict[str, Any], established: bool) -> None:
    """Before that a list would be answered as if there were no such type."""
    assert msgspec.convert({"metadata": {}, "status": status}, Definition).established is established
