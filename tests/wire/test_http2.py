"""HTTP/2 from the client's side, against a server's frames written by hand."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.wire.hpack import Encoder
from sitegrid.wire.http2 import CONNECTION_WINDOW, MAX_FRAME, STREAM_WINDOW, Event, Http2, Http2Error

DATA, HEADERS, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
REQUEST = [(b":method", b"GET", True), (b":path", b"/", False)]
HEAD = Encoder().encode([(b":status", b"200", False), (b"content-type", b"x", False)])
ANSWER = [(b":status", b"200"), (b"content-type", b"x")]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return kind, flags, stream and payload of each frame."""
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        data = data[9 + length :]
    return found


@pytest.fixture
def http() -> Http2:
    """Give a connection whose server has said its settings, with one request made."""
    http = Http2()
    assert http.take().startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    http.receive(frame(SETTINGS, 0, 0))
    assert http.request(REQUEST) == 1
    http.take()
    return http


def test_settings_are_acknowledged_and_pings_answered(http: Http2) -> None:
    """A server that gets neither would close the connection."""
    http.receive(frame(SETTINGS, 0, 0, b"\0\3\0\0\0\2") + frame(PING, 0, 0, b"12345678") + frame(SETTINGS, 1, 0))
    assert frames(http.take()) == [(SETTINGS, 1, 0, b""), (PING, 1, 0, b"12345678")]


def test_a_ping_asks_for_a_sign_of_life(http: Http2) -> None:
    """Its answer is told, and nothing else is."""
    http.ping()
    ((kind, flags, stream, payload),) = frames(http.take())
    assert (kind, flags, stream, len(payload)) == (PING, 0, 0, 8)
    assert http.receive(frame(PING, 1, 0, payload)) == [Event(0, done=True)]


def test_no_more_requests_than_the_server_allows(http: Http2) -> None:
    """SETTINGS_MAX_CONCURRENT_STREAMS."""
    http.receive(frame(SETTINGS, 0, 0, b"\0\3\0\0\0\2"))
    assert http.usable
    http.request(REQUEST)
    assert not http.usable


_STREAM = (
    frame(SETTINGS, 0, 0)
    + frame(HEADERS, 0, 1, HEAD[:3])
    + frame(CONTINUATION, 4, 1, HEAD[3:])
    + frame(DATA, 0, 1, b"one")
    + frame(99, 0, 0, b"of a later version")
    + frame(DATA, 8, 1, b"\2two\0\0")
    + frame(HEADERS, 4 | 8 | 32, 3, b"\1\0\0\0\0\0" + HEAD + b"\0")
    + frame(DATA, 1, 1, b"end")
    + frame(RST, 0, 3, b"\0\0\0\7")
)


@given(st.lists(st.integers(min_value=0, max_value=len(_STREAM)), max_size=20))
def test_answers_do_not_depend_on_the_chunks(cuts: list[int]) -> None:
    """Headers in parts, padding, priorities, unknown frames and interleaved answers come out the same."""
    http = Http2()
    assert (http.request(REQUEST), http.request(REQUEST)) == (1, 3)
    events = []
    marks = [0, *sorted(cuts), len(_STREAM)]
    for begin, end in itertools.pairwise(marks):
        events += http.receive(_STREAM[begin:end])
    assert events == [
        Event(1, ANSWER),
        Event(1, data=b"one"),
        Event(1, data=b"two"),
        Event(3, ANSWER),
        Event(1, data=b"end", done=True),
        Event(3, error="the API server ended the answer (code 7)"),
    ]
    assert http.idle


def test_a_cancelled_answer_is_not_heard_of(http: Http2) -> None:
    """What is on its way is dropped; its headers still change the table that later ones refer to."""
    encoder = Encoder()
    http.cancel(1)
    assert frames(http.take()) == [(RST, 0, 1, b"\0\0\0\x08")]
    first = encoder.encode([(b":status", b"200", False), (b"x", b"repeated", True)])
    assert http.receive(frame(HEADERS, 4, 1, first) + frame(DATA, 1, 1, b"late")) == []
    http.request(REQUEST)
    second = encoder.encode([(b"x", b"repeated", True)])
    assert http.receive(frame(HEADERS, 4, 3, second)) == [Event(3, [(b"x", b"repeated")])]


