"""What who runs agents sees of them: lines in the log, metrics, exit codes."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sitegrid.agent.credentials import Credentials, in_cluster
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.reply import UpstreamError
from sitegrid.agent.run import Settings, serve
from sitegrid.agent.upstream import Upstream
from sitegrid.agent.wan import Wan
from tests.support.controlplane import free_port

Agent = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Return a function that starts an agent as a process of its own, whose log can be read."""
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sitegrid", "agent", "--node-name=n1", "--listen=127.0.0.1:0", *options]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def _log(process: subprocess.Popen[str], *texts: str, end: signal.Signals) -> list[str]:
    """Return the lines of an agent's log with `texts`, one of each and no others; it is ended when all are there."""
    assert process.stderr is not None
    lines: list[str] = []
    while not all(any(text in line for line in lines) for text in texts):
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    process.send_signal(end)
    lines += process.communicate(timeout=20)[1].splitlines(keepends=True)
    assert "ending, as told" in lines.pop()
    assert process.returncode == 0
    assert len(lines) == len(texts), lines
    return [next(line for line in lines if text in line) for text in texts]


@pytest.fixture
def nobody() -> str:
    """Return the address of an API server that is not there."""
    return f"http://127.0.0.1:{free_port()}"


def test_start_and_end_are_a_line_each(agent: Agent, nobody: str, tmp_path: Path) -> None:
    """The first line tells what it was given; SIGTERM is a success, said in the last one."""
    (tmp_path / "token").touch()
    process = agent(f"--server={nobody}", f"--token-file={tmp_path / 'token'}", f"--data-dir={tmp_path}")
    began, _ = _log(
        process, "serving node n1 on 127.0.0.1:", "cannot be reached: Connection refused", end=signal.SIGTERM
    )
    assert f"data directory {tmp_path}" in began
    assert "kept reads of kube-proxy,coredns" in began


def test_a_token_that_is_not_there_is_told_once(agent: Agent, nobody: str, tmp_path: Path) -> None:
    """The line names the file, and each try does not repeat it; the agent goes on with what its disk has."""
    process = agent(f"--server={nobody}", f"--token-file={tmp_path / 'none'}")
    missing = f"the API server cannot be asked: {tmp_path / 'none'}: No such file or directory"
    _log(process, missing, "serving node", "the API server cannot be reached", end=signal.SIGINT)


async def test_certificates_that_cannot_be_used_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A CA file without a certificate in it is named, once, and again when it was right in between."""
    ca = tmp_path / "ca.crt"
    ca.write_text("nonsense")
    upstream = Upstream(in_cluster("https://127.0.0.1:1", ca_file=str(ca), token_file=str(ca)))
    for _ in range(3):
        with pytest.raises(UpstreamError, match=r"ca\.crt"):
            await upstream.open("GET", "/", [], as_agent=False)
    assert [str(ca) in record.message for record in caplog.records] == [True]


async def test_a_client_of_an_agent_without_credentials_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The address alone will do where the API server asks for nothing."""
    upstream = Upstream(Credentials("http://127.0.0.1:1"))
    with pytest.raises(UpstreamError, match="Connection refused"):
        await upstream.open("GET", "/", [], as_agent=True)
    assert [record.message for record in caplog.records] == ["the API server cannot be reached: Connection refused"]
    upstream.close()


def test_a_guess_gives_way_to_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    """What is known only after the first look is told then; nothing is told twice."""
    wan = Wan()
    wan.lost("it has not answered yet", guessed=True)
    wan.lost("it has not answered yet", guessed=True)
    for reason in ("Name or service not known", "Connection refused"):
        wan.lost(reason)
    assert [record.message for record in caplog.records] == [
        "the API server cannot be reached: it has not answered yet",
        "the API server cannot be reached: Name or service not known",
    ]
    assert wan.reason == "Connection refused"


async def test_a_node_that_does_not_exist_is_told(
    site: Any, api: Any, objects: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistyped --node-name is seen in the log, not only in what is missing; so is its end."""
    caplog.set_level(logging.WARNING, "sitegrid.agent.node")
    await objects.eventually(lambda: site.hub.node.known)
    assert not caplog.records
    api.delete(objects.nodes, "n1", "")
    await objects.eventually(lambda: not site.hub.node.units)
    api.put(objects.nodes, objects.node("n1", zone="u1"))
    await objects.eventually(lambda: site.hub.node.units)
    missing, there = (record.message for record in caplog.records)
    assert missing.startswith("there is no node n1: nothing of any grid is shown until there is")
    assert there == "node n1 exists now"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"kind": "Status",\n "code": 403,\n "message": "nodes is forbidden"}', "(403): nodes is forbidden"),
        (b"<html>\n<h1>403</h1>", "(403): <html> <h1>403</h1>"),
    ],
)
async def test_an_account_that_lacks_rights_is_told_once(
    api: Any, objects: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, body: bytes, said: str
) -> None:
    """One line, in RBAC's words, however often it is tried; readyz says the same."""
    monkeypatch.setattr("sitegrid.agent.source._FIRST_PAUSE", 0.01)
    api.refusals[objects.nodes] = (403, body)
    stop = asyncio.Event()
    listening: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    settings = Settings("n1", Credentials(f"http://127.0.0.1:{api.port}"), listen="127.0.0.1:0")
    running = asyncio.create_task(serve(settings, stop, listening))
    [port] = await listening
    await objects.eventually(lambda: sum(target.startswith(objects.nodes) for _, target, _ in api.requests) > 3)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /sitegrid/readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = (await reader.read()).decode()
    assert answer.startswith("HTTP/1.1 503")
    assert (
        f"the agent has not yet heard from the API server: the API server refuses the agent's request {said}"
        in answer
    )
    refused = [record.message for record in caplog.records if record.name == "sitegrid.agent.source"]
    assert refused == [f"nodes: the API server refuses the agent's request {said}"]
    writer.close()
    await writer.wait_closed()
    stop.set()
    await asyncio.wait_for(running, 10)


def test_metrics_are_what_prometheus_reads() -> None:
    """Every metric is declared once with a help text, counters and no others end in _total, labels have names."""
    metrics = Metrics()
    metrics.add("requests_total", label="view")
    metrics.add("requests_total", label="pass")
    metrics.add("refused_total", label="404")
    metrics.add("snapshot_failures_total", label="too large")
    metrics.set("wan_down", True)
    text = metrics.render().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == text.count("# HELP ") == text.count("# TYPE ")
    for name, family in families.items():
        assert name.startswith("sitegrid_agent_")
        assert family.documentation
        assert not name.endswith(("_count", "_sum", "_bucket", "_info", "_total"))
        assert family.type in ("counter", "gauge")
        assert all(sample.name.endswith("_total") == (family.type == "counter") for sample in family.samples)
    requests = {tuple(sample.labels.items()): sample.value for sample in families["sitegrid_agent_requests"].samples}
    assert requests == {(("route", "pass"),): 1, (("route", "view"),): 1}
    assert families["sitegrid_agent_wan_down"].samples[0].value == 1
    assert families["sitegrid_agent_units"].samples[0].value == 0
