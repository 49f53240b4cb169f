"""The stand-in's HTTP and its answers, without a process; `test_kubelet_containers.py` has it as a process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.lab.kubelet.responder import MAX_HEAD, HttpConnection, Identity

BODY = b'{"pod": "p"}\n'
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n" + BODY
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def connection() -> HttpConnection:
    """Return a connection whose answers are `BODY`."""
    return HttpConnection(lambda: BODY, lambda _: None)


def request(body: bytes, chunks: int) -> bytes:
    """Return a POST with `body`, with a length or (`chunks` > 0) in chunks and with a trailer."""
    if not chunks:
        return b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    size = max(1, len(body) // chunks)
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    encoded = b"".join(b"%x;note=1\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + encoded + b"0\r\nTrailer: t\r\n\r\n"


@given(
    bodies=st.lists(st.tuples(st.binary(max_size=80), st.integers(0, 3)), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 60), max_size=40),
)
def test_keep_alive_stays_in_step(bodies: list[tuple[bytes, int]], cuts: list[int]) -> None:
    """Pipelined requests with any body, however their bytes are split, get one answer each."""
    data = b"".join(request(body, chunks) for body, chunks in bodies) + GET
    server, out = connection(), b""
    for cut in cuts:
        out += server.receive(data[:cut])
        data = data[cut:]
    out += server.receive(data)
    assert out == OK * (len(bodies) + 1)
    assert not server.closed


def test_head_has_no_body() -> None:
    """HEAD gets the headers of GET and nothing else."""
    assert connection().receive(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n") == OK.removesuffix(BODY)


def test_fail_paths_answer_503() -> None:
    """Every path below /fail fails, so that a probe can be made to fail."""
    assert connection().receive(b"GET /failing HTTP/1.1\r\nHost: h\r\n\r\n").startswith(b"HTTP/1.1 503 ")


def test_expect_continue() -> None:
    """A client that waits for leave to send its body gets it."""
    server = connection()
    head = b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert server.receive(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert server.receive(b"ab") == OK


@pytest.mark.parametrize(
    "text",
    [b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\nHost: h\r\n\r\n"],
    ids=["close", "HTTP/1.0"],
)
def test_client_that_wants_no_keep_alive(text: bytes) -> None:
    """The connection is closed after the answer, which says so."""
    server = connection()
    assert b"Connection: close" in server.receive(text)
    assert server.closed


def test_each_answer_is_logged() -> None:
    """Method, path, status and client are told, also of what is no HTTP, and nothing that moves a cursor."""
    told: list[str] = []
    server = HttpConnection(lambda: BODY, told.append)
    server.receive(b"GET /a?b HTTP/1.1\r\nUser-Agent: Curl/8\r\n\r\n" + GET)
    server.receive(b"HEAD /fail\x1b[2J HTTP/1.1\r\nUser-Agent: " + b"x" * 999 + b"\r\n\r\nnonsense\r\n\r\n")
    assert told == ["GET /a?b 200 Curl/8", "GET / 200 -", f"HEAD /fail\\x1b[2J 503 {'x' * 256}", "- - 400 -"]


def test_draining_connection_closes_after_the_next_answer() -> None:
    """While the process ends, the answer asks the client to go elsewhere."""
    server = connection()
    server.draining = True
    assert b"Connection: close" in server.receive(GET)
    assert server.closed


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEAD, 431),
    ],
)
def test_bad_requests_are_refused(text: bytes, status: int) -> None:
    """What is not HTTP gets a 4xx and the connection is closed."""
    server = connection()
    assert server.receive(text).startswith(b"HTTP/1.1 %d " % status)
    assert server.closed


def test_answer_has_exactly_the_keys_and_the_labels_of_now(tmp_path: Path) -> None:
    """The labels are read again when the file changes; a file that is gone leaves the last ones."""
    labels = tmp_path / "labels"
    labels.write_text('{"zone": "a"}')
    config = {"namespace": "n", "pod": "p", "node": "x", "image": "i", "labelsFile": str(labels), "ports": []}
    identity = Identity(config)
    wanted = {"namespace": "n", "pod": "p", "node": "x", "image": "i", "nodeLabels": {"zone": "a"}, "port": 80}
    assert json.loads(identity.answer(80)) == wanted
    (tmp_path / "new").write_text('{"zone": "b"}')
    (tmp_path / "new").replace(labels)
    assert json.loads(identity.answer(80))["nodeLabels"] == {"zone": "b"}
    labels.unlink()
    assert json.loads(identity.answer(80))["nodeLabels"] == {"zone": "b"}
