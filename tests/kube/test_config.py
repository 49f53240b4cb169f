from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from sitegrid.kube import config as config_module
from sitegrid.kube.config import ConfigError, load_config


def kubeconfig(
    path: Path, *, name: str = "c", cluster: Any = None, user: Any = None, current: str | None = "c"
) -> Path:
    """Write a kubeconfig with one cluster, user and context of that name."""
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.test:6443", **(cluster or {})}}],
        "users": [{"name": name, "user": user or {"token": f"token-{name}"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"ns-{name}"}}],
    }
    if current:
        document["current-context"] = current
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No configuration of this machine is found; gives the home directory in use."""
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(config_module, "SERVICE_ACCOUNT", tmp_path / "serviceaccount")
    return home


@pytest.fixture
def in_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A pod's mounted service account; gives its directory."""
    directory = tmp_path / "serviceaccount"
    directory.mkdir()
    (directory / "token").write_text("pod-token")
    (directory / "ca.crt").write_text("pod-ca")
    (directory / "namespace").write_text("pod-ns\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return directory


def test_the_argument_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_cluster: Path) -> None:
    """A named file wins over everything else."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "env", name="env", current="env")))
    found = load_config(str(kubeconfig(tmp_path / "arg")))
    assert (found.server, found.token, found.namespace) == ("https://c.test:6443", "token-c", "ns-c")


def test_the_environment_comes_before_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_cluster: Path
) -> None:
    """$KUBECONFIG wins over the service account."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "env", name="env", current="env")))
    assert load_config().server == "https://env.test:6443"


def test_the_pod_comes_before_the_home(clean_environment: Path, in_cluster: Path) -> None:
    """In a pod its own account is used, with a token that is read again."""
    kubeconfig(clean_environment / ".kube" / "config")
    found = load_config()
    assert found.server == "https://10.96.0.1:443"
    assert (found.ca, found.token_file, found.namespace) == (b"pod-ca", in_cluster / "token", "pod-ns")


def test_an_ipv6_service_address_is_bracketed(in_cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters with IPv6 services give a bare address."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert load_config().server == "https://[fd00::1]:443"


def test_the_home_comes_last(clean_environment: Path) -> None:
    """~/.kube/config, and without it an error that tells what to do."""
    with pytest.raises(ConfigError, match="--kubeconfig"):
        load_config()
    kubeconfig(clean_environment / ".kube" / "config")
    assert load_config().server == "https://c.test:6443"


def test_a_context_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several merged files, another context than the current one."""
    one, two = kubeconfig(tmp_path / "one", name="one", current="one"), kubeconfig(tmp_path / "two", name="two")
    monkeypatch.setenv("KUBECONFIG", f"{one}:{tmp_path / 'absent'}:{two}")
    assert load_config().server == "https://one.test:6443"
    assert load_config(context="two").server == "https://two.test:6443"
    with pytest.raises(ConfigError, match=r"'three'.*one, two"):
        load_config(context="three")


def test_the_first_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of the same name are taken from the first file that has them."""
    one = kubeconfig(tmp_path / "one", user={"token": "first"})
    two = kubeconfig(tmp_path / "two", user={"token": "second"})
    monkeypatch.setenv("KUBECONFIG", f"{one}:{two}")
    assert load_config().token == "first"


def test_certificates_come_as_data_or_as_files(tmp_path: Path) -> None:
    """Base64 data wins; file names are relative to the kubeconfig."""
    (tmp_path / "ca.pem").write_text("ca of file")
    (tmp_path / "key.pem").write_text("key of file")
    found = load_config(
        str(
            kubeconfig(
                tmp_path / "config",
                cluster={"certificate-authority": "ca.pem", "tls-server-name": "other"},
                user={
                    "client-certificate-data": base64.b64encode(b"cert data").decode(),
                    "client-certificate": "absent.pem",
                    "client-key": "key.pem",
                    "tokenFile": "token",
                },
            )
        )
    )
    assert (found.ca, found.client_cert, found.client_key) == (b"ca of file", b"cert data", b"key of file")
    assert (found.token_file, found.tls_server_name) == (tmp_path / "token", "other")


@pytest.mark.parametrize(
    ("cluster", "user", "message"),
    [
        ({"insecure-skip-tls-verify": True}, {}, "insecure-skip-tls-verify"),
        ({"proxy-url": "http://proxy.test"}, {}, "proxy-url"),
        ({"server": "ftp://x"}, {}, "http"),
        ({"certificate-authority": "absent.pem"}, {}, "absent.pem"),
        ({"certificate-authority-data": "%%%"}, {}, "base64"),
        ({}, {"exec": {"command": "login"}}, "apiVersion"),
        ({}, {"token": "t", "as-groups": ["admins"]}, "'as-groups'"),
        ({}, {"client-key-data": "aaaa"}, "together"),
    ],
)
def test_what_cannot_be_honoured_is_refused(tmp_path: Path, cluster: Any, user: Any, message: str) -> None:
    """Nothing in a kubeconfig that matters is ignored, least of all about TLS."""
    with pytest.raises(ConfigError, match=message):
        load_config(str(kubeconfig(tmp_path / "config", cluster=cluster, user=user or {"token": "t"})))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1", "not YAML"), ("text", "not a kubeconfig"), ("clusters: [{}]", "no name"), ("{}", "current-context")],
)
def test_broken_files_are_told(tmp_path: Path, text: str, message: str) -> None:
    """The error names the file and what is wrong with it."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(str(path))
    assert str(path) in str(raised.value)


def test_missing_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads nowhere is an error, not a reason to use another cluster."""
    with pytest.raises(ConfigError, match="No such file"):
        load_config(str(tmp_path / "absent"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="absent"):
        load_config()


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """A configuration in a log or traceback gives nothing away."""
    found = load_config(
        str(
            kubeconfig(
                tmp_path / "config",
                user={
                    "token": "hidden-token",
                    "client-certificate-data": base64.b64encode(b"cert").decode(),
                    "client-key-data": base64.b64encode(b"hidden-key").decode(),
                },
            )
        )
    )
    assert "hidden" not in repr(found)
