"""HPACK (RFC 7541): header lists in HTTP/2, each side's repeated headers as a byte.

A bearer token of a kilobyte crosses the WAN once per connection instead of once per request. Used by
`sitegrid.wire.http2`. Invariant: what cannot be decoded exactly raises `HpackError`, after which the connection is of
no more use. Held by ``tests/wire/test_hpack.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Header = tuple[bytes, bytes]

TABLE_SIZE: Final = 4096
"""Bytes of each side's dynamic table (RFC 9113, SETTINGS_HEADER_TABLE_SIZE's initial value)."""
MAX_HEADERS: Final = 64 * 1024
"""Most that one decoded header list may have, in bytes."""
_NEVER: Final = 0x10
"""Marks a literal that is never indexed (section 6.2.3)."""
_OVERHEAD: Final = 32
"""What an entry of the table costs beyond its text (section 4.1)."""

_STATIC_TEXT: Final = (
    ":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|"
    ":status=200|:status=204|:status=206|:status=304|:status=400|:status=404|:status=500|"
    "accept-charset|accept-encoding=gzip, deflate|accept-language|accept-ranges|accept|"
    "access-control-allow-origin|age|allow|authorization|cache-control|content-disposition|"
    "content-encoding|content-language|content-length|content-location|content-range|content-type|"
    "cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|"
    "if-unmodified-since|last-modified|link|location|max-forwards|proxy-authenticate|"
    "proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|"
    "strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"
)
_STATIC: Final[tuple[Header, ...]] = tuple(
    (name.encode(), value.encode()) for name, _, value in (entry.partition("=") for entry in _STATIC_TEXT.split("|"))
)
"""Appendix A."""
_STATIC_INDEX: Final = {header: index for index, header in reversed([*enumerate(_STATIC, start=1)])}
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed([*enumerate(_STATIC, start=1)])}

_CODE_LENGTHS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
"""Appendix B: the bits of each byte's Huffman code, and of the code for the end, which is only used as padding."""
_LONGEST_CODE: Final = max(_CODE_LENGTHS)
_WORD: Final = 256
"""Bits that are written at a time."""


def _huffman_codes() -> list[tuple[int, int]]:
    """Return (length, code) of each symbol: codes count up, the shorter ones first, as the lengths say."""
    codes = [(0, 0)] * len(_CODE_LENGTHS)
    code = 0
    for length in range(1, _LONGEST_CODE + 1):
        for symbol, bits in enumerate(_CODE_LENGTHS):
            if bits == length:
                codes[symbol] = (length, code)
                code += 1
        code <<= 1
    return codes


_CODES: Final = _huffman_codes()
_SYMBOLS: Final = {code: symbol for symbol, code in enumerate(_CODES[:256])}


class HpackError(ValueError):
    """The bytes are not a header list."""


