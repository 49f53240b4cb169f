"""Credentials from a program that the kubeconfig names, as client-go gets them: EKS, GKE, AKS and OIDC log in so.

The program is told what is asked of it in `$KUBERNETES_EXEC_INFO` and prints an ExecCredential
(client-go pkg/apis/clientauthentication and plugin/pkg/client/auth/exec). It is run when the first request needs it,
when what it gave has expired, and when the API server no longer takes that. Asked by `sitegrid.kube.transport`; the
node agent is without it. Invariants: one run at a time, however many requests wait for it; what it prints is in no
message. Held by ``tests/kube/test_execplugin.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sitegrid.kube.errors import PluginFailed

TIMEOUT: Final = 300.0
"""Seconds for one run: a person may have to log in."""
API_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
INTERACTIVE_MODES: Final = ("Never", "IfAvailable", "Always")


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """What a kubeconfig says of the program (clientcmd/api/v1 ExecConfig)."""

    command: str
    """Name to be looked for in `$PATH`, or a path."""
    api_version: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    install_hint: str = ""
    interactive_mode: str = "IfAvailable"
    cluster: Mapping[str, Any] | None = None
    """What it is told of the cluster, where it wants to know (`provideClusterInfo`)."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What the program gave: a token, or certificate and key in PEM, or both."""

    token: str = field(default="", repr=False)
    client_cert: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)
    expires: datetime | None = None

    @property
    def expired(self) -> bool:
        """Tell whether it is too old to be sent."""
        return self.expires is not None and datetime.now(UTC) >= self.expires


class PluginCredentials:
    """Runs the program when that is needed."""

    def __init__(self, plugin: ExecPlugin) -> None:
        self._plugin = plugin
        self._known: Credential | None = None
        self._lock = asyncio.Lock()

    async def current(self, *, refused: Credential | None = None) -> Credential:
        """Return what to send; another one than what the API server has `refused`. Raises `PluginFailed`."""
        async with self._lock:
            if self._known is None or self._known is refused or self._known.expired:
                self._known = self._read(await self._run())
            return self._known

    async def _run(self) -> bytes:
        """Return what the program prints. What it writes to standard error is its user's."""
        plugin = self._plugin
        terminal = sys.stdin is not None and sys.stdin.isatty()
        if plugin.interactive_mode == "Always" and not terminal:
            raise self._failed("has to ask its user, and standard input is no terminal")
        interactive = terminal and plugin.interactive_mode != "Never"
        spec: dict[str, Any] = {"interactive": interactive}
        if plugin.cluster is not None:
            spec["cluster"] = plugin.cluster
        asked = {"kind": "ExecCredential", "apiVersion": plugin.api_version, "spec": spec}
        try:
            process = await asyncio.create_subprocess_exec(
                plugin.command,
                *plugin.args,
                stdin=None if interactive else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **plugin.env, "KUBERNETES_EXEC_INFO": json.dumps(asked)},
            )
        except OSError as error:
            hint = f": {' '.join(plugin.install_hint.split())}" if plugin.install_hint else ""
            raise self._failed(f"cannot be run ({error.strerror}){hint}") from error
        try:
            async with asyncio.timeout(TIMEOUT):
                output, _ = await process.communicate()
        except TimeoutError:
            raise self._failed(f"did not end within {TIMEOUT:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            raise self._failed(f"ended with exit code {process.returncode}: log in as for kubectl, and try again")
        return output

    def _read(self, output: bytes) -> Credential:
        try:
            answer = json.loads(output)
            kind, version, status = answer["kind"], answer["apiVersion"], answer["status"]
            token, cert, key = (
                status.get(name) or "" for name in ("token", "clientCertificateData", "clientKeyData")
            )
            expires = _time(status.get("expirationTimestamp"))
            if not all(isinstance(value, str) for value in (token, cert, key)):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._failed("printed no ExecCredential with a status") from None
        if (kind, version) != ("ExecCredential", self._plugin.api_version):
            raise self._failed(f"was asked for {self._plugin.api_version} and printed {version!r}")
        if bool(cert) != bool(key) or not (token or cert):
            raise self._failed("gave neither a token nor a certificate with its key")
        if not (token.isascii() and token.isprintable()):
            raise self._failed("gave a token that cannot be sent")
        return Credential(token, cert.encode() or None, key.encode() or None, expires)

    def _failed(self, what: str) -> PluginFailed:
        return PluginFailed(f"the kubeconfig's exec plugin {self._plugin.command!r} {what}")


def _time(text: str | None) -> datetime | None:
    """Return an RFC 3339 time. Raises ValueError."""
    found = datetime.fromisoformat(text) if text else None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found
