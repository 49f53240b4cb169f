"""Which names the agent answers to: those that no page from elsewhere can have."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.agent.credentials import Credentials
from sitegrid.agent.hosts import address, certificate_names, host_name, is_own
from sitegrid.agent.run import Settings, serve
from sitegrid.lab.pki import Authority

LISTENING = "192.0.2.7"
CERTIFIED = certificate_names(
    Authority()
    .server("cn.example", ["Node12.example", "*.edge.example"], ["192.0.2.9", "2001:db8::9"])
    .certificate.decode()
)
OWN = [
    "localhost", "LocalHost:10351", "localhost.", "127.0.0.1", "127.0.0.1:10351", "127.0.0.1:", "127.9.8.7:1",
    "[::1]", "[::1]:10351", "[0:0:0:0:0:0:0:1]:80", LISTENING, f"{LISTENING}:10351", "[::ffff:192.0.2.7]:1",
    "node12.example", "NODE12.example:443", "node12.example.", "a.edge.example", "192.0.2.9:10353", "[2001:db8::9]",
    "[2001:DB8:0::9]:10353",
]  # fmt: skip
OTHERS = [
    "", ":", ":80", "evil.example", "evil.example:10351", "cn.example", "localhost.evil.example", "localhost..",
    "127.0.0.1.evil.example", "evil.example#localhost", "localhost@evil.example", "evil.example,localhost",
    "localhost evil.example", "192.0.2.8", "[2001:db8::8]:1", "edge.example", "a.b.edge.example", "*.edge.example:x",
    "[evil.example]", "[::1", "::1", "[::1]x", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "[::]", "localhost:80x",
    "localhost:80:80", "[]", "\xe9", "localhost:\xb2", "\x00", "127.0.0.1\x00",
]  # fmt: skip


@pytest.mark.parametrize("host", OWN)
def test_own_names_are_answered(host: str) -> None:
    """Loopback, the listener's address and what the certificate has, with or without a port."""
    assert is_own(host, LISTENING, CERTIFIED)


@pytest.mark.parametrize("host", OTHERS)
def test_other_names_are_not(host: str) -> None:
    """Neither other servers' names, nor what only begins or ends like an own one, nor what is no name."""
    assert not is_own(host, LISTENING, CERTIFIED)


def test_a_link_local_listener_has_a_zone() -> None:
    """Which is no part of what clients send."""
    assert is_own("[fe80::1]:10351", "fe80::1%eth0", frozenset())
    assert not is_own("[fe80::2]:10351", "fe80::1%eth0", frozenset())


@given(st.text(max_size=30), st.sampled_from(["", ":80", "]", "["]))
def test_no_text_is_too_odd(text: str, end: str) -> None:
    """Whatever stands in the header, there is an answer, and one for another's name unless it is one of the known."""
    host = text + end
    if is_own(host, LISTENING, CERTIFIED):
        assert host_name(host) in ("localhost", "node12.example") or address(host_name(host)) is not None


@pytest.mark.parametrize(
    ("names", "addresses"),
    [([], ["127.0.0.1"]), (["localhost"], []), ([f"n{n}.example" for n in range(100)], ["2001:db8::1", "192.0.2.1"])],
)
def test_names_of_a_certificate_are_read(names: list[str], addresses: list[str]) -> None:
    """All of them, also where their length takes several bytes to say; of the first certificate only."""
    authority = Authority()
    own = authority.server("x", names, addresses).certificate
    text = (own + authority.server("x", ["second.example"], []).certificate + authority.pair.certificate).decode()
    assert certificate_names(text) == {*names, *map(address, addresses)}


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"])
def test_without_a_certificate_there_are_no_names(text: str) -> None:
    """A file that the TLS library understands in another way adds no name."""
    assert certificate_names(text) == frozenset()


@given(st.binary(max_size=60))
def test_no_extension_is_too_odd(data: bytes) -> None:
    """Lengths that lead nowhere end the reading."""
    certificate_names(ssl.DER_cert_to_PEM_cert(bytes.fromhex("0603551d11") + data))


PATHS = ["/sitegrid/healthz", "/sitegrid/metrics", "/api/v1/services", "/api/v1/endpoints", "/api/v1/secrets", "/x"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_rebound_name_is_answered_by_nothing(site: Any, api: Any, path: str) -> None:
    """No page, no list and nothing passed on; the answer says what to do."""
    head = f"GET {path} HTTP/1.1\r\nHost: evil.example:{site.port}\r\nConnection: close\r\n\r\n"
    reader, _ = await site.raw(head.encode())
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
    status = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (status["kind"], status["code"]) == ("Status", 421)
    assert "ask it as localhost" in status["message"]
    assert not [target for _, target, _ in api.requests if target == path]


async def test_without_a_host_only_old_clients_are_answered(site: Any) -> None:
    """HTTP/1.1 must say whom it means; HTTP/1.0 may, and its clients are no browsers."""
    for version, host, status in (
        ("1.1", "", b"400"),
        ("1.0", "", b"200"),
        ("1.0", "Host: evil.example\r\n", b"421"),
    ):
        reader, _ = await site.raw(f"GET /sitegrid/healthz HTTP/{version}\r\n{host}\r\n".encode())
        assert (await reader.read()).split()[1] == status


async def test_a_new_certificate_brings_its_names(
    api: Any, objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of the file that is there now, on both listeners."""
    monkeypatch.setattr("sitegrid.agent.run._CERTIFICATE_SECONDS", 0.01)
    authority = Authority()

    def write(name: str) -> None:
        pair = authority.server("agent", [name], [])
        (tmp_path / "tls.key").write_bytes(pair.key)
        (tmp_path / "tls.crt").write_bytes(pair.certificate)

    write("old.example")
    settings = Settings(
        "n1",
        Credentials(f"http://127.0.0.1:{api.port}"),
        listen="127.0.0.1:0",
        tls_listen="127.0.0.1:0",
        tls_certificate=str(tmp_path / "tls.crt"),
        tls_key=str(tmp_path / "tls.key"),
    )
    stop = asyncio.Event()
    listening: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(serve(settings, stop, listening))
    plain, _ = await listening

    async def status(host: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", plain)
        writer.write(f"GET /sitegrid/healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.split()[1]

    assert [await status(host) for host in ("old.example", "new.example")] == [b"200", b"421"]
    write("new.example")
    async with asyncio.timeout(30):
        while await status("new.example") != b"200":
            pass
    assert await status("old.example") == b"421"
    stop.set()
    await asyncio.wait_for(running, 10)
