"""Where the API server is and who we are there: kubeconfig files and the in-cluster account.

Called once at start by every command; a program for credentials (`exec`) is read of here and run by
`sitegrid.kube.execplugin`. Invariants: TLS is always verified (`insecure-skip-tls-verify` is refused
instead of obeyed), secrets never appear in `repr`, and what cannot be honoured is an error, not ignored. Merging of
several files follows client-go's clientcmd: the first file that sets a name or value wins.
Held by ``tests/kube/test_config.py``.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from sitegrid.kube.execplugin import API_VERSIONS, INTERACTIVE_MODES, ExecPlugin

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet mounts a pod's credentials."""

_UNSUPPORTED_USER: Final = ("auth-provider", "username", "password", "as", "as-uid", "as-groups", "as-user-extra")
_CLUSTER_CONFIG: Final = "client.authentication.k8s.io/exec"
"""The extension of a cluster that is for exec plugins."""


class ConfigError(Exception):
    """No usable configuration; the text tells which file, which entry and what is wrong."""


@dataclass(frozen=True, slots=True)
class Config:
    """One API server and one identity."""

    server: str
    """URL, without trailing slash."""
    ca: bytes | None = None
    """PEM certificates to trust; None: the system's."""
    client_cert: bytes | None = None
    """PEM."""
    client_key: bytes | None = field(default=None, repr=False)
    """PEM."""
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    """Wins over `token`; read again when it changes, as bound tokens are rotated."""
    namespace: str = "default"
    tls_server_name: str | None = None
    """Name to verify the server's certificate for, in place of the URL's host."""
    exec_plugin: ExecPlugin | None = None
    """Gives token or certificate where there are none."""


def load_config(kubeconfig: str | None = None, context: str | None = None) -> Config:
    """Return the configuration from the first source that exists, or raise ConfigError.

    Order: the argument, `$KUBECONFIG` (several files, separated by `os.pathsep`), the pod's service account,
    `~/.kube/config`. `context` names a context of the kubeconfig other than its current one.
    """
    if kubeconfig:
        return _from_files([Path(kubeconfig)], context)
    paths = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    if paths:
        existing = [path for path in paths if path.exists()]
        if not existing:
            raise ConfigError(f"$KUBECONFIG: no such file: {os.pathsep.join(map(str, paths))}")
        return _from_files(existing, context)
    in_cluster = None if context else _in_cluster(SERVICE_ACCOUNT)
    if in_cluster:
        return in_cluster
    default = Path.home() / ".kube" / "config"
    if default.exists():
        return _from_files([default], context)
    raise ConfigError("no kubeconfig: give --kubeconfig, set $KUBECONFIG, or create ~/.kube/config")


def _in_cluster(directory: Path) -> Config | None:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    token_file = directory / "token"
    if not host or not port or not token_file.exists():
        return None
    namespace_file = directory / "namespace"
    return Config(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca=_read(directory / "ca.crt", "service account"),
        token_file=token_file,
        namespace=namespace_file.read_text().strip() if namespace_file.exists() else "default",
    )


