"""Header lists: what was written is read, RFC 7541's own examples, and no wrong byte is taken for a header."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.wire.hpack import Decoder, Encoder, HpackError, huffman_decode, huffman_encode

_NAMES = st.sampled_from([b":path", b"authorization", b"accept", b"x-of-ours"])
_HEADER = st.tuples(_NAMES, st.binary(max_size=40) | st.just(b"t" * 3000), st.booleans())


@given(st.lists(st.tuples(st.lists(_HEADER, max_size=5), st.sampled_from([None, 0, 100, 3000, 4096])), max_size=8))
def test_headers_survive_a_round_trip(lists: list[tuple[list[tuple[bytes, bytes, bool]], int | None]]) -> None:
    """Both sides' tables stay the same over many lists, whatever is repeated, however large the table may be."""
    encoder, decoder = Encoder(), Decoder()
    for headers, limit in lists:
        if limit is not None:
            encoder.limit(limit)
        assert decoder.decode(encoder.encode(headers)) == [(name, value) for name, value, _ in headers]


def test_a_repeated_header_is_one_byte() -> None:
    """A token crosses the wire once."""
    encoder = Encoder()
    first, second = (encoder.encode([(b"authorization", b"Bearer " + b"x" * 800, True)]) for _ in range(2))
    assert len(first) > 600
    assert len(second) == 1


def test_a_secret_is_neither_remembered_nor_looked_for() -> None:
    """Section 7.1.3: how short a guess comes out tells nothing of what others sent, and nobody else may keep it."""
    encoder, secret, other = Encoder(), (b"authorization", b"Bearer right"), (b"authorization", b"Bearer wrong")
    encoder.encode([(*secret, True)])
    right, wrong = encoder.encode([(*secret, False)]), encoder.encode([(*other, False)])
    assert len(right) == len(wrong) > 8
    assert right[0] & 0xF0 == 0x10
    assert encoder.encode([(*secret, False)]) == right


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", ["GET", "http", "/", "www.example.com"]),
        ("828684be5886a8eb10649cbf", ["GET", "http", "/", "www.example.com", "no-cache"]),
        (
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ["GET", "https", "/index.html", "www.example.com", "custom-value"],
        ),
    ],
)
def test_the_rfcs_examples_are_read(data: str, headers: list[str]) -> None:
    """Appendix C.4, whose second and third request refer to the ones before."""
    decoder = Decoder()
    former = ["828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf"]
    for request in former[: former.index(data)] if data in former else former:
        decoder.decode(bytes.fromhex(request))
    assert [value.decode() for _, value in decoder.decode(bytes.fromhex(data))] == headers


@given(st.binary(max_size=60))
def test_huffman_code_is_read_as_it_was_written(text: bytes) -> None:
    """Every byte has a code."""
    assert huffman_decode(huffman_encode(text)) == text


@given(st.binary(max_size=200))
def test_any_bytes_are_headers_or_an_error(data: bytes) -> None:
    """Nothing else is raised, and nothing hangs."""
    with contextlib.suppress(HpackError):
        Decoder().decode(data)


@pytest.mark.parametrize(
    "data",
    [b"\x80", b"\xff\xff\xff\xff\xff\xff", b"\xfe", b"\x3f\xff\xff\x7f", b"\x40\x05ab", b"\x40", b"\x00\x81\x00\x00"],
)
def test_what_is_wrong_is_an_error(data: bytes) -> None:
    """Unknown indices, endless integers, too large tables, truncated texts and wrong padding."""
    with pytest.raises(HpackError):
        Decoder().decode(data)


def test_a_flood_of_headers_is_an_error() -> None:
    """A byte may stand for four kilobytes, so that what is decoded is counted."""
    decoder = Decoder()
    decoder.decode(Encoder().encode([(b"x", b"y" * 3000, True)]))
    with pytest.raises(HpackError, match="too many"):
        decoder.decode(b"\xbe" * 100)
