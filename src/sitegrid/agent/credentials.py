"""Where the API server is and who the agent is to it: a kubeconfig written as JSON, or the Pod's own account.

Two TLS contexts are made: one with the agent's client certificate for its own requests, one without for requests that
are passed through, since a certificate would lend the agent's account to every client. Files are read again when they
change (token and CA rotation). Called by `sitegrid.agent.__main__` and `sitegrid.agent.upstream`.

Invariant: the server's certificate is always verified; plain HTTP is accepted to loopback only (tests and stunnels).
Held by ``tests/agent/test_credentials.py``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import socket
import ssl
from typing import Any, Final, cast

import httptools

HTTP2: Final = "h2"
"""Its name in TLS (ALPN)."""
_HTTP1: Final = "http/1.1"
_PADDING: Final = 0x10
"""openssl/ssl.h, SSL_OP_TLSEXT_PADDING: fills each hello up to 512 bytes for the sake of a load balancer of 2014."""
_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_LOOPBACK: Final = bytes(15) + b"\x01"
"""::1"""


class CredentialsError(Exception):
    """The configuration cannot be used; the message says what to change."""


class _Material:
    """A certificate, key or CA: inline bytes or a file."""

    __slots__ = ("data", "path")

    def __init__(self, data: bytes = b"", path: str = "") -> None:
        self.data = data
        self.path = path

    def __bool__(self) -> bool:
        return bool(self.data or self.path)

    def read(self) -> bytes:
        try:
            return self.data or _read(self.path)
        except OSError as error:
            raise CredentialsError(f"{self.path}: {error.strerror}") from error

    def version(self) -> tuple[int, int]:
        """Return what changes when the file does (a Secret volume swaps a symlink, so the inode counts)."""
        if not self.path:
            return (0, 0)
        try:
            stat = os.stat(self.path)
        except OSError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_ino)


class Credentials:
    """Address, trust and identity. Raises `CredentialsError`."""

    def __init__(
        self,
        server: str,
        *,
        ca: _Material | None = None,
        certificate: _Material | None = None,
        key: _Material | None = None,
        token: _Material | None = None,
        server_name: str = "",
    ) -> None:
        try:
            parts = httptools.parse_url(server.encode())
        except httptools.HttpParserInvalidURLError:
            parts = None
        if parts is None or parts.schema not in (b"https", b"http") or parts.query or parts.userinfo:
            raise CredentialsError(f"server {server!r} is not an https:// address")
        self.host = parts.host.decode()
        self.tls = parts.schema == b"https"
        if not self.tls and not is_loopback(self.host):
            raise CredentialsError(f"server {server!r}: plain HTTP is accepted to loopback only")
        if (parts.path or b"").rstrip(b"/"):
            raise CredentialsError(f"server {server!r}: a path behind the address is not supported")
        self.port: int = parts.port or (443 if self.tls else 80)
        self.server_name = server_name or self.host
        self._ca = ca or _Material()
        self._certificate = certificate or _Material()
        self._key = key or _Material()
        self._token = token or _Material()
        self._contexts: dict[bool, tuple[object, ResumingContext]] = {}

    @property
    def host_header(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def token(self) -> str:
        """Return the agent's current bearer token, empty without one. Raises `CredentialsError`."""
        if not self._token:
            return ""
        token = self._token.read().strip()
        if not all(0x20 < byte < 0x7F for byte in token):
            # A file that a power cut left full of zeros, say: no header can be made of it.
            raise CredentialsError(f"{self._token.path or 'the kubeconfig'}: this is not a bearer token")
        return token.decode()

    def context(self, *, as_agent: bool) -> ResumingContext | None:
        """Return the TLS context, with the agent's certificate only when asked `as_agent`; None for plain HTTP."""
        if not self.tls:
            return None
        version = (self._ca.version(), self._certificate.version(), self._key.version())
        # Without a certificate of the agent's there is no difference, and one connection is enough.
        certified = as_agent and bool(self._certificate)
        cached = self._contexts.get(certified)
        if cached is not None and cached[0] == version:
            return cached[1]
        context = self._new_context(certified=certified)
        self._contexts[certified] = (version, context)
        return context

    def _new_context(self, *, certified: bool) -> ResumingContext:
        try:
            context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
            context.options &= ~_PADDING
            context.set_alpn_protocols([_HTTP1])
            if self._ca:
                context.load_verify_locations(cadata=self._ca.read().decode("ascii"))
            else:
                context.load_default_certs()
            if certified:
                with _as_file(self._certificate) as certificate, _as_file(self._key) as key:
                    context.load_cert_chain(certificate.name, key.name)
        except (ssl.SSLError, ValueError, OSError) as error:  # ValueError: not text, or nothing at all
            files = ", ".join(each.path for each in (self._ca, self._certificate, self._key) if each.path)
            raise CredentialsError(f"certificates cannot be used ({files or 'inline'}): {error}") from error
        return context


class Secured(ssl.SSLObject):
    """A TLS connection to the API server."""

    issuer: object = None
    """What stands for the process whose session was offered."""
    _server: object = None

    @property
    def server(self) -> object:
        """What stands for the process at the other end, once the handshake is done: another one, another object.

        Who resumes a session has the key of its ticket, which an API server makes when it starts and writes nowhere
        (Go crypto/tls, Config.SessionTicketKey): so that is the process with which the session began.
        """
        if self._server is None:
            self._server = self.issuer if self.session_reused else object()
        return self._server