def _from_files(paths: list[Path], context: str | None) -> Config:
    merged: dict[str, dict[str, dict[str, Any]]] = {"clusters": {}, "users": {}, "contexts": {}}
    for path in paths:
        document = _parse(path)
        context = context or document.get("current-context") or None
        for section, singular in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            for entry in document.get(section) or ():
                if not isinstance(entry, dict) or "name" not in entry:
                    raise ConfigError(f"{path}: an entry of {section} has no name")
                # Relative paths are relative to the file that names them (clientcmd).
                value = {**(entry.get(singular) or {}), "\0directory": path.parent}
                merged[section].setdefault(str(entry["name"]), value)
    source = ", ".join(map(str, paths))
    if not context:
        raise ConfigError(f"{source}: no current-context; choose a context")
    chosen = _entry(merged, "contexts", context, source)
    cluster = _entry(merged, "clusters", str(chosen.get("cluster", "")), source)
    user = _entry(merged, "users", str(chosen["user"]), source) if chosen.get("user") else {}
    return _build(cluster, user, str(chosen.get("namespace") or "default"), source)


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(_read(path, "kubeconfig"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {not_yaml(error)}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a kubeconfig")
    return document


def not_yaml(error: yaml.YAMLError) -> str:
    """Return in one line what is wrong with a text, and where."""
    mark = getattr(error, "problem_mark", None)
    place = f", line {mark.line + 1}" if mark is not None else ""
    return f"not YAML{place}: {getattr(error, 'problem', None) or error}"


def _entry(merged: Mapping[str, Mapping[str, Any]], section: str, name: str, source: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = merged[section][name]
    except KeyError:
        known = ", ".join(sorted(merged[section])) or "none"
        raise ConfigError(f"{source}: {section} has no {name!r} (there: {known})") from None
    return found


def _build(cluster: dict[str, Any], user: dict[str, Any], namespace: str, source: str) -> Config:
    server = str(cluster.get("server") or "")
    if not server.startswith(("https://", "http://")):
        raise ConfigError(f"{source}: cluster has no http(s) server: {server!r}")
    if cluster.get("insecure-skip-tls-verify"):
        raise ConfigError(f"{source}: insecure-skip-tls-verify is not supported; give certificate-authority")
    if cluster.get("proxy-url"):
        raise ConfigError(f"{source}: proxy-url is not supported")
    for unsupported in _UNSUPPORTED_USER:
        if user.get(unsupported):
            raise ConfigError(
                f"{source}: user field {unsupported!r} is not supported; use a token (`kubectl create token`) or a "
                "client certificate"
            )
    client_cert = _data(user, "client-certificate", source)
    client_key = _data(user, "client-key", source)
    if (client_cert is None) != (client_key is None):
        raise ConfigError(f"{source}: client-certificate and client-key must be given together")
    token_file = user.get("tokenFile")
    # Credentials of the kubeconfig's own win (client-go plugin/pkg/client/auth/exec, UpdateTransportConfig).
    alone = not (user.get("token") or token_file or client_cert)
    return Config(
        server=server.rstrip("/"),
        ca=_data(cluster, "certificate-authority", source),
        client_cert=client_cert,
        client_key=client_key,
        token=user.get("token") or None,
        token_file=user["\0directory"] / token_file if token_file else None,
        namespace=namespace,
        tls_server_name=cluster.get("tls-server-name") or None,
        exec_plugin=_exec_plugin(user, cluster, source) if user.get("exec") and alone else None,
    )


def _exec_plugin(user: dict[str, Any], cluster: dict[str, Any], source: str) -> ExecPlugin:
    """Return the program for credentials, with client-go's defaults (tools/clientcmd validation and defaults)."""
    found = user["exec"]
    if not isinstance(found, dict) or not isinstance(found.get("command"), str) or not found["command"]:
        raise ConfigError(f"{source}: exec has no command")
    version, mode = found.get("apiVersion"), found.get("interactiveMode")
    if version not in API_VERSIONS:
        raise ConfigError(f"{source}: exec has apiVersion {version!r}; supported are {' and '.join(API_VERSIONS)}")
    if not mode and version != API_VERSIONS[0]:
        mode = "IfAvailable"
    if mode not in INTERACTIVE_MODES:
        raise ConfigError(f"{source}: exec has interactiveMode {mode!r}; it is one of {', '.join(INTERACTIVE_MODES)}")
    command = found["command"]
    if os.sep in command:
        command = str(user["\0directory"] / command)
    try:
        env = {str(entry["name"]): str(entry["value"]) for entry in found.get("env") or ()}
        args = tuple(map(str, found.get("args") or ()))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{source}: exec has args or env that are not lists as kubectl writes them") from error
    about = _about_cluster(cluster, source) if found.get("provideClusterInfo") else None
    return ExecPlugin(command, version, args, env, str(found.get("installHint") or ""), mode, about)


def _about_cluster(cluster: dict[str, Any], source: str) -> dict[str, Any]:
    """Return what an exec plugin is told of the cluster (clientauthentication/v1 Cluster)."""
    about = {name: cluster[name] for name in ("server", "tls-server-name") if cluster.get(name)}
    if ca := _data(cluster, "certificate-authority", source):
        about["certificate-authority-data"] = base64.b64encode(ca).decode()
    for extension in cluster.get("extensions") or ():
        if isinstance(extension, dict) and extension.get("name") == _CLUSTER_CONFIG:
            about["config"] = extension.get("extension")
    return about


def _data(entry: dict[str, Any], name: str, source: str) -> bytes | None:
    """Return the content of `<name>-data` (base64) or of the file `<name>`; the data wins, as in clientcmd."""
    if encoded := entry.get(f"{name}-data"):
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ConfigError(f"{source}: {name}-data is not base64: {error}") from error
    if path := entry.get(name):
        return _read(entry["\0directory"] / path, name)
    return None


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror}") from error
