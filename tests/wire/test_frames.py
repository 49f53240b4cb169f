from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.wire.frames import FrameError, Frames, LengthFrames, LineFrames, length_frame

CUTS = st.lists(st.integers(min_value=1, max_value=9), max_size=60)


def _feed(frames: Frames, data: bytes, cuts: list[int]) -> list[bytes]:
    found = []
    for cut in cuts:
        found += frames.feed(data[:cut])
        data = data[cut:]
    found += frames.feed(data)
    frames.close()
    return found


@given(st.lists(st.binary(max_size=40)), CUTS)
def test_length_frames_do_not_depend_on_chunks(payloads: list[bytes], cuts: list[int]) -> None:
    """Protobuf frames come out as they went in, however the network cut them."""
    assert _feed(LengthFrames(), b"".join(map(length_frame, payloads)), cuts) == payloads


@given(st.lists(st.binary(min_size=1, max_size=40).map(lambda data: data.replace(b"\n", b" "))), CUTS)
def test_lines_do_not_depend_on_chunks(lines: list[bytes], cuts: list[int]) -> None:
    """JSON lines come out as they went in, however the network cut them."""
    assert _feed(LineFrames(), b"".join(line + b"\n" for line in lines), cuts) == lines


@given(st.binary(min_size=1, max_size=40), st.data())
def test_length_frames_that_end_early_are_an_error(payload: bytes, data: st.DataObject) -> None:
    """A watch that ends inside a frame is not taken for a whole one."""
    frame = length_frame(payload)
    frames = LengthFrames()
    assert frames.feed(frame[: data.draw(st.integers(1, len(frame) - 1))]) == []
    with pytest.raises(FrameError):
        frames.close()


def test_a_line_that_ends_early_is_an_error() -> None:
    """A watch that ends inside a JSON event is not taken for a whole one."""
    frames = LineFrames()
    assert frames.feed(b'{"a":1}\n{"b"') == [b'{"a":1}']
    with pytest.raises(FrameError):
        frames.close()


def test_a_hostile_length_is_refused_before_it_is_buffered() -> None:
    """A frame of 4 GiB is an error at its length, not after 4 GiB."""
    with pytest.raises(FrameError):
        LengthFrames().feed(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\n", b"ok\n" + b"x" * 11])
def test_an_endless_line_is_refused(data: bytes) -> None:
    """A line above the limit is an error, with or without its end."""
    with pytest.raises(FrameError):
        LineFrames(limit=10).feed(data)


def test_a_frame_at_the_limit_is_accepted() -> None:
    """The limit itself is allowed."""
    assert LengthFrames(limit=3).feed(length_frame(b"abc")) == [b"abc"]
    assert LineFrames(limit=3).feed(b"abc\n") == [b"abc"]
