"""Pod addresses: never twice, late reuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.lab.kubelet.addresses import AddressPool, NoAddressLeft


@given(st.lists(st.integers(0, 20)))
def test_no_address_is_in_use_twice(steps: list[int]) -> None:
    """Whatever the order of allocations and releases, an address in use is not given again."""
    pool, used = AddressPool("10.244.1.0/28"), list[str]()
    for step in steps:
        if step < len(used):
            pool.release(used.pop(step))
        elif len(used) < 13:
            address = pool.allocate()
            assert address not in used
            used.append(address)


def test_freed_address_is_given_last() -> None:
    """A freed address comes again only after all others have been given."""
    pool = AddressPool("10.244.1.0/29")
    first = pool.allocate()
    pool.release(first)
    assert [pool.allocate() for _ in range(5)][-1] == first


def test_exhausted_pool_says_so() -> None:
    """A pool without a free address raises, and gives again what is released."""
    pool = AddressPool("10.244.1.0/30")
    only = pool.allocate()
    with pytest.raises(NoAddressLeft):
        pool.allocate()
    pool.release(only)
    assert pool.allocate() == only


def test_reserved_address_is_not_given() -> None:
    """An address that was taken over is in use; one of another CIDR is refused."""
    pool = AddressPool("10.244.1.0/29")
    assert pool.reserve("10.244.1.3")
    assert not pool.reserve("10.244.1.3")
    assert not pool.reserve("10.244.9.3")
    assert "10.244.1.3" not in [pool.allocate() for _ in range(4)]


def test_allocation_goes_on_after_reserved_addresses() -> None:
    """After a restart the next pod gets none of the addresses that were in use lately."""
    pool = AddressPool("10.244.1.0/24")
    pool.reserve("10.244.1.9")
    assert pool.allocate() == "10.244.1.10"