def huffman_encode(text: bytes) -> bytes:
    """Return `text` in Huffman code, padded with ones."""
    out = bytearray()
    bits = size = 0
    for byte in text:
        length, code = _CODES[byte]
        bits = bits << length | code
        size += length
        if size >= _WORD:  # A number of all the bits would be copied whole for each byte.
            size -= _WORD
            out += (bits >> size).to_bytes(_WORD // 8, "big")
            bits &= (1 << size) - 1
    padding = -size % 8
    return bytes(out) + (bits << padding | (1 << padding) - 1).to_bytes((size + padding) // 8, "big")


def huffman_decode(data: bytes) -> bytes:
    """Return the text. Raises `HpackError`, also for padding that is too long or not ones (section 5.2)."""
    out = bytearray()
    code = length = 0
    for byte in data:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            length += 1
            symbol = _SYMBOLS.get((length, code))
            if symbol is not None:
                out.append(symbol)
                code = length = 0
            elif length >= _LONGEST_CODE:
                raise HpackError("illegal Huffman code")
    if length > 7 or code != (1 << length) - 1:
        raise HpackError("illegal Huffman code")
    return bytes(out)


def _write_integer(value: int, prefix: int, first: int) -> bytes:
    """Return `value` in the lower `prefix` bits of a byte with `first` above them, and in more bytes as needed."""
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes((first | value,))
    out = bytearray((first | limit,))
    value -= limit
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _write_text(text: bytes) -> bytes:
    coded = huffman_encode(text)
    if len(coded) < len(text):
        return _write_integer(len(coded), 7, 0x80) + coded
    return _write_integer(len(text), 7, 0) + text


class _Table:
    """A dynamic table: the newest entry first, the oldest go when it is full."""

    def __init__(self) -> None:
        self.entries: list[Header] = []
        self.limit = TABLE_SIZE
        self._size = 0

    def add(self, header: Header) -> None:
        """Add an entry; one that is too large leaves an empty table (section 4.4)."""
        self.entries.insert(0, header)
        self._size += _cost(header)
        self._evict()

    def resize(self, limit: int) -> None:
        """Set what it may hold."""
        self.limit = limit
        self._evict()

    def _evict(self) -> None:
        while self._size > self.limit:
            self._size -= _cost(self.entries.pop())


def _cost(header: Header) -> int:
    return len(header[0]) + len(header[1]) + _OVERHEAD


class Encoder:
    """Writes header lists for one connection."""

    def __init__(self) -> None:
        self._table = _Table()
        self._smallest: int | None = None

    def limit(self, size: int) -> None:
        """Hear what table the other side allows; ours is never larger than `TABLE_SIZE`."""
        size = min(size, TABLE_SIZE)
        if size != self._table.limit:
            self._smallest = size if self._smallest is None else min(self._smallest, size)
            self._table.resize(size)

    def encode(self, headers: Iterable[tuple[bytes, bytes, bool]]) -> bytes:
        """Return a list of (name, value, whether it will be repeated).

        What will not be repeated is never looked for among what was, and says that nobody else may remember it
        either (section 7.1.3): so no credential can be guessed by how short it comes out.
        """
        out = bytearray()
        if self._smallest is not None:
            # Section 4.2: the smallest size in between first, so that both sides forget the same.
            for size in sorted({self._smallest, self._table.limit}):
                out += _write_integer(size, 5, 0x20)
            self._smallest = None
        for name, value, repeated in headers:
            out += self._field((name, value), repeated)
        return bytes(out)

    def _field(self, header: Header, repeated: bool) -> bytes:
        if (index := self._index(header, repeated)) is not None:
            return _write_integer(index, 7, 0x80)
        keep = repeated and _cost(header) <= self._table.limit
        name = _STATIC_NAMES.get(header[0], 0)
        out = _write_integer(name, 6, 0x40) if keep else _write_integer(name, 4, 0 if repeated else _NEVER)
        out += b"" if name else _write_text(header[0])
        if keep:
            self._table.add(header)
        return out + _write_text(header[1])

    def _index(self, header: Header, repeated: bool) -> int | None:
        if repeated and header in self._table.entries:
            return len(_STATIC) + 1 + self._table.entries.index(header)
        return _STATIC_INDEX.get(header)


class Decoder:
    """Reads header lists of one connection."""

    def __init__(self) -> None:
        self._table = _Table()

    def decode(self, data: bytes) -> list[Header]:
        """Return the list. Raises `HpackError`."""
        headers: list[Header] = []
        size = position = 0
        while position < len(data):
            header, position = self._field(data, position)
            if header is not None:
                headers.append(header)
                size += _cost(header)
                if size > MAX_HEADERS:
                    raise HpackError("too many headers")
        return headers

    def _field(self, data: bytes, position: int) -> tuple[Header | None, int]:
        first = data[position]
        if first & 0x80:
            index, position = _read_integer(data, position, 7)
            return self._entry(index), position
        if first & 0xE0 == 0x20:
            size, position = _read_integer(data, position, 5)
            if size > TABLE_SIZE:
                raise HpackError("table larger than allowed")
            self._table.resize(size)
            return None, position
        keep = first & 0x40
        index, position = _read_integer(data, position, 6 if keep else 4)
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _read_text(data, position)
        value, position = _read_text(data, position)
        if keep:
            self._table.add((name, value))
        return (name, value), position

    def _entry(self, index: int) -> Header:
        if 0 < index <= len(_STATIC):
            return _STATIC[index - 1]
        place = index - len(_STATIC) - 1
        if not 0 <= place < len(self._table.entries):
            raise HpackError(f"no header has the index {index}")
        return self._table.entries[place]


def _read_integer(data: bytes, position: int, prefix: int) -> tuple[int, int]:
    limit = (1 << prefix) - 1
    value = data[position] & limit
    position += 1
    if value < limit:
        return value, position
    for shift in range(0, 28, 7):
        if position >= len(data):
            raise HpackError("truncated integer")
        byte = data[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise HpackError("integer of too many bytes")


def _read_text(data: bytes, position: int) -> tuple[bytes, int]:
    if position >= len(data):
        raise HpackError("truncated text")
    coded = data[position] & 0x80
    length, position = _read_integer(data, position, 7)
    end = position + length
    if end > len(data):
        raise HpackError("truncated text")
    text = data[position:end]
    return (huffman_decode(text) if coded else text), end
