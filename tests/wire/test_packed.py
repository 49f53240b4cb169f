from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sitegrid.wire.codec import Item
from sitegrid.wire.packed import DICTIONARY, Packer


@given(st.lists(st.binary(max_size=5000), max_size=30))
def test_what_is_packed_is_read_again_exactly(objects: list[bytes]) -> None:
    """Whatever the objects are, and whatever came before them."""
    packer = Packer()
    items = [Item(str(number), number, raw) for number, raw in enumerate([b"first" * 1000] * 5 + objects)]
    for item in items:
        item.pack(packer)
    assert [item.raw for item in items[5:]] == objects


def test_objects_like_the_first_ones_are_small() -> None:
    """What all have is kept once; the first ones stay as they are."""
    packer = Packer()
    common = "".join(f"f:field{number} " for number in range(80))
    raws = [f"name-{number} 10.0.0.{number} {common}".encode() for number in range(100)]
    packed = [packer.pack(raw) for raw in raws]
    learned = [raw for raw, found in zip(raws, packed, strict=True) if found is None]
    assert learned == raws[: len(learned)]
    assert sum(map(len, learned)) < 2 * DICTIONARY
    assert all(len(found) < len(raw) / 10 for raw, found in zip(raws, packed, strict=True) if found is not None)


def test_an_item_is_packed_once() -> None:
    """Two sources that hold the same item do not pack it twice."""
    first, second = Packer(), Packer()
    for packer in (first, second):
        for _ in range(DICTIONARY // 1000 + 1):
            packer.pack(b"object" * 200)
    item = Item("a", 1, b"object" * 200)
    item.pack(first)
    item.pack(second)
    assert item.raw == b"object" * 200
