from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sitegrid.agent.credentials import Credentials, in_cluster
from sitegrid.agent.node import NodeUnits
from sitegrid.agent.run import AgentBroken, ListenError, Settings, parse_listen, serve


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "example.com:1"])
def test_others_are_kept_out(listen: str) -> None:
    """An address that is not loopback is refused, unless it is explicitly wanted."""
    with pytest.raises(ListenError, match="--allow-non-loopback"):
        parse_listen(listen, allow_non_loopback=False)
    assert parse_listen(listen, allow_non_loopback=True)[1] == 1


@pytest.mark.parametrize(
    ("listen", "host"), [("127.0.0.1:1", "127.0.0.1"), ("[::1]:1", "::1"), ("localhost:1", "localhost")]
)
def test_loopback_is_loopback(listen: str, host: str) -> None:
    """All spellings of loopback are accepted."""
    assert parse_listen(listen, allow_non_loopback=False) == (host, 1)


@pytest.mark.parametrize("listen", ["127.0.0.1", ":1", "127.0.0.1:x", "127.0.0.1:99999"])
def test_nonsense_is_refused(listen: str) -> None:
    """What is no HOST:PORT is an error."""
    with pytest.raises(ListenError, match="HOST:PORT"):
        parse_listen(listen, allow_non_loopback=False)


async def test_both_listeners_serve(api: Any, tmp_path: Path, certificates: Any) -> None:
    """The plain and the TLS listener answer alike, and end with the agent."""
    certificates(tmp_path)
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
    ports = await listening
    trust = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    for port, context in zip(ports, (None, trust), strict=True):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET /sitegrid/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
    stop.set()
    await asyncio.wait_for(running, 10)


async def test_a_fault_of_its_own_ends_the_agent(api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that cannot follow the API server any more does not go on with what it knew."""

    def fail(*arguments: Any) -> None:
        raise RuntimeError("a bug")

    listening: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    settings = Settings("n1", Credentials(f"http://127.0.0.1:{api.port}"), listen="127.0.0.1:0")
    running = asyncio.create_task(serve(settings, asyncio.Event(), listening))
    await listening
    monkeypatch.setattr(NodeUnits, "source_changed", fail)
    api.put(objects.nodes, objects.node("n1", zone="u2"))
    with pytest.raises(AgentBroken, match="started again"):
        await asyncio.wait_for(running, 10)


@pytest.mark.parametrize(("host", "own_authority"), [("127.0.0.1", False), ("localhost", True)])
async def test_a_server_that_is_not_who_it_should_be_is_not_there(
    tmp_path: Path, certificates: Any, host: str, own_authority: bool
) -> None:
    """Another authority's certificate, or one for another name: it is sent nothing; clients get 503; counted."""
    (tmp_path / "server").mkdir()
    (tmp_path / "other").mkdir()
    certificates(tmp_path / "server")
    certificates(tmp_path / "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server" / "tls.crt", tmp_path / "server" / "tls.key")
    reached: list[bytes] = []

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(impostor, "127.0.0.1", 0, ssl=context)
    (tmp_path / "token").write_text("agents-own-token")
    authority = tmp_path / ("server" if own_authority else "other") / "tls.crt"
    credentials = in_cluster(
        f"https://{host}:{server.sockets[0].getsockname()[1]}", str(tmp_path / "token"), str(authority)
    )
    stop = asyncio.Event()
    listening: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    settings = Settings("n1", credentials, listen="127.0.0.1:0")
    running = asyncio.create_task(serve(settings, stop, listening))
    [port] = await listening
    for path, wanted in (
        ("/apis/discovery.k8s.io/v1/endpointslices", b"503"),
        ("/api/v1/pods", b"503"),
        ("/sitegrid/readyz", b"503"),
        ("/sitegrid/metrics", b"200"),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.split()[1] == wanted, path
        writer.close()
        await writer.wait_closed()
    assert re.search(rb'upstream_failures_total{reason="unreachable"} [1-9]', answer)
    stop.set()
    await asyncio.wait_for(running, 10)
    server.close()
    assert not any(reached)


async def test_memory_is_given_back(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent does so once it serves, and again and again."""
    given: asyncio.Queue[None] = asyncio.Queue()
    monkeypatch.setattr("sitegrid.agent.allocator.give_back", lambda: given.put_nowait(None))
    monkeypatch.setattr("sitegrid.agent.allocator.SECONDS", 0.01)
    stop = asyncio.Event()
    settings = Settings("n1", Credentials(f"http://127.0.0.1:{api.port}"), listen="127.0.0.1:0")
    running = asyncio.create_task(serve(settings, stop))
    for _ in range(3):
        await asyncio.wait_for(given.get(), 10)
    stop.set()
    await asyncio.wait_for(running, 10)


async def test_a_taken_port_is_an_error(api: Any) -> None:
    """The message names the address."""
    settings = Settings("n1", Credentials(f"http://127.0.0.1:{api.port}"), listen=f"127.0.0.1:{api.port}")
    with pytest.raises(ListenError, match=f"^cannot listen on 127.0.0.1:{api.port}: Address already in use$"):
        await serve(settings, asyncio.Event())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--node-name=n", "--kubeconfig=/does/not/exist"], "error: --kubeconfig /does/not/exist: No such file"),
        (["--node-name=n", "--server=https://127.0.0.1:1", "--cache=kubletx"], "--cache 'kubletx': the presets are"),
        (
            [
                "--node-name=n",
                "--server=https://127.0.0.1:1",
                "--tls-listen=127.0.0.1:0",
                "--tls-cert-file=/no/tls.crt",
                "--tls-private-key-file=/no/tls.key",
            ],
            "error: /no/tls.crt: No such file or directory",
        ),
        (["--node-name=n", "--server=https://127.0.0.1:1", "--listen=0.0.0.0:1"], "not loopback"),
        (["--node-name=n", "--server=http://192.0.2.1"], "loopback only"),
        (["--node-name=n", "--tls-listen=127.0.0.1:1"], "--tls-cert-file"),
        (["--node-name="], "--node-name"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], message: str) -> None:
    """Mistakes are one line and a failure, not a trace."""
    argv = [sys.executable, "-m", "sitegrid", "agent", *arguments]
    failed = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert failed.returncode in (1, 2)
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_the_agent_imports_little() -> None:
    """An agent's process has none of the heavy parts of sitegrid, and of the standard library what it needs."""
    code = "import sys, json, sitegrid.agent.__main__; print(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    heavy = {"aiohttp", "msgspec", "yaml", "prometheus_client", "sitegrid.kube", "sitegrid.grid", "sitegrid.cli"}
    unneeded = {"argparse", "dataclasses", "datetime", "ipaddress", "pathlib", "urllib.parse"}
    assert not (heavy | unneeded) & modules


def test_the_working_directory_has_no_say(tmp_path: Path) -> None:
    """A file there that is called like a module is not what the agent runs."""
    for name in ("asyncio.py", "httptools.py"):
        (tmp_path / name).write_text("raise SystemExit('a stranger was run')")
    argv = [str(Path(sys.executable).with_name("sitegrid")), "agent", "--node-name=n", "--kubeconfig=/does/not/exist"]
    failed = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "/does/not/exist" in failed.stderr