class ResumingContext(ssl.SSLContext):
    """A TLS context whose connections resume the session of one before, which saves both certificates.

    A session is of no use to another context, and there is a new one whenever CA or certificate change: none outlives
    what it was verified with.
    """

    sslobject_class = Secured
    _former: Secured | None = None
    _session: ssl.SSLSession | None = None
    _issuer: object = None

    def wrap_multiplexed(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_hostname: str) -> Secured:
        """Begin a connection for which HTTP/2 is offered to the server; sessions are shared with the others."""
        self.set_alpn_protocols([HTTP2, _HTTP1])
        try:
            return self.wrap_bio(incoming, outgoing, server_hostname=server_hostname)
        finally:
            self.set_alpn_protocols([_HTTP1])

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> Secured:
        """Begin a connection; its session is looked for when the next one begins, since tickets come at any time."""
        if isinstance(server_hostname, str) and server_hostname.isascii():
            # Text would be encoded by Python's `idna`, which is half a megabyte of tables.
            server_hostname = server_hostname.encode()
        former = self._former.session if self._former is not None else None
        if self._former is not None and former is not None and former.has_ticket:
            self._session, self._issuer = former, self._former.server
        self._former = cast(
            Secured, super().wrap_bio(incoming, outgoing, server_side, server_hostname, self._session)
        )
        self._former.issuer = self._issuer
        return self._former


class _as_file:
    """Give bytes a file name without touching a disk: the ssl module loads certificates from files only."""

    def __init__(self, material: _Material) -> None:
        data = material.read()
        self._descriptor = os.memfd_create("sitegrid-certificate")
        os.write(self._descriptor, data)
        self.name = f"/proc/self/fd/{self._descriptor}"

    def __enter__(self) -> _as_file:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)


def is_loopback(host: str) -> bool:
    """Tell whether `host` is a loopback address or `localhost`."""
    if host == "localhost":
        return True
    try:
        if ":" in host:
            return socket.inet_pton(socket.AF_INET6, host) == _LOOPBACK
        return socket.inet_pton(socket.AF_INET, host)[0] == 127
    except (OSError, ValueError):  # ValueError: a null character
        return False


def from_kubeconfig(path: str) -> Credentials:
    """Return the current context of the kubeconfig at `path`, which must be written as JSON."""
    try:
        text = _read(path).decode()
    except OSError as error:
        raise CredentialsError(f"--kubeconfig {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CredentialsError(f"--kubeconfig {path} is not text") from error
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CredentialsError(
            f"{path} is not JSON; the agent carries no YAML reader, "
            "so write it with `kubectl config view --raw --minify --flatten -o json`"
        ) from error
    try:
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"]
        return _from_parts(path, cluster, user)
    except KeyError as error:
        raise CredentialsError(f"{path} has no {error.args[0]}") from error
    except (TypeError, AttributeError) as error:
        raise CredentialsError(f"{path} is not a kubeconfig") from error


def _named(config: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    for entry in config[section]:
        if entry["name"] == name:
            found: dict[str, Any] = entry
            return found
    raise KeyError(f"{name} in {section}")


def _from_parts(path: str, cluster: dict[str, Any], user: dict[str, Any]) -> Credentials:
    if cluster.get("insecure-skip-tls-verify"):
        raise CredentialsError(f"{path}: insecure-skip-tls-verify is refused; give the certificate authority")
    if cluster.get("proxy-url"):
        raise CredentialsError(f"{path}: proxy-url is not supported; the agent connects to the server itself")
    for way in ("exec", "auth-provider", "username", "as", "as-uid", "as-groups", "as-user-extra"):
        if user.get(way):
            raise CredentialsError(f"{path}: `{way}` is not supported; use a token or a client certificate")
    # The file wins, since it is what is renewed (client-go transport/round_trippers.go).
    file = _beside(path, user["tokenFile"]) if user.get("tokenFile") else ""
    token = _Material(path=file) if file else _Material(data=(user.get("token") or "").encode())
    return Credentials(
        cluster["server"],
        ca=_material(path, cluster, "certificate-authority"),
        certificate=_material(path, user, "client-certificate"),
        key=_material(path, user, "client-key"),
        token=token,
        server_name=cluster.get("tls-server-name", ""),
    )


def _material(path: str, section: dict[str, Any], name: str) -> _Material:
    inline = section.get(f"{name}-data")
    if inline:
        try:
            return _Material(data=base64.b64decode(inline, validate=True))
        except (binascii.Error, ValueError) as error:
            raise CredentialsError(f"{path}: {name}-data is not base64") from error
    file = section.get(name, "")
    return _Material(path=_beside(path, file) if file else "")


def _beside(path: str, file: str) -> str:
    """Return `file`, which is relative to the kubeconfig at `path` (client-go tools/clientcmd/loader.go)."""
    return os.path.join(os.path.dirname(path), file)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def in_cluster(server: str = "", token_file: str = "", ca_file: str = "") -> Credentials:
    """Return the Pod's own account; each argument replaces what Kubernetes mounts or sets."""
    if not server:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise CredentialsError("no API server: give --kubeconfig or --server, or run in a Pod")
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Credentials(
        server,
        ca=_Material(path=ca_file or f"{_ACCOUNT}/ca.crt"),
        token=_Material(path=token_file or f"{_ACCOUNT}/token"),
    )
