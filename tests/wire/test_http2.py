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
    assert not http.full
    http.request(REQUEST)
    assert http.full


_STREAM = (
    frame(SETTINGS, 0, 0)
    + frame(HEADERS, 0, 1, HEAD[:3])
    + frame(CONTINUATION, 4, 1, HEAD[3:])
    + frame(DATA, 0, 1, b"one")
    + frame(99, 0, 0, b"of a later version")
    + frame(DATA, 8, 1, b"\2two\0\0")
    + frame(HEADERS, 4 | 8 | 32, 3, b"\1\0\0\0\0\0" + HEAD + b"\0")
    + frame(DATA, 1, 1, b"end")
    + frame(RST, 0, 3, b"\0\0\0\2")
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
        Event(3, error="the API server ended the answer (code 2)"),
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
        Event(3, error="the API server closes the connection", unprocessed=True)
    ]
    assert http.ending
    assert http.receive(frame(HEADERS, 5, 1, HEAD)) == [Event(1, ANSWER, done=True)]


def test_what_the_server_refuses_was_not_begun(http: Http2) -> None:
    """REFUSED_STREAM (section 8.7): the only other failure after which a request may be made again."""
    error = "the API server ended the answer (code 7)"
    assert http.receive(frame(RST, 0, 1, b"\0\0\0\7")) == [Event(1, error=error, unprocessed=True)]


def _sent(http: Http2, stream: int = 1) -> tuple[int, bool]:
    """Return how many bytes of a body are to be sent now, in frames of a legal size, and whether that is all."""
    found = [(flags, payload) for kind, flags, of, payload in frames(http.take()) if (kind, of) == (DATA, stream)]
    assert all(len(payload) <= MAX_FRAME for _, payload in found)
    return sum(len(payload) for _, payload in found), any(flags & 1 for flags, _ in found)


def test_a_short_body_is_sent_with_its_request(http: Http2) -> None:
    """In one go, the end of it included."""
    http.request(REQUEST, b"body")
    (kind, flags, stream, _), data = frames(http.take())
    assert (kind, flags, stream) == (HEADERS, 4, 3)
    assert data == (DATA, 1, 3, b"body")


def test_bodies_are_sent_as_far_as_the_server_takes_them(http: Http2) -> None:
    """The window of the connection, and that of each stream, which the server widens."""
    http.request(REQUEST, b"a" * 40_000)
    http.request(REQUEST, b"b" * 40_000)
    sent = frames(http.take())
    sizes = [sum(len(p) for kind, _, of, p in sent if (kind, of) == (DATA, stream)) for stream in (3, 5)]
    assert sizes == [40_000, 65_535 - 40_000]
    http.receive(frame(WINDOW, 0, 5, b"\0\1\0\0"))
    assert _sent(http, 5) == (0, False)
    http.receive(frame(WINDOW, 0, 0, b"\0\1\0\0"))
    assert _sent(http, 5) == (80_000 - 65_535, True)


def test_a_window_that_settings_made_negative_is_filled_first(http: Http2) -> None:
    """Section 6.9.2: what was sent already counts against a window that became smaller."""
    http.receive(frame(SETTINGS, 0, 0, b"\0\4" + (1000).to_bytes(4, "big")) + frame(WINDOW, 0, 0, b"\0\1\0\0"))
    http.request(REQUEST, b"x" * 3000)
    assert _sent(http, 3) == (1000, False)
    http.receive(frame(SETTINGS, 0, 0, b"\0\4" + (100).to_bytes(4, "big")))
    http.receive(frame(WINDOW, 0, 3, (900).to_bytes(4, "big")))
    assert _sent(http, 3) == (0, False)
    http.receive(frame(WINDOW, 0, 3, (50).to_bytes(4, "big")))
    assert _sent(http, 3) == (50, False)
    http.receive(frame(SETTINGS, 0, 0, b"\0\4" + (5000).to_bytes(4, "big")))
    assert _sent(http, 3) == (1950, True)


def test_bodies_wait_while_nothing_more_can_be_sent(http: Http2) -> None:
    """What is said of the connection goes first."""
    http.request(REQUEST, b"body")
    http.ping()
    assert [kind for kind, *_ in frames(http.take(bodies=False))] == [HEADERS, PING]
    assert _sent(http, 3) == (4, True)


@pytest.mark.parametrize("early", ["answer", "head only", "reset", "cancel", "goaway"])
def test_a_body_that_nobody_waits_for_is_not_sent(http: Http2, early: str) -> None:
    """An answer to the first half of a request ends it (section 8.1), as either side does by resetting it."""
    http.request(REQUEST, b"x" * 70_000)
    assert _sent(http, 3) == (65_535, False)
    if early == "answer":
        http.receive(frame(HEADERS, 4, 3, HEAD) + frame(DATA, 1, 3, b"no"))
    elif early == "head only":
        http.receive(frame(HEADERS, 5, 3, HEAD))
    elif early == "reset":
        http.receive(frame(RST, 0, 3, b"\0\0\0\2"))
    elif early == "cancel":
        http.cancel(3)
    else:
        http.receive(frame(GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\0"))
    http.receive(frame(WINDOW, 0, 0, b"\0\1\0\0") + frame(WINDOW, 0, 3, b"\0\1\0\0"))
    reset = {"answer": [b"\0\0\0\0"], "head only": [b"\0\0\0\0"], "cancel": [b"\0\0\0\x08"]}.get(early, [])
    assert [(kind, payload) for kind, *_, payload in frames(http.take())] == [(RST, code) for code in reset]


@pytest.mark.parametrize("more", [0, (1 << 31) - 1])
def test_a_wrong_window_of_one_body_ends_that_request_only(http: Http2, more: int) -> None:
    """Nothing, or more than there can be (section 6.9)."""
    http.request(REQUEST, b"x" * 70_000)
    (event,) = http.receive(frame(WINDOW, 0, 3, more.to_bytes(4, "big")))
    assert (event.stream, event.error) == (3, "the API server's window is of an impossible size")
    assert not http.idle


def test_a_head_that_the_server_would_refuse_does_not_fit(http: Http2) -> None:
    """SETTINGS_MAX_HEADER_LIST_SIZE counts 32 bytes for each header; there may be a smaller limit of our own."""
    headers = [(b"x", b"y" * 67, False)]
    assert http.fits(headers, 100)
    assert not http.fits(headers, 99)
    http.receive(frame(SETTINGS, 0, 0, b"\0\6\0\0\0\x63"))
    assert not http.fits(headers, 100)


@pytest.mark.parametrize(
    "data",
    [
        frame(WINDOW, 0, 0, b"\0\0\0\0"),
        frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
        frame(SETTINGS, 0, 0, b"\0\4\x80\0\0\0"),
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
    http.request(REQUEST, b"x" * 70_000)
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
    http.request(REQUEST, b"x" * 70_000)
    with contextlib.suppress(Http2Error):
        http.receive(frame(SETTINGS, 0, 0) + b"".join(frame(*part) for part in parts))
    http.take()
