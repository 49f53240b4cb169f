"""etcd and kube-apiserver on free loopback ports, for tests that need the real thing without nodes.

Used by the fixtures of the kube, controller and agent tests, each of which adds what it needs.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sitegrid.lab.pki import service_account_keys
from tests.support.processes import start

CONTROLLER_USER = "system:serviceaccount:sitegrid-system:sitegrid-controller"
AGENT_USER = "system:serviceaccount:sitegrid-system:sitegrid-agent"
"""The accounts in ``deploy/rbac``."""

READY_TIMEOUT = 90.0
"""Seconds that the API server may take to begin."""


class ApiServer:
    """The programs in one directory; the API server can be ended and started again.

    `users` are names and groups (with commas between) by token; `arguments` are further ones of kube-apiserver, of
    which the last one for an option counts.
    """

    def __init__(self, directory: Path, users: Mapping[str, tuple[str, str]], *arguments: str) -> None:
        self.directory = directory
        self.programs = _programs()
        """The folder with the programs."""
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.ca = directory / "certs" / "apiserver.crt"
        """What the API server's certificate is verified by; it makes it when it starts."""
        self.etcd_url = f"http://127.0.0.1:{free_port()}"
        self._peer_url = f"http://127.0.0.1:{free_port()}"
        self._users = users
        self._arguments = arguments
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._connection: http.client.HTTPSConnection | None = None
        self._lock = threading.Lock()
        """Of the connection: tests that wait in a thread go on in another one."""

    def start(self) -> None:
        """Start both and wait until the API server is ready."""
        (self.directory / "sa.key").write_bytes(service_account_keys().key)
        lines = (
            f"{token},{user},{user}" + (f',"{groups}"\n' if groups else "\n")
            for token, (user, groups) in self._users.items()
        )
        (self.directory / "tokens.csv").write_text("".join(lines))
        self.start_etcd()
        self.start_apiserver()
        self.wait_until_ready()

    def start_etcd(self) -> None:
        """Start etcd (again)."""
        self.run(
            "etcd",
            f"--data-dir={self.directory / 'etcd-data'}",
            f"--listen-client-urls={self.etcd_url}",
            f"--advertise-client-urls={self.etcd_url}",
            f"--listen-peer-urls={self._peer_url}",
            f"--initial-advertise-peer-urls={self._peer_url}",
            f"--initial-cluster=default={self._peer_url}",
            "--unsafe-no-fsync",
            "--log-level=error",
        )

    def start_apiserver(self) -> None:
        """Start the API server (again)."""
        self.run(
            "kube-apiserver",
            f"--etcd-servers={self.etcd_url}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.directory / 'certs'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory / 'sa.key'}",
            f"--service-account-signing-key-file={self.directory / 'sa.key'}",
            # No controller makes the default ServiceAccounts here.
            "--disable-admission-plugins=ServiceAccount",
            *self._arguments,
        )

    def wait_until_ready(self) -> None:
        """Return when the API server is ready to serve."""
        wait_for(self._ready, "kube-apiserver to be ready", READY_TIMEOUT, lambda: self.log("kube-apiserver"))

    def stop_apiserver(self) -> None:
        """End the API server at once, as a crash does."""
        self.end("kube-apiserver")

    def stop(self) -> None:
        """End all programs."""
        self._disconnect()
        for name in [*self._processes][::-1]:
            self.end(name)

    def open(self, path: str, token: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        """GET a path as the user of `token`. Raises HTTPError, and OSError where nobody answers."""
        all_headers = {**(headers or {}), "Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self.url + path, headers=all_headers)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls())
        )
        answer: http.client.HTTPResponse = opener.open(request, timeout=10)
        return answer

    def request(
        self, method: str, path: str, token: str, body: object = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        """Send one request as the user of `token`, on a connection that is kept; return status and decoded JSON."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        with self._lock:
            for fresh in (self._connection is None, True):
                try:
                    connection = self._connection = self._connection or self._connect()
                    connection.request(method, path, data, headers)
                    answer = connection.getresponse()
                    return answer.status, json.loads(answer.read())
                except (OSError, http.client.HTTPException):
                    # The API server may have ended a connection that was kept, by its own end for example.
                    self._disconnect()
                    if fresh:
                        raise
        raise AssertionError("the second try is a fresh one")

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self._tls(), timeout=30)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        # The API server's own certificate is no authority's, which Python minds.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    def log(self, name: str) -> str:
        """Return the end of a program's log."""
        return (self.directory / f"{name}.log").read_text(errors="replace")[-3000:]

    def run(self, name: str, *arguments: str) -> None:
        """Run one more program of the control plane until `stop`."""
        log = self.directory / f"{name}.log"
        self._processes[name] = start([self.programs / name, *arguments], log, cwd=self.directory)

    def end(self, name: str) -> None:
        """End a program at once, if it runs."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def _ready(self) -> bool:
        process = self._processes["kube-apiserver"]
        assert process.poll() is None, self.log("kube-apiserver")
        try:
            with self.open("/readyz", next(iter(self._users))) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False


def wait_for(condition: Callable[[], object], what: str, timeout: float, dump: Callable[[], str]) -> None:
    """Return when `condition` holds; fail with `what` was waited for, and `dump()`, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}\n{dump()}")
        time.sleep(0.05)


def reserve_port() -> socket.socket:
    """Return a socket on a loopback port that no other program gets from the kernel until the socket is closed.

    It does not listen: connections are refused, and servers that set SO_REUSEADDR, as Go's and asyncio's do, can
    listen there, end, and listen again.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


def free_port() -> int:
    """Return a port that is reserved, see `reserve_port`, for as long as this process lives."""
    sock = reserve_port()
    port: int = sock.getsockname()[1]
    sock.detach()
    return port


def _programs() -> Path:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        pytest.fail("KUBEBUILDER_ASSETS is not set: `make test` builds the control plane and sets it")
    missing = [name for name in ("etcd", "kube-apiserver") if not (Path(folder) / name).is_file()]
    if missing:
        pytest.fail(f"KUBEBUILDER_ASSETS={folder} has no {', '.join(missing)}")
    return Path(folder)
