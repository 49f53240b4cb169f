"""Keeps many objects of one kind small: each is compressed by what it has in common with the first ones of its kind.

Objects of one resource differ in names, addresses and ids; the rest, managedFields above all, is the same in each. So
the first ones are the dictionary (RFC 1950) of all that follow, of which a fifth is left. Reading one again takes a
few microseconds and needs nothing but the packer, unlike bytes on a disk, which can be full, slow or gone.

Invariant: `unpack` returns exactly what was packed. Held by ``tests/wire/test_packed.py``.
"""

from __future__ import annotations

import zlib
from typing import Final

DICTIONARY: Final = 8 * 1024
"""Bytes of the first objects that are the dictionary; until there are so many nothing is packed."""
_OF_ONE: Final = 2 * 1024
_WINDOW: Final = -13
"""Raw deflate with a window of 8 KiB (log2), which is what a dictionary can be seen through."""
_MEMORY: Final = 6


class Packer:
    """Packs the objects of one source; what it packed only it can unpack."""

    __slots__ = ("_dictionary", "_learned")

    def __init__(self) -> None:
        self._dictionary = b""
        self._learned = False

    def pack(self, raw: bytes) -> bytes | None:
        """Return `raw` packed, None where it is to stay as it is: it was learned from, or would not be smaller."""
        if not self._learned:
            self._dictionary += raw[:_OF_ONE]
            self._learned = len(self._dictionary) >= DICTIONARY
            return None
        packing = zlib.compressobj(6, zlib.DEFLATED, _WINDOW, _MEMORY, zlib.Z_DEFAULT_STRATEGY, self._dictionary)
        packed = packing.compress(raw) + packing.flush()
        return packed if len(packed) < len(raw) else None

    def unpack(self, packed: bytes) -> bytes:
        """Return what was packed."""
        return zlib.decompressobj(_WINDOW, self._dictionary).decompress(packed)
