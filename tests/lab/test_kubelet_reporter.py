"""Status writes: only what differs, tried again where the API server cannot be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.lab.kubelet.reporter import StatusReporter


class FakeClient:
    """Takes patches of one pod's status; `faults` are raised first, `keeps` says how a status is stored."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.patches: list[dict[str, Any]] = []
        self.keep: Callable[[dict[str, Any]], dict[str, Any]] = lambda status: status
        self.written = asyncio.Event()

    async def patch(self, _resource: object, name: str, patch: dict[str, Any], namespace: str, **_: Any) -> Any:
        """Record a patch and answer as the API server would."""
        if self.faults:
            raise self.faults.pop(0)
        self.patches.append(patch)
        self.written.set()
        return pod(str(10 + len(self.patches)), self.keep(patch["status"]))


def pod(version: str, status: dict[str, Any]) -> dict[str, Any]:
    """Return a pod at a resourceVersion."""
    return {"metadata": {"namespace": "n", "name": "p", "uid": "u", "resourceVersion": version}, "status": status}


def reporter(client: FakeClient, wanted: dict[str, Any]) -> StatusReporter:
    """Return a reporter of a pod without status that always wants `wanted`."""
    return StatusReporter(cast(Client, client), pod("10", {}), lambda _: wanted)


async def test_writes_once() -> None:
    """A second look at the same status writes nothing (I7)."""
    client = FakeClient()
    writer = reporter(client, {"phase": "Running"})
    assert await writer.write()
    assert await writer.write()
    assert client.patches == [{"metadata": {"uid": "u"}, "status": {"phase": "Running"}}]


async def test_status_that_is_stored_otherwise_is_not_written_for_ever() -> None:
    """Where the API server keeps a status otherwise than sent, it is sent once."""
    client = FakeClient()
    client.keep = lambda status: {}
    writer = reporter(client, {"phase": "Running"})
    assert await writer.write()
    assert await writer.write()
    assert len(client.patches) == 1


async def test_change_by_others_is_set_right() -> None:
    """When the watch shows another status than ours, ours is written again."""
    client = FakeClient()
    writer = reporter(client, {"phase": "Running"})
    await writer.write()
    writer.observe(pod("20", {"phase": "Unknown"}))
    await writer.write()
    assert len(client.patches) == 2


async def test_older_version_from_the_watch_is_not_taken() -> None:
    """The watch may be behind our own write."""
    client = FakeClient()
    writer = reporter(client, {"phase": "Running"})
    await writer.write()
    assert not writer.observe(pod("10", {}))
    await writer.write()
    assert len(client.patches) == 1


@pytest.mark.parametrize("fault", [Unreachable("cut"), ApiError(500), ApiError(403)])
async def test_failed_write_is_tried_again(fault: Exception) -> None:
    """Nothing that goes by itself makes the reporter give up."""
    client = FakeClient(fault)
    writer = reporter(client, {"phase": "Running"})
    writer.mark()
    running = asyncio.create_task(writer.run())
    await client.written.wait()
    running.cancel()
    assert len(client.patches) == 1


@pytest.mark.parametrize("fault", [ApiError(404), ApiError(409, "Conflict"), ApiError(422)])
async def test_write_that_can_never_succeed_is_not_repeated(fault: Exception) -> None:
    """Gone, another uid, refused: the same write again would not help."""
    assert await reporter(FakeClient(fault), {"phase": "Running"}).write()
