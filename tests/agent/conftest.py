"""Fixtures of the agent's tests: a real control plane, agents in front of it, and small HTTP clients."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

RBAC = Path(__file__).parents[2] / "deploy" / "rbac" / "agent.yaml"
ADMIN = "admin-token"
AGENT = "agent-token"
READER = "reader-token"


def free_port() -> int:
    """Return a loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_certificate(directory: Path) -> None:
    """Write a self-signed certificate for 127.0.0.1 that is its own authority: tls.crt, tls.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )


@dataclass(frozen=True)
class Cluster:
    """A running API server. `request` speaks to it (or to `base`) with a bearer token."""

    port: int
    directory: Path
    binaries: Path

    @property
    def server(self) -> str:
        """Return the API server's address."""
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, token: str, server: str | None = None) -> Path:
        """Return a kubeconfig (as JSON) for `token`, for the API server or for `server`."""
        cluster: dict[str, str] = {"server": server or self.server}
        if server is None:
            cluster["certificate-authority"] = str(self.directory / "tls.crt")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path = self.directory / f"kubeconfig-{token}-{abs(hash(server))}.json"
        path.write_text(json.dumps(config))
        return path

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = ADMIN,
        base: str | None = None,
        accept: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Send one request; return status and body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request((base or self.server) + path, data=data, method=method)
        request.add_header("Accept", accept)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        context = ssl.create_default_context(cafile=str(self.directory / "tls.crt")) if base is None else None
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def write(self, method: str, path: str, body: Any = None) -> Any:
        """Write as administrator; the answer must be a success."""
        status, answer = self.request(method, path, body)
        assert status < 300, answer
        return json.loads(answer)

    def kubectl(self, *arguments: str, server: str | None = None) -> list[str]:
        """Return a kubectl command line for the API server or `server`."""
        return [str(self.binaries / "kubectl"), "--kubeconfig", str(self.kubeconfig(ADMIN, server)), *arguments]


def _start_cluster(directory: Path, binaries: Path) -> tuple[Cluster, list[subprocess.Popen[bytes]]]:
    write_certificate(directory)
    etcd_port, peer_port, port = free_port(), free_port(), free_port()
    (directory / "tokens.csv").write_text(
        f'{ADMIN},admin,1,"system:masters"\n'
        f"{AGENT},system:serviceaccount:sitegrid-system:sitegrid-agent,2,"
        '"system:serviceaccounts,system:serviceaccounts:sitegrid-system"\n'
        f"{READER},reader,3\n"
    )
    log = (directory / "etcd.log").open("wb"), (directory / "kube-apiserver.log").open("wb")
    etcd_argv = [
        str(binaries / "etcd"),
        f"--data-dir={directory}/etcd",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
        f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
    ]
    server_argv = [
        str(binaries / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--authorization-mode=RBAC",
        f"--tls-cert-file={directory}/tls.crt",
        f"--tls-private-key-file={directory}/tls.key",
        f"--service-account-key-file={directory}/tls.key",
        f"--service-account-signing-key-file={directory}/tls.key",
        "--service-account-issuer=https://test",
        f"--token-auth-file={directory}/tokens.csv",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--cert-dir={directory}",
        "--disable-admission-plugins=ServiceAccount",
    ]
    etcd = subprocess.Popen(etcd_argv, stdout=log[0], stderr=log[0])
    server = subprocess.Popen(server_argv, stdout=log[1], stderr=log[1])
    for file in log:
        file.close()
    return Cluster(port, directory, binaries), [server, etcd]


def wait_until(condition: Any, seconds: float = 30, what: str = "the condition") -> Any:
    """Return the first true value of `condition()`; fail after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true in {seconds} s")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Boot etcd and kube-apiserver on loopback; the agent's account has what deploy/rbac gives it."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    if not assets or not (Path(assets) / "kube-apiserver").exists():
        pytest.fail("KUBEBUILDER_ASSETS does not name a folder with etcd, kube-apiserver and kubectl (`make setup`)")
    directory = tmp_path_factory.mktemp("cluster")
    running, processes = _start_cluster(directory, Path(assets))
    try:

        def ready() -> bool:
            assert processes[0].poll() is None, (directory / "kube-apiserver.log").read_text()[-3000:]
            try:
                return running.request("GET", "/readyz")[0] == 200
            except OSError:
                return False

        wait_until(ready, 90, "the API server's /readyz")
        for document in yaml.safe_load_all(RBAC.read_text()):
            if document["kind"] in ("ClusterRole", "ClusterRoleBinding"):
                running.write("POST", f"/apis/rbac.authorization.k8s.io/v1/{document['kind'].lower()}s", document)
        yield running
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
        shutil.rmtree(directory / "etcd", ignore_errors=True)
