"""What a client sends is read in time proportional to its length, whatever it is: no request stalls the agent.

It is held in three ways, none of which looks at a clock on the wall. Every regular expression of the agent is shown
to be unambiguous, so that no text can be tried in more and more ways. Every reader of clients' words executes as many
times more bytecode as it gets more to read. What one instruction does in C is held by processor time, over a growth
that takes a linear reader an eighth of what is allowed, and a quadratic one eight times that.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import pkgutil
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import sitegrid.agent
import sitegrid.wire
from sitegrid.agent.gate import decide
from sitegrid.agent.hosts import is_own
from sitegrid.agent.http import Connection
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.multiplex import is_field
from sitegrid.agent.negotiate import negotiate
from sitegrid.agent.options import OptionsError, list_options, parse_query
from sitegrid.agent.passthrough import end_to_end
from sitegrid.agent.places import Places
from sitegrid.agent.reads import parse_reads
from sitegrid.agent.request import Body, Request
from sitegrid.wire import percent
from sitegrid.wire.hpack import Encoder
from sitegrid.wire.selectors import FieldSelector, LabelSelector, SelectorError
from sitegrid.wire.status import Status
from tests.support.ambiguity import is_ambiguous, uses_of_patterns

MODULES = [
    module.name
    for package in (sitegrid.agent, sitegrid.wire)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]
USES = [use for name in MODULES for use in uses_of_patterns(importlib.import_module(name))]


@pytest.mark.parametrize(
    ("pattern", "searched", "ambiguous"),
    [
        (r"[0-9]+\.?[0-9]*", False, True),
        (r"[0-9]+(\.[0-9]*)?", False, False),
        (r"(a+)+", False, True),
        (r"(a*)*", False, True),
        (r"(a|a)*", False, True),
        (r"(ab|a|b)*", False, True),
        (r"(.*,)*x", False, True),
        (r"([^,]*,)*x", False, False),
        (r"(a+b)+", False, False),
        (r"a*a*", False, True),
        (r"a*b*c", False, False),
        (r"a?a?a?", False, False),
        (r"a*b", True, True),
        (r"ba*", True, False),
        (r"a{2,}[ab]{3,}", False, True),
    ],
)
def test_ambiguity_is_found(pattern: str, searched: bool, ambiguous: bool) -> None:
    """The judge of the next test knows examples of both kinds."""
    assert is_ambiguous(pattern, searched=searched) is ambiguous


def test_there_are_patterns_to_be_judged() -> None:
    """The next test does not hold because it found nothing."""
    assert {"sitegrid.agent.options", "sitegrid.agent.gate", "sitegrid.wire.selectors"} <= {use[0] for use in USES}


@pytest.mark.parametrize(("module", "pattern", "searched"), USES)
def test_no_pattern_is_ambiguous(module: str, pattern: str, searched: bool) -> None:
    """A text that fails to match has been tried in a bounded number of ways."""
    assert not is_ambiguous(pattern, searched=searched)


def _request(target: str = "/", headers: list[tuple[bytes, bytes]] | None = None) -> Request:
    request = Request(Body(lambda on: None))
    request.method, request.target = "GET", target
    request.headers = headers or []
    return request


def _query(query: str) -> None:
    list_options(parse_query(query))
    list_options(parse_query(f"watch=1&{query}"))


def _selectors(text: str) -> None:
    for kind in (LabelSelector, FieldSelector):
        try:
            kind(text)
        except SelectorError as error:
            Status(400, str(error)).to_json()


READS = parse_reads("kubelet")


def _kept(path: str) -> None:
    assert READS.find(_request(path, [(b"authorization", b"x"), (b"user-agent", path.encode())])) is None


def _head(lines: bytes) -> None:
    """Have a connection receive a head."""

    class Transport(asyncio.Transport):
        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            pass

        def abort(self) -> None:
            pass

    async def handler(request: Request, connection: Connection) -> None:
        pass

    connection = Connection(handler, Metrics(), Places(Metrics(), lambda identity: False))
    connection.transport = Transport()
    connection.data_received(b"GET /" + lines + b"\r\n\r\n")


def _encode(text: str) -> None:
    is_field(b"x", text.encode())
    Encoder().encode([(b"x", text.encode(), False)])
    Encoder().encode([(b"x", part.encode(), True) for part in text.split(" ")])


def _end_to_end(text: str) -> None:
    end_to_end([(b"connection", text.encode()), *((b"a", b"") for _ in range(len(text) // 8))])


def _feed(text: str) -> None:
    body = Body(lambda on: None)
    for character in text.encode():
        body.feed(bytes((character,)))


def _head_of(text: str) -> None:
    _head(b" HTTP/1.1\r\nhost: localhost\r\n" + text.encode())


def _numbered(form: str) -> Callable[[int], str]:
    return lambda size: "".join(form.format(number) for number in range(size // 8))


def _repeated(text: str, before: str = "", after: str = "") -> Callable[[int], str]:
    return lambda size: before + text * (size // len(text)) + after


QUERIES = [
    *(_repeated("1", f"{name}=") for name in ("timeout", "limit", "timeoutSeconds", "resourceVersion", "continue")),
    *(_repeated(text, "timeout=") for text in (".", "1.", "1s", "0", "1.1", "-", "1.1m", "m", "%C2%B5s", "1%C2%B5")),
    *(_repeated(text, "timeout=", "x") for text in ("1s", "1", "0", "1.1m", ".1", "1ms")),
    *(_repeated(text) for text in ("%", "%41", "+", "&", "=", "a", "%2", "%ff", ";", "\N{GREEK SMALL LETTER MU}")),
    *(_repeated(text, "watch=") for text in ("F", "false", "%46")),
    *(_repeated(text, "resourceVersionMatch=") for text in ("F", "%0a", '"')),
    _numbered("{:x}=1&"),
    _numbered("resourceVersion{:x}&"),
]
SELECTORS = [
    *(
        _repeated(text)
        for text in ("a", "a,", "!a,", "!", "(", ",", " ", "\t", "=", "a=b,", "a!=b,", "<", "\\", "\\,")
    ),
    *(_repeated(text, after="!") for text in ("a", "a.a.", "a-", "-", "a/", "_", ".")),
    *(_repeated(text, after="/a") for text in ("a", "a.a.", "a-", "-", "a.", "A")),
    *(_repeated(text, "a in (") for text in ("b,", ",", "-,", "b", "in ", "(")),
    *(_repeated(text, "a>") for text in ("1", "-", "+1", "9")),
    _numbered("k{:x},"),
    lambda size: f"a notin ({_numbered('-{:x},')(size)})",
    lambda size: f"{_numbered('a in (-{:x}),')(size)}",
    _repeated("\\x", "metadata.name="),
    _repeated("=", "metadata.name"),
]
ACCEPTS = [
    *(_repeated(text) for text in ("a", "/", ",", ";", "*/*,", "a/b;", "=", " ", "q=1;", '"')),
    *(_repeated(text, "*/*;q=") for text in ("1", "0.0", "1e", "_", "1_", "9", "nan")),
    *(_repeated(text, "*/*;q=0.") for text in ("1", "0", "9")),
    _numbered("application/json;p{:x}=1;"),
    _numbered("application/json, "),
]
PATHS = [
    *(_repeated(text, "/") for text in ("/", "a", "a/", "./", "../", "a/../", "%2f", "%252f", "%25", "%", ";", ";/")),
    *(_repeated(text, "/") for text in ("a;b/", "\\", "?", "#", "%3f", "%23", "\\..", "//", "%2e%2e/", "\xff")),
    *(_repeated(text, "/", "%") for text in ("a", "a/", "namespaces/", "..", "~", "endpoints/")),
    *(
        _repeated(text, "/api/v1/namespaces/")
        for text in ("a/", "namespaces/", "services/", "/", "%2f", "proxy/", "a")
    ),
    *(_repeated(text, "/api/v1/namespaces/a/services/b/proxy/") for text in ("a/", "%2f", ":", ";")),
    *(_repeated(text, "/api/v1/namespaces/a/services/") for text in (":", "a:", "%3a")),
]
HEADS = [
    *(_repeated(text) for text in ("a:\r\n", "a: b\r\n", "connection: a\r\n", "accept: a\r\n", "\r\n", "a", ":")),
    _repeated("x", "a: "),
    _numbered("connection: a{:x}\r\n"),
    _numbered("a{:x}: b\r\n"),
]
READERS: dict[str, tuple[Callable[[str], object], list[Callable[[int], str]]]] = {
    "query": (_query, QUERIES),
    "selectors": (_selectors, SELECTORS),
    "accept": (negotiate, ACCEPTS),
    "path": (lambda path: decide("GET", path), PATHS),
    "query of a path": (lambda query: decide("GET", f"/api/v1/services?{query}"), QUERIES),
    "kept reads": (_kept, PATHS),
    "percent-decoding": (percent.unquote, [*PATHS, *QUERIES]),
    "head": (_head_of, HEADS),
    "target": (lambda path: _head(path.encode() + b" HTTP/1.1\r\nhost: localhost"), PATHS),
    "connection header": (_end_to_end, [_repeated("a,"), _repeated(","), _repeated(" "), _numbered("a{:x},")]),
    "values that are passed on": (_encode, [_repeated("a"), _repeated("\x7e"), _repeated("a "), _numbered("x{:x} ")]),
    "host": (
        lambda host: is_own(host, "127.0.0.1", frozenset({"a"})),
        [*map(_repeated, "a.:[]%0"), _numbered("{}.")],
    ),
    "body": (_feed, [_repeated("a")]),
}
CASES = [
    pytest.param(reader, text, id=f"{name}-{number}")
    for name, (reader, texts) in READERS.items()
    for number, text in enumerate(texts)
]


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have limits of size out of the way: it is growth that is looked at."""
    for limit in ("MAX_HEAD", "MAX_TARGET", "_MAX_UNPRODUCTIVE"):
        monkeypatch.setattr(f"sitegrid.agent.http.{limit}", 1 << 30)


def _call(reader: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(OptionsError, ValueError):
        reader(text)


def _instructions(reader: Callable[[str], object], text: str) -> int:
    """Return how many instructions of Python reading `text` takes."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        _call(reader, text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(("reader", "text"), CASES)
def test_instructions_grow_with_the_text(reader: Callable[[str], object], text: Callable[[int], str]) -> None:
    """Four times as much text takes about four times as many instructions, not sixteen."""
    small, large = (_instructions(reader, text(size)) for size in (512, 2048))
    assert large < 5 * small


@pytest.mark.parametrize(("reader", "text"), CASES)
def test_work_in_c_grows_with_the_text(reader: Callable[[str], object], text: Callable[[int], str]) -> None:
    """From 2 to 128 KiB a linear reader takes 64 times the processor time, and a quadratic one 4,096 times."""

    def work(size: int) -> float:
        written = text(size)
        begin = time.thread_time()
        _call(reader, written)
        return time.thread_time() - begin

    def least(size: int) -> float:
        # A busy machine makes a run cost more, by cold caches and page faults, but never less.
        return min(work(size) for _ in range(5))

    smallest = least(2048)
    for growth in (4, 16, 64):
        assert least(2048 * growth) < 8 * growth * smallest + 0.02
