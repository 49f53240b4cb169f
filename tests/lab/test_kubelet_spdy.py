"""SPDY as a server hears it, from a client made here; `test_kubectl.py` has kubectl's own."""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.lab.kubelet.spdy import DICTIONARY, Data, Event, Opened, Ping, Reset, Session, SpdyError
from tests.support.spdyclient import SpdyClient


def test_dictionary_is_the_drafts() -> None:
    """Its checksum is the one that every SPDY/3 client sends."""
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


@given(cuts=st.lists(st.integers(1, 40), max_size=30))
def test_frames_are_told_in_order_however_they_are_split(cuts: list[int]) -> None:
    """Streams with their headers, data, pings and resets; frames of other kinds mean nothing."""
    client, session = SpdyClient(), Session()
    headers = {"streamtype": "data", "port": "80", "requestid": "0"}
    settings = client.control(4, bytes(4))
    ping = client.control(6, b"\0\0\0\7")
    frames = [
        client.open(1, {**headers, "streamtype": "error"}),
        settings,
        client.data(1, b"", last=True),
        client.open(3, headers),
        client.data(3, b"hello"),
        ping,
        client.control(3, struct.pack(">II", 3, 5)),
        client.control(7, bytes(8)),
        client.data(3, b"after the end"),
    ]
    data = b"".join(frames)
    heard: list[Event] = []
    for cut in [*cuts, len(data)]:
        heard += session.receive(data[:cut])
        data = data[cut:]
    assert heard == [
        Opened(1, {**headers, "streamtype": "error"}, False),
        Data(1, b"", True),
        Opened(3, headers, False),
        Data(3, b"hello", False),
        Ping(ping),
        Reset(3),
    ]
    assert session.ended


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">HHI", 0x8002, 1, 10) + bytes(10),
        struct.pack(">HHI", 0x8003, 1, 2) + bytes(2),
        struct.pack(">HHI", 0x8003, 1, 20) + bytes(20),
        struct.pack(">HHI", 0x8003, 3, 0),
        SpdyClient().open(1, {"name": "x" * 70_000}),
        SpdyClient().headers(struct.pack(">I", 9)),
        SpdyClient().headers(struct.pack(">II", 1, 1 << 31)),
    ],
    ids=["http", "version 2", "short", "no zlib", "short reset", "large headers", "too few headers", "long header"],
)
def test_what_is_no_spdy_is_an_error(data: bytes) -> None:
    """It ends the session and nothing else."""
    with pytest.raises(SpdyError):
        list(Session().receive(data))


@given(st.binary(max_size=200))
def test_hostile_bytes_are_an_error_or_nothing(data: bytes) -> None:
    """No bytes make anything but events or a SpdyError."""
    for prefix in (b"", struct.pack(">HHI", 0x8003, 1, len(data))):
        with contextlib.suppress(SpdyError):
            list(Session().receive(prefix + data))
