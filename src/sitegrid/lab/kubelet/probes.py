"""Probes: what a container's probe fields ask for, one real request, and the count of successes and failures.

The worker runs `watch` per probe as a task, from the node's network namespace against the pod's address. Meanings and
defaults are core/v1 Probe's (pkg/kubelet/prober). A responder has no commands, no gRPC and no TLS: exec and gRPC
probes always succeed, and an HTTPS probe only checks that the port accepts connections.

Invariant: a result changes only after `successThreshold` or `failureThreshold` equal answers in a row.
Held by ``tests/lab/test_kubelet_probes.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

READINESS: Final = "readinessProbe"
LIVENESS: Final = "livenessProbe"
STARTUP: Final = "startupProbe"

_MAX_ANSWER: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe with defaults filled in; seconds and counts as in core/v1 Probe."""

    kind: str
    host: str = ""
    port: int = 0
    request: bytes = b""
    """For httpGet the whole request, for tcpSocket nothing."""
    always: bool = False
    """Not asked (exec, gRPC): succeeds."""
    initial_delay: float = 0
    period: float = 10
    timeout: float = 1
    success_threshold: int = 1
    failure_threshold: int = 3
    grace: float | None = None
    """The probe's own terminationGracePeriodSeconds."""


def parse(container: Mapping[str, Any], kind: str, address: str) -> Probe | None:
    """Return the container's probe of `kind`, aimed at the pod's `address`; None where it has none."""
    spec = container.get(kind)
    if not spec:
        return None
    common = Probe(
        kind=kind,
        initial_delay=spec.get("initialDelaySeconds", 0),
        period=spec.get("periodSeconds", 10),
        timeout=spec.get("timeoutSeconds", 1),
        success_threshold=spec.get("successThreshold", 1),
        failure_threshold=spec.get("failureThreshold", 3),
        grace=spec.get("terminationGracePeriodSeconds"),
    )
    action = spec.get("httpGet") or spec.get("tcpSocket")
    if action is None:
        return replace(common, always=True)
    host, port = action.get("host") or address, port_number(container, action["port"])
    plain_http = "httpGet" in spec and action.get("scheme", "HTTP") == "HTTP"
    return replace(common, host=host, port=port, request=_request(action, host, port) if plain_http else b"")


def port_number(container: Mapping[str, Any], port: int | str) -> int:
    """Return the number of a port that is given as number or as the name of a containerPort; 0 where unknown."""
    if isinstance(port, int):
        return port
    if port.isdigit():
        return int(port)
    return next((p["containerPort"] for p in container.get("ports") or [] if p.get("name") == port), 0)


def _request(action: Mapping[str, Any], host: str, port: int) -> bytes:
    headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.36", "Accept": "*/*"}
    headers |= {header["name"]: header["value"] for header in action.get("httpHeaders") or []}
    lines = [f"GET {action.get('path') or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


async def ask(probe: Probe) -> bool:
    """Ask once; success is a status from 200 to 399 (httpGet) or a connection (tcpSocket) within the timeout."""
    if probe.always:
        return True
    if not probe.port:
        return False  # named a containerPort that is not there
    try:
        async with asyncio.timeout(probe.timeout):
            reader, writer = await asyncio.open_connection(probe.host, probe.port)
            try:
                if not probe.request:
                    return True
                writer.write(probe.request)
                status = (await reader.read(_MAX_ANSWER)).split(b" ", 2)
                return len(status) > 1 and status[1].isdigit() and 200 <= int(status[1]) < 400
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):  # ValueError: a host that is no name
        return False


@dataclass(slots=True)
class Verdict:
    """Counts answers; `result` is None until one of the thresholds is first reached."""

    probe: Probe
    result: bool | None = None
    _last: bool | None = field(default=None, init=False)
    _run: int = field(default=0, init=False)

    def add(self, answer: bool) -> bool:
        """Count one answer and tell whether `result` is different now."""
        self._run = self._run + 1 if answer is self._last else 1
        self._last = answer
        threshold = self.probe.success_threshold if answer else self.probe.failure_threshold
        if self._run < threshold or self.result is answer:
            return False
        self.result = answer
        return True


async def watch(probe: Probe, first: bool | None, running_for: float, changed: Callable[[bool], None]) -> None:
    """Ask for ever and call `changed` with each new result.

    `first` is a result known from before (of a container taken over), `running_for` the seconds since its start.
    """
    await asyncio.sleep(max(0.0, probe.initial_delay - running_for))
    verdict = Verdict(probe, first)
    while True:
        if verdict.add(await ask(probe)):
            changed(verdict.result is True)
        if probe.always:
            return
        await asyncio.sleep(probe.period)
