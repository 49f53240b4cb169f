from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sitegrid.agent.credentials import Credentials, CredentialsError, from_kubeconfig, in_cluster


def _kubeconfig(tmp_path: Path, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> str:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


def test_a_kubeconfig_names_server_and_token(tmp_path: Path) -> None:
    """Address and token come from the current context."""
    credentials = from_kubeconfig(_kubeconfig(tmp_path, user={"token": "t"}))
    assert (credentials.host, credentials.port, credentials.token()) == ("127.0.0.1", 6443, "t")


def test_a_rotated_token_is_picked_up(tmp_path: Path) -> None:
    """A token file is read again, relative to the kubeconfig."""
    (tmp_path / "token").write_text("one\n")
    credentials = from_kubeconfig(_kubeconfig(tmp_path, user={"tokenFile": "token"}))
    assert credentials.token() == "one"
    (tmp_path / "token").write_text("two\n")
    assert credentials.token() == "two"


def test_a_token_file_wins_over_a_token(tmp_path: Path) -> None:
    """As for client-go: what is renewed counts, not what the kubeconfig once held."""
    (tmp_path / "token").write_text("new")
    user = {"token": "old", "tokenFile": "token"}
    assert from_kubeconfig(_kubeconfig(tmp_path, user=user)).token() == "new"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"one\ntwo", "t\u00f6ken".encode(), bytes(40)])
def test_a_damaged_token_file_is_an_error_that_is_tried_again(tmp_path: Path, data: bytes) -> None:
    """What no header can hold is never sent, and is told as what can be mended while the agent runs."""
    (tmp_path / "token").write_bytes(data)
    credentials = from_kubeconfig(_kubeconfig(tmp_path, user={"tokenFile": "token"}))
    with pytest.raises(CredentialsError, match="token"):
        credentials.token()
    (tmp_path / "token").write_text("good")
    assert credentials.token() == "good"


@pytest.mark.parametrize("data", [b"", b"no PEM", b"\xff\xfe", "\u00fc".encode()])
def test_a_damaged_authority_is_an_error_that_is_tried_again(tmp_path: Path, certificates: Any, data: bytes) -> None:
    """An emptied or damaged CA file, as a power cut or a rotation may leave it, is told and read again."""
    (tmp_path / "tls.crt").write_bytes(data)
    credentials = from_kubeconfig(_kubeconfig(tmp_path, {"certificate-authority": "tls.crt"}))
    with pytest.raises(CredentialsError, match=r"tls\.crt"):
        credentials.context(as_agent=True)
    certificates(tmp_path)
    assert credentials.context(as_agent=True) is not None


def test_a_missing_certificate_costs_no_file_descriptor(tmp_path: Path) -> None:
    """It is tried again for as long as it is missing, by every source."""
    user = {"client-certificate": "absent.crt", "client-key": "absent.key"}
    credentials = from_kubeconfig(_kubeconfig(tmp_path, user=user))

    def descriptors() -> int:
        with pytest.raises(CredentialsError, match="absent"):
            credentials.context(as_agent=True)
        return len([*Path("/proc/self/fd").iterdir()])

    assert descriptors() == descriptors()


def test_a_rotated_authority_is_picked_up(tmp_path: Path, certificates: Any) -> None:
    """A CA file that changes makes a new TLS context; one that does not, does not."""
    certificates(tmp_path)
    credentials = from_kubeconfig(_kubeconfig(tmp_path, {"certificate-authority": "tls.crt"}))
    first = credentials.context(as_agent=True)
    assert credentials.context(as_agent=True) is first
    certificates(tmp_path)
    assert credentials.context(as_agent=True) is not first


def test_the_servers_certificate_is_always_verified(tmp_path: Path, certificates: Any) -> None:
    """Both TLS contexts check certificate and host name."""
    certificates(tmp_path)
    credentials = from_kubeconfig(_kubeconfig(tmp_path, {"certificate-authority": "tls.crt"}))
    for as_agent in (True, False):
        context = credentials.context(as_agent=as_agent)
        assert context is not None
        assert context.check_hostname
        assert context.verify_mode.name == "CERT_REQUIRED"


def test_clients_do_not_get_the_agents_certificate(tmp_path: Path, certificates: Any) -> None:
    """The context of passed requests is another one than the agent's own."""
    certificates(tmp_path)
    data = {name: base64.b64encode((tmp_path / file).read_bytes()).decode() for name, file in
            (("client-certificate-data", "tls.crt"), ("client-key-data", "tls.key"))}  # fmt: skip
    credentials = from_kubeconfig(_kubeconfig(tmp_path, {"certificate-authority": "tls.crt"}, data))
    assert credentials.context(as_agent=True) is not credentials.context(as_agent=False)


@pytest.mark.parametrize(
    ("cluster", "user", "word"),
    [
        ({"insecure-skip-tls-verify": True}, {}, "insecure-skip-tls-verify"),
        ({"server": "http://10.0.0.1:8080"}, {}, "loopback"),
        ({"server": "https://x/path"}, {}, "path"),
        ({"server": "ftp://x"}, {}, "https://"),
        ({"certificate-authority-data": "!"}, {}, "base64"),
        ({"proxy-url": "http://10.0.0.1"}, {}, "proxy-url"),
        ({}, {"exec": {"command": "x"}}, "exec"),
        ({}, {"token": "t", "as": "admin"}, "`as`"),
        ({}, {"token": "t", "as-groups": ["admins"]}, "as-groups"),
    ],
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], word: str
) -> None:
    """The message names what to change."""
    with pytest.raises(CredentialsError, match=word):
        from_kubeconfig(_kubeconfig(tmp_path, cluster, user))


@pytest.mark.parametrize(
    "text", ["apiVersion: v1\nkind: Config\n", "{}", '{"current-context": "x", "contexts": []}', "[]"]
)
def test_a_file_that_is_no_json_kubeconfig_is_an_error(tmp_path: Path, text: str) -> None:
    """YAML that is not JSON, and JSON that is no kubeconfig, are one-line errors."""
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(CredentialsError, match="kubeconfig"):
        from_kubeconfig(str(tmp_path / "kubeconfig"))


def test_a_pod_finds_its_api_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Pod the environment names the server, IPv6 included."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert in_cluster().host_header == "[fd00::1]"


def test_outside_a_pod_something_must_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without server and Pod there is an error, not a guess."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(CredentialsError, match="--server"):
        in_cluster()


def test_plain_http_is_for_loopback() -> None:
    """Tests and local proxies may use it, nobody else."""
    assert Credentials("http://127.0.0.1:1").context(as_agent=True) is None
    with pytest.raises(CredentialsError):
        Credentials("http://192.0.2.1:1")
