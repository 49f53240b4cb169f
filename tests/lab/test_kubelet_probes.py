"""Probes: parsing, thresholds, and what counts as success."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.lab.kubelet import probes
from sitegrid.lab.kubelet.probes import Probe, Verdict

PORTS = {"ports": [{"name": "web", "containerPort": 8080}]}


def parsed(**spec: Any) -> Probe:
    """Return the readiness probe with these fields."""
    probe = probes.parse({**PORTS, probes.READINESS: spec}, probes.READINESS, "10.0.0.1")
    assert probe is not None
    return probe


def test_no_probe() -> None:
    """A container without the field has no probe."""
    assert probes.parse(PORTS, probes.LIVENESS, "10.0.0.1") is None


def test_http_probe_asks_the_pod_at_the_named_port() -> None:
    """A port name is looked up, own headers replace the default ones."""
    headers = [{"name": "Host", "value": "shop"}]
    probe = parsed(httpGet={"path": "/healthz", "port": "web", "httpHeaders": headers})
    assert (probe.host, probe.port) == ("10.0.0.1", 8080)
    assert probe.request.startswith(b"GET /healthz HTTP/1.1\r\nHost: shop\r\n")


def test_thresholds_and_times_have_kubernetes_defaults() -> None:
    """Left-out fields have the API's defaults."""
    probe = parsed(tcpSocket={"port": 80})
    assert (probe.initial_delay, probe.period, probe.timeout) == (0, 10, 1)
    assert (probe.success_threshold, probe.failure_threshold) == (1, 3)


def test_https_probe_only_connects() -> None:
    """A responder has no TLS: an HTTPS probe checks the port."""
    assert parsed(httpGet={"port": 443, "scheme": "HTTPS"}).request == b""


@pytest.mark.parametrize("action", [{"exec": {"command": ["true"]}}, {"grpc": {"port": 1}}])
async def test_what_a_responder_cannot_do_succeeds(action: dict[str, Any]) -> None:
    """Exec and gRPC probes always succeed."""
    assert await probes.ask(parsed(**action))


@pytest.mark.parametrize(
    ("answer", "success"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 503 No\r\n\r\n", False),
        (b"SSH-2.0\r\n", False),
        (b"", False),
    ],
)
async def test_http_statuses(answer: bytes, success: bool) -> None:
    """Statuses from 200 to 399 succeed, all else fails."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await probes.ask(parsed(httpGet={"port": port, "host": "127.0.0.1"})) is success


async def test_silent_server_times_out() -> None:
    """A server that never answers fails a httpGet probe and satisfies a tcpSocket one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        target = {"port": server.sockets[0].getsockname()[1], "host": "127.0.0.1"}
        assert not await probes.ask(parsed(httpGet=target, timeoutSeconds=0.05))
        assert await probes.ask(parsed(tcpSocket=target))


async def test_refused_connection_fails() -> None:
    """Nobody listening is a failure, not an error."""
    assert not await probes.ask(parsed(tcpSocket={"port": "unknown"}))
    assert not await probes.ask(parsed(tcpSocket={"port": 1, "host": "127.0.0.1"}))


@given(st.lists(st.booleans()), st.integers(1, 3), st.integers(1, 3), st.none() | st.booleans())
def test_result_changes_only_at_thresholds(
    answers: list[bool], successes: int, failures: int, first: bool | None
) -> None:
    """The result becomes what the last answers in a row were, once there are as many as the threshold wants."""
    verdict = Verdict(Probe("k", success_threshold=successes, failure_threshold=failures), first)
    seen: list[bool] = []
    wanted = first
    for answer in answers:
        seen.append(answer)
        threshold = successes if answer else failures
        if len(seen) >= threshold and all(a is answer for a in seen[-threshold:]):
            changes, wanted = wanted is not answer, answer
        else:
            changes = False
        assert verdict.add(answer) is changes
        assert verdict.result is wanted
