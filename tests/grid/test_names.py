"""Names of children: legal, one per unit, and the same whatever other units there are."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sitegrid.grid.kinds import WORKLOAD_KINDS, WorkloadKind
from sitegrid.grid.names import child_name, is_dns_subdomain

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_VALUES = st.one_of(
    st.from_regex(r"\A[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z"),
    # Near each other: differing in case, in what a slug drops, or by what looks like a hash.
    st.sampled_from(["NodeUnit1", "nodeunit1", "a_b", "a-b", "a.b", "A.B", "a..b", "x" * 63, "X" * 63]),
    st.from_regex(r"\A[ab]{1,3}-[0-9a-f]{10}\Z"),
)
_GRIDS = st.one_of(
    st.from_regex(rf"\A{_LABEL}(\.{_LABEL}){{0,2}}\Z").filter(lambda name: len(name) <= 253),
    st.sampled_from(["g" * 253, "g" * 242, "a.b", "a-b"]),
)
every_kind = pytest.mark.parametrize("kind", WORKLOAD_KINDS.values(), ids=lambda kind: kind.grid_kind)


@every_kind
@given(grid=_GRIDS, value=_VALUES)
@example(grid="g" * 253, value="x" * 63)
def test_name_is_legal(kind: WorkloadKind, grid: str, value: str) -> None:
    """Every unit of every grid gets a name that Kubernetes takes for the child and what the child makes."""
    name = child_name(grid, value, max_length=kind.max_name, dots=kind.dotted_names)
    assert len(name) <= kind.max_name
    assert re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", name)
    assert kind.dotted_names or "." not in name


@every_kind
@given(grid=_GRIDS, first=_VALUES, second=_VALUES)
@example(grid="grid", first="NodeUnit1", second="nodeunit1")
@example(grid="g" * 253, first="a", second="b")
def test_units_never_share_a_name(kind: WorkloadKind, grid: str, first: str, second: str) -> None:
    """Two units of a grid have two children."""
    assume(first != second)
    names = [child_name(grid, value, max_length=kind.max_name, dots=kind.dotted_names) for value in (first, second)]
    assert names[0] != names[1]


@every_kind
@given(grid=st.sampled_from(["g", "grid", "a-b"]), value=st.text("abzAZ_.-", max_size=20).map("Z{}Z".format))
def test_name_made_for_one_unit_is_no_other_units_plain_name(kind: WorkloadKind, grid: str, value: str) -> None:
    """A unit whose value is another unit's slug and hash does not get that unit's child."""
    name = child_name(grid, value, max_length=kind.max_name, dots=kind.dotted_names)
    rest = name.removeprefix(f"{grid}-")
    assert rest != name
    assert child_name(grid, rest, max_length=kind.max_name, dots=kind.dotted_names) != name


def test_plain_name_where_it_is_legal() -> None:
    """People find the child of a unit by its name."""
    assert child_name("grid", "nodeunit1", max_length=242) == "grid-nodeunit1"
    assert child_name("grid", "a.b", max_length=242) == "grid-a.b"


def test_other_names_keep_what_can_be_read() -> None:
    """A hashed name still begins with grid and unit."""
    assert child_name("grid", "NodeUnit1", max_length=242).startswith("grid-nodeunit1-")


@pytest.mark.parametrize("text", ["", "-a", "a-", "a..b", "A", "a_b", "a" * 254, ".a"])
def test_illegal_object_names(text: str) -> None:
    """What Kubernetes refuses as a name."""
    assert not is_dns_subdomain(text)