def test_the_server_may_go_on_as_bodies_are_taken(http: Http2) -> None:
    """Windows are given back in halves, for the answer and for the connection, and never more than was taken."""
    http.receive(frame(HEADERS, 4, 1, HEAD))
    granted = {0: 0, 1: 0}
    for number in range(1, 101):
        http.receive(frame(DATA, 0, 1, b"x" * MAX_FRAME))
        http.took(1, MAX_FRAME)
        for kind, _, stream, payload in frames(http.take()):
            assert kind == WINDOW
            granted[stream] += int.from_bytes(payload, "big")
        taken = number * MAX_FRAME
        assert taken - STREAM_WINDOW / 2 < granted[1] <= taken
        assert taken - CONNECTION_WINDOW / 2 < granted[0] <= taken


def test_a_server_that_sends_too_much_is_an_error(http: Http2) -> None:
    """What nobody takes cannot pile up."""
    http.receive(frame(HEADERS, 4, 1, HEAD))
    with pytest.raises(Http2Error, match="more than it may"):
        for _ in range(STREAM_WINDOW // MAX_FRAME + 1):
            http.receive(frame(DATA, 0, 1, b"x" * MAX_FRAME))


def test_after_goaway_only_what_the_server_took_goes_on(http: Http2) -> None:
    """No request is made any more; the ones that it has not seen fail, the others are answered."""
    http.request(REQUEST)
    assert http.receive(frame(GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\0")) == [
        Event(3, error="the API server closes the connection")
    ]
    assert not http.usable
    assert http.receive(frame(HEADERS, 5, 1, HEAD)) == [Event(1, ANSWER, done=True)]


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, 0, 3, b"x"),
        frame(DATA, 0, 2, b"x"),
        frame(DATA, 8, 1, b"\5x"),
        frame(HEADERS, 4, 5, HEAD),
        frame(HEADERS, 4, 1, b"\xff\xff"),
        frame(RST, 0, 1, b"\1" * MAX_FRAME),
        frame(RST, 0, 1),
        frame(PING, 0, 0, b"1" * MAX_FRAME),
        frame(WINDOW, 0, 0, b"123"),
        frame(HEADERS, 0, 1, HEAD) + frame(PING, 0, 0, b"12345678"),
        frame(CONTINUATION, 4, 1, HEAD),
        frame(PUSH, 4, 1, b"\0\0\0\2"),
        frame(SETTINGS, 0, 0, b"\0\1\0"),
        (MAX_FRAME + 1).to_bytes(3, "big") + b"\0" * 6,
        frame(HEADERS, 0, 1, b"x" * MAX_FRAME) + frame(CONTINUATION, 0, 1, b"x" * MAX_FRAME) * 4,
    ],
)
def test_what_breaks_the_protocol_is_an_error(http: Http2, data: bytes) -> None:
    """Frames for requests that were not made, broken padding, headers and settings, too large ones."""
    with pytest.raises(Http2Error):
        http.receive(data)


def test_a_server_that_speaks_http_1_is_an_error() -> None:
    """The first frame has to be the server's settings."""
    with pytest.raises(Http2Error):
        Http2().receive(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


@given(st.binary(max_size=300), st.integers())
def test_any_bytes_are_events_or_an_error(noise: bytes, seed: int) -> None:
    """Nothing else is raised, whatever is put into a real stream."""
    http = Http2()
    http.request(REQUEST)
    http.request(REQUEST)
    place = random.Random(seed).randrange(len(_STREAM))
    with contextlib.suppress(Http2Error):
        http.receive(_STREAM[:place] + noise + _STREAM[place:])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([DATA, HEADERS, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION, 2, 99]),
            st.sampled_from([0, 1, 4, 5, 8, 12, 32, 255]),
            st.sampled_from([0, 1, 3, 5, 2, 1 << 31 | 1]),
            st.one_of(st.binary(max_size=20), st.sampled_from([b"", HEAD, b"\xff" * MAX_FRAME])),
        ),
        max_size=12,
    )
)
def test_any_frames_are_events_or_an_error(parts: list[tuple[int, int, int, bytes]]) -> None:
    """Whatever frames a server sends, in any order and of any size: nothing else is raised."""
    http = Http2()
    http.request(REQUEST)
    http.request(REQUEST)
    with contextlib.suppress(Http2Error):
        http.receive(frame(SETTINGS, 0, 0) + b"".join(frame(*part) for part in parts))
