from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sitegrid.lab.pki import Authority, KeyPair, client_user, write_kubeconfig, write_private


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Return a certificate authority."""
    return Authority()


def _parse(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def test_client_certificate_names_user_and_groups(authority: Authority) -> None:
    """Kubernetes reads the user from the common name and groups from organizations."""
    subject = _parse(authority.client("system:node:a", ["system:nodes", "x"])).subject
    assert [entry.value for entry in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["system:node:a"]
    assert {e.value for e in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)} == {"system:nodes", "x"}


def test_certificates_are_signed_by_the_authority(authority: Authority) -> None:
    """What the authority issues verifies against it, and not against another one."""
    certificate = _parse(authority.client("a"))
    certificate.verify_directly_issued_by(_parse(authority.pair))
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(_parse(Authority().pair))


def test_server_certificate_cannot_be_a_clients(authority: Authority) -> None:
    """A serving certificate names its hosts and is good for serving only."""
    certificate = _parse(authority.server("s", ["kubernetes"], ["172.31.0.1"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kubernetes"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["172.31.0.1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_kubeconfig_is_json_and_private(tmp_path: Path, authority: Authority) -> None:
    """Kubeconfigs are JSON (the agent reads nothing else), complete, and readable by their owner only."""
    path = tmp_path / "sub" / "kubeconfig"
    write_kubeconfig(path, server="https://x:1", user=client_user(authority.client("a")), ca=b"CA")
    config = json.loads(path.read_text())
    assert config["current-context"] == config["contexts"][0]["name"]
    assert config["clusters"][0]["cluster"] == {"server": "https://x:1", "certificate-authority-data": "Q0E="}
    assert config["users"][0]["user"].keys() == {"client-certificate-data", "client-key-data"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_private_file_replaces_a_public_one(tmp_path: Path) -> None:
    """Rewriting leaves no moment and no mode in which others can read."""
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]
