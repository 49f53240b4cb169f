"""A document: a named, versioned set of records, and the bytes of the file that holds it.

    magic (8 bytes) | format version | header | record … record | SHA-256 of everything before

The header holds the document's name, its resourceVersion, its metadata and the number of records. Numbers are 32-bit
big-endian; every text and every record's data has its length before it. Both directions work record by record:
besides the records themselves they need one buffer, not a second copy.

Invariant: `decode` returns exactly what was encoded, or raises; never a part, and it asks for no more memory than the
file is long, whatever lengths a damaged file claims. Called by `directory` only. Held by
``tests/agent/test_snapshot.py`` (round trips, every truncation, every flipped byte).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import BinaryIO, Final, NamedTuple, Protocol

FORMAT: Final = 1
"""Raised with every change that older agents would misread."""

MAX_BYTES: Final = 2**32 - 1
"""What a length can tell."""

ESSENTIAL: Final = "essential"

_MAGIC: Final = b"sitegrid"
_NUMBER: Final = struct.Struct(">I")
_DIGEST_SIZE: Final = hashlib.sha256().digest_size
_CHUNK: Final = 64 * 1024


class Record(NamedTuple):
    """One entry: `key` (such as ``namespace/name``), `version` (its resourceVersion) and its bytes."""

    key: str
    version: str
    data: bytes


class Records(Protocol):
    """A document's records, in order; they may be made whenever they are asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...


class Document(NamedTuple):
    """What is kept under `name`. It is read in another thread: its parts must not change after it was made."""

    name: str
    records: Records
    resource_version: str = ""
    metadata: Mapping[str, str] = MappingProxyType({})

    @property
    def essential(self) -> bool:
        """Whether it may have the room that is kept back for such documents: its metadata say so."""
        return ESSENTIAL in self.metadata

    @property
    def size(self) -> int:
        """Bytes of the file that holds it."""
        texts = [self.name, self.resource_version, *self.metadata.keys(), *self.metadata.values()]
        header = len(_MAGIC) + 3 * _NUMBER.size + sum(_NUMBER.size + len(_bytes(text)) for text in texts)
        records = sum(
            3 * _NUMBER.size + len(_bytes(key)) + len(_bytes(version)) + len(data)
            for key, version, data in self.records
        )
        return header + records + _DIGEST_SIZE


class DamagedError(Exception):
    """The file is not one whole document."""


class FormatError(Exception):
    """The file was written in another version of the format."""


def encode(document: Document) -> Iterator[bytes | bytearray]:
    """Yield the file's bytes in chunks of about 64 KiB, or one record's size where that is larger."""
    digest = hashlib.sha256()
    chunk = bytearray()
    for part in _parts(document):
        chunk += part
        if len(chunk) >= _CHUNK:
            digest.update(chunk)
            yield chunk
            chunk = bytearray()
    digest.update(chunk)
    yield chunk + digest.digest()


def decode(file: BinaryIO, size: int, take: Callable[[Record], None] | None = None) -> Document:
    """Return the document in `file`, which is `size` bytes long; with `take` that gets the records, one by one.

    Raises `DamagedError`, `FormatError`, and OSError where the file cannot be read.
    """
    reader = _Reader(file, size - _DIGEST_SIZE)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise DamagedError("it is not a snapshot")
    if (version := reader.number()) != FORMAT:
        raise FormatError(f"its format is {version}, and this agent reads {FORMAT}")
    name = reader.text()
    resource_version = reader.text()
    metadata = {reader.text(): reader.text() for _ in range(reader.number())}
    records: list[Record] = []
    for _ in range(reader.number()):
        (take or records.append)(Record(reader.text(), reader.text(), reader.data()))
    reader.finish()
    return Document(name, records, resource_version, metadata)


def _parts(document: Document) -> Iterator[bytes]:
    yield _MAGIC
    yield _NUMBER.pack(FORMAT)
    yield from _text(document.name)
    yield from _text(document.resource_version)
    yield _NUMBER.pack(len(document.metadata))
    for name, value in document.metadata.items():
        yield from _text(name)
        yield from _text(value)
    yield _NUMBER.pack(len(document.records))
    for key, version, data in document.records:
        yield from _text(key)
        yield from _text(version)
        yield _NUMBER.pack(len(data))
        yield data


def _text(text: str) -> Iterator[bytes]:
    data = _bytes(text)
    yield _NUMBER.pack(len(data))
    yield data


def _bytes(text: str) -> bytes:
    # A lone surrogate (from a name in JSON, say) must not make a document unwritable.
    return text.encode("utf-8", "surrogatepass")


class _Reader:
    """Takes fields off a file and keeps the checksum of what was taken."""

    def __init__(self, file: BinaryIO, remaining: int) -> None:
        self._file = file
        self._remaining = remaining
        self._digest = hashlib.sha256()

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > self._remaining:
            raise DamagedError("it is cut off or a length in it is wrong")
        data = self._file.read(count)
        if len(data) != count:
            raise DamagedError("it is cut off")
        self._remaining -= count
        self._digest.update(data)
        return data

    def number(self) -> int:
        value: int = _NUMBER.unpack(self.take(_NUMBER.size))[0]
        return value

    def data(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        try:
            return self.data().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise DamagedError("a text in it is not UTF-8") from None

    def finish(self) -> None:
        """Check that nothing is left but the checksum, and that it is right."""
        if self._remaining:
            raise DamagedError("it has more than its records")
        if self._file.read(_DIGEST_SIZE + 1) != self._digest.digest():
            raise DamagedError("its checksum is wrong")
